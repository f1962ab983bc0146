// ALBERT's encoder over a packed batch: the contract between the operator, which checks, packs and starts the threads,
// and the kernels, which compute one thread's share. Like attention.h, nothing of torch is in here.
//
// T tokens of all texts end to end   E embedding size   D hidden size   N heads   H head size   F feed-forward size
#pragma once

#include <cstdint>

#include "instruction_sets.h"

namespace albert_fast {

// Weights lie in panels of this many output channels: packed[panel][step][channel][element], where a step is the one
// float32, two bfloat16 or four int8 that fill 32 bits. Every instruction set reads the same layout.
constexpr int64_t kPanel = 32;

enum class Type { float32, bfloat16, int8 };

constexpr int64_t size_of(Type type) {
  return type == Type::float32 ? 4 : type == Type::bfloat16 ? 2 : 1;
}

constexpr int64_t round_up(int64_t count, int64_t step) {
  return (count + step - 1) / step * step;
}

// y = W x + bias. With int8, x is unsigned bytes (u - 128) * input_scale, and W is int8 times `scale` by channel;
// `sums` are those of W's rows, which take the 128 out again. x may have been multiplied by `factors`, one for each of
// its channels, before it was rounded. `scale`, `sums`, `bias` and `factors` are padded to whole panels.
struct Linear {
  Type type;
  int64_t out;
  int64_t steps;  // of the input, the last one filled up with zeros
  const void* weight;
  const float* scale;
  const int32_t* sums;
  const float* bias;
  const float* factors;  // int8; null without
};

struct Norm {
  const float* weight;
  const float* bias;
};

struct Layer {
  Linear qkv;
  Linear dense;
  Norm attention_norm;
  Linear ffn;
  Linear ffn_output;
  Norm output_norm;
};

enum class Activation { gelu, gelu_tanh, relu, silu, linear };

struct Encoder {
  int64_t embedding_size;
  Linear mapping;
  const Layer* layers;
  const int64_t* schedule;  // [passes], indices into layers
  int64_t passes;
  int64_t hidden_size;
  int64_t num_heads;
  float attention_scale;
  float eps;
  Activation activation;
  Type attention;             // float32 or bfloat16: queries, keys, values and probabilities
  const float* input_scales;  // int8: [1 + 4 * passes]; null without
  bool first_token_only;      // of the last pass only each text's first row is computed
};

// One text: its rows in the packed batch. The first row may be a token that nobody sees, behind left padding.
struct Text {
  int64_t begin;
  int64_t end;
  int64_t first_key;  // begin, or begin + 1
};

struct Batch {
  int64_t batch;
  int64_t length;
  int64_t tokens;
  const Text* texts;        // [batch]
  const int64_t* position;  // [tokens], row of each token in the padded batch
  const float* embedded;    // [batch * length, E]
  float* result;            // [batch * length, D], or [batch, D] of first tokens
};

// What threads share beside the workspace. `arrived`, `turn` and `next_item` begin as zeros.
struct Team {
  int64_t size;
  int32_t arrived;
  int32_t turn;
  int64_t* next_item;  // [passes], how many units of attention are taken
};

struct EncoderKernels {
  int64_t (*workspace_bytes)(const Encoder&, const Batch&, int64_t threads);
  // All threads of a team call this together. `workspace` is shared and aligned to 64 bytes.
  void (*run)(const Encoder&, const Batch&, Team&, int64_t thread, char* workspace);
};

#define ALBERT_FAST_DECLARE(isa)        \
  namespace isa {                       \
  extern const EncoderKernels encoder;  \
  }
ALBERT_FAST_FOR_EACH_ISA(ALBERT_FAST_DECLARE)
#undef ALBERT_FAST_DECLARE

}  // namespace albert_fast
