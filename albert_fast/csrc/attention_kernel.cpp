// packed_attention, some queries of one head at a time. CMakeLists.txt compiles this file once per instruction set,
// each time into the namespace ALBERT_FAST_ISA.
#include "attention.h"

#include "heads.h"

namespace albert_fast::ALBERT_FAST_ISA {

extern const AttentionKernels attention;

namespace {

template <class Use>
inline auto with_kind(Type type, const Use& use) {
  switch (type) {
    case Type::float32:
      return use(Float32{});
    case Type::bfloat16:
      return use(BFloat16s{});
    case Type::int8:
      break;
  }
  return use(UnsignedBytes{});
}

int64_t scratch_bytes(const PackedAttention& problem, int64_t longest) {
  return with_kind(problem.type, [&](auto kind) {
    return AttentionScratch<decltype(kind)>(longest, problem.head_size, nullptr).bytes;
  });
}

template <class Kind>
void attend_queries(const PackedAttention& problem, const Queries& work, char* scratch) {
  using Element = typename Kind::Element;
  const int64_t size = problem.num_heads * problem.head_size, stride = 3 * size;
  const auto* const rows = static_cast<const Element*>(problem.qkv) + work.sequence_begin * stride;
  const auto* const query = rows + work.head * problem.head_size;
  Head<Kind> head{
      query + work.first * stride, stride, query + size, query + 2 * size, stride, work.last - work.first,
      work.sequence_length, problem.head_size, problem.scale};
  if constexpr (kIsBytes<Kind>) {
    head.scale *= problem.query_scale * problem.key_scale;
    head.value_scale = problem.value_scale;
  }
  Element* const result = static_cast<Element*>(problem.result) + (work.sequence_begin + work.first) * size +
      work.head * problem.head_size;
  const auto write = writer<Kind>(problem.result_scale);
  attend(head, scratch, [&](int64_t row, int64_t channel, Floats value, bool whole) {
    Element written[kLanes];
    write(written, value);
    if constexpr (kIsBytes<Kind>) {
      for (Element& byte : written) {
        byte ^= 128;  // the writer's are unsigned
      }
    }
    Element* const place = result + row * size + channel;
    if (whole) {
      memcpy(place, written, sizeof written);
    } else {
      memcpy(place, written, (problem.head_size - channel) * sizeof(Element));
    }
  });
}

void run(const PackedAttention& problem, const Queries& work, char* scratch) {
  with_kind(problem.type, [&](auto kind) { attend_queries<decltype(kind)>(problem, work, scratch); });
}

}  // namespace

const AttentionKernels attention = {scratch_bytes, run};

}  // namespace albert_fast::ALBERT_FAST_ISA
