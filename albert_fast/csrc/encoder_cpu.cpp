// albert_fast::encoder on the CPU: checks the arguments, finds the tokens that are text, and starts one team of threads
// that goes through all passes together.
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <omp.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "encoder.h"

namespace albert_fast {
namespace {

// torch's own verdict on this processor, which also obeys ATEN_CPU_CAPABILITY, and what it says beyond that.
const EncoderKernels& chosen_kernels() {
#ifdef ALBERT_FAST_X86
  static const std::string capability = at::get_cpu_capability();
  if (capability.rfind("AVX512", 0) == 0) {
    static const bool vnni = __builtin_cpu_supports("avx512vnni");
    static const bool bf16 = vnni && __builtin_cpu_supports("avx512bf16");
    return bf16 ? avx512_bf16::encoder : vnni ? avx512_vnni::encoder : avx512::encoder;
  }
  if (capability == "AVX2") {
    return avx2::encoder;
  }
#endif
  return baseline::encoder;
}

// Scratch memory outlives a call, or its pages would be fetched from the system each time. Calls that run at the same
// time have one each; what is larger than kKeptBytes goes back at once.
class Workspaces {
 public:
  using Memory = std::unique_ptr<char[]>;

  // `bytes` bytes from an address that is a multiple of 64, until `run` returns.
  template <class Run>
  void with(int64_t bytes, const Run& run) {
    std::pair<int64_t, Memory> taken{0, nullptr};
    {
      const std::lock_guard<std::mutex> guard(mutex_);
      if (!free_.empty()) {
        taken = std::move(free_.back());
        free_.pop_back();
      }
    }
    if (taken.first < bytes + kAlignment) {
      taken.second.reset();
      taken = {bytes + kAlignment, Memory(new char[bytes + kAlignment])};
    }
    const auto address = reinterpret_cast<uintptr_t>(taken.second.get());
    run(taken.second.get() + (kAlignment - address % kAlignment) % kAlignment);
    if (taken.first <= kKeptBytes) {
      const std::lock_guard<std::mutex> guard(mutex_);
      free_.push_back(std::move(taken));
    }
  }

 private:
  static constexpr int64_t kAlignment = 64;
  static constexpr int64_t kKeptBytes = 32 << 20;

  std::mutex mutex_;
  std::vector<std::pair<int64_t, Memory>> free_;
};

Workspaces& workspaces() {
  static Workspaces* const all = new Workspaces;  // never destroyed: threads may outlive static destructors
  return *all;
}

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

  // Of `in` channels, or of more than in - kPanel: what of the last panel in front of it is padding, only the caller knew.
  Linear linear(const char* what, int64_t in, int64_t out, bool in_is_padded = false) {
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
    Linear linear{type, out, weight.size(1), weight.const_data_ptr(), nullptr, nullptr, nullptr};
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

  // The tensor so many linear maps and norms ahead, whose shape says a size.
  const at::Tensor& ahead(int64_t linears, int64_t others = 0) const {
    int64_t index = taken_;
    for (int64_t linear = 0; linear < linears; ++linear) {
      index += at(index).scalar_type() == at::kChar ? 4 : 2;
    }
    return at(index + others);
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

// Tokens that are text, end to end, and the first position of every row, which heads read whatever its mask.
struct Packed {
  std::vector<Text> texts;
  std::vector<int64_t> position;

  explicit Packed(const at::Tensor& mask) {
    const int64_t batch = mask.size(0), length = mask.size(1);
    const int64_t* const seen = mask.const_data_ptr<int64_t>();
    texts.reserve(batch);
    position.reserve(batch * length);
    for (int64_t row = 0; row < batch; ++row) {
      const int64_t begin = static_cast<int64_t>(position.size());
      const bool first_is_text = seen[row * length] != 0;
      position.push_back(row * length);
      for (int64_t i = row * length + 1; i < (row + 1) * length; ++i) {
        if (seen[i] != 0) {
          position.push_back(i);
        }
      }
      const int64_t end = static_cast<int64_t>(position.size());
      texts.push_back({begin, end, first_is_text || end == begin + 1 ? begin : begin + 1});
    }
  }
};

void check_inputs(const at::Tensor& embedded, const at::Tensor& mask) {
  TORCH_CHECK(
      embedded.dim() == 3 && embedded.size(2) > 0 && embedded.scalar_type() == at::kFloat,
      "encoder: embedded must be [batch, length, embedding_size] of float32, found ", embedded.sizes(), " of ",
      embedded.scalar_type());
  TORCH_CHECK(
      mask.dim() == 2 && mask.scalar_type() == at::kLong && mask.size(0) == embedded.size(0) &&
          mask.size(1) == embedded.size(1),
      "encoder: attention_mask must be [", embedded.size(0), ", ", embedded.size(1), "] of int64, found ",
      mask.sizes(), " of ", mask.scalar_type());
}

Layer next_layer(Tensors& tensors, int64_t hidden_size) {
  Layer layer{};
  layer.qkv = tensors.linear("query, key and value", hidden_size, 3 * hidden_size);
  layer.dense = tensors.linear("attention's dense", hidden_size, hidden_size);
  layer.attention_norm = tensors.norm("attention's LayerNorm", hidden_size);
  const at::Tensor& ffn = tensors.ahead(0);
  const int64_t middle = (ffn.dim() > 0 ? ffn.size(0) : 0) * kPanel;
  layer.ffn = tensors.linear("ffn", hidden_size, middle);
  layer.ffn_output = tensors.linear("ffn_output", middle, hidden_size, /*in_is_padded=*/true);
  layer.output_norm = tensors.norm("the layer's LayerNorm", hidden_size);
  return layer;
}

// What a call computes with, checked as a whole. Pointers lead into the call's arguments and into `layers`.
struct Problem {
  Encoder encoder{};
  std::vector<Layer> layers;
  std::vector<float> input_scales;

  Problem(
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
      for (const Linear* linear : {&layers[index].qkv, &layers[index].dense, &layers[index].ffn, &layers[index].ffn_output}) {
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
          std::isfinite(scales[index]) && scales[index] > 0, "encoder: input_scales[", index, "] must be positive, found ",
          scales[index]);
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
};

// One team of torch's own threads, or the caller alone where it is one of a team already.
void run(const Problem& problem, const Batch& batch) {
  const EncoderKernels& kernels = chosen_kernels();
  std::vector<int64_t> next_item(problem.encoder.passes, 0);
  const int threads = at::in_parallel_region() ? 1 : at::get_num_threads();
  workspaces().with(kernels.workspace_bytes(problem.encoder, batch, threads), [&](char* workspace) {
    Team team{1, 0, 0, next_item.data()};
    if (threads == 1) {
      kernels.run(problem.encoder, batch, team, 0, workspace);
      return;
    }
#pragma omp parallel num_threads(threads)
    {
#pragma omp single
      team.size = omp_get_num_threads();  // the system may give fewer; the barrier at the end of `single` tells all
      kernels.run(problem.encoder, batch, team, omp_get_thread_num(), workspace);
    }
  });
}

at::Tensor encoder_cpu(
    const at::Tensor& embedded, const at::Tensor& attention_mask, at::TensorList tensors, at::IntArrayRef schedule,
    int64_t num_heads, double attention_scale, double layer_norm_eps, const c10::string_view activation,
    const c10::string_view attention_dtype, at::ArrayRef<double> input_scales, bool first_token_only) {
  check_inputs(embedded, attention_mask);
  const Problem problem(
      embedded.size(2), tensors, schedule, num_heads, attention_scale, layer_norm_eps, std::string(activation),
      std::string(attention_dtype), input_scales, first_token_only);
  const int64_t batch = embedded.size(0), length = embedded.size(1);
  TORCH_CHECK(!first_token_only || length > 0, "encoder: first_token_only needs at least one token");
  at::Tensor result =
      at::empty({batch, first_token_only ? 1 : length, problem.encoder.hidden_size}, embedded.options());
  if (result.numel() > 0) {
    const at::Tensor dense = embedded.contiguous();
    const Packed packed(attention_mask.contiguous());
    run(problem,
        {batch, length, static_cast<int64_t>(packed.position.size()), packed.texts.data(), packed.position.data(),
         dense.const_data_ptr<float>(), result.mutable_data_ptr<float>()});
  }
  return result;
}

}  // namespace

TORCH_LIBRARY_IMPL(albert_fast, CPU, m) {
  m.impl("encoder", &encoder_cpu);
}

}  // namespace albert_fast
