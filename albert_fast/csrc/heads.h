// Attention of one head over one text, by the products of products.h: keys and values are laid out in panels, then
// blocks of queries go by. A block holds its scores for all keys, a few rows that stay in the first cache; no matrix of
// scores for all queries ever is.
#pragma once

#include "products.h"

namespace albert_fast::ALBERT_FAST_ISA {
namespace {

// Where a head's queries, keys and values are; strides in elements.
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
  float scale;
};

template <class Kind>
constexpr int64_t kInAStep = 4 / static_cast<int64_t>(sizeof(typename Kind::Element));

// Bytes that `attend` uses: panels of keys and values, a block's scores and probabilities.
template <class Kind>
inline int64_t attention_scratch_bytes(int64_t num_keys, int64_t size) {
  const int64_t keys = round_up(num_keys, kPanel), channels = round_up(size, kPanel);
  return 4 * (keys * round_up(size, kInAStep<Kind>) + channels * keys) / kInAStep<Kind> + 8 * kTileRows * keys + 64;
}

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

// The words of kPanel channels of one key, or of two neighbours.
inline void lay_out_step(const float* key, const float*, char* place) {
  memcpy(place, key, kStepBytes);
}

inline void lay_out_step(const BFloat16* key, const BFloat16* next, char* place) {
  for (int64_t channel = 0; channel < kPanel; channel += kLanes) {
    Halves low, high;
    memcpy(&low, key + channel, sizeof low);
    memcpy(&high, next + channel, sizeof high);
    const Ints words = __builtin_convertvector(low, Ints) | (__builtin_convertvector(high, Ints) << 16);
    memcpy(place + channel * 4, &words, sizeof words);
  }
}

// panels[channel / 32][step][channel % 32] := the 32 bits of neighbouring keys' values; 0 behind the last of either.
template <class Kind>
inline void lay_out_values(const Head<Kind>& head, char* panels) {
  using Element = typename Kind::Element;
  const int64_t steps = (head.num_keys + kInAStep<Kind> - 1) / kInAStep<Kind>;
  for (int64_t first = 0; first < head.size; first += kPanel, panels += steps * kStepBytes) {
    const int64_t count = head.size - first < kPanel ? head.size - first : kPanel;
    for (int64_t step = 0; step < steps; ++step) {
      const Element* const key = head.values + step * kInAStep<Kind> * head.key_stride + first;
      const Element* const next = key + head.key_stride;
      const bool has_next = step * kInAStep<Kind> + 1 < head.num_keys;
      if (count == kPanel && (has_next || kInAStep<Kind> == 1)) {
        lay_out_step(key, next, panels + step * kStepBytes);
        continue;
      }
      Element words[kPanel * kInAStep<Kind>] = {};
      for (int64_t channel = 0; channel < count; ++channel) {
        words[channel * kInAStep<Kind>] = key[channel];
        if (kInAStep<Kind> == 2 && has_next) {
          words[channel * kInAStep<Kind> + 1] = next[channel];
        }
      }
      memcpy(panels + step * kStepBytes, words, kStepBytes);
    }
  }
}

// probabilities := exp(scale * (scores - their maximum)); returns the sum. Both are `width` long, a multiple of kPanel;
// scores behind num_keys are overwritten.
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
  for (int64_t key = 0; key < width; key += kLanes) {
    const Floats value = power_of_2<Kind::rough>(load(scores + key) * factor - maximum);
    sums += value;
    store(probabilities + key, value);
  }
  return sum_of(sums);
}

// store(query, channel, value, whole) for every vector of the context; not `whole` where it reaches behind the head.
template <class Kind, class Store>
inline void attend(const Head<Kind>& head, char* scratch, const Store& store_vector) {
  using Element = typename Kind::Element;
  const int64_t key_steps = (head.size + kInAStep<Kind> - 1) / kInAStep<Kind>;
  const int64_t value_steps = (head.num_keys + kInAStep<Kind> - 1) / kInAStep<Kind>;
  const int64_t width = round_up(head.num_keys, kPanel), channels = round_up(head.size, kPanel);
  char* const keys = scratch;
  char* const values = keys + width / kPanel * key_steps * kStepBytes;
  float* const scores = reinterpret_cast<float*>(values + channels / kPanel * value_steps * kStepBytes);
  Element* const probabilities = reinterpret_cast<Element*>(scores + kTileRows * width);
  lay_out_keys(head, keys);
  lay_out_values(head, values);
  const int64_t blocks = (head.num_queries + kTileRows - 1) / kTileRows;
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t first = block * head.num_queries / blocks, rows = (block + 1) * head.num_queries / blocks - first;
    const Operand queries{
        reinterpret_cast<const char*>(head.queries + first * head.query_stride),
        head.query_stride * static_cast<int64_t>(sizeof(Element))};
    multiply<Kind>(
        queries, keys, key_steps, rows, 0, width / kPanel,
        [&](int64_t row, int64_t column, int64_t count, const Floats* sums) {
          for (int64_t i = 0; i < count; ++i) {
            memcpy(scores + (row + i) * width + column, sums + i * (kPanel / kLanes), kStepBytes);
          }
        });
    float shares[kTileRows];
    for (int64_t row = 0; row < rows; ++row) {
      shares[row] = 1.0f / softmax_numerators<Kind>(
                               scores + row * width, head.num_keys, width, head.scale, probabilities + row * width);
    }
    const Operand weights{
        reinterpret_cast<const char*>(probabilities), width * static_cast<int64_t>(sizeof(Element))};
    multiply<Kind>(
        weights, values, value_steps, rows, 0, channels / kPanel,
        [&](int64_t row, int64_t column, int64_t count, const Floats* sums) {
          for (int64_t i = 0; i < count; ++i) {
            for (int64_t j = 0; j < kPanel / kLanes && column + j * kLanes < head.size; ++j) {
              store_vector(
                  first + row + i, column + j * kLanes, sums[i * (kPanel / kLanes) + j] * shares[row + i],
                  column + (j + 1) * kLanes <= head.size);
            }
          }
        });
  }
}

}  // namespace
}  // namespace albert_fast::ALBERT_FAST_ISA
