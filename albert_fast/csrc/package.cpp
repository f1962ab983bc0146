// A package of AOTInductor as a class of this library. torch's own Python binding of the loader holds the interpreter's
// lock for the whole call, so callers wait for each other; a call of a class bound like this one does not.
#include <torch/custom_class.h>
#include <torch/library.h>

#include <memory>
#include <string>
#include <vector>

#include "shared_constants.h"

namespace albert_fast {
namespace {

// `runners` calls compute at the same time, over one copy of the constants, which packages with equal ones share; one
// more call waits for the first to be done.
struct Package final : torch::CustomClassHolder {
  Package(const std::string& path, int64_t runners)
      : loader(std::make_shared<Loader>(
            path, "model", /*run_single_threaded=*/false, static_cast<size_t>(runners), /*device_index=*/-1)),
        constants(share_constants(loader)) {}

  std::vector<at::Tensor> run(std::vector<at::Tensor> inputs) {
    return loader->run(inputs);
  }

  std::vector<std::string> call_spec() {
    return loader->get_call_spec();
  }

  std::shared_ptr<Loader> loader;
  Constants constants;
};

}  // namespace

TORCH_LIBRARY_FRAGMENT(albert_fast, m) {
  m.class_<Package>("Package")
      .def(torch::init<const std::string&, int64_t>())
      .def("run", &Package::run)
      .def("call_spec", &Package::call_spec);
}

}  // namespace albert_fast
