// The schemas of torch.ops.albert_fast. C++ owns schemas and kernels; albert_fast/ops.py and encoder_op.py own fake
// kernels, references and typed wrappers. Nothing here needs Python, so a C++ program may load this library beside an
// engine file.
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/library.h>
#include <torch/headeronly/version.h>

#include <string>

TORCH_LIBRARY(albert_fast, m) {
  m.set_python_module("albert_fast.ops");

  // Softmax attention within each sequence of a packed batch.
  //   qkv         [tokens, 3 * hidden_size], float32, bfloat16 or int8: query, key and value side by side
  //   cu_seqlens  [batch + 1], int32: sequence i is rows cu_seqlens[i] to cu_seqlens[i + 1], and may be empty
  //   max_length  at least the longest sequence's length; SymInt, so a compiled graph serves every length
  //   int8_scales with int8: what query, key, value and the result are multiplied by; else empty
  //   returns     [tokens, hidden_size] in qkv's dtype
  m.def(
      "packed_attention(Tensor qkv, Tensor cu_seqlens, SymInt max_length, int num_heads, float scale, "
      "float[] int8_scales=[]) -> Tensor",
      {at::Tag::pt2_compliant_tag});

  m.set_python_module("albert_fast.encoder_op");
  // The whole encoder over the tokens that are text: the map from embedding size, every pass, no padding computed.
  //   embedded        [batch, length, embedding_size], float32: embeddings behind their LayerNorm
  //   attention_mask  [batch, length], int64: anything but 0 is text; the first position is computed in any case
  //   tensors         weights in panels, see encoder_op.py: the mapping's, then those of each layer; before an int8
  //                   weight there may be what the channels of its input are multiplied by before they are rounded
  //   schedule        for each pass the index of its layer
  //   input_scales    with int8 weights: of the mapping's input, then of four inputs in each pass
  //   returns         [batch, length, hidden_size], float32, zeros at padding; or [batch, 1, hidden_size]
  m.def(
      "encoder(Tensor embedded, Tensor attention_mask, Tensor[] tensors, int[] schedule, int num_heads, "
      "float attention_scale, float layer_norm_eps, str activation, str attention_dtype, float[] input_scales, "
      "bool first_token_only) -> Tensor",
      {at::Tag::pt2_compliant_tag});

  // What this library is: the torch it was compiled against, and the instruction set of its CPU kernels in use.
  m.def("built_with_torch() -> str", [] { return std::string(TORCH_VERSION); });
  m.def("cpu_kernel() -> str");
}

// These ops serve inference. Without this a backward pass through one would quietly yield no gradient.
TORCH_LIBRARY_IMPL(albert_fast, Autograd, m) {
  m.impl("packed_attention", torch::autograd::autogradNotImplementedFallback());
  m.impl("encoder", torch::autograd::autogradNotImplementedFallback());
}
