// Expected attention: moments of the prompt's queries, joined part by part, and what queries of those moments attend to at later positions.
// mu = R mean, S = R cov R^T with R the mean rotation; a[j] = softmax_j(scale mu.k_j + scale^2 / 2 k_j^T S k_j).
#include <algorithm>
#include <cmath>
#include <vector>

#include "../core/cpu.h"
#include "kernels.h"
#include "ops.h"

namespace kva {
namespace {

// A channel after the mean rotation: own * x[channel] + other * x[partner].
struct Turned {
  int32_t partner;
  double own, other;
};

std::vector<Turned> mean_rotation(const Future& future, int32_t head_dim) {
  std::vector<Turned> turned(head_dim);
  for (int32_t d = 0; d < head_dim; ++d) turned[d] = {d, 1, 0};
  const int32_t pairs = future.inv_freq.columns;
  for (int32_t i = 0; i < pairs; ++i) {
    double cosine = 0, sine = 0;
    for (int32_t p = 0; p < future.positions; ++p) {
      const double angle = (double(future.first_position) + p) * double(future.inv_freq.row<float>(0)[i]);
      cosine += std::cos(angle);
      sine += std::sin(angle);
    }
    cosine *= double(future.mscale) / future.positions;
    sine *= double(future.mscale) / future.positions;
    const int32_t a = future.interleaved ? 2 * i : i, b = future.interleaved ? a + 1 : pairs + i;
    turned[a] = {b, cosine, -sine};
    turned[b] = {a, cosine, sine};
  }
  return turned;
}

// to[rows] = logits of the rows [first, first + rows) of a head under one query head's moments
void logits(const KvShape& shape, const KvHead& head, const float* moments, double scale_of_covariance, const std::vector<Turned>& turned, float scale,
            bool covariance, int32_t first, int32_t rows, float* to) {
  const int32_t n = shape.head_dim;
  const float* sum = moments + n;
  std::vector<float> mean(n), form(covariance ? int64_t(n) * n : 0), product(n), key(n);
  for (int32_t a = 0; a < n; ++a) {
    const Turned& ta = turned[a];
    mean[a] = float(scale * (ta.own * moments[a] + ta.other * moments[ta.partner]));
    for (int32_t b = 0; b < n && covariance; ++b) {
      const Turned& tb = turned[b];
      auto at = [&](int32_t u, int32_t v) { return double(sum[int64_t(u) * n + v]); };
      const double value = ta.own * (tb.own * at(a, b) + tb.other * at(a, tb.partner)) +
                           ta.other * (tb.own * at(ta.partner, b) + tb.other * at(ta.partner, tb.partner));
      form[int64_t(a) * n + b] = float(scale_of_covariance * value);
    }
  }
  for (int32_t r = 0; r < rows; ++r) {
    kernels().widen(shape.dtype, static_cast<const char*>(head.k) + (int64_t(first) + r) * n * dtype_bytes(shape.dtype), key.data(), n);
    std::copy(mean.begin(), mean.end(), product.begin());
    for (int32_t a = 0; a < n && covariance; ++a) {
      const float factor = key[a], *row = form.data() + int64_t(a) * n;
      for (int32_t b = 0; b < n; ++b) product[b] += factor * row[b];
    }
    double value = 0;
    for (int32_t b = 0; b < n; ++b) value += double(product[b]) * key[b];
    to[r] = float(value);
  }
}

}  // namespace

void query_moments(Context& context, Matrix queries, int32_t seen, Matrix moments) {
  if (queries.rows == 0) return;
  parallel(context, moments.rows, [=](int64_t h, int32_t) {
    const int32_t n = queries.columns / moments.rows, rows = queries.rows;
    float *mean = moments.row<float>(h), *sum = mean + n;
    std::vector<float> values(int64_t(rows) * n);
    std::vector<double> part(n, 0), products(int64_t(n) * n, 0);
    for (int32_t r = 0; r < rows; ++r) {
      float* to = values.data() + int64_t(r) * n;
      kernels().widen(queries.dtype, queries.row<char>(0) + r * queries.pitch() + h * n * dtype_bytes(queries.dtype), to, n);
      for (int32_t d = 0; d < n; ++d) part[d] += to[d];
    }
    for (double& value : part) value /= rows;
    for (int32_t r = 0; r < rows; ++r) {
      float* x = values.data() + int64_t(r) * n;
      for (int32_t d = 0; d < n; ++d) x[d] = float(x[d] - part[d]);
      for (int32_t a = 0; a < n; ++a) {
        const double factor = x[a];
        for (int32_t b = 0; b < n; ++b) products[int64_t(a) * n + b] += factor * x[b];
      }
    }
    const double share = double(rows) / (double(seen) + rows), weight = seen * share;
    std::vector<double> shift(n);
    for (int32_t d = 0; d < n; ++d) shift[d] = seen == 0 ? 0 : part[d] - mean[d];
    for (int64_t i = 0; i < int64_t(n) * n; ++i) {
      const double joined = products[i] + weight * shift[i / n] * shift[i % n];
      sum[i] = float(seen == 0 ? joined : sum[i] + joined);
    }
    for (int32_t d = 0; d < n; ++d) mean[d] = float(seen == 0 ? part[d] : mean[d] + share * shift[d]);
  });
}

void future_attention(Context& context, Kv& kv, int32_t layer, Matrix moments, int32_t seen, const Future& future, float scale, int32_t first_row,
                        bool covariance, Matrix out) {
  const KvShape shape = kv.shape;
  KvHead* heads = layer_heads(kv.table, layer);
  Cpu& device = cpu(context);
  device.enqueue([=, &context, &device] {
    const std::vector<Turned> turned = mean_rotation(future, shape.head_dim);
    const int64_t rows = out.columns;
    float* all = static_cast<float*>(context.scratch(shape.heads * rows * int64_t(sizeof(float))));
    device.pool.run(shape.heads, [&, all](int64_t h, int32_t) {
      float* row = all + h * rows;
      logits(shape, heads[h / shape.group()], moments.row<float>(h), 0.5 * scale * scale / seen, turned, scale, covariance, first_row, int32_t(rows),
             row);
      const float top = *std::max_element(row, row + rows);
      double sum = 0;
      for (int64_t j = 0; j < rows; ++j) sum += row[j] = std::exp(row[j] - top);
      for (int64_t j = 0; j < rows; ++j) row[j] = float(row[j] / sum);
    });
    device.pool.run(shape.kv_heads, [&, all](int64_t g, int32_t) {
      float* to = out.row<float>(g);
      for (int64_t j = 0; j < rows; ++j) {
        float sum = 0;
        for (int32_t h = 0; h < shape.group(); ++h) sum += all[(g * shape.group() + h) * rows + j];
        to[j] = sum / float(shape.group());
      }
    });
  });
}

}  // namespace kva
