// The instruction sets that CMakeLists.txt compiles the kernels for, and the one that this processor runs.
#pragma once

// Calls macro(name) for each of them.
#ifdef ALBERT_FAST_X86
#define ALBERT_FAST_FOR_EACH_ISA(macro) \
  macro(baseline) macro(avx2) macro(avx512) macro(avx512_vnni) macro(avx512_bf16)
#else
#define ALBERT_FAST_FOR_EACH_ISA(macro) macro(baseline)
#endif

namespace albert_fast {

#define ALBERT_FAST_LIST(isa) isa,
enum class InstructionSet { ALBERT_FAST_FOR_EACH_ISA(ALBERT_FAST_LIST) };
#undef ALBERT_FAST_LIST

// torch's own verdict on this processor, which also obeys ATEN_CPU_CAPABILITY, and what the processor has beyond that.
InstructionSet instruction_set();

}  // namespace albert_fast
