// Vectors of floats as GCC and Clang both spell them, and the tile that fills the registers of each machine.
//
// The same source is compiled once per instruction set; the Python side picks the library that the CPU runs.
// LANES floats fill a register. The inner kernel of every matrix product holds ROWS x 2 registers of sums, so
// ROWS is what the register file leaves room for: 32 registers with AVX-512 and NEON, 16 otherwise.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
constexpr int LANES = 16, ROWS = 14;
#elif defined(__AVX2__)
constexpr int LANES = 8, ROWS = 6;
#elif defined(__aarch64__)
constexpr int LANES = 4, ROWS = 12;
#else
constexpr int LANES = 4, ROWS = 6;
#endif
constexpr int PANEL = 2 * LANES;  // columns of a tile
constexpr int BLOCK = 16;         // values of k that lie side by side in the broadcast operand: a cache line

typedef float Vec __attribute__((vector_size(LANES * 4)));
typedef float VecAnywhere __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int32_t VecInt __attribute__((vector_size(LANES * 4)));
typedef uint32_t VecBits __attribute__((vector_size(LANES * 4)));

static inline long up(long value, long multiple) { return (value + multiple - 1) / multiple * multiple; }

static inline Vec load(const float* from) { return (Vec) * (const VecAnywhere*)from; }
static inline void store(float* to, Vec value) { *(VecAnywhere*)to = (VecAnywhere)value; }
static inline Vec splat(float value) { return value - Vec{}; }  // x - 0 is x for all x, so this is a broadcast

static inline Vec load_some(const float* from, long count) {  // lanes from `count` on are 0
    if (count >= LANES) return load(from);
    float lanes[LANES] = {};
    if (count > 0) std::memcpy(lanes, from, count * sizeof(float));
    return load(lanes);
}

static inline void store_some(float* to, Vec value, long count) {
    if (count >= LANES) return store(to, value);
    float lanes[LANES];
    store(lanes, value);
    if (count > 0) std::memcpy(to, lanes, count * sizeof(float));
}
