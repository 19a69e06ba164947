// Norms over the last axis: one read of each value, one write.
#include <cmath>

#include "silu.h"
#include "simd.h"

namespace {

float squares(const float* row, long width) {
    Vec sums[2] = {};  // two, so that additions do not wait for each other
    for (long c = 0; c < width; c += 2 * LANES) {
        const Vec left = load_some(row + c, width - c), right = load_some(row + c + LANES, width - c - LANES);
        sums[0] += left * left, sums[1] += right * right;
    }
    float square = 0;
    for (int lane = 0; lane < LANES; ++lane) square += sums[0][lane] + sums[1][lane];
    return square;
}

}  // namespace

// y = residual + x / rms(x) * weight + bias. x, residual (or null), y: count x width; y may be x. weight, bias: width.
extern "C" int sana_rms_norm_add(const float* x, long count, long width, const float* weight, const float* bias,
                                 const float* residual, float eps, float* y, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long i = 0; i < count; ++i) {
        const float* row = x + i * width;
        const Vec factor = splat(1.0f / std::sqrt(squares(row, width) / width + eps));
        for (long c = 0; c < width; c += LANES) {
            const long rest = width - c;
            Vec value = load_some(row + c, rest) * factor * load_some(weight + c, rest) + load_some(bias + c, rest);
            if (residual) value += load_some(residual + i * width + c, rest);
            store_some(y + i * width + c, value, rest);
        }
    }
    return 0;
}

// y = silu(x / max(|x|, 1e-12) * weight) over the last axis. y: count x width, may be x. weight: width.
extern "C" int sana_norm_silu(const float* x, long count, long width, const float* weight, float* y, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long i = 0; i < count; ++i) {
        const float* row = x + i * width;
        const float length = std::sqrt(squares(row, width));
        const Vec factor = splat(1.0f / (length < 1e-12f ? 1e-12f : length));  // NaN stays NaN
        for (long c = 0; c < width; c += LANES) {
            const long rest = width - c;
            store_some(y + i * width + c, silu(load_some(row + c, rest) * factor * load_some(weight + c, rest)), rest);
        }
    }
    return 0;
}
