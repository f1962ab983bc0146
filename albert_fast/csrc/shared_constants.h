// Constants of the packages of one process: those whose bytes are equal are held once.
#pragma once

#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <cstdint>
#include <memory>
#include <vector>

namespace albert_fast {

using Loader = torch::inductor::AOTIModelPackageLoader;

struct Region {
  void* data;
  int64_t bytes;
};

// The memory of one constant, inside a package that it keeps loaded. Every package that computes with the constant
// holds it, and with the last of them its memory goes back to the system, even where the package is needed for others.
class Constant {
 public:
  Constant(std::shared_ptr<Loader> loader, Region region);
  ~Constant();
  Constant(const Constant&) = delete;
  Constant& operator=(const Constant&) = delete;

  const Region region;

 private:
  const std::shared_ptr<Loader> loader_;
};

using Constants = std::vector<std::shared_ptr<const Constant>>;

// Lets a package that was just loaded compute with constants of other packages where they equal its own, and gives the
// memory of its own back. Returns what it computes with, to be held as long as it may run. Nothing may write constants.
// Small ones stay as they are. Threads may call it at the same time.
Constants share_constants(const std::shared_ptr<Loader>& loader);

}  // namespace albert_fast
