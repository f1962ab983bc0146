// What main.cpp knows of an engine: its manifest, and that it turns a batch of token ids into numbers.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

using Manifest = std::map<std::string, std::string>;  // "file_bytes" -> "47669717", "outputs.0.name" -> "logits"
Manifest read_manifest(const std::string& engine_file);

struct Inputs {  // [batch, length] each, row by row; the mask is 1 where there is text
  int64_t batch, length;
  std::vector<int64_t> input_ids, attention_mask, token_type_ids;
};

struct Output {
  std::vector<int64_t> shape;
  std::vector<float> values;
};

class Engine {
 public:
  virtual ~Engine() = default;
  virtual Output run(Inputs& inputs, size_t output) = 0;  // outputs are counted in the manifest's order
};

using Open = std::unique_ptr<Engine>(const std::string& file, const Manifest& manifest, const std::string& ops);
Open open_aotinductor, open_tensorrt;
