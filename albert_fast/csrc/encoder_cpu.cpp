// albert_fast::encoder on the CPU: checks the arguments, finds the tokens that are text, and starts one team of threads
// that goes through all passes together.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <omp.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "encoder.h"
#include "encoder_problem.h"

namespace albert_fast {
namespace {

const EncoderKernels& chosen_kernels() {
  switch (instruction_set()) {
#define ALBERT_FAST_CASE(isa)  \
  case InstructionSet::isa:    \
    return isa::encoder;
    ALBERT_FAST_FOR_EACH_ISA(ALBERT_FAST_CASE)
#undef ALBERT_FAST_CASE
  }
  return baseline::encoder;  // not reached
}

// Scratch memory outlives a call, or its pages would be fetched from the system each time. Calls that run at the same
// time have one each; what is larger than kKeptBytes goes back at once.
class Workspaces {
 public:
  using Memory = std::unique_ptr<char[]>;

  // `bytes` bytes from an address that is a multiple of 64, until `run` returns.
  template <class Run>
  void with(int64_t bytes, const Run& run) {
    std::pair<int64_t, Memory> taken{0, nullptr};
    {
      const std::lock_guard<std::mutex> guard(mutex_);
      if (!free_.empty()) {
        taken = std::move(free_.back());
        free_.pop_back();
      }
    }
    if (taken.first < bytes + kAlignment) {
      taken.second.reset();
      taken = {bytes + kAlignment, Memory(new char[bytes + kAlignment])};
    }
    const auto address = reinterpret_cast<uintptr_t>(taken.second.get());
    run(taken.second.get() + (kAlignment - address % kAlignment) % kAlignment);
    if (taken.first <= kKeptBytes) {
      const std::lock_guard<std::mutex> guard(mutex_);
      free_.push_back(std::move(taken));
    }
  }

 private:
  static constexpr int64_t kAlignment = 64;
  static constexpr int64_t kKeptBytes = 32 << 20;

  std::mutex mutex_;
  std::vector<std::pair<int64_t, Memory>> free_;
};

Workspaces& workspaces() {
  static Workspaces* const all = new Workspaces;  // never destroyed: threads may outlive static destructors
  return *all;
}

// Tokens that are text, end to end, and the first position of every row, which heads read whatever its mask.
struct Packed {
  std::vector<Text> texts;
  std::vector<int64_t> position;

  explicit Packed(const at::Tensor& mask) {
    const int64_t batch = mask.size(0), length = mask.size(1);
    const int64_t* const seen = mask.const_data_ptr<int64_t>();
    texts.reserve(batch);
    position.reserve(batch * length);
    for (int64_t row = 0; row < batch; ++row) {
      const int64_t begin = static_cast<int64_t>(position.size());
      const bool first_is_text = seen[row * length] != 0;
      position.push_back(row * length);
      for (int64_t i = row * length + 1; i < (row + 1) * length; ++i) {
        if (seen[i] != 0) {
          position.push_back(i);
        }
      }
      const int64_t end = static_cast<int64_t>(position.size());
      texts.push_back({begin, end, first_is_text || end == begin + 1 ? begin : begin + 1});
    }
  }
};

void check_inputs(const at::Tensor& embedded, const at::Tensor& mask) {
  TORCH_CHECK(
      embedded.dim() == 3 && embedded.size(2) > 0 && embedded.scalar_type() == at::kFloat,
      "encoder: embedded must be [batch, length, embedding_size] of float32, found ", embedded.sizes(), " of ",
      embedded.scalar_type());
  TORCH_CHECK(
      mask.dim() == 2 && mask.scalar_type() == at::kLong && mask.size(0) == embedded.size(0) &&
          mask.size(1) == embedded.size(1),
      "encoder: attention_mask must be [", embedded.size(0), ", ", embedded.size(1), "] of int64, found ",
      mask.sizes(), " of ", mask.scalar_type());
}

// Threads of torch's own for one call. What other calls have taken is left to them, and one thread is always there: a
// lone caller is answered as fast as can be, eight callers have a thread each and none waits for another's.
class Threads {
 public:
  // At most `most`: more than there is work for would only wait for each other.
  explicit Threads(int64_t most) {
    const int64_t all = at::in_parallel_region() ? 1 : std::min<int64_t>(most, at::get_num_threads());
    int64_t taken = taken_.load();
    do {
      count_ = std::max<int64_t>(1, all - taken);
    } while (!taken_.compare_exchange_weak(taken, taken + count_));
  }
  ~Threads() {
    taken_ -= count_;
  }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

  int64_t count() const {
    return count_;
  }

 private:
  static inline std::atomic<int64_t> taken_{0};
  int64_t count_;
};

// Of the linear maps, in all passes.
int64_t multiplications(const Encoder& encoder, int64_t tokens) {
  int64_t of_a_token = 0;
  for (int64_t pass = 0; pass < encoder.passes; ++pass) {
    const Layer& layer = encoder.layers[encoder.schedule[pass]];
    for (const Linear* linear : {&layer.qkv, &layer.dense, &layer.ffn, &layer.ffn_output}) {
      of_a_token += linear->out * linear->steps * (4 / size_of(linear->type));
    }
  }
  return tokens * of_a_token;
}

// Multiplications. With fewer, a second thread spends its time at barriers, and on a busy machine waits for its turn.
constexpr int64_t kWorthAThread = 25'000'000;

void run(const Problem& problem, const Batch& batch) {
  const EncoderKernels& kernels = chosen_kernels();
  const Threads threads(std::max<int64_t>(1, multiplications(problem.encoder, batch.tokens) / kWorthAThread));
  std::vector<int64_t> next_item(problem.encoder.passes, 0);
  workspaces().with(kernels.workspace_bytes(problem.encoder, batch, threads.count()), [&](char* workspace) {
    Team team{1, 0, 0, next_item.data()};
    if (threads.count() == 1) {
      kernels.run(problem.encoder, batch, team, 0, workspace);
      return;
    }
#pragma omp parallel num_threads(static_cast<int>(threads.count()))
    {
#pragma omp single
      team.size = omp_get_num_threads();  // the system may give fewer; the barrier at the end of `single` tells all
      kernels.run(problem.encoder, batch, team, omp_get_thread_num(), workspace);
    }
  });
}

at::Tensor encoder_cpu(
    const at::Tensor& embedded, const at::Tensor& attention_mask, at::TensorList tensors, at::IntArrayRef schedule,
    int64_t num_heads, double attention_scale, double layer_norm_eps, const c10::string_view activation,
    const c10::string_view attention_dtype, at::ArrayRef<double> input_scales, bool first_token_only) {
  check_inputs(embedded, attention_mask);
  const Problem problem(
      embedded.size(2), tensors, schedule, num_heads, attention_scale, layer_norm_eps, std::string(activation),
      std::string(attention_dtype), input_scales, first_token_only);
  const int64_t batch = embedded.size(0), length = embedded.size(1);
  TORCH_CHECK(!first_token_only || length > 0, "encoder: first_token_only needs at least one token");
  at::Tensor result =
      at::empty({batch, first_token_only ? 1 : length, problem.encoder.hidden_size}, embedded.options());
  if (result.numel() > 0) {
    const at::Tensor dense = embedded.contiguous();
    const Packed packed(attention_mask.contiguous());
    run(problem,
        {batch, length, static_cast<int64_t>(packed.position.size()), packed.texts.data(), packed.position.data(),
         dense.const_data_ptr<float>(), result.mutable_data_ptr<float>()});
  }
  return result;
}

}  // namespace

TORCH_LIBRARY_IMPL(albert_fast, CPU, m) {
  m.impl("encoder", &encoder_cpu);
}

}  // namespace albert_fast
