// Matrix products over weights in panels (encoder.h), for three kinds of operands that differ in one instruction: the
// one that multiplies what fills 32 bits, one float32, two bfloat16 or four bytes, and adds it to a sum.
#pragma once

#include "encoder.h"
#include "vectors.h"

namespace albert_fast::ALBERT_FAST_ISA {
namespace {

struct Float32 {
  using Element = float;
  using Sums = Floats;
  static constexpr Type type = Type::float32;
  static constexpr bool rough = false;

  static Sums dot(Sums sum, const char* a, Ints b) {
    float value;
    memcpy(&value, a, sizeof value);
    return sum + broadcast(value) * as_floats(b);
  }
};

struct BFloat16s {
  using Element = BFloat16;
  using Sums = Floats;
  static constexpr Type type = Type::bfloat16;
  static constexpr bool rough = true;

  static Sums dot(Sums sum, const char* a, Ints b) {
    int32_t pair;
    memcpy(&pair, a, sizeof pair);
#ifdef ALBERT_FAST_BF16
    return reinterpret_cast<Sums>(_mm512_dpbf16_ps(
        reinterpret_cast<__m512>(sum), reinterpret_cast<__m512bh>(broadcast(pair)), reinterpret_cast<__m512bh>(b)));
#else
    const int32_t high = static_cast<int32_t>(0xFFFF0000);
    const Ints both = broadcast(pair);
    sum += as_floats(both << 16) * as_floats(b << 16);
    return sum + as_floats(both & high) * as_floats(b & high);
#endif
  }
};

// Unsigned bytes times signed ones. Where no instruction adds four products in 32 bits, pairs of 16 bits do it exactly.
struct UnsignedBytes {
  using Element = uint8_t;
  using Sums = Ints;
  static constexpr Type type = Type::int8;
  static constexpr bool rough = true;

  static Sums dot(Sums sum, const char* a, Ints b) {
    int32_t four;
    memcpy(&four, a, sizeof four);
#if defined(ALBERT_FAST_VNNI)
    return reinterpret_cast<Sums>(_mm512_dpbusd_epi32(
        reinterpret_cast<__m512i>(sum), reinterpret_cast<__m512i>(broadcast(four)), reinterpret_cast<__m512i>(b)));
#else
    const Ints bytes = broadcast(four);
#if defined(ALBERT_FAST_X86)
    using Shorts = int16_t __attribute__((vector_size(ALBERT_FAST_VECTOR_BYTES)));
    const Shorts signed_bytes = reinterpret_cast<Shorts>(b);
    const Ints even = bytes & 0x00FF00FF, odd = (bytes >> 8) & 0x00FF00FF;
    sum += add_pairs(even, reinterpret_cast<Ints>((signed_bytes << 8) >> 8));
    return sum + add_pairs(odd, reinterpret_cast<Ints>(signed_bytes >> 8));
#else
    sum += (bytes & 255) * ((b << 24) >> 24);
    sum += ((bytes >> 8) & 255) * ((b << 16) >> 24);
    sum += ((bytes >> 16) & 255) * ((b << 8) >> 24);
    return sum + ((bytes >> 24) & 255) * (b >> 24);
#endif
#endif
  }

#if defined(ALBERT_FAST_X86) && !defined(ALBERT_FAST_VNNI)
  static Ints add_pairs(Ints left, Ints right) {
#if ALBERT_FAST_VECTOR_BYTES == 64
    return reinterpret_cast<Ints>(_mm512_madd_epi16(reinterpret_cast<__m512i>(left), reinterpret_cast<__m512i>(right)));
#elif ALBERT_FAST_VECTOR_BYTES == 32
    return reinterpret_cast<Ints>(_mm256_madd_epi16(reinterpret_cast<__m256i>(left), reinterpret_cast<__m256i>(right)));
#else
    return reinterpret_cast<Ints>(_mm_madd_epi16(reinterpret_cast<__m128i>(left), reinterpret_cast<__m128i>(right)));
#endif
  }
#endif
};

// The register tile: two vectors of sums for each of so many rows, what 32 or 16 registers hold beside two of weights.
constexpr int64_t kTileRows = kLanes == 16 ? 14 : 6;
constexpr int64_t kTileColumns = 2 * kLanes;
constexpr int64_t kStepBytes = kPanel * 4;
static_assert(kPanel % kTileColumns == 0);

// c[rows, tile] (+)= a[rows, steps] * panel. Strides of `a` are in bytes; rows of `c` are a whole panel wide.
template <class Kind, int kRows>
void tile(const char* a, int64_t a_stride, const char* panel, int64_t steps, bool add, char* c) {
  using Sums = typename Kind::Sums;
  Sums sums[kRows][2];
  if (add) {
#pragma GCC unroll 16
    for (int row = 0; row < kRows; ++row) {
      memcpy(sums[row], c + row * kStepBytes, sizeof sums[row]);
    }
  } else {
#pragma GCC unroll 16
    for (int row = 0; row < kRows; ++row) {
      sums[row][0] = sums[row][1] = Sums{};
    }
  }
  // a row's address is one of four bases and one of four offsets: what sixteen address registers can hold
  const char* fours[4] = {a, a, a, a};
  for (int four = 1; 4 * four < kRows; ++four) {
    fours[four] = a + 4 * four * a_stride;
  }
  const int64_t offsets[4] = {0, a_stride, 2 * a_stride, 3 * a_stride};
#pragma GCC unroll 4
  for (int64_t step = 0; step < steps; ++step) {
    Ints b[2];
    memcpy(b, panel + step * kStepBytes, sizeof b);
    // the same step of what comes next in memory: this panel's next part, or the next panel
    const uintptr_t ahead = reinterpret_cast<uintptr_t>(panel) + (steps + step) * kStepBytes;  // maybe nobody's memory
    __builtin_prefetch(reinterpret_cast<const void*>(ahead), 0, 2);
    __builtin_prefetch(reinterpret_cast<const void*>(ahead + 64), 0, 2);
#pragma GCC unroll 16
    for (int row = 0; row < kRows; ++row) {
      const char* const word = fours[row / 4] + offsets[row % 4] + 4 * step;
      sums[row][0] = Kind::dot(sums[row][0], word, b[0]);
      sums[row][1] = Kind::dot(sums[row][1], word, b[1]);
    }
  }
#pragma GCC unroll 16
  for (int row = 0; row < kRows; ++row) {
    memcpy(c + row * kStepBytes, sums[row], sizeof sums[row]);
  }
}

template <class Kind, int kRows = kTileRows>
void tile_of(int64_t rows, const char* a, int64_t a_stride, const char* panel, int64_t steps, bool add, char* c) {
  if constexpr (kRows > 1) {
    if (rows < kRows) {
      return tile_of<Kind, kRows - 1>(rows, a, a_stride, panel, steps, add, c);
    }
  }
  tile<Kind, kRows>(a, a_stride, panel, steps, add, c);
}

// What a product reads: rows of whole steps, `stride` bytes apart.
struct Operand {
  const char* data;
  int64_t stride;
};

constexpr int64_t kStripTiles = 8;           // whose sums are kept while their panel goes by
constexpr int64_t kStripBytes = 512 * 1024;  // of rows, half a second-level cache
constexpr int64_t kStepsAtOnce = 256;        // 32 KB of a panel, which then stays in the first cache

// Calls finish(row, column, rows, c) for blocks of at most kTileRows rows and one panel: `c` holds the sums of
// a[row .. row + rows] times panel column / kPanel, kPanel in a row. A strip of rows stays in the second cache while
// all panels go by; a part of a panel stays in the first while the strip does.
template <class Kind, class Finish>
inline void multiply(
    Operand a, const void* weight, int64_t steps, int64_t rows, int64_t first_panel, int64_t last_panel,
    const Finish& finish) {
  constexpr int64_t kSumsInAPanel = kPanel / kLanes;
  alignas(64) typename Kind::Sums sums[kStripTiles * kTileRows * kSumsInAPanel];
  const int64_t parts = (steps + kStepsAtOnce - 1) / kStepsAtOnce;
  const int64_t tiles = (rows + kTileRows - 1) / kTileRows;
  const int64_t fitting = kStripBytes / (kTileRows * a.stride);
  const int64_t most = fitting < 1 ? 1 : fitting < kStripTiles ? fitting : kStripTiles;
  const int64_t strips = (tiles + most - 1) / most;
  for (int64_t strip = 0; strip < strips; ++strip) {
    const int64_t first_tile = strip * tiles / strips, last_tile = (strip + 1) * tiles / strips;
    const int64_t first_row = first_tile * rows / tiles;  // tiles are of even size: none is slow for being small
    for (int64_t panel = first_panel; panel < last_panel; ++panel) {
      const char* const b = static_cast<const char*>(weight) + panel * steps * kStepBytes;
      for (int64_t part = 0; part < parts; ++part) {
        const int64_t step = part * steps / parts, count = (part + 1) * steps / parts - step;
        for (int64_t index = first_tile; index < last_tile; ++index) {
          const int64_t row = index * rows / tiles, rows_here = (index + 1) * rows / tiles - row;
          typename Kind::Sums* const c = sums + (row - first_row) * kSumsInAPanel;
          const char* const from = a.data + row * a.stride + 4 * step;
          for (int64_t column = 0; column < kPanel * 4; column += kTileColumns * 4) {
            tile_of<Kind>(
                rows_here, from, a.stride, b + step * kStepBytes + column, count, part > 0,
                reinterpret_cast<char*>(c) + column);
          }
          if (part == parts - 1) {
            finish(row, panel * kPanel, rows_here, c);
          }
        }
      }
    }
  }
}

// Sums of one vector of channels -> float32, with scale and bias.
template <class Kind>
struct Affine {
  Floats scale;
  Floats bias;
  Ints shift;  // 128 times the sum of the weights

  Affine(const Linear& linear, float input_scale, int64_t column) : scale{}, bias(load(linear.bias + column)), shift{} {
    if constexpr (Kind::type == Type::int8) {
      scale = load(linear.scale + column) * input_scale;
      shift = 128 * load(linear.sums + column);
    }
  }

  Floats operator()(typename Kind::Sums sum) const {
    if constexpr (Kind::type == Type::int8) {
      return __builtin_convertvector(sum - shift, Floats) * scale + bias;
    } else {
      return sum + bias;
    }
  }
};

// store(row, column, value) for every vector of W a + bias, in panels [first_panel, last_panel).
template <class Kind, class Store>
inline void apply(
    const Linear& linear, Operand a, float input_scale, int64_t rows, int64_t first_panel, int64_t last_panel,
    const Store& store_vector) {
  multiply<Kind>(
      a, linear.weight, linear.steps, rows, first_panel, last_panel,
      [&](int64_t row, int64_t column, int64_t count, const typename Kind::Sums* sums) {
        for (int64_t j = 0; j < kPanel / kLanes; ++j) {
          const Affine<Kind> affine(linear, input_scale, column + j * kLanes);
          for (int64_t i = 0; i < count; ++i) {
            store_vector(row + i, column + j * kLanes, affine(sums[i * (kPanel / kLanes) + j]));
          }
        }
      });
}

// Writes float32 as what a kind of product reads: itself, rounded to bfloat16, or bytes (u - 128) * scale.
template <class Kind>
struct Writer {
  float per_scale;  // 1 / scale, of bytes

  void operator()(typename Kind::Element* place, Floats value) const {
    if constexpr (Kind::type == Type::int8) {
      value = larger_of(smaller_of(value * per_scale, broadcast(127.0f)), broadcast(-127.0f));
      const Ints rounded = as_ints(value + kRounder) - (0x4B400000 - 128);
      const Bytes bytes = __builtin_convertvector(rounded, Bytes);
      memcpy(place, &bytes, sizeof bytes);
    } else {
      store(place, value);
    }
  }

  void operator()(typename Kind::Element* place, float value) const {
    if constexpr (Kind::type == Type::int8) {
      value = value * per_scale;
      value = value < 127.0f ? value : 127.0f;
      value = value > -127.0f ? value : -127.0f;
      const float shifted = value + kRounder;
      int32_t bits;
      memcpy(&bits, &shifted, sizeof bits);
      *place = static_cast<uint8_t>(bits - (0x4B400000 - 128));
    } else {
      store(place, value);
    }
  }
};

template <class Kind>
inline Writer<Kind> writer(float scale) {
  return {Kind::type == Type::int8 ? 1.0f / scale : 1.0f};
}

}  // namespace
}  // namespace albert_fast::ALBERT_FAST_ISA
