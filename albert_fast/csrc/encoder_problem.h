// What one call of albert_fast::encoder computes with.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "encoder.h"

namespace albert_fast {

// Pointers lead into the call's arguments and into `layers`, so this is neither copied nor moved.
struct Problem {
  Encoder encoder{};
  std::vector<Layer> layers;
  std::vector<float> input_scales;

  // Raises c10::Error, with the sentence that says what is wrong, before any work is done.
  Problem(
      int64_t embedding_size, at::TensorList tensors, at::IntArrayRef schedule, int64_t num_heads,
      double attention_scale, double layer_norm_eps, const std::string& activation, const std::string& attention_dtype,
      at::ArrayRef<double> scales, bool first_token_only);
  Problem(const Problem&) = delete;
  Problem& operator=(const Problem&) = delete;
};

}  // namespace albert_fast
