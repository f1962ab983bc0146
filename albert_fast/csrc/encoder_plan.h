// How a call's rows are shared out among threads, and where in the workspace everything lies.
#pragma once

#include "encoder.h"
#include "heads.h"

namespace albert_fast::ALBERT_FAST_ISA {
namespace {

constexpr int64_t kRowsWorthAGroup = 24;     // fewer rows than this a thread, and threads share channels instead
constexpr int64_t kChunkBytes = 1024 * 1024;  // of all that a group's chunk of rows reads and writes, a second cache

inline int64_t smaller(int64_t left, int64_t right) {
  return left < right ? left : right;
}

inline int64_t larger(int64_t left, int64_t right) {
  return left > right ? left : right;
}

// Rows of T, `stride` apart: an odd number of cache lines, or the rows of a product's tile would meet in one set of the
// first cache where their length is a multiple of 4 KB.
template <class T>
struct Matrix {
  T* data;
  int64_t stride;

  T* row(int64_t index) const {
    return data + index * stride;
  }

  Operand from(int64_t index) const {
    return {reinterpret_cast<const char*>(row(index)), stride * static_cast<int64_t>(sizeof(T))};
  }
};

// Rows that are worked on together: all tokens, or in the last pass only each text's first.
template <class Kind>
struct Rows {
  using Element = typename Kind::Element;

  int64_t count;
  Matrix<float> x;          // [count, D], the residual
  Matrix<float> y;          // [count, D], what LayerNorm reads
  Matrix<Element> operand;  // x as products read it; x itself in float32
  Matrix<Element> context;  // [count, D], as products read it
};

struct Grid {
  int64_t groups;
  int64_t threads_in_group;
  int64_t chunk;  // rows whose feed-forward middle is held at a time
};

inline Grid grid_of(const Encoder& problem, int64_t rows, int64_t threads) {
  int64_t groups = smaller(threads, larger(1, rows / kRowsWorthAGroup));
  while (threads % groups != 0) {
    --groups;
  }
  const Linear& ffn = problem.layers[0].ffn;
  const int64_t row_bytes = (problem.hidden_size + ffn.out) * size_of(ffn.type) + 2 * problem.hidden_size * 4;
  const int64_t in_group = (rows + groups - 1) / groups;
  const int64_t fitting = larger(1, kChunkBytes / row_bytes / kTileRows) * kTileRows;
  const int64_t most = groups == threads ? fitting : larger(1, in_group);
  const int64_t chunks = larger(1, (in_group + most - 1) / most);
  return {groups, threads / groups, (in_group + chunks - 1) / chunks};
}

// Hands out the workspace; with a null base it only counts.
struct Carver {
  char* base;
  int64_t used;

  char* take(int64_t bytes) {
    char* const place = base == nullptr ? nullptr : base + used;
    used += round_up(bytes, 64) + 64;  // a product may read a step behind the last row
    return place;
  }

  template <class T>
  Matrix<T> matrix(int64_t rows, int64_t columns) {
    constexpr int64_t kSize = sizeof(T);
    const int64_t lines = (round_up(columns, kPanel) * kSize + 63) / 64 | 1;
    return {reinterpret_cast<T*>(take(rows * lines * 64)), lines * 64 / kSize};
  }
};

template <class Kind, class Attention>
struct Plan {
  using Element = typename Kind::Element;

  const Encoder& problem;
  const Batch& batch;
  Rows<Kind> all;
  Rows<Kind> firsts;
  Matrix<typename Attention::Element> qkv;            // [tokens, 3 D]
  Matrix<typename Attention::Element> first_queries;  // [batch, D]
  Matrix<float> mapping;                              // [tokens, E]; room for the widest type of operand
  Matrix<Element> middle;                             // [chunk, F] for each group
  int64_t middle_rows;                                // of one group
  char* scratch;                                      // for each thread
  int64_t scratch_bytes;
  int64_t bytes;

  Plan(const Encoder& problem, const Batch& batch, int64_t threads, char* workspace)
      : problem(problem), batch(batch) {
    Carver carver{workspace, 0};
    const int64_t compact = problem.first_token_only ? batch.batch : 0;
    all = rows(carver, batch.tokens);
    firsts = rows(carver, compact);
    qkv = carver.matrix<typename Attention::Element>(batch.tokens, 3 * problem.hidden_size);
    first_queries = carver.matrix<typename Attention::Element>(compact, problem.hidden_size);
    mapping = carver.matrix<float>(batch.tokens, problem.embedding_size);
    int64_t widest = 0;
    for (int64_t pass = 0; pass < problem.passes; ++pass) {
      widest = larger(widest, problem.layers[problem.schedule[pass]].ffn.out);
    }
    middle_rows = larger(grid_of(problem, batch.tokens, threads).chunk, grid_of(problem, compact, threads).chunk);
    middle = carver.matrix<Element>(middle_rows * threads, widest);
    int64_t longest = 1;
    for (int64_t text = 0; text < batch.batch; ++text) {
      longest = larger(longest, batch.texts[text].end - batch.texts[text].begin);
    }
    scratch_bytes = AttentionScratch<Attention>(longest, problem.hidden_size / problem.num_heads, nullptr).bytes;
    scratch = carver.take(scratch_bytes * threads);
    bytes = carver.used;
  }

  Rows<Kind> rows(Carver& carver, int64_t count) const {
    Rows<Kind> rows{};
    rows.count = count;
    rows.x = carver.matrix<float>(count, problem.hidden_size);
    rows.y = carver.matrix<float>(count, problem.hidden_size);
    if constexpr (Kind::type == Type::float32) {
      rows.operand = rows.x;
    } else {
      rows.operand = carver.matrix<Element>(count, problem.hidden_size);
    }
    rows.context = carver.matrix<Element>(count, problem.hidden_size);
    return rows;
  }
};

}  // namespace
}  // namespace albert_fast::ALBERT_FAST_ISA
