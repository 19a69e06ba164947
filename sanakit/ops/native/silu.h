// x * sigmoid(x) on vectors.
#pragma once

#include <initializer_list>
#include <limits>

#include "simd.h"

// e^x: 2^n times a Taylor polynomial on |r| <= ln(2)/2, whose rest is 5e-9 of it; infinite beyond 88, e^-87 below -87.
static inline Vec exponential(Vec x) {
    const auto beyond = x > splat(88.0f);
    x = x < splat(-87.0f) ? splat(-87.0f) : x;
    const Vec shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the rounded integer is in the low bits
    const Vec n = shifted - 12582912.0f;
    const Vec r = x - n * 0.693359375f + n * 2.12194440e-4f;
    Vec p = 1.0f / 5040 + Vec{};
    for (const float factor : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) p = p * r + factor;
    const VecBits bits = (VecBits)p + (((VecBits)shifted - 0x4b400000) << 23);
    return beyond ? splat(std::numeric_limits<float>::infinity()) : (Vec)bits;
}

// NaN where x is NaN or -infinity, as in torch.
static inline Vec silu(Vec x) { return x / (1.0f + exponential(-x)); }
