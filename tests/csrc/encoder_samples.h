// Random encoders and batches for the kernels of albert_fast/csrc, every array of exactly the size that encoder.h
// promises: what a kernel reads or writes beyond it, AddressSanitizer sees.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "encoder.h"

namespace albert_fast {

using Random = std::mt19937;

inline float normal(Random& random, double mean = 0.0, double deviation = 1.0) {
  return static_cast<float>(std::normal_distribution<double>(mean, deviation)(random));
}

inline std::vector<float> normals(Random& random, int64_t count, double mean = 0.0, double deviation = 1.0) {
  std::vector<float> values(count);
  for (float& value : values) {
    value = normal(random, mean, deviation);
  }
  return values;
}

// The upper half of the float32 that is nearest, ties to even.
inline uint16_t bfloat16_bits(double value) {
  const float rounded = static_cast<float>(value);
  uint32_t bits;
  memcpy(&bits, &rounded, sizeof bits);
  return static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

inline double from_bfloat16(uint16_t half) {
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// A linear map with its weight as numbers, and packed as the kernels read it.
struct SampleLinear {
  int64_t in;
  int64_t out;
  Type type;
  std::vector<double> weight;  // [out, in], what was stored; integers in int8
  std::vector<char> packed;
  std::vector<float> scale;
  std::vector<int32_t> sums;
  std::vector<float> bias;
  std::vector<float> factors;  // empty, or of the input's channels

  SampleLinear(Random& random, Type type, int64_t in, int64_t out, bool smoothed)
      : in(in),
        out(out),
        type(type),
        weight(out * in),
        packed(round_up(out, kPanel) * round_up(in, in_a_step()) * size_of(type)),
        bias(round_up(out, kPanel)) {
    if (type == Type::int8) {
      scale.resize(bias.size());
      sums.resize(bias.size());
    }
    if (smoothed) {
      factors.resize(round_up(in, kPanel));
      for (int64_t i = 0; i < in; ++i) {
        factors[i] = std::exp(normal(random, -0.3, 0.3));
      }
    }
    for (int64_t channel = 0; channel < out; ++channel) {
      bias[channel] = normal(random, 0.0, 0.1);
      if (type == Type::int8) {
        scale[channel] = static_cast<float>(3.0 / 127 / std::sqrt(static_cast<double>(in)));
      }
      for (int64_t i = 0; i < in; ++i) {
        put(channel, i, normal(random, 0.0, 1.0 / std::sqrt(static_cast<double>(in))));
      }
    }
  }

  int64_t in_a_step() const {
    return 4 / size_of(type);
  }

  Linear view() const {
    const bool quantized = type == Type::int8;
    return {type, out, round_up(in, in_a_step()) / in_a_step(), packed.data(), quantized ? scale.data() : nullptr,
            quantized ? sums.data() : nullptr, bias.data(), factors.empty() ? nullptr : factors.data()};
  }

 private:
  void put(int64_t channel, int64_t i, float value) {
    const int64_t steps = round_up(in, in_a_step()) / in_a_step();
    const int64_t word = ((channel / kPanel) * steps + i / in_a_step()) * kPanel + channel % kPanel;
    char* const place = packed.data() + 4 * word + i % in_a_step() * size_of(type);
    double& stored = weight[channel * in + i];
    if (type == Type::float32) {
      stored = value;
      memcpy(place, &value, sizeof value);
    } else if (type == Type::bfloat16) {
      const uint16_t bits = bfloat16_bits(value);
      stored = from_bfloat16(bits);
      memcpy(place, &bits, sizeof bits);
    } else {
      stored = std::fmin(std::fmax(std::nearbyint(value / scale[channel]), -127.0), 127.0);
      const int8_t byte = static_cast<int8_t>(stored);
      memcpy(place, &byte, sizeof byte);
      sums[channel] += byte;
    }
  }
};

struct SampleNorm {
  std::vector<float> weight;
  std::vector<float> bias;

  SampleNorm(Random& random, int64_t size)
      : weight(normals(random, size, 1.0, 0.1)), bias(normals(random, size, 0.0, 0.1)) {}

  Norm view() const {
    return {weight.data(), bias.data()};
  }
};

struct SampleLayer {
  SampleLinear qkv;
  SampleLinear dense;
  SampleNorm attention_norm;
  SampleLinear ffn;
  SampleLinear ffn_output;
  SampleNorm output_norm;

  SampleLayer(Random& random, Type type, int64_t hidden_size, int64_t middle, bool smoothed)
      : qkv(random, type, hidden_size, 3 * hidden_size, smoothed),
        dense(random, type, hidden_size, hidden_size, smoothed),
        attention_norm(random, hidden_size),
        ffn(random, type, hidden_size, middle, smoothed),
        ffn_output(random, type, middle, hidden_size, smoothed),
        output_norm(random, hidden_size) {}

  Layer view() const {
    return {qkv.view(), dense.view(), attention_norm.view(), ffn.view(), ffn_output.view(), output_norm.view()};
  }
};

// The types of one encoder's numbers, and how far from the reference its answers may be.
struct Kind {
  const char* name;
  Type weights;
  Type mapping;
  Type attention;
  double largest;
  double mean;
  bool smoothed;  // whether what products read has factors
};

struct Sizes {
  int64_t embedding;
  int64_t hidden;
  int64_t heads;
  int64_t middle;
};

struct SampleEncoder {
  SampleLinear mapping;
  std::vector<SampleLayer> layers;
  std::vector<Layer> views;
  std::vector<int64_t> schedule;
  std::vector<float> input_scales;
  Encoder view;

  SampleEncoder(
      Random& random, const Kind& kind, const Sizes& sizes, const std::vector<int64_t>& schedule,
      Activation activation, bool first_token_only)
      : mapping(random, kind.mapping, sizes.embedding, sizes.hidden, kind.smoothed && kind.mapping == Type::int8),
        schedule(schedule) {
    for (const int64_t layer : schedule) {
      while (static_cast<int64_t>(layers.size()) <= layer) {
        layers.emplace_back(random, kind.weights, sizes.hidden, sizes.middle, kind.smoothed);
      }
    }
    for (const SampleLayer& layer : layers) {
      views.push_back(layer.view());
    }
    if (kind.weights == Type::int8) {
      input_scales = {kind.mapping == Type::int8 ? 0.03f : 0.0f};
      for (size_t pass = 0; pass < schedule.size(); ++pass) {
        input_scales.insert(input_scales.end(), {0.03f, 0.02f, 0.031f, 0.025f});
      }
    }
    view = {
        sizes.embedding, mapping.view(), views.data(), this->schedule.data(), static_cast<int64_t>(schedule.size()),
        sizes.hidden, sizes.heads, 1.0f / std::sqrt(static_cast<float>(sizes.hidden / sizes.heads)), 1e-12f, activation,
        kind.attention, input_scales.empty() ? nullptr : input_scales.data(), first_token_only};
  }
  SampleEncoder(const SampleEncoder&) = delete;  // `view` points into it
  SampleEncoder& operator=(const SampleEncoder&) = delete;
};

// Texts of these lengths, 0 for one without a token, padded to the longest and one more. Where nothing is to be
// computed the embeddings are NaN.
struct SampleBatch {
  int64_t batch;
  int64_t length = 1;
  std::vector<Text> texts;
  std::vector<int64_t> position;
  std::vector<float> embedded;

  SampleBatch(Random& random, int64_t embedding_size, const std::vector<int64_t>& lengths, bool left_padding)
      : batch(static_cast<int64_t>(lengths.size())) {
    for (const int64_t count : lengths) {
      length = std::max(length, count + 1);
    }
    embedded.assign(batch * length * embedding_size, std::numeric_limits<float>::quiet_NaN());
    for (int64_t text = 0; text < batch; ++text) {
      const int64_t begin = static_cast<int64_t>(position.size());
      const int64_t first = left_padding ? length - lengths[text] : 0;
      const bool first_is_seen = first == 0 && lengths[text] > 0;
      if (!first_is_seen) {
        position.push_back(text * length);
      }
      for (int64_t i = 0; i < lengths[text]; ++i) {
        position.push_back(text * length + first + i);
      }
      texts.push_back(
          {begin, static_cast<int64_t>(position.size()), first_is_seen || lengths[text] == 0 ? begin : begin + 1});
    }
    for (const int64_t place : position) {
      for (int64_t i = 0; i < embedding_size; ++i) {
        embedded[place * embedding_size + i] = normal(random);
      }
    }
  }

  Batch view(std::vector<float>& result) const {
    return {batch, length, static_cast<int64_t>(position.size()), texts.data(), position.data(), embedded.data(),
            result.data()};
  }
};

}  // namespace albert_fast
