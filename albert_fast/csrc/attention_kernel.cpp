// One block of queries against all keys of its sequence, in vector arithmetic of ALBERT_FAST_VECTOR_BYTES bytes.
// CMakeLists.txt compiles this file once per instruction set, each time into the namespace ALBERT_FAST_ISA.
#include "attention.h"

#include <math.h>

#include "vectors.h"

namespace albert_fast::ALBERT_FAST_ISA {

extern const AttentionKernels kernels;

namespace {

// The register tile: 4 rows by 2 vectors, 8 independent sums, enough to hide the latency of multiply-add.
constexpr int64_t kTileRows = 4;
constexpr int64_t kTileVectors = 2;
constexpr int64_t kTileColumns = kTileVectors * kLanes;
static_assert(kQueriesPerBlock % kTileRows == 0 && kKeysPerBlock % kTileColumns == 0 && 32 % kTileColumns == 0);

inline int64_t round_up(int64_t count, int64_t step) {
  return (count + step - 1) / step * step;
}

inline int64_t smaller(int64_t left, int64_t right) {
  return left < right ? left : right;
}

// exp(x) for x <= 0, within 2 units in the last place. Below -87, where float32 leaves its normal range, it stays at
// exp(-87) = 1.6e-38. NaN stays NaN. 2^n * exp(r): n by adding 1.5 * 2^23, whose low bits then hold it; exp(r) for
// |r| <= ln(2) / 2 by the Taylor polynomial, whose first dropped term is r^8 / 8! < 6e-9.
inline Floats exp_of_negative(Floats x) {
  constexpr float kLowest = -87.0f;
  constexpr float kLn2High = 0.693359375f;
  constexpr float kLn2Low = -2.12194440e-4f;
  x = larger_of(broadcast(kLowest), x);
  const Floats shifted = x * 1.44269504f + kRounder;
  const Floats n = shifted - kRounder;
  const Floats r = (x - n * kLn2High) - n * kLn2Low;
  Floats series = broadcast(1.0f / 5040);
  series = series * r + 1.0f / 720;
  series = series * r + 1.0f / 120;
  series = series * r + 1.0f / 24;
  series = series * r + 1.0f / 6;
  series = series * r + 0.5f;
  series = series * r + 1.0f;
  series = series * r + 1.0f;
  return series * as_floats((as_ints(shifted) + 127) << 23);
}

// c[rows, columns] (+)= a[rows, depth] * b[depth, columns]: rows and columns are whole tiles; strides are in floats.
template <bool kAccumulate>
void multiply(
    const float* a, int64_t a_stride, const float* b, int64_t b_stride, float* c, int64_t c_stride, int64_t rows,
    int64_t columns, int64_t depth) {
  for (int64_t column = 0; column < columns; column += kTileColumns) {
    for (int64_t row = 0; row < rows; row += kTileRows) {
      Floats sums[kTileRows][kTileVectors];
      for (int64_t i = 0; i < kTileRows; ++i) {
        for (int64_t j = 0; j < kTileVectors; ++j) {
          sums[i][j] = kAccumulate ? load(c + (row + i) * c_stride + column + j * kLanes) : Floats{};
        }
      }
      for (int64_t k = 0; k < depth; ++k) {
        const Floats b_0 = load(b + k * b_stride + column);
        const Floats b_1 = load(b + k * b_stride + column + kLanes);
        for (int64_t i = 0; i < kTileRows; ++i) {
          const Floats a_i = broadcast(a[(row + i) * a_stride + k]);
          sums[i][0] += a_i * b_0;
          sums[i][1] += a_i * b_1;
        }
      }
      for (int64_t i = 0; i < kTileRows; ++i) {
        for (int64_t j = 0; j < kTileVectors; ++j) {
          store(c + (row + i) * c_stride + column + j * kLanes, sums[i][j]);
        }
      }
    }
  }
}

inline float largest(const float* row, int64_t columns) {
  Floats best = load(row);
  for (int64_t column = kLanes; column < columns; column += kLanes) {
    best = larger_of(load(row + column), best);
  }
  return largest_of(best);
}

// row := exp(row - maximum); returns the sum.
inline float exponentiate(float* row, int64_t columns, float maximum) {
  Floats sums{};
  for (int64_t column = 0; column < columns; column += kLanes) {
    const Floats value = exp_of_negative(load(row + column) - maximum);
    store(row + column, value);
    sums += value;
  }
  return sum_of(sums);
}

inline void multiply_row(float* row, int64_t columns, float factor) {
  for (int64_t column = 0; column < columns; column += kLanes) {
    store(row + column, load(row + column) * factor);
  }
}

template <typename Element>
void attend(const PackedAttention& problem, const QueryBlock& block, float* scratch) {
  const int64_t head_size = problem.head_size;
  const int64_t padded_size = padded_head_size(head_size);
  const int64_t hidden_size = problem.num_heads * head_size;
  const int64_t row_stride = 3 * hidden_size;
  const Element* const first_token =
      static_cast<const Element*>(problem.qkv) + block.sequence_begin * row_stride + block.head * head_size;
  const int64_t query_count = smaller(kQueriesPerBlock, block.sequence_length - block.query_begin);
  const int64_t rows = round_up(query_count, kTileRows);

  float* const queries = scratch;                                    // [rows, H]
  float* const keys = queries + kQueriesPerBlock * head_size;        // [H, keys], transposed
  float* const values = keys + head_size * kKeysPerBlock;            // [keys, padded H]
  float* const scores = values + kKeysPerBlock * padded_size;        // [rows, keys]
  float* const context = scores + kQueriesPerBlock * kKeysPerBlock;  // [rows, padded H]
  float maxima[kQueriesPerBlock];
  float sums[kQueriesPerBlock];

  for (int64_t i = 0; i < query_count; ++i) {
    const Element* const query = first_token + (block.query_begin + i) * row_stride;
    for (int64_t h = 0; h < head_size; ++h) {
      queries[i * head_size + h] = to_float(query[h]) * problem.scale;
    }
  }
  memset(queries + query_count * head_size, 0, (rows - query_count) * head_size * sizeof(float));

  for (int64_t key_begin = 0; key_begin < block.sequence_length; key_begin += kKeysPerBlock) {
    const int64_t key_count = smaller(kKeysPerBlock, block.sequence_length - key_begin);
    const int64_t columns = round_up(key_count, kTileColumns);
    if (columns != key_count) {
      memset(keys, 0, head_size * kKeysPerBlock * sizeof(float));
    }
    for (int64_t j = 0; j < key_count; ++j) {
      const Element* const key = first_token + (key_begin + j) * row_stride + hidden_size;
      const Element* const value = key + hidden_size;
      for (int64_t h = 0; h < head_size; ++h) {
        keys[h * kKeysPerBlock + j] = to_float(key[h]);
      }
      for (int64_t h = 0; h < head_size; ++h) {
        values[j * padded_size + h] = to_float(value[h]);
      }
      memset(values + j * padded_size + head_size, 0, (padded_size - head_size) * sizeof(float));
    }

    multiply<false>(queries, head_size, keys, kKeysPerBlock, scores, kKeysPerBlock, rows, columns, head_size);
    for (int64_t i = 0; i < rows; ++i) {
      float* const row = scores + i * kKeysPerBlock;
      for (int64_t j = key_count; j < columns; ++j) {
        row[j] = -INFINITY;
      }
      const float block_maximum = largest(row, columns);
      if (key_begin == 0) {
        maxima[i] = block_maximum;
        sums[i] = exponentiate(row, columns, block_maximum);
        continue;
      }
      const float maximum = block_maximum > maxima[i] ? block_maximum : maxima[i];
      const float shrink = expf(maxima[i] - maximum);
      maxima[i] = maximum;
      sums[i] = sums[i] * shrink + exponentiate(row, columns, maximum);
      multiply_row(context + i * padded_size, padded_size, shrink);
    }
    (key_begin == 0 ? multiply<false> : multiply<true>)(
        scores, kKeysPerBlock, values, padded_size, context, padded_size, rows, padded_size, key_count);
  }

  Element* const result = static_cast<Element*>(problem.result) +
      (block.sequence_begin + block.query_begin) * hidden_size + block.head * head_size;
  for (int64_t i = 0; i < query_count; ++i) {
    const float share = 1.0f / sums[i];
    for (int64_t h = 0; h < head_size; ++h) {
      store(result + i * hidden_size + h, context[i * padded_size + h] * share);
    }
  }
}

}  // namespace

#define ALBERT_FAST_NAME_OF(isa) #isa
#define ALBERT_FAST_NAME(isa) ALBERT_FAST_NAME_OF(isa)
const AttentionKernels kernels = {ALBERT_FAST_NAME(ALBERT_FAST_ISA), attend<float>, attend<BFloat16>};

}  // namespace albert_fast::ALBERT_FAST_ISA
