// What an encoder answers, by plain loops in double, for one text. Numbers are rounded where the kernels round them:
// what products and attention read, to the type of their operands.
#pragma once

#include "encoder_samples.h"

namespace albert_fast {

using Row = std::vector<double>;
using Table = std::vector<Row>;

inline double rounded(double value, Type type) {
  return type == Type::bfloat16 ? from_bfloat16(bfloat16_bits(value)) : value;
}

inline Row apply(const SampleLinear& linear, const Row& x, float input_scale) {
  Row operand(linear.in), result(linear.out);
  for (int64_t i = 0; i < linear.in; ++i) {
    const double value = linear.factors.empty() ? x[i] : x[i] * linear.factors[i];
    operand[i] = linear.type == Type::int8
        ? std::fmin(std::fmax(std::nearbyint(value * static_cast<double>(1.0f / input_scale)), -127.0), 127.0)
        : rounded(value, linear.type);
  }
  for (int64_t channel = 0; channel < linear.out; ++channel) {
    double sum = 0;
    for (int64_t i = 0; i < linear.in; ++i) {
      sum += linear.weight[channel * linear.in + i] * operand[i];
    }
    if (linear.type == Type::int8) {
      sum *= static_cast<double>(linear.scale[channel]) * input_scale;
    }
    result[channel] = sum + linear.bias[channel];
  }
  return result;
}

inline void add_and_normalize(Row& x, const Row& other, const SampleNorm& norm, double eps) {
  const double size = static_cast<double>(x.size());
  double mean = 0, variance = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    x[i] += other[i];
    mean += x[i] / size;
  }
  for (const double value : x) {
    variance += (value - mean) * (value - mean) / size;
  }
  for (size_t i = 0; i < x.size(); ++i) {
    x[i] = (x[i] - mean) / std::sqrt(variance + eps) * norm.weight[i] + norm.bias[i];
  }
}

inline double activate(Activation activation, double x) {
  switch (activation) {
    case Activation::gelu:
      return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
    case Activation::gelu_tanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Activation::relu:
      return std::fmax(x, 0.0);
    case Activation::silu:
      return x / (1 + std::exp(-x));
    case Activation::linear:
      break;
  }
  return x;
}

// One head's context for one query, over the keys and values in `qkv` from `first_key` on. A row holds query, key and
// value side by side, `size` is the hidden size, and the head begins at channel `first`. Probabilities in bytes are
// whole 255ths of the largest.
inline void attend(
    const Table& qkv, int64_t query, int64_t first_key, int64_t size, int64_t first, int64_t head_size, double scale,
    Type probabilities, Row& context) {
  Row scores;
  double best = -std::numeric_limits<double>::infinity(), sum = 0;
  for (size_t key = first_key; key < qkv.size(); ++key) {
    double score = 0;
    for (int64_t i = first; i < first + head_size; ++i) {
      score += qkv[query][i] * qkv[key][size + i];
    }
    scores.push_back(score * scale);
    best = std::fmax(best, scores.back());
  }
  for (size_t index = 0; index < scores.size(); ++index) {
    const double exact = std::exp(scores[index] - best);
    const double share = probabilities == Type::int8 ? std::nearbyint(255 * exact) : exact;
    const double stored = rounded(share, probabilities);
    sum += share;
    for (int64_t i = first; i < first + head_size; ++i) {
      context[i] += stored * qkv[first_key + index][2 * size + i];
    }
  }
  for (int64_t i = first; i < first + head_size; ++i) {
    context[i] /= sum;
  }
}

// The last hidden state of a text's rows in the packed batch.
inline Table encode(const SampleEncoder& encoder, const SampleBatch& batch, const Text& text) {
  const Encoder& view = encoder.view;
  const int64_t size = view.hidden_size, head_size = size / view.num_heads;
  const auto scale = [&](int64_t site) { return encoder.input_scales.empty() ? 1.0f : encoder.input_scales[site]; };
  Table x;
  for (int64_t row = text.begin; row < text.end; ++row) {
    const float* const from = batch.embedded.data() + batch.position[row] * view.embedding_size;
    x.push_back(apply(encoder.mapping, Row(from, from + view.embedding_size), scale(0)));
  }
  for (int64_t pass = 0; pass < view.passes; ++pass) {
    const SampleLayer& layer = encoder.layers[encoder.schedule[pass]];
    Table qkv;
    for (const Row& row : x) {
      qkv.push_back(apply(layer.qkv, row, scale(1 + 4 * pass)));
      for (double& value : qkv.back()) {
        value = rounded(value, view.attention);
      }
    }
    for (size_t row = 0; row < x.size(); ++row) {
      Row context(size);
      for (int64_t head = 0; head < view.num_heads; ++head) {
        attend(
            qkv, static_cast<int64_t>(row), text.first_key - text.begin, size, head * head_size, head_size,
            view.attention_scale, view.attention, context);
      }
      add_and_normalize(x[row], apply(layer.dense, context, scale(2 + 4 * pass)), layer.attention_norm, view.eps);
      Row middle = apply(layer.ffn, x[row], scale(3 + 4 * pass));
      for (double& value : middle) {
        value = activate(view.activation, value);
      }
      add_and_normalize(x[row], apply(layer.ffn_output, middle, scale(4 + 4 * pass)), layer.output_norm, view.eps);
    }
  }
  return x;
}

}  // namespace albert_fast
