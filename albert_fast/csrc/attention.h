// Attention over a packed batch: the contract between the operator, which checks its arguments and shares out the work,
// and the kernels, which see plain pointers. Nothing of torch is in here, so that the kernels' source can be compiled
// once per instruction set without inline functions of the headers leaking from one set into another.
//
// T tokens of all sequences end to end   D hidden size   N heads   H head size, D = N * H
#pragma once

#include "encoder.h"

namespace albert_fast {

// What the whole call computes. `qkv` is [T, 3 * D], each row a query, a key and a value; `result` is [T, D]. Both are
// dense, row-major, of `type`; int8 is signed bytes times a scale.
struct PackedAttention {
  const void* qkv;
  void* result;
  Type type;
  int64_t num_heads;
  int64_t head_size;
  float scale;  // of scores
  float query_scale;
  float key_scale;
  float value_scale;
  float result_scale;
};

// One unit of work: some queries of one head, counted from the first of their sequence, against all of its keys.
struct Queries {
  int64_t sequence_begin;  // row of the sequence's first token
  int64_t sequence_length;
  int64_t first;
  int64_t last;
  int64_t head;
};

// Fewer queries than this are not worth laying their head's keys and values out again.
constexpr int64_t kQueriesWorthAnItem = 64;

struct AttentionKernels {
  int64_t (*scratch_bytes)(const PackedAttention&, int64_t longest);
  // `scratch` is the thread's own, aligned to 64 bytes.
  void (*run)(const PackedAttention&, const Queries&, char* scratch);
};

#define ALBERT_FAST_DECLARE(isa)            \
  namespace isa {                           \
  extern const AttentionKernels attention;  \
  }
ALBERT_FAST_FOR_EACH_ISA(ALBERT_FAST_DECLARE)
#undef ALBERT_FAST_DECLARE

}  // namespace albert_fast
