// The arguments of albert_fast::encoder, checked and told apart. Messages name what is wrong and what was expected.
#include "encoder_problem.h"

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cmath>

namespace albert_fast {
namespace {

Activation activation_called(const std::string& name) {
  if (name == "gelu") return Activation::gelu;
  if (name == "gelu_tanh") return Activation::gelu_tanh;
  if (name == "relu") return Activation::relu;
  if (name == "silu") return Activation::silu;
  TORCH_CHECK(
      name == "linear", "encoder: activation must be gelu, gelu_tanh, relu, silu or linear, found '", name, "'");
  return Activation::linear;
}

// Takes tensors one by one, and says of each what it is where it is not as it should be.
class Tensors {
 public:
  explicit Tensors(at::TensorList tensors) : tensors_(tensors) {}

  // Of `in` channels; `in_is_padded` to whole panels where the last one may hold fewer.
  Linear linear(const char* what, int64_t in, int64_t out, bool in_is_padded = false) {
    const float* factors = nullptr;
    if (has_factors(taken_)) {
      factors = vector<float>(what, "factors", round_up(in, kPanel), at::kFloat);
    }
    const at::Tensor& weight = next(what, "weight");
    const at::ScalarType dtype = weight.scalar_type();
    TORCH_CHECK(
        dtype == at::kFloat || dtype == at::kBFloat16 || dtype == at::kChar, "encoder: the weight of ", what,
        " must be float32, bfloat16 or int8, found ", dtype);
    const Type type = dtype == at::kFloat ? Type::float32 : dtype == at::kBFloat16 ? Type::bfloat16 : Type::int8;
    const int64_t in_a_step = 4 / size_of(type), padded = round_up(out, kPanel);
    const int64_t most = (in + in_a_step - 1) / in_a_step, fewest = in_is_padded ? (in - kPanel) / in_a_step + 1 : most;
    TORCH_CHECK(
        weight.dim() == 4 && weight.size(0) == padded / kPanel && weight.size(1) >= fewest && weight.size(1) <= most &&
            weight.size(2) == kPanel && weight.size(3) == in_a_step && weight.is_contiguous(),
        "encoder: the weight of ", what, " must be packed to [", padded / kPanel, ", ", most, ", ", kPanel, ", ",
        in_a_step, "], found ", weight.sizes());
    Linear linear{type, out, weight.size(1), weight.const_data_ptr(), nullptr, nullptr, nullptr, factors};
    TORCH_CHECK(
        factors == nullptr || type == Type::int8, "encoder: ", what, " has factors of its input, but no int8 weight");
    if (type == Type::int8) {
      linear.scale = vector<float>(what, "scale", padded, at::kFloat);
      linear.sums = vector<int32_t>(what, "sums", padded, at::kInt);
    }
    linear.bias = vector<float>(what, "bias", padded, at::kFloat);
    return linear;
  }

  Norm norm(const char* what, int64_t size) {
    const float* const weight = vector<float>(what, "weight", size, at::kFloat);
    return {weight, vector<float>(what, "bias", size, at::kFloat)};
  }

  // The tensor so many linear maps ahead, whose shape says a size.
  const at::Tensor& ahead(int64_t linears) const {
    int64_t index = taken_;
    for (int64_t linear = 0; linear < linears; ++linear) {
      index += has_factors(index) ? 1 : 0;
      index += at(index).scalar_type() == at::kChar ? 4 : 2;
    }
    return at(index);
  }

  // Of the linear map that comes next.
  const at::Tensor& weight_ahead() const {
    return at(has_factors(taken_) ? taken_ + 1 : taken_);
  }

  bool done() const {
    return taken_ == static_cast<int64_t>(tensors_.size());
  }

 private:
  const at::TensorList tensors_;
  int64_t taken_ = 0;

  const at::Tensor& at(int64_t index) const {
    TORCH_CHECK(index < static_cast<int64_t>(tensors_.size()), "encoder: ", tensors_.size(), " tensors are too few");
    return tensors_[index];
  }

  // Whether a linear map that begins here does so with factors: weights have four dimensions.
  bool has_factors(int64_t index) const {
    return at(index).dim() == 1;
  }

  const at::Tensor& next(const char* what, const char* part) {
    TORCH_CHECK(!done(), "encoder: there are only ", taken_, " tensors; the ", part, " of ", what, " is missing");
    const at::Tensor& tensor = tensors_[taken_++];
    TORCH_CHECK(tensor.device().is_cpu(), "encoder: the ", part, " of ", what, " must be on the CPU");
    return tensor;
  }

  template <class T>
  const T* vector(const char* what, const char* part, int64_t size, at::ScalarType dtype) {
    const at::Tensor& tensor = next(what, part);
    TORCH_CHECK(
        tensor.dim() == 1 && tensor.size(0) == size && tensor.scalar_type() == dtype && tensor.is_contiguous(),
        "encoder: the ", part, " of ", what, " must be [", size, "] of ", dtype, ", found ", tensor.sizes(), " of ",
        tensor.scalar_type());
    return tensor.const_data_ptr<T>();
  }
};

Layer next_layer(Tensors& tensors, int64_t hidden_size) {
  Layer layer{};
  layer.qkv = tensors.linear("query, key and value", hidden_size, 3 * hidden_size);
  layer.dense = tensors.linear("attention's dense", hidden_size, hidden_size);
  layer.attention_norm = tensors.norm("attention's LayerNorm", hidden_size);
  const at::Tensor& ffn = tensors.weight_ahead();
  const int64_t middle = (ffn.dim() > 0 ? ffn.size(0) : 0) * kPanel;
  layer.ffn = tensors.linear("ffn", hidden_size, middle);
  layer.ffn_output = tensors.linear("ffn_output", middle, hidden_size, /*in_is_padded=*/true);
  layer.output_norm = tensors.norm("the layer's LayerNorm", hidden_size);
  return layer;
}

}  // namespace

Problem::Problem(
    int64_t embedding_size, at::TensorList tensors, at::IntArrayRef schedule, int64_t num_heads,
    double attention_scale, double layer_norm_eps, const std::string& activation, const std::string& attention_dtype,
    at::ArrayRef<double> scales, bool first_token_only) {
  TORCH_CHECK(!schedule.empty(), "encoder: schedule must name a layer for at least one pass");
  int64_t num_layers = 0;
  for (const int64_t layer : schedule) {
    TORCH_CHECK(layer >= 0, "encoder: schedule holds ", layer, ", expected indices of layers");
    num_layers = std::max(num_layers, layer + 1);
  }
  Tensors source(tensors);
  const at::Tensor& first_norm = source.ahead(3);
  const int64_t hidden_size = first_norm.dim() == 1 ? first_norm.size(0) : 0;
  TORCH_CHECK(
      num_heads >= 1 && hidden_size > 0 && hidden_size % num_heads == 0,
      "encoder: num_heads must be at least 1 and divide hidden_size ", hidden_size, ", found ", num_heads);
  TORCH_CHECK(
      std::isfinite(attention_scale) && attention_scale > 0, "encoder: attention_scale must be positive, found ",
      attention_scale);
  TORCH_CHECK(
      std::isfinite(layer_norm_eps) && layer_norm_eps >= 0, "encoder: layer_norm_eps must be at least 0, found ",
      layer_norm_eps);
  encoder.mapping = source.linear("the mapping", embedding_size, hidden_size);
  for (int64_t index = 0; index < num_layers; ++index) {
    layers.push_back(next_layer(source, hidden_size));
    const Layer& layer = layers.back();
    for (const Linear* linear : {&layer.qkv, &layer.dense, &layer.ffn, &layer.ffn_output}) {
      TORCH_CHECK(linear->type == layers[0].qkv.type, "encoder: the weights of all layers must be of one dtype");
    }
  }
  TORCH_CHECK(source.done(), "encoder: there are ", tensors.size(), " tensors, more than ", num_layers, " layers have");
  const bool quantized = layers[0].qkv.type == Type::int8;
  const size_t wanted = quantized ? 1 + 4 * schedule.size() : 0;
  TORCH_CHECK(
      scales.size() == wanted, "encoder: input_scales must be ", wanted, " numbers, the mapping's and four for each ",
      "of ", schedule.size(), " passes where weights are int8, none where not; found ", scales.size());
  for (size_t index = encoder.mapping.type == Type::int8 ? 0 : 1; index < scales.size(); ++index) {
    TORCH_CHECK(
        std::isfinite(scales[index]) && scales[index] > 0, "encoder: input_scales[", index,
        "] must be positive, found ", scales[index]);
  }
  TORCH_CHECK(
      encoder.mapping.type != Type::int8 || quantized, "encoder: the mapping is int8 and the layers are not");
  input_scales.assign(scales.begin(), scales.end());
  TORCH_CHECK(
      attention_dtype == "float32" || attention_dtype == "bfloat16",
      "encoder: attention_dtype must be float32 or bfloat16, found '", attention_dtype, "'");
  encoder.attention = attention_dtype == "float32" ? Type::float32 : Type::bfloat16;
  TORCH_CHECK(
      quantized || encoder.attention == layers[0].qkv.type,
      "encoder: attention_dtype must be that of the weights where they are not int8, found ", attention_dtype);
  encoder.embedding_size = embedding_size;
  encoder.layers = layers.data();
  encoder.schedule = schedule.data();
  encoder.passes = static_cast<int64_t>(schedule.size());
  encoder.hidden_size = hidden_size;
  encoder.num_heads = num_heads;
  encoder.attention_scale = static_cast<float>(attention_scale);
  encoder.eps = static_cast<float>(layer_norm_eps);
  encoder.activation = activation_called(activation);
  encoder.input_scales = input_scales.empty() ? nullptr : input_scales.data();
  encoder.first_token_only = first_token_only;
}

}  // namespace albert_fast
