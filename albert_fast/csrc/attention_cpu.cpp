// albert_fast::packed_attention on the CPU: checks the arguments, cuts the batch into blocks of queries, and lets the
// threads take them one by one, so that a batch of mixed lengths keeps all of them busy to the end.
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <string>
#include <vector>

#include "attention.h"

namespace albert_fast {
namespace {

// torch's own verdict on this processor, which also obeys ATEN_CPU_CAPABILITY.
const AttentionKernels& chosen_kernels() {
#ifdef ALBERT_FAST_X86
  static const std::string capability = at::get_cpu_capability();
  if (capability.rfind("AVX512", 0) == 0) {
    return avx512::kernels;
  }
  if (capability == "AVX2") {
    return avx2::kernels;
  }
#endif
  return baseline::kernels;
}

// The conditions of _check_layout in ops.py, which sees no data.
void check_layout(
    const at::Tensor& qkv, const at::Tensor& cu_seqlens, int64_t max_length, int64_t num_heads, double scale) {
  TORCH_CHECK(
      qkv.dim() == 2 && qkv.size(1) > 0 && qkv.size(1) % 3 == 0,
      "packed_attention: qkv must be [tokens, 3 * hidden_size] with query, key and value side by side, found shape ",
      qkv.sizes());
  TORCH_CHECK(
      qkv.scalar_type() == at::kFloat || qkv.scalar_type() == at::kBFloat16,
      "packed_attention: qkv must be float32 or bfloat16, found ", qkv.scalar_type());
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

at::Tensor packed_attention_cpu(
    const at::Tensor& qkv, const at::Tensor& cu_seqlens, int64_t max_length, int64_t num_heads, double scale) {
  check_layout(qkv, cu_seqlens, max_length, num_heads, scale);
  const at::Tensor packed = qkv.contiguous();
  const at::Tensor boundaries = cu_seqlens.contiguous();
  const int32_t* const starts = boundaries.const_data_ptr<int32_t>();
  const int64_t batch = boundaries.size(0) - 1;
  const int64_t tokens = packed.size(0);
  const int64_t hidden_size = packed.size(1) / 3;
  check_boundaries(starts, batch, tokens, max_length);

  at::Tensor result = at::empty({tokens, hidden_size}, packed.options());
  const PackedAttention problem{
      packed.const_data_ptr(), result.mutable_data_ptr(), num_heads, hidden_size / num_heads,
      static_cast<float>(scale)};
  const bool is_float32 = packed.scalar_type() == at::kFloat;
  const QueryBlockKernel kernel = is_float32 ? chosen_kernels().float32 : chosen_kernels().bfloat16;

  std::vector<QueryBlock> blocks;
  for (int64_t sequence = 0; sequence < batch; ++sequence) {
    const int64_t length = starts[sequence + 1] - starts[sequence];
    for (int64_t head = 0; head < num_heads; ++head) {
      for (int64_t query = 0; query < length; query += kQueriesPerBlock) {
        blocks.push_back({starts[sequence], length, query, head});
      }
    }
  }
  const int64_t count = static_cast<int64_t>(blocks.size());
  std::atomic<int64_t> next{0};
  at::parallel_for(0, std::min<int64_t>(at::get_num_threads(), count), 1, [&](int64_t, int64_t) {
    std::vector<float> scratch(scratch_floats(problem.head_size));
    for (int64_t index = next++; index < count; index = next++) {
      kernel(problem, blocks[index], scratch.data());
    }
  });
  return result;
}

std::string cpu_kernel() {
  return chosen_kernels().name;
}

}  // namespace

TORCH_LIBRARY_IMPL(albert_fast, CPU, m) {
  m.impl("packed_attention", &packed_attention_cpu);
}

TORCH_LIBRARY_IMPL(albert_fast, CatchAll, m) {
  m.impl("cpu_kernel", &cpu_kernel);
}

}  // namespace albert_fast
