#include "shared_constants.h"

#include <ATen/Functions.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/inductor/aoti_torch/utils.h>

#ifdef __linux__
#include <sys/mman.h>
#include <unistd.h>
#endif

#include <cstring>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>

namespace albert_fast {
namespace {

constexpr int64_t kBytesWorthSharing = 64 * 1024;

// The whole pages inside become zeros that take no memory. All constants of a package lie in one allocation, so free()
// could give back none of it while one is in use. Elsewhere than on Linux nothing is done.
void give_back([[maybe_unused]] const Region& region) {
#ifdef __linux__
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto start = reinterpret_cast<uintptr_t>(region.data);
  const uintptr_t first = (start + page - 1) / page * page;
  const uintptr_t end = (start + static_cast<uintptr_t>(region.bytes)) / page * page;
  if (first < end) {
    madvise(reinterpret_cast<void*>(first), end - first, MADV_DONTNEED);
  }
#endif
}

// What the packages alive compute with, by size. It keeps nothing alive.
class Registry {
 public:
  std::mutex mutex;

  std::shared_ptr<const Constant> find(const Region& region) {
    auto [place, end] = constants_.equal_range(region.bytes);
    while (place != end) {
      std::shared_ptr<const Constant> constant = place->second.lock();
      if (!constant) {
        place = constants_.erase(place);
        continue;
      }
      if (std::memcmp(constant->region.data, region.data, static_cast<size_t>(region.bytes)) == 0) {
        return constant;
      }
      ++place;
    }
    return nullptr;
  }

  void add(const std::shared_ptr<const Constant>& constant) {
    constants_.emplace(constant->region.bytes, constant);
  }

 private:
  std::unordered_multimap<int64_t, std::weak_ptr<const Constant>> constants_;
};

// Never destroyed: a package may outlive everything that is destroyed when the process ends.
Registry& registry() {
  static Registry* const only = new Registry;
  return *only;
}

template <class Signature>
auto mkldnn_op(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

// Where a constant's numbers lie. torch tells it of tensors in oneDNN's layout through functions of their own alone.
Region region_of(at::Tensor& tensor) {
  Region region{nullptr, 0};
  const AtenTensorHandle handle = torch::aot_inductor::tensor_pointer_to_tensor_handle(&tensor);
  const auto told = aoti_torch_get_data_ptr(handle, &region.data);
  TORCH_CHECK(told == AOTI_TORCH_SUCCESS, "torch does not tell where a constant of the package lies");
  if (tensor.is_mkldnn()) {
    region.bytes = mkldnn_op<int64_t(const at::Tensor&)>("mkldnn::_nbytes").call(tensor);
  } else {
    const size_t before = static_cast<size_t>(tensor.storage_offset()) * tensor.itemsize();
    region.bytes = static_cast<int64_t>(tensor.storage().nbytes() - before);
  }
  return region;
}

// The same tensor over equal numbers that lie elsewhere, which it does not own.
at::Tensor over(const at::Tensor& tensor, void* data) {
  if (!tensor.is_mkldnn()) {
    return at::from_blob(data, tensor.sizes(), tensor.strides(), tensor.options());
  }
  const auto described = mkldnn_op<at::Tensor(const at::Tensor&)>("mkldnn::_get_mkldnn_serialized_md");
  const at::Tensor layout = described.call(tensor);
  const int64_t* const sizes = tensor.sizes().data();
  AtenTensorHandle handle = nullptr;
  const auto made = aoti_torch_create_tensor_from_blob_v2(
      data, tensor.dim(), sizes, /*strides_ptr=*/sizes, /*storage_offset=*/0,
      static_cast<int32_t>(tensor.scalar_type()), aoti_torch_device_type_cpu(), /*device_index=*/0, &handle,
      aoti_torch_layout__mkldnn(),
      static_cast<const uint8_t*>(layout.const_data_ptr()), layout.numel());
  TORCH_CHECK(made == AOTI_TORCH_SUCCESS, "torch cannot make a tensor in oneDNN's layout of a constant in memory");
  at::Tensor result = *torch::aot_inductor::tensor_handle_to_tensor_pointer(handle);
  aoti_torch_delete_tensor_object(handle);
  return result;
}

// The constants by the names that update_constant_buffer takes; they are told by those they had in the graph.
std::unordered_map<std::string, at::Tensor> constants_of(const torch::inductor::AOTIModelContainerRunner& runner) {
  const auto names = runner.getConstantNamesToOriginalFQNs();
  const auto told = runner.extract_constants_map(/*use_inactive=*/false);
  std::unordered_map<std::string, int64_t> uses;
  for (const auto& [name, original] : names) {
    ++uses[original];
  }
  std::unordered_map<std::string, at::Tensor> constants;
  for (const auto& [name, original] : names) {
    const auto found = told.find(original);
    if (found != told.end() && uses[original] == 1) {
      constants.emplace(name, found->second);
    }
  }
  return constants;
}

}  // namespace

Constant::Constant(std::shared_ptr<Loader> loader, Region region) : region(region), loader_(std::move(loader)) {}

Constant::~Constant() {
  give_back(region);
}

Constants share_constants(const std::shared_ptr<Loader>& loader) {
  Constants used;
  std::unordered_map<std::string, at::Tensor> shared;
  std::vector<Region> spare;
  const std::lock_guard<std::mutex> lock(registry().mutex);
  for (auto& [name, tensor] : constants_of(*loader->get_runner())) {
    const Region own = region_of(tensor);
    if (own.bytes < kBytesWorthSharing) {
      continue;
    }
    std::shared_ptr<const Constant> constant = registry().find(own);
    if (constant) {
      shared.emplace(name, over(tensor, constant->region.data));
      spare.push_back(own);
    } else {
      constant = std::make_shared<const Constant>(loader, own);
      registry().add(constant);
    }
    used.push_back(std::move(constant));
  }
  if (!shared.empty()) {
    // Of tensors that are the user's AOTInductor never lets go, which is why these own nothing.
    loader->get_runner()->update_constant_buffer(
        shared, /*use_inactive=*/false, /*validate_full_updates=*/false, /*user_managed=*/true);
  }
  for (const Region& region : spare) {
    give_back(region);
  }
  return used;
}

}  // namespace albert_fast
