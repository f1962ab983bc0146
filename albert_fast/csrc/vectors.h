// Vector arithmetic of ALBERT_FAST_VECTOR_BYTES bytes, in GNU vector types, for the kernels of one instruction set.
// Everything has internal linkage: each set has its own copy, and none can leak into another through the linker.
#pragma once

#include <stdint.h>
#include <string.h>

#ifdef ALBERT_FAST_X86
#include <immintrin.h>
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
#ifdef __AVX512F__
  return reinterpret_cast<Floats>(
      _mm512_maskz_min_ps(0xFFFF, reinterpret_cast<__m512>(left), reinterpret_cast<__m512>(right)));
#else
  return left < right ? left : right;
#endif
}

inline Floats larger_of(Floats left, Floats right) {
#ifdef __AVX512F__
  return reinterpret_cast<Floats>(
      _mm512_maskz_max_ps(0xFFFF, reinterpret_cast<__m512>(left), reinterpret_cast<__m512>(right)));
#else
  return left > right ? left : right;
#endif
}

// rows[i][j] := rows[j][i], of kLanes vectors: halves change places, then quarters, down to single lanes.
inline void transpose(Ints* rows) {
#pragma GCC unroll 4
  for (int half = kLanes / 2; half > 0; half /= 2) {
    Ints lower, upper;  // places in the two vectors side by side
    for (int lane = 0; lane < kLanes; ++lane) {
      lower[lane] = (lane & half) != 0 ? kLanes + (lane ^ half) : lane;
      upper[lane] = (lane & half) != 0 ? kLanes + lane : lane ^ half;
    }
#pragma GCC unroll 16
    for (int row = 0; row < kLanes; ++row) {
      if ((row & half) == 0) {
        const Ints left = rows[row], right = rows[row | half];
        rows[row] = __builtin_shuffle(left, right, lower);
        rows[row | half] = __builtin_shuffle(left, right, upper);
      }
    }
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

// Rounded to the nearest, ties to even; a NaN stays one unless its low half is all that says so.
inline void store(BFloat16* place, Floats value) {
#ifdef __AVX512BF16__
  const __m256bh rounded = _mm512_cvtneps_pbh(reinterpret_cast<__m512>(value));
  memcpy(place, &rounded, sizeof rounded);
#else
  const Ints bits = as_ints(value);
  const Ints rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
  const Halves halves = __builtin_convertvector(rounded, Halves);
  memcpy(place, &halves, sizeof halves);
#endif
}

constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits

// 2^x: below -126 it stays at 2^-126 = 1.2e-38, above 127 at 2^127. 2^n * 2^f, n the nearest integer and |f| <= 1/2.
// The polynomials are minimax fits of 2^f over that interval, the constant held at 1: a relative error of 1e-7 with
// float32's coefficients and of 1e-4, a twentieth of bfloat16's step, with the rough ones.
template <bool kRough>
inline Floats power_of_2(Floats x) {
  x = larger_of(smaller_of(x, broadcast(127.0f)), broadcast(-126.0f));
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
#ifdef __AVX512F__
  const Floats guess = reinterpret_cast<Floats>(_mm512_maskz_rcp14_ps(0xFFFF, reinterpret_cast<__m512>(x)));
  return kRough ? guess : guess * (2.0f - x * guess);
#else
  return 1.0f / x;
#endif
}

}  // namespace
}  // namespace albert_fast::ALBERT_FAST_ISA
