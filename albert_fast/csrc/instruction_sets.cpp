#include "instruction_sets.h"

#include <ATen/Version.h>
#include <torch/library.h>

#include <string>

namespace albert_fast {

InstructionSet instruction_set() {
#ifdef ALBERT_FAST_X86
  static const std::string capability = at::get_cpu_capability();
  if (capability.rfind("AVX512", 0) == 0) {
    static const bool vnni = __builtin_cpu_supports("avx512vnni");
    static const bool bf16 = vnni && __builtin_cpu_supports("avx512bf16");
    return bf16 ? InstructionSet::avx512_bf16 : vnni ? InstructionSet::avx512_vnni : InstructionSet::avx512;
  }
  if (capability == "AVX2") {
    return InstructionSet::avx2;
  }
#endif
  return InstructionSet::baseline;
}

namespace {

std::string cpu_kernel() {
#define ALBERT_FAST_NAME(isa) #isa,
  static const char* const kNames[] = {ALBERT_FAST_FOR_EACH_ISA(ALBERT_FAST_NAME)};
#undef ALBERT_FAST_NAME
  return kNames[static_cast<int>(instruction_set())];
}

}  // namespace

TORCH_LIBRARY_IMPL(albert_fast, CatchAll, m) {
  m.impl("cpu_kernel", &cpu_kernel);
}

}  // namespace albert_fast
