// TensorRT and TensorRT-RTX engines on the current CUDA device. Compiled with ALBERT_FAST_TENSORRT only.
#include <NvInfer.h>
#include <cuda_runtime_api.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <filesystem>
#include <fstream>
#include <stdexcept>

#include "engine.h"

namespace {
using nvinfer1::DataType;

struct Logger : nvinfer1::ILogger {
  std::string error;
  void log(Severity severity, const char* message) noexcept override {
    if (severity <= Severity::kERROR) error = message;
  }
};

void check(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(std::string("CUDA says: ") + cudaGetErrorString(error));
}

std::shared_ptr<void> device_memory(size_t bytes) {
  void* data = nullptr;
  check(cudaMalloc(&data, bytes));
  return {data, cudaFree};
}

template <typename Number>
std::vector<float> fetched(const void* data, size_t count) {
  std::vector<Number> numbers(count);
  check(cudaMemcpy(numbers.data(), data, count * sizeof(Number), cudaMemcpyDeviceToHost));
  return {numbers.begin(), numbers.end()};
}

class Plan : public Engine {
 public:
  Plan(const std::string& file, const Manifest& manifest) {
    for (size_t i = 0; manifest.count("outputs." + std::to_string(i) + ".name"); ++i)
      outputs_.push_back(manifest.at("outputs." + std::to_string(i) + ".name"));
    std::vector<char> bytes(std::filesystem::file_size(file));
    std::ifstream(file, std::ios::binary).read(bytes.data(), bytes.size());
    check(cudaFree(nullptr));  // a machine without a GPU is told so here, in CUDA's words
    runtime_.reset(nvinfer1::createInferRuntime(logger_));
    if (runtime_) runtime_->setEngineHostCodeAllowed(true);  // version-compatible engines hold some; FILE is trusted
    if (runtime_) engine_.reset(runtime_->deserializeCudaEngine(bytes.data(), bytes.size()));
    if (engine_) context_.reset(engine_->createExecutionContext());
    if (!context_) throw std::runtime_error(file + " does not load: " + logger_.error + "; export it anew here");
  }

  Output run(Inputs& in, size_t output) override {
    std::vector<std::shared_ptr<void>> memory;
    const auto bind = [&](const std::string& name, size_t bytes) {
      memory.push_back(device_memory(bytes));
      if (!context_->setTensorAddress(name.c_str(), memory.back().get())) fail("takes no tensor " + name);
      return memory.back().get();
    };
    const std::map<std::string, std::vector<int64_t>*> inputs = {{"input_ids", &in.input_ids},
                                                                 {"attention_mask", &in.attention_mask},
                                                                 {"token_type_ids", &in.token_type_ids}};
    for (const auto& [name, values] : inputs) {
      if (engine_->getTensorDataType(name.c_str()) != DataType::kINT64) fail("has no int64 input " + name);
      if (!context_->setInputShape(name.c_str(), {2, {in.batch, in.length}})) fail("refuses the shape of " + name);
      const size_t bytes = values->size() * sizeof(int64_t);
      check(cudaMemcpy(bind(name, bytes), values->data(), bytes, cudaMemcpyHostToDevice));
    }
    Output result;
    const void* data = nullptr;
    for (const auto& name : outputs_) {
      const auto shape = context_->getTensorShape(name.c_str());
      size_t count = 1;
      for (int i = 0; i < shape.nbDims; ++i) count *= shape.d[i];
      const void* place = bind(name, count * sizeof(float));
      if (name != outputs_[output]) continue;
      data = place;
      result.shape.assign(shape.d, shape.d + shape.nbDims);
      result.values.resize(count);
    }
    if (!context_->enqueueV3(nullptr)) fail("failed: " + logger_.error);
    check(cudaStreamSynchronize(nullptr));
    const auto type = engine_->getTensorDataType(outputs_[output].c_str());
    const size_t count = result.values.size();
    if (type == DataType::kFLOAT) result.values = fetched<float>(data, count);
    else if (type == DataType::kHALF) result.values = fetched<c10::Half>(data, count);
    else if (type == DataType::kBF16) result.values = fetched<c10::BFloat16>(data, count);
    else fail("gives " + outputs_[output] + " in a type that this program does not read");
    return result;
  }

 private:
  [[noreturn]] static void fail(const std::string& what) { throw std::runtime_error("the TensorRT engine " + what); }

  Logger logger_;
  std::vector<std::string> outputs_;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;  // outlives the engine, and that the context
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
};
}  // namespace

std::unique_ptr<Engine> open_tensorrt(const std::string& file, const Manifest& manifest, const std::string&) {
  return std::make_unique<Plan>(file, manifest);
}
