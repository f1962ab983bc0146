// Vector arithmetic of ALBERT_FAST_VECTOR_BYTES bytes, in GNU vector types, for the kernels of one instruction set.
// Everything has internal linkage: each set has its own copy, and none can leak into another through the linker.
#pragma once

#include <stdint.h>
#include <string.h>

#include <utility>

#ifdef ALBERT_FAST_X86
#include <immintrin.h>
#endif

// Only the sets of 64 bytes use these instructions, whatever else a compiler is told that it may use (-march=native).
#if ALBERT_FAST_VECTOR_BYTES == 64
#define ALBERT_FAST_AVX512
#ifdef __AVX512VNNI__
#define ALBERT_FAST_VNNI
#endif
#ifdef __AVX512BF16__
#define ALBERT_FAST_BF16
#endif
#endif

namespace albert_fast::ALBERT_FAST_ISA {
namespace {

using Floats = float __attribute__((vector_size(ALBERT_FAST_VECTOR_BYTES)));
using Ints = int32_t __attribute__((vector_size(ALBERT_FAST_VECTOR_BYTES)));
using Halves = uint16_t __attribute__((vector_size(ALBERT_FAST_VECTOR_BYTES / 2)));
using Bytes = uint8_t __attribute__((vector_size(ALBERT_FAST_VECTOR_BYTES / 4)));
constexpr int64_t kLanes = ALBERT_FAST_VECTOR_BYTES / sizeof(float);

using BFloat16 = uint16_t;

inline Floats load(const float* place) {
  Floats value;
  memcpy(&value, place, sizeof value);
  return value;
}

inline Ints load(const int32_t* place) {
  Ints value;
  memcpy(&value, place, sizeof value);
  return value;
}

// Minus zero is exact for every value, so it compiles to a broadcast; plus zero would turn -0 into 0, and costs an add.
inline Floats broadcast(float value) {
  return value - Floats{};
}

inline Ints broadcast(int32_t value) {
  return value - Ints{};
}

inline Floats as_floats(Ints bits) {
  return reinterpret_cast<Floats>(bits);
}

inline Ints as_ints(Floats bits) {
  return reinterpret_cast<Ints>(bits);
}

// The second where one is NaN. Compilers do not take the comparison for the one instruction that it is.
inline Floats smaller_of(Floats left, Floats right) {
#ifdef ALBERT_FAST_AVX512
  return reinterpret_cast<Floats>(
      _mm512_maskz_min_ps(0xFFFF, reinterpret_cast<__m512>(left), reinterpret_cast<__m512>(right)));
#else
  return left < right ? left : right;
#endif
}

inline Floats larger_of(Floats left, Floats right) {
#ifdef ALBERT_FAST_AVX512
  return reinterpret_cast<Floats>(
      _mm512_maskz_max_ps(0xFFFF, reinterpret_cast<__m512>(left), reinterpret_cast<__m512>(right)));
#else
  return left > right ? left : right;
#endif
}

// The vector of what stands at these places in two, side by side.
template <int... kPlaces>
inline Ints pick(Ints left, Ints right) {
#ifdef __clang__
  return __builtin_shufflevector(left, right, kPlaces...);
#else
  return __builtin_shuffle(left, right, Ints{kPlaces...});
#endif
}

template <int kHalf, int... kLane>
inline void exchange(Ints& left, Ints& right, std::integer_sequence<int, kLane...>) {
  constexpr int kRight = kLanes;
  const Ints lower = pick<((kLane & kHalf) != 0 ? kRight + (kLane ^ kHalf) : kLane)...>(left, right);
  right = pick<((kLane & kHalf) != 0 ? kRight + kLane : kLane ^ kHalf)...>(left, right);
  left = lower;
}

// rows[i][j] := rows[j][i], of kLanes vectors: halves change places, then quarters, down to single lanes.
template <int kHalf = kLanes / 2>
inline void transpose(Ints* rows) {
  if constexpr (kHalf > 0) {
#pragma GCC unroll 16
    for (int row = 0; row < kLanes; ++row) {
      if ((row & kHalf) == 0) {
        exchange<kHalf>(rows[row], rows[row | kHalf], std::make_integer_sequence<int, kLanes>{});
      }
    }
    transpose<kHalf / 2>(rows);
  }
}

inline float sum_of(Floats value) {
  float sum = 0;
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    sum += value[lane];
  }
  return sum;
}

inline float largest_of(Floats value) {
  float largest = value[0];
  for (int64_t lane = 1; lane < kLanes; ++lane) {
    largest = value[lane] > largest ? value[lane] : largest;
  }
  return largest;
}

inline float to_float(float value) {
  return value;
}

inline float to_float(BFloat16 value) {
  const uint32_t bits = static_cast<uint32_t>(value) << 16;
  float result;
  memcpy(&result, &bits, sizeof result);
  return result;
}

inline void store(float* place, float value) {
  *place = value;
}

inline void store(BFloat16* place, float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  const uint32_t to_nearest_even = 0x7FFF + ((bits >> 16) & 1);
  *place = value != value ? BFloat16{0x7FC0} : static_cast<BFloat16>((bits + to_nearest_even) >> 16);
}

inline void store(float* place, Floats value) {
  memcpy(place, &value, sizeof value);
}

// Rounded to the nearest, ties to even. The NaN that arithmetic makes stays one; one of all ones may not.
inline void store(BFloat16* place, Floats value) {
#ifdef ALBERT_FAST_BF16
  const __m256bh rounded = _mm512_cvtneps_pbh(reinterpret_cast<__m512>(value));
  memcpy(place, &rounded, sizeof rounded);
#else
  using Words = uint32_t __attribute__((vector_size(ALBERT_FAST_VECTOR_BYTES)));  // whose sums may wrap around
  const Words bits = reinterpret_cast<Words>(value);
  const Words rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
  const Halves halves = __builtin_convertvector(rounded, Halves);
  memcpy(place, &halves, sizeof halves);
#endif
}

constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits

// 2^x: below -126 it stays at 2^-126 = 1.2e-38, above 127 at 2^127; NaN stays NaN. 2^n * 2^f, n the nearest integer and |f| <= 1/2.
// The polynomials are minimax fits of 2^f over that interval, the constant held at 1: a relative error of 1e-7 with
// float32's coefficients and of 1e-4, a twentieth of bfloat16's step, with the rough ones.
template <bool kRough>
inline Floats power_of_2(Floats x) {
  x = larger_of(broadcast(-126.0f), smaller_of(broadcast(127.0f), x));
  const Floats shifted = x + kRounder;
  const Floats f = x - (shifted - kRounder);
  Floats series;
  if constexpr (kRough) {
    series = broadcast(5.50072535e-2f);
    series = series * f + 2.42207082e-1f;
    series = series * f + 6.93282682e-1f;
  } else {
    series = broadcast(1.32645817e-3f);
    series = series * f + 9.67146991e-3f;
    series = series * f + 5.55073371e-2f;
    series = series * f + 2.40222428e-1f;
    series = series * f + 6.93146978e-1f;
  }
  series = series * f + 1.0f;
  return as_floats(as_ints(series) + (as_ints(shifted) << 23));
}

// 1 / x for x >= 1; `kRough` keeps 14 bits where the hardware has a table for it.
template <bool kRough>
inline Floats reciprocal(Floats x) {
#ifdef ALBERT_FAST_AVX512
  const Floats guess = reinterpret_cast<Floats>(_mm512_maskz_rcp14_ps(0xFFFF, reinterpret_cast<__m512>(x)));
  return kRough ? guess : guess * (2.0f - x * guess);
#else
  return 1.0f / x;
#endif
}

}  // namespace
}  // namespace albert_fast::ALBERT_FAST_ISA
