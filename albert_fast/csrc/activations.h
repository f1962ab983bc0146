// The activations between the two products of the feed-forward, and LayerNorm, on vectors.
#pragma once

#include "products.h"

namespace albert_fast::ALBERT_FAST_ISA {
namespace {

constexpr float kLog2E = 1.44269504f;

// x / (1 + exp(-z)), z given as z * log2(e)
template <bool kRough>
inline Floats gated(Floats x, Floats z_log2e) {
  return x * reciprocal<kRough>(1.0f + power_of_2<kRough>(-z_log2e));
}

// 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), as a gate: tanh(u) = 2 / (1 + exp(-2 u)) - 1
template <bool kRough>
inline Floats gelu_tanh(Floats x) {
  constexpr float kTwice = 2 * 0.7978845608f * kLog2E;
  return gated<kRough>(x, x * (kTwice + kTwice * 0.044715f * (x * x)));
}

// 0.5 x (1 + erf(x / sqrt(2))); erf by Abramowitz and Stegun 7.1.26, within 1.5e-7.
inline Floats gelu(Floats x) {
  const Floats z = x * 0.7071067812f;
  const Floats magnitude = larger_of(z, -z);
  const Floats t = reciprocal<false>(1.0f + 0.3275911f * magnitude);
  Floats series = broadcast(1.061405429f);
  series = series * t - 1.453152027f;
  series = series * t + 1.421413741f;
  series = series * t - 0.284496736f;
  series = series * t + 0.254829592f;
  const Floats tail = series * t * power_of_2<false>(-kLog2E * (z * z));
  const Floats erf = z < 0.0f ? tail - 1.0f : 1.0f - tail;
  return 0.5f * x * (1.0f + erf);
}

// Calls use(function of a vector) with the activation, so that it is chosen once and not for every vector.
template <bool kRough, class Use>
inline void with_activation(Activation activation, const Use& use) {
  switch (activation) {
    case Activation::gelu:
      return use([](Floats x) { return gelu(x); });
    case Activation::gelu_tanh:
      return use([](Floats x) { return gelu_tanh<kRough>(x); });
    case Activation::relu:
      return use([](Floats x) { return larger_of(x, Floats{}); });
    case Activation::silu:
      return use([](Floats x) { return gated<kRough>(x, x * kLog2E); });
    case Activation::linear:
      return use([](Floats x) { return x; });
  }
}

// Writes what a product reads, each channel times its factor before it is rounded, where there are factors.
template <class Kind>
struct Smoother {
  Writer<Kind> write;
  const float* factors;

  void operator()(typename Kind::Element* place, int64_t channel, Floats value) const {
    if constexpr (Kind::type == Type::int8) {
      if (factors != nullptr) {
        value = value * load(factors + channel);
      }
    }
    write(place, value);
  }

  void operator()(typename Kind::Element* place, int64_t channel, float value) const {
    if constexpr (Kind::type == Type::int8) {
      if (factors != nullptr) {
        value = value * factors[channel];
      }
    }
    write(place, value);
  }
};

// Writes what `linear` reads.
template <class Kind>
inline Smoother<Kind> writer_for(const Linear& linear, float input_scale) {
  return {writer<Kind>(input_scale), linear.factors};
}

// out := LayerNorm(in) over `size` numbers, in float32, the sums in two sweeps; writes it as the next product reads it,
// too. What lies behind the row's end up to a whole panel becomes 0.
template <class Kind>
inline void normalize(
    const float* in, int64_t size, const Norm& norm, float eps, float* out, typename Kind::Element* operand,
    const Smoother<Kind>& write) {
  const int64_t whole = size / kLanes * kLanes;
  Floats sums{};
  for (int64_t i = 0; i < whole; i += kLanes) {
    sums += load(in + i);
  }
  float sum = sum_of(sums);
  for (int64_t i = whole; i < size; ++i) {
    sum += in[i];
  }
  const float mean = sum / static_cast<float>(size);
  Floats squares{};
  for (int64_t i = 0; i < whole; i += kLanes) {
    const Floats centered = load(in + i) - mean;
    squares += centered * centered;
  }
  float variance = sum_of(squares);
  for (int64_t i = whole; i < size; ++i) {
    variance += (in[i] - mean) * (in[i] - mean);
  }
  const float scale = 1.0f / __builtin_sqrtf(variance / static_cast<float>(size) + eps);
  for (int64_t i = 0; i < whole; i += kLanes) {
    const Floats value = (load(in + i) - mean) * scale * load(norm.weight + i) + load(norm.bias + i);
    store(out + i, value);
    if constexpr (Kind::type != Type::float32) {
      write(operand + i, i, value);
    }
  }
  for (int64_t i = whole; i < round_up(size, kPanel); ++i) {
    const float value = i < size ? (in[i] - mean) * scale * norm.weight[i] + norm.bias[i] : 0.0f;
    out[i] = value;
    if constexpr (Kind::type != Type::float32) {
      write(operand + i, i, value);
    }
  }
}

}  // namespace
}  // namespace albert_fast::ALBERT_FAST_ISA
