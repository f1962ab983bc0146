// Attention of one head over one text, by the products of products.h: keys and values are laid out in panels, then
// blocks of queries go by. A block holds its scores for all keys, a few rows that stay in the first cache; no matrix of
// scores for all queries ever is.
#pragma once

#include "products.h"

namespace albert_fast::ALBERT_FAST_ISA {
namespace {

// Where a head's queries, keys and values are; strides in elements. Bytes are signed.
template <class Kind>
struct Head {
  const typename Kind::Element* queries;
  int64_t query_stride;
  const typename Kind::Element* keys;
  const typename Kind::Element* values;
  int64_t key_stride;
  int64_t num_queries;
  int64_t num_keys;
  int64_t size;
  float scale;               // of the product of a query and a key, as its elements are
  float value_scale = 1.0f;  // of a value's elements
};

template <class Kind>
constexpr int64_t kInAStep = 4 / static_cast<int64_t>(sizeof(typename Kind::Element));
template <class Kind>
constexpr bool kIsBytes = Kind::type == Type::int8;

// What `attend` works in: panels of keys and values, a block's scores and probabilities, and for bytes what takes the
// 128 of unsigned queries out again, and the block's queries.
template <class Kind>
struct AttentionScratch {
  using Element = typename Kind::Element;

  int64_t key_steps;
  int64_t value_steps;
  int64_t width;
  char* keys;
  char* values;
  float* scores;
  Element* probabilities;
  int32_t* shifts;
  uint8_t* queries;
  int64_t bytes;

  AttentionScratch(int64_t num_keys, int64_t size, char* base)
      : key_steps((size + kInAStep<Kind> - 1) / kInAStep<Kind>),
        value_steps((num_keys + kInAStep<Kind> - 1) / kInAStep<Kind>),
        width(round_up(num_keys, kPanel)) {
    int64_t used = 0;
    const auto take = [&](int64_t count) {
      char* const place = base == nullptr ? nullptr : base + used;
      used += round_up(count, 64);
      return place;
    };
    keys = take(width * key_steps * 4);
    values = take(round_up(size, kPanel) * value_steps * 4);
    scores = reinterpret_cast<float*>(take(kTileRows * width * 4));
    probabilities = reinterpret_cast<Element*>(take(kTileRows * width * static_cast<int64_t>(sizeof(Element))));
    shifts = reinterpret_cast<int32_t*>(take(kIsBytes<Kind> ? width * 4 : 0));
    queries = reinterpret_cast<uint8_t*>(take(kIsBytes<Kind> ? kTileRows * key_steps * 4 : 0));
    bytes = used;
  }
};

// panels[key / 32][step][key % 32] := the 32 bits of a key at a step; 0 behind the last key and channel.
template <class Kind>
inline void lay_out_keys(const Head<Kind>& head, char* panels) {
  const int64_t steps = (head.size + kInAStep<Kind> - 1) / kInAStep<Kind>;
  const int64_t whole_steps = head.size / kInAStep<Kind> / kLanes * kLanes;
  for (int64_t first = 0; first < head.num_keys; first += kPanel, panels += steps * kStepBytes) {
    const int64_t count = head.num_keys - first < kPanel ? head.num_keys - first : kPanel;
    if (count < kPanel) {
      memset(panels, 0, steps * kStepBytes);
    }
    const auto* const keys = head.keys + first * head.key_stride;
    for (int64_t key = 0; key < count; key += kLanes) {
      for (int64_t step = key + kLanes <= count ? 0 : whole_steps; step < whole_steps; step += kLanes) {
        Ints words[kLanes];
        for (int64_t i = 0; i < kLanes; ++i) {
          memcpy(words + i, keys + (key + i) * head.key_stride + step * kInAStep<Kind>, sizeof *words);
        }
        transpose(words);
        for (int64_t i = 0; i < kLanes; ++i) {
          memcpy(panels + (step + i) * kStepBytes + key * 4, words + i, sizeof *words);
        }
      }
      for (int64_t i = key; i < key + kLanes && i < count; ++i) {
        const auto* const channels = keys + i * head.key_stride;
        for (int64_t step = key + kLanes <= count ? whole_steps : 0; step < steps; ++step) {
          typename Kind::Element word[kInAStep<Kind>] = {};
          for (int64_t j = 0; j < kInAStep<Kind> && step * kInAStep<Kind> + j < head.size; ++j) {
            word[j] = channels[step * kInAStep<Kind> + j];
          }
          memcpy(panels + step * kStepBytes + i * 4, word, 4);
        }
      }
    }
  }
}

// shifts[key] := 128 times the sum of a key's channels.
inline void sum_keys(const char* panels, int64_t steps, int64_t width, int32_t* shifts) {
  constexpr char kOnes[4] = {1, 1, 1, 1};
  for (int64_t key = 0; key < width; key += kLanes) {
    const char* const panel = panels + key / kPanel * steps * kStepBytes + key % kPanel * 4;
    Ints sum{};
    for (int64_t step = 0; step < steps; ++step) {
      Ints four;
      memcpy(&four, panel + step * kStepBytes, sizeof four);
      sum = UnsignedBytes::dot(sum, kOnes, four);
    }
    sum *= 128;
    memcpy(shifts + key, &sum, sizeof sum);
  }
}

// kLanes elements, each in the low bits of a lane.
inline Ints in_low_bits(const float* place) {
  Ints value;
  memcpy(&value, place, sizeof value);
  return value;
}

inline Ints in_low_bits(const BFloat16* place) {
  Halves halves;
  memcpy(&halves, place, sizeof halves);
  return __builtin_convertvector(halves, Ints);
}

inline Ints in_low_bits(const uint8_t* place) {
  Bytes bytes;
  memcpy(&bytes, place, sizeof bytes);
  return __builtin_convertvector(bytes, Ints);
}

// panels[channel / 32][step][channel % 32] := the 32 bits of neighbouring keys' values; 0 behind the last of either.
template <class Kind>
inline void lay_out_values(const Head<Kind>& head, char* panels) {
  using Element = typename Kind::Element;
  constexpr int kBits = 8 * static_cast<int>(sizeof(Element));
  const int64_t steps = (head.num_keys + kInAStep<Kind> - 1) / kInAStep<Kind>;
  for (int64_t first = 0; first < head.size; first += kPanel, panels += steps * kStepBytes) {
    const int64_t count = head.size - first < kPanel ? head.size - first : kPanel;
    for (int64_t step = 0; step < steps; ++step) {
      const Element* const values = head.values + step * kInAStep<Kind> * head.key_stride + first;
      const int64_t left = head.num_keys - step * kInAStep<Kind>;
      if (count == kPanel && left >= kInAStep<Kind>) {
        for (int64_t channel = 0; channel < kPanel; channel += kLanes) {
          Ints words{};
          for (int key = 0; key < kInAStep<Kind>; ++key) {
            words |= in_low_bits(values + key * head.key_stride + channel) << (key * kBits % 32);
          }
          memcpy(panels + step * kStepBytes + channel * 4, &words, sizeof words);
        }
        continue;
      }
      Element words[kPanel * kInAStep<Kind>] = {};
      for (int64_t key = 0; key < kInAStep<Kind> && key < left; ++key) {
        for (int64_t channel = 0; channel < count; ++channel) {
          words[channel * kInAStep<Kind> + key] = values[key * head.key_stride + channel];
        }
      }
      memcpy(panels + step * kStepBytes, words, kStepBytes);
    }
  }
}

inline Floats to_floats(Floats sums) {
  return sums;
}

inline Floats to_floats(Ints sums) {
  return __builtin_convertvector(sums, Floats);
}

// probabilities := exp(scale * (scores - their maximum)), in bytes 255 times that, rounded; returns the sum. Both are
// `width` long, a multiple of kPanel; scores behind num_keys are overwritten.
template <class Kind>
inline float softmax_numerators(
    float* scores, int64_t num_keys, int64_t width, float scale, typename Kind::Element* probabilities) {
  for (int64_t key = num_keys; key < width; ++key) {
    scores[key] = -3.0e38f;
  }
  Floats best = load(scores);
  for (int64_t key = kLanes; key < width; key += kLanes) {
    best = larger_of(best, load(scores + key));
  }
  const float factor = scale * 1.44269504f, maximum = largest_of(best) * factor;
  Floats sums{};
  Ints byte_sums{};
  for (int64_t key = 0; key < width; key += kLanes) {
    const Floats value = power_of_2<Kind::rough>(load(scores + key) * factor - maximum);
    if constexpr (kIsBytes<Kind>) {
      const Ints rounded = as_ints(value * 255.0f + kRounder) - 0x4B400000;
      const Bytes bytes = __builtin_convertvector(rounded, Bytes);
      memcpy(probabilities + key, &bytes, sizeof bytes);
      byte_sums += rounded;
    } else {
      sums += value;
      store(probabilities + key, value);
    }
  }
  return sum_of(kIsBytes<Kind> ? to_floats(byte_sums) : sums);
}

// store(query, channel, value, whole) for every vector of the context; not `whole` where it reaches behind the head.
template <class Kind, class Store>
inline void attend(const Head<Kind>& head, char* memory, const Store& store_vector) {
  using Element = typename Kind::Element;
  using Sums = typename Kind::Sums;
  const AttentionScratch<Kind> scratch(head.num_keys, head.size, memory);
  const int64_t width = scratch.width;
  lay_out_keys(head, scratch.keys);
  lay_out_values(head, scratch.values);
  if constexpr (kIsBytes<Kind>) {
    sum_keys(scratch.keys, scratch.key_steps, width, scratch.shifts);
  }
  const int64_t blocks = (head.num_queries + kTileRows - 1) / kTileRows;
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t first = block * head.num_queries / blocks, rows = (block + 1) * head.num_queries / blocks - first;
    Operand queries{
        reinterpret_cast<const char*>(head.queries + first * head.query_stride),
        head.query_stride * static_cast<int64_t>(sizeof(Element))};
    if constexpr (kIsBytes<Kind>) {
      const int64_t stride = 4 * scratch.key_steps;
      for (int64_t row = 0; row < rows; ++row) {
        for (int64_t i = 0; i < head.size; ++i) {
          scratch.queries[row * stride + i] = head.queries[(first + row) * head.query_stride + i] ^ 128;
        }
      }
      queries = {reinterpret_cast<const char*>(scratch.queries), stride};
    }
    multiply<Kind>(
        queries, scratch.keys, scratch.key_steps, rows, 0, width / kPanel,
        [&](int64_t row, int64_t column, int64_t count, const Sums* sums) {
          for (int64_t i = 0; i < count; ++i) {
            for (int64_t j = 0; j < kPanel / kLanes; ++j) {
              Sums sum = sums[i * (kPanel / kLanes) + j];
              if constexpr (kIsBytes<Kind>) {
                sum -= load(scratch.shifts + column + j * kLanes);
              }
              store(scratch.scores + (row + i) * width + column + j * kLanes, to_floats(sum));
            }
          }
        });
    float shares[kTileRows];
    for (int64_t row = 0; row < rows; ++row) {
      shares[row] = head.value_scale /
          softmax_numerators<Kind>(
                        scratch.scores + row * width, head.num_keys, width, head.scale,
                        scratch.probabilities + row * width);
    }
    const Operand weights{
        reinterpret_cast<const char*>(scratch.probabilities), width * static_cast<int64_t>(sizeof(Element))};
    multiply<Kind>(
        weights, scratch.values, scratch.value_steps, rows, 0, round_up(head.size, kPanel) / kPanel,
        [&](int64_t row, int64_t column, int64_t count, const Sums* sums) {
          for (int64_t i = 0; i < count; ++i) {
            for (int64_t j = 0; j < kPanel / kLanes && column + j * kLanes < head.size; ++j) {
              store_vector(
                  first + row + i, column + j * kLanes,
                  to_floats(sums[i * (kPanel / kLanes) + j]) * shares[row + i],
                  column + (j + 1) * kLanes <= head.size);
            }
          }
        });
  }
}

}  // namespace
}  // namespace albert_fast::ALBERT_FAST_ISA
