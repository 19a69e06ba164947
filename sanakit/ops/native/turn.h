// Transpose squares of LANES x LANES floats in registers: log2(LANES) rounds that swap half of each pair of rows.
#pragma once

#include <utility>

#include "simd.h"

// Round s: of rows i and i + s, the lanes with bit s set in the one change places with those without in the other.
template <int s, int... l>
static inline void swap_lanes(Vec& a, Vec& b, std::integer_sequence<int, l...>) {
#if defined(__clang__)
    const Vec low = __builtin_shufflevector(a, b, ((l & s) ? LANES + l - s : l)...);
    const Vec high = __builtin_shufflevector(a, b, ((l & s) ? LANES + l : l + s)...);
#else
    const Vec low = __builtin_shuffle(a, b, VecInt{((l & s) ? LANES + l - s : l)...});
    const Vec high = __builtin_shuffle(a, b, VecInt{((l & s) ? LANES + l : l + s)...});
#endif
    a = low, b = high;
}

template <int s = LANES / 2>
static inline __attribute__((always_inline)) void turn(Vec (&rows)[LANES]) {
    if constexpr (s > 0) {
#pragma GCC unroll 16
        for (int i = 0; i < LANES; ++i)
            if (!(i & s)) swap_lanes<s>(rows[i], rows[i | s], std::make_integer_sequence<int, LANES>{});
        turn<s / 2>(rows);
    }
}
