// Checks the kernels of one instruction set against plain loops, with neither torch nor Python: for sanitizers, and
// for processors that the other tests do not run on. One line for each group of problems; exit status 1 on a mismatch.
//
//   c++ -std=c++17 -DALBERT_FAST_ISA=baseline -DALBERT_FAST_VECTOR_BYTES=16 -I albert_fast/csrc
//       tests/csrc/kernels_check.cpp albert_fast/csrc/*_kernel.cpp -pthread
#include <algorithm>
#include <cstdio>
#include <memory>
#include <new>
#include <thread>
#include <type_traits>

#include "attention.h"
#include "encoder_reference.h"

namespace albert_fast {
namespace {

const EncoderKernels& encoder_kernels = ALBERT_FAST_ISA::encoder;
const AttentionKernels& attention_kernels = ALBERT_FAST_ISA::attention;
#define ALBERT_FAST_NAME_OF(isa) #isa
#define ALBERT_FAST_NAME(isa) ALBERT_FAST_NAME_OF(isa)
constexpr const char* kKernels = ALBERT_FAST_NAME(ALBERT_FAST_ISA);

// Differences from the reference in a group of problems.
class Differences {
 public:
  void add(double found, double expected) {
    const double difference = std::fabs(found - expected);
    largest_ = difference <= largest_ ? largest_ : difference;  // NaN is the largest of all
    sum_ += difference;
    ++count_;
  }

  // Prints the line of the group; whether both are within their limits.
  bool report(const char* what, const char* kind, double largest, double mean) const {
    const double found_mean = sum_ / static_cast<double>(count_);
    const bool good = count_ > 0 && largest_ <= largest && found_mean <= mean;
    printf(
        "%s %-9s %-12s %-24s largest difference %.1e (limit %.2g), mean %.1e (limit %.2g), of %lld numbers\n",
        good ? "good" : "BAD ", what, kKernels, kind, largest_, largest, found_mean, mean,
        static_cast<long long>(count_));
    return good;
  }

 private:
  double largest_ = 0;
  double sum_ = 0;
  int64_t count_ = 0;
};

struct Free {
  void operator()(char* memory) const {
    ::operator delete(memory, std::align_val_t{64});
  }
};

// What is never written is NaN in every type, and the loudest byte.
std::unique_ptr<char, Free> fresh_memory(int64_t bytes) {
  std::unique_ptr<char, Free> memory(static_cast<char*>(::operator new(bytes, std::align_val_t{64})));
  memset(memory.get(), 0xFF, bytes);
  return memory;
}

std::vector<float> answer(const SampleEncoder& encoder, const SampleBatch& batch, int64_t threads) {
  const int64_t rows = batch.batch * (encoder.view.first_token_only ? 1 : batch.length);
  std::vector<float> result(rows * encoder.view.hidden_size, std::numeric_limits<float>::quiet_NaN());
  const Batch view = batch.view(result);
  const auto workspace = fresh_memory(encoder_kernels.workspace_bytes(encoder.view, view, threads));
  std::vector<int64_t> next_item(encoder.view.passes, 0);
  Team team{threads, 0, 0, next_item.data()};
  std::vector<std::thread> others;
  for (int64_t thread = 1; thread < threads; ++thread) {
    others.emplace_back([&, thread] { encoder_kernels.run(encoder.view, view, team, thread, workspace.get()); });
  }
  encoder_kernels.run(encoder.view, view, team, 0, workspace.get());
  for (std::thread& other : others) {
    other.join();
  }
  return result;
}

void compare(
    const SampleEncoder& encoder, const SampleBatch& batch, const std::vector<float>& found, Differences& differences) {
  const int64_t size = encoder.view.hidden_size;
  Table expected(found.size() / size, Row(size, 0.0));  // what is padding comes out as zeros
  for (int64_t index = 0; index < batch.batch; ++index) {
    const Text& text = batch.texts[index];
    const Table rows = encode(encoder, batch, text);
    if (encoder.view.first_token_only) {
      expected[index] = rows[0];
      continue;
    }
    for (int64_t row = text.begin; row < text.end; ++row) {
      expected[batch.position[row]] = rows[row - text.begin];
    }
  }
  for (size_t i = 0; i < found.size(); ++i) {
    differences.add(found[i], expected[i / size][i % size]);
  }
}

struct Problem {
  Sizes sizes;  // E, D, N, F
  std::vector<int64_t> schedule;
  Activation activation;
  std::vector<int64_t> lengths;
  bool left_padding;
  bool first_token_only;
  int64_t threads;
};

// Threads form groups by the number of rows: of all threads, of two, of one.
const std::vector<Problem> kProblems = {
    {{13, 36, 4, 44}, {0, 0}, Activation::gelu, {5, 31, 1, 2, 0, 40, 0}, false, false, 1},
    {{16, 50, 10, 70}, {0, 1, 0}, Activation::gelu_tanh, {7, 40, 1}, true, false, 2},
    {{13, 64, 2, 96}, {1, 0}, Activation::relu, {3, 17, 33}, false, false, 4},
    {{16, 50, 2, 70}, {0, 1, 1}, Activation::silu, {12, 1, 0, 29}, false, true, 3},
    {{13, 64, 4, 44}, {0}, Activation::linear, {16, 32, 40, 8}, true, true, 5},
    {{13, 36, 4, 70}, {0, 1}, Activation::silu, {40, 40, 40, 39, 3}, true, false, 5},
    // fewer panels than threads; one token, behind padding; a head's queries in two parts
    {{16, 36, 2, 96}, {0, 0}, Activation::gelu, {0}, false, false, 5},
    {{13, 64, 2, 44}, {0, 0}, Activation::gelu_tanh, {1}, true, true, 3},
    {{16, 32, 1, 32}, {0, 0}, Activation::relu, {130}, false, false, 2},
    // panels in parts, whose sums are kept; in float32 two chunks of rows
    {{16, 50, 2, 1060}, {0}, Activation::gelu, {33, 20}, false, false, 1},
    {{13, 36, 2, 2000}, {0}, Activation::gelu_tanh, {40, 40, 40, 40}, true, false, 1},
};

// float32 differs by the order of additions. A number that rounding to 16 or 8 bits finds between two steps may go
// either way, and what follows carries that on: the mean is what a wrong kernel would spoil.
const std::vector<Kind> kKinds = {
    {"float32", Type::float32, Type::float32, Type::float32, 1e-5, 4e-7, false},
    {"bfloat16", Type::bfloat16, Type::bfloat16, Type::bfloat16, 4e-2, 1.5e-3, false},
    {"int8", Type::int8, Type::float32, Type::float32, 0.1, 2e-3, false},
    {"int8, the rest bfloat16", Type::int8, Type::bfloat16, Type::bfloat16, 0.15, 5e-3, false},
    {"int8, the mapping too", Type::int8, Type::int8, Type::float32, 0.1, 2e-3, false},
    {"int8, smoothed", Type::int8, Type::int8, Type::float32, 0.1, 2e-3, true},
};

bool check_encoder(const Kind& kind) {
  Differences differences;
  Random random(5);
  for (const Problem& problem : kProblems) {
    const SampleEncoder encoder(
        random, kind, problem.sizes, problem.schedule, problem.activation, problem.first_token_only);
    const SampleBatch batch(random, problem.sizes.embedding, problem.lengths, problem.left_padding);
    compare(encoder, batch, answer(encoder, batch, problem.threads), differences);
  }
  return differences.report("encoder", kind.name, kind.largest, kind.mean);
}

// Numbers as packed_attention reads and writes them.
struct Float {
  using Element = float;
  static constexpr Type type = Type::float32;

  static float element(float value) {
    return value;
  }
  static double value(float element) {
    return element;
  }
};

struct Half {
  using Element = uint16_t;
  static constexpr Type type = Type::bfloat16;

  static uint16_t element(float value) {
    return bfloat16_bits(value);
  }
  static double value(uint16_t element) {
    return from_bfloat16(element);
  }
};

struct Byte {
  using Element = int8_t;
  static constexpr Type type = Type::int8;

  static int8_t element(float value) {
    return value != value ? -128 : static_cast<int8_t>(std::fmax(std::fmin(value / 0.03f, 127.0f), -127.0f));
  }
  static double value(int8_t element) {
    return element;
  }
};

// packed_attention over some texts, a part of a head's queries at a time. Differences of bytes are in steps.
template <class Number>
void check_head_size(Random& random, int64_t head_size, Differences& differences) {
  constexpr int64_t kHeads = 3;
  constexpr float kScales[4] = {0.03f, 0.025f, 0.04f, 0.02f};
  constexpr bool kBytes = Number::type == Type::int8;
  const int64_t size = kHeads * head_size;
  for (const int64_t length : {1, 5, 32, 33, 64, 65, 130}) {
    constexpr int64_t kBefore = 2;  // rows of another sequence, which nothing reads
    std::vector<typename Number::Element> qkv((kBefore + length) * 3 * size, Number::element(NAN));
    std::vector<typename Number::Element> result((kBefore + length) * size);
    Table rows(length, Row(3 * size));
    for (int64_t row = 0; row < length; ++row) {
      for (int64_t i = 0; i < 3 * size; ++i) {
        auto& element = qkv[(kBefore + row) * 3 * size + i];
        element = Number::element(normal(random));
        rows[row][i] = Number::value(element) * (kBytes ? kScales[i / size] : 1.0f);
      }
    }
    const float scale = 1.0f / std::sqrt(static_cast<float>(head_size));
    const PackedAttention problem{qkv.data(), result.data(), Number::type, kHeads, head_size, scale,
                                  kScales[0], kScales[1],    kScales[2],   kScales[3]};
    Table expected(length, Row(size));
    const auto scratch = fresh_memory(attention_kernels.scratch_bytes(problem, length));
    for (int64_t head = 0; head < kHeads; ++head) {
      const int64_t parts = length > 60 ? 3 : 1;
      for (int64_t part = 0; part < parts; ++part) {
        const Queries queries{kBefore, length, part * length / parts, (part + 1) * length / parts, head};
        attention_kernels.run(problem, queries, scratch.get());
      }
      for (int64_t query = 0; query < length; ++query) {
        attend(rows, query, 0, size, head * head_size, head_size, scale, Number::type, expected[query]);
      }
    }
    for (int64_t i = 0; i < length * size; ++i) {
      const double exact = expected[i / size][i % size] / (kBytes ? kScales[3] : 1.0f);
      differences.add(
          Number::value(result[kBefore * size + i]),
          kBytes ? std::fmax(std::fmin(std::nearbyint(exact), 127.0), -127.0) : exact);
    }
  }
}

template <class Number>
bool check_attention(const char* kind, double largest, double mean) {
  Differences differences;
  Random random(7);
  for (const int64_t head_size : {1, 5, 13, 32, 33, 67}) {
    check_head_size<Number>(random, head_size, differences);
  }
  return differences.report("attention", kind, largest, mean);
}

bool check() {
  bool good = check_attention<Float>("float32", 2e-6, 1e-7);
  good = check_attention<Half>("bfloat16", 1e-2, 4e-4) && good;
  good = check_attention<Byte>("int8", 1.0, 5e-3) && good;
  for (const Kind& kind : kKinds) {
    good = check_encoder(kind) && good;
  }
  return good;
}

}  // namespace
}  // namespace albert_fast

int main() {
  return albert_fast::check() ? 0 : 1;
}
