// Rows that left full precision: where they lie, quantised and read back, one element or word at a time, for host and device alike.
// Keys: groups of `group` rows of one channel. Values: groups of `value_group` channels of one row.
// A group's zero is its minimum and its scale (maximum - minimum) / (2^bits - 1), both rounded to f16 and saturated before codes are made:
// code = round-half-even(clip((x - zero) / scale, 0, 2^bits - 1)), 0 where the scale is 0; x stands for code * scale + zero.
// Number gives conversions: widen(T), narrow<T>(float), to_half(float) and from_half(bits).
#pragma once
#include <cmath>

#include "kv.h"

namespace kva {

inline KVA_HOST_DEVICE int32_t key_channels(const KvPacking& packing, int32_t head_dim) {
  return packing.channels > 0 ? packing.channels : head_dim;
}
inline KVA_HOST_DEVICE int32_t words_of(int32_t channels, int32_t bits) { return (channels * bits + 31) / 32; }
inline KVA_HOST_DEVICE int32_t compact_width(const KvPacking& packing) { return (packing.channels + 7) / 8 * 8; }

inline KVA_HOST_DEVICE int32_t key_slot(const KvHead& head, int32_t row) { return row - head.packed_keys; }
inline KVA_HOST_DEVICE int32_t value_slot(const KvHead& head, int32_t row) {
  return head.packing.residual > 0 ? row % (head.packing.residual + 1) : row;  // a ring: one row leaves it at each flush
}

// the word of a packed key row: 32 rows lie side by side
inline KVA_HOST_DEVICE int64_t key_word(int32_t row, int32_t word, int32_t words) {
  return (int64_t(row / 32) * words + word) * 32 + row % 32;
}

// where a channel is in the list of packed ones; -1: nowhere
inline KVA_HOST_DEVICE int32_t channel_place(const KvHead& head, int32_t channel) {
  if (head.channels == nullptr) return channel;
  int32_t low = 0, high = head.packing.channels;
  while (low < high) {
    const int32_t middle = (low + high) / 2;
    if (head.channels[middle] < channel)
      low = middle + 1;
    else
      high = middle;
  }
  return low < head.packing.channels && head.channels[low] == channel ? low : -1;
}

template <class Number>
KVA_HOST_DEVICE Scale make_scale(float low, float high, int32_t bits) {
  constexpr float most = 65504;
  const float step = (high - low) / float((1 << bits) - 1);
  return {Number::to_half(step < most ? step : most), Number::to_half(low < -most ? -most : low > most ? most : low)};
}

template <class Number>
KVA_HOST_DEVICE uint32_t code_of(float x, Scale scale, int32_t bits) {
  const float step = Number::from_half(scale.scale), highest = float((1 << bits) - 1);
  if (step == 0) return 0;
  const float code = (x - Number::from_half(scale.zero)) / step;
  return code > 0 ? uint32_t(rintf(code < highest ? code : highest)) : 0;
}

template <class Number>
KVA_HOST_DEVICE float value_of(uint32_t word, int32_t at, int32_t bits, Scale scale) {
  const uint32_t code = word >> (at * bits) & ((1u << bits) - 1);
  return float(code) * Number::from_half(scale.scale) + Number::from_half(scale.zero);
}

// The elements of one head, of type T.
template <class Number, class T>
struct Segments {
  const KvHead& head;
  const int32_t head_dim;

  // key of a row that is not quantised, at place i of the packed channels, which are `channels`
  KVA_HOST_DEVICE float packable_key(int32_t row, int32_t i, const uint16_t* channels) const {
    if (row < head.packed_keys) return Number::widen(static_cast<const T*>(head.packed_k)[int64_t(row) * compact_width(head.packing) + i]);
    return Number::widen(full_key(row)[channels == nullptr ? i : channels[i]]);
  }
  KVA_HOST_DEVICE T* full_key(int32_t row) const { return static_cast<T*>(head.k) + int64_t(key_slot(head, row)) * head_dim; }
  KVA_HOST_DEVICE T* full_value(int32_t row) const { return static_cast<T*>(head.v) + int64_t(value_slot(head, row)) * head_dim; }

  KVA_HOST_DEVICE float key(int32_t row, int32_t channel) const {
    if (row >= head.packed_keys) return Number::widen(full_key(row)[channel]);
    const KvPacking& packing = head.packing;
    const int32_t i = channel_place(head, channel), bits = packing.key_bits;
    if (i < 0) return 0;
    if (bits == 0) return packable_key(row, i, nullptr);
    const int32_t channels = key_channels(packing, head_dim), each = 32 / bits;
    const uint32_t word = static_cast<const uint32_t*>(head.packed_k)[key_word(row, i / each, words_of(channels, bits))];
    return value_of<Number>(word, i % each, bits, head.key_scales[int64_t(row / packing.group) * channels + i]);
  }

  KVA_HOST_DEVICE float value(int32_t row, int32_t channel) const {
    if (row >= head.packed_values) return Number::widen(full_value(row)[channel]);
    const int32_t bits = head.packing.value_bits, each = 32 / bits, group = head.packing.value_group;
    const uint32_t word = head.packed_v[int64_t(row) * words_of(head_dim, bits) + channel / each];
    return value_of<Number>(word, channel % each, bits, head.value_scales[int64_t(row) * (head_dim / group) + channel / group]);
  }

  // Word `word` of each row of group `group` of the keys of `to`, from keys of this head.
  KVA_HOST_DEVICE void quantize_keys(const KvHead& to, int32_t group, int32_t word) const {
    const KvPacking& packing = to.packing;
    const int32_t bits = packing.key_bits, each = 32 / bits, channels = key_channels(packing, head_dim), words = words_of(channels, bits);
    const int32_t first = word * each, count = channels - first < each ? channels - first : each, row = group * packing.group;
    Scale scales[16];
    for (int32_t i = 0; i < count; ++i) {
      float low = INFINITY, high = -INFINITY;
      for (int32_t r = row; r < row + packing.group; ++r) {
        const float x = packable_key(r, first + i, to.channels);
        low = x < low ? x : low;
        high = x > high ? x : high;
      }
      scales[i] = to.key_scales[int64_t(group) * channels + first + i] = make_scale<Number>(low, high, bits);
    }
    for (int32_t r = row; r < row + packing.group; ++r) {
      uint32_t codes = 0;
      for (int32_t i = 0; i < count; ++i) codes |= code_of<Number>(packable_key(r, first + i, to.channels), scales[i], bits) << (i * bits);
      static_cast<uint32_t*>(to.packed_k)[key_word(r, word, words)] = codes;
    }
  }

  // Word `word` of the values of a row of `to`, from values of this head that are in full precision.
  KVA_HOST_DEVICE void quantize_value(const KvHead& to, int32_t row, int32_t word) const {
    const int32_t bits = to.packing.value_bits, each = 32 / bits, group = to.packing.value_group, words = words_of(head_dim, bits);
    const T* from = full_value(row);
    uint32_t codes = 0;
    Scale scale{};
    for (int32_t c = word * each, known = -1; c < (word + 1) * each && c < head_dim; ++c) {
      if (c / group != known) {
        known = c / group;
        float low = INFINITY, high = -INFINITY;
        for (int32_t i = known * group; i < (known + 1) * group; ++i) {
          const float x = Number::widen(from[i]);
          low = x < low ? x : low;
          high = x > high ? x : high;
        }
        scale = make_scale<Number>(low, high, bits);
        if (c == known * group) to.value_scales[int64_t(row) * (head_dim / group) + known] = scale;
      }
      codes |= code_of<Number>(Number::widen(from[c]), scale, bits) << (c % each * bits);
    }
    to.packed_v[int64_t(row) * words + word] = codes;
  }
};

// Packing a head anew is a number of tasks, in this order: packed keys, full keys, packed values, full values.
struct PackTasks {
  int64_t packed_keys, full_keys, packed_values, full_values;

  KVA_HOST_DEVICE PackTasks(const KvHead& to, int32_t head_dim) {
    const KvPacking& packing = to.packing;
    packed_keys = packing.key_bits > 0
                      ? to.packed_keys / packing.group * int64_t(words_of(key_channels(packing, head_dim), packing.key_bits))
                      : to.packed_keys * int64_t(compact_width(packing));
    full_keys = (to.len - to.packed_keys) * int64_t(head_dim);
    packed_values = packing.value_bits > 0 ? to.packed_values * int64_t(words_of(head_dim, packing.value_bits)) : 0;
    full_values = (to.len - to.packed_values) * int64_t(head_dim);
  }
  KVA_HOST_DEVICE int64_t count() const { return packed_keys + full_keys + packed_values + full_values; }

  // `from` holds no quantised rows
  template <class Number, class T>
  KVA_HOST_DEVICE void run(int64_t task, const KvHead& from, const KvHead& to, int32_t head_dim) const {
    const Segments<Number, T> source{from, head_dim}, target{to, head_dim};
    const KvPacking& packing = to.packing;
    if (task < packed_keys) {
      if (packing.key_bits > 0) {
        const int32_t words = words_of(key_channels(packing, head_dim), packing.key_bits);
        source.quantize_keys(to, int32_t(task / words), int32_t(task % words));
      } else {
        const int32_t width = compact_width(packing), row = int32_t(task / width), i = int32_t(task % width);
        const float key = i < packing.channels ? source.packable_key(row, i, to.channels) : 0;
        static_cast<T*>(to.packed_k)[task] = Number::template narrow<T>(key);
      }
      return;
    }
    if ((task -= packed_keys) < full_keys) {
      const int32_t row = to.packed_keys + int32_t(task / head_dim), c = int32_t(task % head_dim);
      target.full_key(row)[c] = Number::template narrow<T>(source.key(row, c));
      return;
    }
    if ((task -= full_keys) < packed_values) {
      const int32_t words = words_of(head_dim, packing.value_bits);
      source.quantize_value(to, int32_t(task / words), int32_t(task % words));
      return;
    }
    task -= packed_values;
    const int32_t row = to.packed_values + int32_t(task / head_dim), c = int32_t(task % head_dim);
    target.full_value(row)[c] = source.full_value(row)[c];
  }
};

// Rows of a head that are taken out, ascending: row i of those left was row source(i).
struct Removed {
  const int32_t* rows;
  int32_t count;
  KVA_HOST_DEVICE int32_t source(int32_t row) const {
    int32_t low = 0, high = count; // how many of them were before it
    while (low < high) {
      const int32_t middle = (low + high) / 2;
      if (rows[middle] - middle <= row)
        low = middle + 1;
      else
        high = middle;
    }
    return row + low;
  }
};

// Whether a flush closes the places of dropped rows: of as many as the residual holds, the first ones.
inline KVA_HOST_DEVICE bool closing_is_due(const KvHead& head) { return head.packing.residual > 0 && head.dead >= head.packing.residual; }
// the head without them: in the state of its number of rows, as it was
inline KVA_HOST_DEVICE KvHead closed(KvHead head) {
  const int32_t residual = head.packing.residual;
  head.len -= residual;
  head.dead -= residual;
  head.packed_keys -= residual;
  head.packed_values = head.packed_values > residual ? head.packed_values - residual : 0;
  return head;
}

// Closes those places where they are: a row comes from behind its new place or stays. Rows that become codes were codes: a group of keys
// whose rows were one group keeps its codes, any other is quantised anew from what its codes stand for; codes of values are copied.
// full_keys and full_values go before key_words, for a row that was codes may have to be in full precision.
template <class Number, class T>
struct Closing {
  const KvHead &from, &to;
  const Removed removed;
  const int32_t head_dim;

  // one channel of the rows in full precision; the last row first, for their places rise
  KVA_HOST_DEVICE void full_keys(int32_t channel) const {
    const Segments<Number, T> source{from, head_dim}, target{to, head_dim};
    for (int32_t row = to.len - 1; row >= to.packed_keys; --row) {
      const int32_t old = removed.source(row);
      target.full_key(row)[channel] = old < from.packed_keys ? Number::template narrow<T>(source.key(old, channel)) : source.full_key(old)[channel];
    }
  }
  KVA_HOST_DEVICE void full_values(int32_t channel) const {
    const Segments<Number, T> source{from, head_dim}, target{to, head_dim};
    for (int32_t row = to.len - 1; row >= to.packed_values; --row) {
      const int32_t old = removed.source(row);
      target.full_value(row)[channel] = old < from.packed_values ? Number::template narrow<T>(source.value(old, channel)) : source.full_value(old)[channel];
    }
  }

  // One word of every packed key, by a team of threads that take rows in turn: lane, lanes, sync() and the team's min(x) and max(x).
  template <class Team>
  KVA_HOST_DEVICE void key_words(const Team& team, int32_t word) const {
    constexpr int32_t most_rows = 128 / Team::lanes; // of a group, for one thread
    const KvPacking& packing = from.packing;
    const int32_t bits = packing.key_bits, each = 32 / bits, channels = key_channels(packing, head_dim), words = words_of(channels, bits);
    const int32_t first = word * each, count = channels - first < each ? channels - first : each;
    uint32_t* const all = static_cast<uint32_t*>(from.packed_k);
    for (int32_t group = removed.rows[0] / packing.group; group < to.packed_keys / packing.group; ++group) {
      const int32_t row = group * packing.group, begin = removed.source(row);
      const bool whole = begin % packing.group == 0 && removed.source(row + packing.group - 1) == begin + packing.group - 1;
      Scale own[16]; // of this place, which will be overwritten
      for (int32_t i = 0; i < count; ++i) own[i] = from.key_scales[int64_t(group) * channels + first + i];
      uint32_t codes[most_rows], fresh[most_rows];
      int32_t groups[most_rows];
      for (int32_t n = 0, r = team.lane; r < packing.group; ++n, r += Team::lanes) {
        const int32_t old = removed.source(row + r);
        codes[n] = fresh[n] = all[key_word(old, word, words)];
        groups[n] = old / packing.group;
        if (!whole) fresh[n] = 0;
      }
      team.sync(); // all of the group is read
      for (int32_t i = 0; i < count; ++i) {
        const auto key = [&](int32_t n) {
          const Scale scale = groups[n] == group ? own[i] : from.key_scales[int64_t(groups[n]) * channels + first + i];
          return value_of<Number>(codes[n], i, bits, scale);
        };
        Scale scale = from.key_scales[int64_t(begin / packing.group) * channels + first + i];
        if (!whole) {
          float low = INFINITY, high = -INFINITY;
          for (int32_t n = 0, r = team.lane; r < packing.group; ++n, r += Team::lanes) {
            low = fminf(low, key(n));
            high = fmaxf(high, key(n));
          }
          scale = make_scale<Number>(team.min(low), team.max(high), bits);
          for (int32_t n = 0, r = team.lane; r < packing.group; ++n, r += Team::lanes) fresh[n] |= code_of<Number>(key(n), scale, bits) << (i * bits);
        }
        team.sync(); // scales behind this place are still those of old rows; its own is not read any more
        if (team.lane == 0) to.key_scales[int64_t(group) * channels + first + i] = scale;
      }
      for (int32_t n = 0, r = team.lane; r < packing.group; ++n, r += Team::lanes) all[key_word(row + r, word, words)] = fresh[n];
      team.sync();
    }
  }
};

// Whether a flush packs keys or a value of the head: the state after it is that of its number of rows.
inline KVA_HOST_DEVICE bool keys_are_due(const KvHead& head) {
  return head.packing.residual > 0 && head.len - head.packed_keys >= head.packing.residual;
}
inline KVA_HOST_DEVICE bool value_is_due(const KvHead& head) {
  return head.packing.residual > 0 && head.len - head.packed_values > head.packing.residual;
}

}  // namespace kva
