// The inner kernel: a tile of ROWS x PANEL sums in registers, one operand broadcast, the other in vectors.
//
// sums[i][j] += sum over k of broadcast(i, k) * vectors(k, j)
// broadcast operand: [k / BLOCK][ROWS][BLOCK], so that every address is a constant away from one pointer.
// vector operand: [k][PANEL]. Both are padded with zeros to a whole number of BLOCKs in k.
#pragma once

#include "turn.h"

typedef Vec Tile[ROWS][2];

constexpr long STRETCH = 256;  // sums of more terms are sums of such sums: an eighth of the rounding error at no cost

// k: a multiple of BLOCK.
static inline __attribute__((always_inline)) void multiply(Tile& total, const float* broadcast, const float* vectors, long k) {
    for (long start = 0; start < k; start += STRETCH) {
        const long stop = start + STRETCH < k ? start + STRETCH : k;
        Tile sums = {};
        for (long block = start; block < stop; block += BLOCK, broadcast += ROWS * BLOCK) {
            for (int step = 0; step < BLOCK; ++step, vectors += PANEL) {
                const Vec left = load(vectors), right = load(vectors + LANES);
#pragma GCC unroll 16
                for (int i = 0; i < ROWS; ++i) {
                    const Vec factor = splat(broadcast[i * BLOCK + step]);
                    sums[i][0] += factor * left;
                    sums[i][1] += factor * right;
                }
            }
        }
#pragma GCC unroll 16
        for (int i = 0; i < ROWS; ++i) total[i][0] += sums[i][0], total[i][1] += sums[i][1];
    }
}

// A tile of ROWS x PANEL sums to PANEL rows of `to`; writes up to LANES - 1 floats beyond the ROWS of each.
static inline void turn_tile(float* to, long stride, const Tile& sums) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half)
#pragma GCC unroll 4
        for (int first = 0; first < ROWS; first += LANES) {
            Vec square[LANES];
#pragma GCC unroll 16
            for (int i = 0; i < LANES; ++i) square[i] = first + i < ROWS ? sums[first + i][half] : Vec{};
            turn(square);
#pragma GCC unroll 16
            for (int i = 0; i < LANES; ++i) store(to + (half * LANES + i) * stride + first, square[i]);
        }
}
