// albert_fast::packed_attention on the CPU: checks the arguments, and lets the threads take one head of one sequence
// after the other, or a part of its queries, so that a batch of mixed lengths keeps all of them busy to the end.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <new>
#include <vector>

#include "attention.h"

namespace albert_fast {
namespace {

const AttentionKernels& chosen_kernels() {
  switch (instruction_set()) {
#define ALBERT_FAST_CASE(isa)  \
  case InstructionSet::isa:    \
    return isa::attention;
    ALBERT_FAST_FOR_EACH_ISA(ALBERT_FAST_CASE)
#undef ALBERT_FAST_CASE
  }
  return baseline::attention;  // not reached
}

// The conditions of _check_layout in ops.py, which sees no data.
void check_layout(
    const at::Tensor& qkv, const at::Tensor& cu_seqlens, int64_t max_length, int64_t num_heads, double scale,
    at::ArrayRef<double> int8_scales) {
  TORCH_CHECK(
      qkv.dim() == 2 && qkv.size(1) > 0 && qkv.size(1) % 3 == 0,
      "packed_attention: qkv must be [tokens, 3 * hidden_size] with query, key and value side by side, found shape ",
      qkv.sizes());
  TORCH_CHECK(
      qkv.scalar_type() == at::kFloat || qkv.scalar_type() == at::kBFloat16 || qkv.scalar_type() == at::kChar,
      "packed_attention: qkv must be float32, bfloat16 or int8, found ", qkv.scalar_type());
  const size_t scales = qkv.scalar_type() == at::kChar ? 4 : 0;
  TORCH_CHECK(
      int8_scales.size() == scales, "packed_attention: int8_scales must hold ", scales, " numbers for ",
      qkv.scalar_type(), ", found ", int8_scales.size());
  for (const double one : int8_scales) {
    TORCH_CHECK(
        std::isfinite(one) && one > 0, "packed_attention: int8_scales must be finite and positive, found ", one);
  }
  TORCH_CHECK(
      num_heads >= 1 && qkv.size(1) / 3 % num_heads == 0,
      "packed_attention: num_heads must be at least 1 and divide hidden_size ", qkv.size(1) / 3, ", found ",
      num_heads);
  TORCH_CHECK(
      cu_seqlens.dim() == 1 && cu_seqlens.size(0) >= 1,
      "packed_attention: cu_seqlens must be [batch + 1], found shape ", cu_seqlens.sizes());
  TORCH_CHECK(
      cu_seqlens.scalar_type() == at::kInt, "packed_attention: cu_seqlens must be int32, found ",
      cu_seqlens.scalar_type());
  TORCH_CHECK(
      cu_seqlens.device() == qkv.device(), "packed_attention: cu_seqlens must be on the device of qkv, ",
      qkv.device(), ", found ", cu_seqlens.device());
  TORCH_CHECK(max_length >= 0, "packed_attention: max_length must not be negative, found ", max_length);
  TORCH_CHECK(std::isfinite(scale), "packed_attention: scale must be finite, found ", scale);
}

// The conditions of _check_boundaries in ops.py: no row outside qkv is ever read.
void check_boundaries(const int32_t* cu_seqlens, int64_t batch, int64_t tokens, int64_t max_length) {
  TORCH_CHECK(cu_seqlens[0] == 0, "packed_attention: cu_seqlens must begin with 0, found ", cu_seqlens[0]);
  for (int64_t sequence = 0; sequence < batch; ++sequence) {
    const int64_t length = static_cast<int64_t>(cu_seqlens[sequence + 1]) - cu_seqlens[sequence];
    TORCH_CHECK(
        length >= 0, "packed_attention: cu_seqlens must not decrease, found ", cu_seqlens[sequence + 1], " after ",
        cu_seqlens[sequence], " at index ", sequence + 1);
    TORCH_CHECK(
        length <= max_length, "packed_attention: sequence ", sequence, " has ", length,
        " tokens, expected at most max_length ", max_length);
  }
  TORCH_CHECK(
      cu_seqlens[batch] == tokens, "packed_attention: cu_seqlens must end with the number of tokens in qkv, ", tokens,
      ", found ", cu_seqlens[batch]);
}

std::vector<Queries> shared_out(const int32_t* starts, int64_t batch, int64_t num_heads, int64_t threads) {
  std::vector<Queries> items;
  for (int64_t sequence = 0; sequence < batch; ++sequence) {
    const int64_t begin = starts[sequence], length = starts[sequence + 1] - begin;
    int64_t parts = 1;
    if (threads > 1 && batch * num_heads < 4 * threads) {
      parts = std::max<int64_t>(1, std::min(4 * threads / (batch * num_heads), length / kQueriesWorthAnItem));
    }
    for (int64_t head = 0; head < num_heads && length > 0; ++head) {
      for (int64_t part = 0; part < parts; ++part) {
        items.push_back({begin, length, part * length / parts, (part + 1) * length / parts, head});
      }
    }
  }
  return items;
}

at::Tensor packed_attention_cpu(
    const at::Tensor& qkv, const at::Tensor& cu_seqlens, int64_t max_length, int64_t num_heads, double scale,
    at::ArrayRef<double> int8_scales) {
  check_layout(qkv, cu_seqlens, max_length, num_heads, scale, int8_scales);
  const at::Tensor packed = qkv.contiguous();
  const at::Tensor boundaries = cu_seqlens.contiguous();
  const int32_t* const starts = boundaries.const_data_ptr<int32_t>();
  const int64_t batch = boundaries.size(0) - 1;
  const int64_t tokens = packed.size(0);
  const int64_t hidden_size = packed.size(1) / 3;
  check_boundaries(starts, batch, tokens, max_length);

  at::Tensor result = at::empty({tokens, hidden_size}, packed.options());
  PackedAttention problem{
      packed.const_data_ptr(), result.mutable_data_ptr(), Type::float32, num_heads, hidden_size / num_heads,
      static_cast<float>(scale), 1.0f, 1.0f, 1.0f, 1.0f};
  if (packed.scalar_type() == at::kBFloat16) {
    problem.type = Type::bfloat16;
  } else if (packed.scalar_type() == at::kChar) {
    problem.type = Type::int8;
    problem.query_scale = static_cast<float>(int8_scales[0]);
    problem.key_scale = static_cast<float>(int8_scales[1]);
    problem.value_scale = static_cast<float>(int8_scales[2]);
    problem.result_scale = static_cast<float>(int8_scales[3]);
  }
  int64_t longest = 0;
  for (int64_t sequence = 0; sequence < batch; ++sequence) {
    longest = std::max<int64_t>(longest, starts[sequence + 1] - starts[sequence]);
  }
  const AttentionKernels& kernels = chosen_kernels();
  const std::vector<Queries> items = shared_out(starts, batch, num_heads, at::get_num_threads());
  const int64_t count = static_cast<int64_t>(items.size());
  const int64_t scratch_bytes = kernels.scratch_bytes(problem, longest);
  std::atomic<int64_t> next{0};
  at::parallel_for(0, std::min<int64_t>(at::get_num_threads(), count), 1, [&](int64_t, int64_t) {
    constexpr std::align_val_t kAligned{64};
    const std::unique_ptr<char[], void (*)(char*)> scratch(
        new (kAligned) char[scratch_bytes], [](char* memory) { ::operator delete[](memory, kAligned); });
    for (int64_t index = next++; index < count; index = next++) {
      kernels.run(problem, items[index], scratch.get());
    }
  });
  return result;
}

}  // namespace

TORCH_LIBRARY_IMPL(albert_fast, CPU, m) {
  m.impl("packed_attention", &packed_attention_cpu);
}

}  // namespace albert_fast
