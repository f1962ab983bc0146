// AOTInductor packages on CPU: machine code and weights in a zip, which torch unpacks to /tmp while the program runs.
#include <ATen/ops/from_blob.h>
#include <c10/core/InferenceMode.h>
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/headeronly/version.h>

#include <fstream>

#include "engine.h"

namespace {
class Package : public Engine {
 public:
  explicit Package(const std::string& file) : loader_(file) {}

  Output run(Inputs& in, size_t output) override {
    const c10::InferenceMode guard;
    const auto tensor = [&](auto& part) { return at::from_blob(part.data(), {in.batch, in.length}, at::kLong); };
    const auto outputs = loader_.run({tensor(in.input_ids), tensor(in.attention_mask), tensor(in.token_type_ids)});
    const at::Tensor chosen = outputs.at(output).to(at::kFloat).contiguous();
    const float* values = chosen.const_data_ptr<float>();
    return {chosen.sizes().vec(), {values, values + chosen.numel()}};
  }

 private:
  torch::inductor::AOTIModelPackageLoader loader_;
};

std::string misfit(const Manifest& manifest) {
  if (manifest.at("device") != "cpu") return "it was built for " + manifest.at("device") + ", this program runs cpu";
  const std::string minor = std::to_string(TORCH_VERSION_MAJOR) + "." + std::to_string(TORCH_VERSION_MINOR) + ".";
  if (manifest.at("requires.torch").rfind(minor, 0) != 0)
    return "it was built with torch " + manifest.at("requires.torch") + ", this program with " TORCH_VERSION;
  std::string flags;
  for (std::ifstream cpu("/proc/cpuinfo"); std::getline(cpu, flags);)
    if (flags.rfind("flags", 0) == 0 || flags.rfind("Features", 0) == 0) break;
  for (const auto& [name, flag] : manifest)
    if (name.rfind("requires.cpu_flags.", 0) == 0 && (flags + " ").find(" " + flag + " ") == flags.npos)
      return "this CPU lacks " + flag;
  return "";
}
}  // namespace

std::unique_ptr<Engine> open_aotinductor(const std::string& file, const Manifest& manifest, const std::string& ops) {
  if (const auto problem = misfit(manifest); !problem.empty())
    throw std::runtime_error(file + " does not fit: " + problem + "; export it anew here");
  const std::string library = ops.empty() ? "libalbert_fast_ops.so" : ops;
  const bool wanted = !ops.empty() || manifest.at("requires.op_library") == "true";
  if (wanted && !dlopen(library.c_str(), RTLD_NOW | RTLD_GLOBAL))
    throw std::runtime_error("the op library does not load: " + std::string(dlerror()) + "; name its file with --ops");
  try {
    return std::make_unique<Package>(file);
  } catch (const std::exception& error) {
    const std::string message = error.what();
    throw std::runtime_error(file + " does not load: " + message.substr(0, message.find('\n')) +
                             "; `albert-fast inspect` tells whether it is damaged");
  }
}
