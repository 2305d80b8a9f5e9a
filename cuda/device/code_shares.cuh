// How decode attention over codes is shared out among blocks, and a warp's walk through its block's share: runs of 32 rows of all heads, one after the
// other.
#pragma once
#include "../core/cuda.h"
#include "attention_decode.cuh"
#include "code_runs.cuh"
#include "early_launch.cuh"
#include "reduce.cuh"

namespace kva {

constexpr int kCodeWarps = 8, kCodeThreads = kCodeWarps * 32; // of a block

// What is read of a head, all of it at once.
struct CodeHead {
  CodeSource source;
  int rows = 0, packed_keys = 0, packed_values = 0;

  __device__ CodeHead() {}
  __device__ explicit CodeHead(const KvHead& head)
      : source(head), rows(device::read_ahead(head.len)), packed_keys(device::read_ahead(head.packed_keys)),
        packed_values(device::read_ahead(head.packed_values)) {}
  __device__ int whole() const { return min(packed_keys, packed_values) / kRunRows; } // runs before this one are codes alone
};

// What the runs of a head cost, each one but the last ones one: those have rows in full precision, more bytes that are not on their way ahead.
struct Cost {
  int runs, plain;

  __device__ Cost(const DecodeArgs& args, int rows) : runs(divide_up(rows, kRunRows)), plain(max(0, runs - args.full_runs)) {}
  __device__ int all() const { return plain + (runs - plain) * kFullCost; }
  __device__ int run_at(int cost) const { return cost <= plain ? cost : plain + divide_up(cost - plain, kFullCost); } // the first one from there on
  static constexpr int kFullCost = 3;
};
static_assert((Cost::kFullCost - 1) * kMostFullRuns / kCodeWarps + 2 <= kSparePartials); // a share is as much as kCodeWarps runs or more

__device__ __forceinline__ const KvHead& head_of(const DecodeArgs& args, int row) { // row: of all KV heads of the batch
  return layer_heads(args.sequences[unsigned(row) / unsigned(args.kv_heads)], args.layer)[unsigned(row) % unsigned(args.kv_heads)];
}

// The cost of all heads in equal shares: a block has a run for every warp at least, and where that costs little, equally long heads have
// blocks of their own, for a block that goes from one head to the next ends late.
struct Shares {
  int total, blocks;

  __device__ Shares(int total, int heads) : total(total) {
    const int most = gridDim.x, needed = min(most, max(1, total / kCodeWarps)), aligned = needed / heads * heads;
    blocks = aligned > 0 && (needed < most || aligned >= most - most / 16) ? aligned : needed;
  }
  __device__ int begin(int block) const { return total / blocks * block + total % blocks * block / blocks; }
  __device__ int block_of(int cost) const { return ((int64_t(cost) + 1) * blocks - 1) / total; }
};

// The block's share, head after head: runs [first, last) of a head, then what costs `left` of those that follow.
struct Part {
  int row = 0; // of all KV heads of the batch
  int first = 0, last = 0, left = 0;
  int place = 0;     // of this part of the head among the parts of that head
  bool ends = false; // with the head

  __device__ Part() {}
  // The share of this block, before its first head, which `opening` is then. Every thread of the block calls it; `shared` has room for kCodeWarps + 2 ints.
  __device__ Part(const DecodeArgs& args, CodeHead& opening, int* shared) : row(args.count * args.kv_heads) {
    const int heads = row;
    const auto each_head = [&](const auto& body) {
      int total = 0;
      for (int base = 0; base < heads; base += kCodeThreads) {
        const int at = base + threadIdx.x, cost = Cost(args, at < heads ? device::read_ahead(head_of(args, at).len) : 0).all();
        int sum;
        body(at, total + device::block_prefix<kCodeThreads>(cost, shared, &sum), cost);
        total += sum;
      }
      return total;
    };
    int own_before = 0; // of the first round of all threads
    const int total = each_head([&](int at, int before, int cost) {
      if (at < kCodeThreads) own_cost_ = cost, own_before = before;
    });
    const Shares shares(total, heads);
    if (blockIdx.x >= shares.blocks || total == 0) return;
    const int begin = shares.begin(blockIdx.x);
    const auto open = [&](int at, int before, int cost) {
      if (begin < before || begin >= before + cost) return;
      opening = CodeHead(head_of(args, at));
      shared[kCodeWarps] = at;
      shared[kCodeWarps + 1] = before;
    };
    heads <= kCodeThreads ? open(threadIdx.x, own_before, own_cost_) : void(each_head(open));
    __syncthreads();
    row = shared[kCodeWarps];
    const int head_begin = shared[kCodeWarps + 1];
    begin_ = begin - head_begin;
    left = shares.begin(blockIdx.x + 1) - begin;
    place = blockIdx.x - shares.block_of(head_begin);
  }

  // On to the next head, which is then in `head`; false where there is none. At the first call `head` is the opening one. The threads that share it all
  // call this, with what brings them together.
  template <class Sync>
  __device__ __forceinline__ bool next(const DecodeArgs& args, CodeHead& head, bool leads, const Sync& sync) {
    if (left == 0) return false;
    while (entered_ || head.rows == 0) {
      entered_ = false;
      ++row;
      place = 0;
      sync(); // all have read the one before
      if (leads) head = CodeHead(head_of(args, row));
      sync();
    }
    entered_ = true;
    const Cost cost(args, head.rows);
    const int end = min(cost.all(), begin_ + left);
    first = cost.run_at(begin_);
    last = cost.run_at(end);
    ends = end == cost.all();
    left -= end - begin_;
    begin_ = 0;
    return true;
  }

  // Whether a head has more runs by now. For as many heads as there are threads.
  __device__ __forceinline__ bool outdated(const DecodeArgs& args) const {
    const int heads = args.count * args.kv_heads;
    return Cost(args, int(threadIdx.x) < heads ? device::read_ahead(head_of(args, threadIdx.x).len) : 0).all() != own_cost_;
  }

 private:
  int begin_ = 0;    // of what is left, in the next head
  int own_cost_ = 0; // of the head threadIdx.x
  bool entered_ = false;
};

// A warp's own walk through its runs, ahead of the one that it computes. Two stages take turns; `waiting` of them have been asked for and not computed.
template <class T, int HeadDim, int KeyBits, int ValueBits>
struct RunLoader {
  const DecodeArgs& args;
  Part part;
  CodeHead& head; // of the part, in shared memory of this warp
  const uint32_t stages;
  int run = 0; // the next one
  int waiting = 0;

  __device__ RunLoader(const DecodeArgs& args, CodeHead& head, uint32_t stages) : args(args), head(head), stages(stages) {}

  __device__ __forceinline__ void begin(const Part& at, const CodeHead& opening) {
    part = at;
    run = waiting = 0;
    if (threadIdx.x % 32 == 0) head = opening;
    __syncwarp();
  }

  // The first runs, before the inputs are there: of the part's first head those that are codes alone, which the newest row does not change.
  __device__ __forceinline__ void load_ahead() {
    if (!enter()) return;
    const int whole = min(part.last, head.whole());
    for (; waiting < 2 && run < whole; ++waiting) {
      load_whole_run(stages + waiting * CodeStage<HeadDim>::bytes);
    }
  }

  // into the stage behind those that wait, of which `stage` is the first
  __device__ __forceinline__ void load(int stage) {
    while (run >= part.last && enter()) continue;
    if (run < part.last) {
      load_codes<HeadDim, KeyBits, ValueBits>(stages + (stage ^ waiting) * CodeStage<HeadDim>::bytes, head.source, run, head.packed_keys, head.packed_values);
      if (run >= head.whole()) approach_full<T, HeadDim>(head_of(args, part.row), run);
      run += kCodeWarps;
    }
    ++waiting;
    device::copy_async_commit();
  }

  // of a head of which the run before was codes, too, one that is nothing else
  __device__ __forceinline__ void load_whole(int stage) {
    load_whole_run(stages + (stage ^ waiting) * CodeStage<HeadDim>::bytes);
    ++waiting;
  }

  // in place of a run, where none is left
  __device__ __forceinline__ bool load_nothing() {
    if (run < part.last || part.left > 0) return false;
    ++waiting;
    device::copy_async_commit();
    return true;
  }

 private:
  __device__ __forceinline__ void load_whole_run(uint32_t to) {
    const CodeSource from = head.source;
    load_key_codes<HeadDim, KeyBits>(to, from, run);
    load_value_codes<HeadDim, ValueBits, false>(to, from, run);
    run += kCodeWarps;
    device::copy_async_commit();
  }

  // on to the part's next head; false where there is none
  __device__ __forceinline__ bool enter() {
    if (!part.next(args, head, threadIdx.x % 32 == 0, [] { __syncwarp(); })) return false;
    run = part.first + threadIdx.x / 32;
    return true;
  }
};

}  // namespace kva
