// Attention over a packed batch: the contract between the operator, which checks and splits the work, and the
// kernels, which compute one block of queries. The kernels include nothing of torch, so that attention_kernel.cpp can
// be compiled once per instruction set without inline functions of the headers leaking from one set into another.
//
// T tokens of all sequences end to end   D hidden size   N heads   H head size, D = N * H
#pragma once

#include <cstdint>

namespace albert_fast {

constexpr int64_t kQueriesPerBlock = 64;
constexpr int64_t kKeysPerBlock = 64;

// What the whole call computes. `qkv` is [T, 3 * D], each row a query, a key and a value; `result` is [T, D]. Both are
// dense, row-major, and of the element type that the chosen kernel is named for.
struct PackedAttention {
  const void* qkv;
  void* result;
  int64_t num_heads;
  int64_t head_size;
  float scale;
};

// One unit of work: up to kQueriesPerBlock queries of one head against all keys of their sequence.
struct QueryBlock {
  int64_t sequence_begin;   // row of the sequence's first token
  int64_t sequence_length;  // > 0
  int64_t query_begin;      // first query, counted from sequence_begin
  int64_t head;
};

// Softmax over `scale * q.k` runs online over blocks of keys: what is kept per query is its maximum, its sum and its
// context, never a row of probabilities. All arithmetic is float32. `scratch` holds scratch_floats(head_size) floats.
using QueryBlockKernel = void (*)(const PackedAttention&, const QueryBlock&, float* scratch);

struct AttentionKernels {
  const char* name;
  QueryBlockKernel float32;
  QueryBlockKernel bfloat16;
};

// Rows of values and contexts are padded to whole register tiles of the widest instruction set: 2 x 16 floats.
constexpr int64_t padded_head_size(int64_t head_size) {
  return (head_size + 31) / 32 * 32;
}

// Queries, keys, values, scores, context, in this order.
constexpr int64_t scratch_floats(int64_t head_size) {
  return kQueriesPerBlock * head_size + head_size * kKeysPerBlock + kKeysPerBlock * padded_head_size(head_size) +
      kQueriesPerBlock * kKeysPerBlock + kQueriesPerBlock * padded_head_size(head_size);
}

namespace baseline {
extern const AttentionKernels kernels;
}
#ifdef ALBERT_FAST_X86
namespace avx2 {
extern const AttentionKernels kernels;
}
namespace avx512 {
extern const AttentionKernels kernels;
}
#endif

}  // namespace albert_fast
