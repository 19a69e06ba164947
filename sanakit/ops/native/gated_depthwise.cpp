// value * silu(gate) of the depthwise 3x3 convolution of silu(x): the middle of a Mix-FFN in one pass.
//
// A task takes a strip of rows and a run of channels: it applies the first SiLU once to every value, into a
// ring of three rows that stays in the second-level cache, and nothing is written but the result.
#include <algorithm>

#include "memory.h"
#include "silu.h"

namespace {

constexpr long RUN = 128;   // channels of each half that a task takes
constexpr long AHEAD = 2;   // columns: from one to the next is too far for the CPU to foresee
constexpr long STRIP = 16;  // rows of the result that it takes

inline Vec convolve(const float* const (&rows)[3], long column, long width, const Vec (&taps)[9], Vec sum) {
#pragma GCC unroll 3
    for (int i = 0; i < 3; ++i)
#pragma GCC unroll 3
        for (int j = 0; j < 3; ++j) sum += load(rows[i] + (column + j) * width) * taps[i * 3 + j];
    return sum;
}

}  // namespace

// x: batch x rows x columns x 2 half. w: 9 x 2 half. bias: 2 half, or null.
// y: batch x rows less neighbours x columns x half. Returns 0, or 1 without memory.
extern "C" int sana_gated_depthwise(const float* x, long batch, long rows, long columns, long half, int above, int below,
                                    const float* w, const float* bias, float* y, int threads) {
    const long height = rows - above - below, strips = (height + STRIP - 1) / STRIP, runs = (half + RUN - 1) / RUN;
    const long row_size = (columns + 2) * 2 * RUN;  // of the ring: a column of zeros on both sides
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        static thread_local Buffer ring_of_thread;
        float* ring = ring_of_thread.get(3 * row_size);
        failed |= ring == nullptr;
#pragma omp for schedule(dynamic)
        for (long task = 0; task < batch * strips * runs; ++task) {
            if (!ring) continue;
            const long run = task % runs, strip = task / runs % strips, picture = task / runs / strips;
            const long channel = run * RUN, channels = std::min(RUN, half - channel), first = strip * STRIP;
            const long last = std::min(height, first + STRIP);
            for (long row = first - 1; row <= last; ++row) {  // the input's row that comes in
                float* to = ring + (row + 3) % 3 * row_size;
                const bool inside = row + above >= 0 && row + above < rows;
                std::memset(to, 0, (inside ? 2 * RUN : row_size) * sizeof(float));
                std::memset(to + row_size - 2 * RUN, 0, 2 * RUN * sizeof(float));
                if (inside)
                    for (long column = 0; column < columns; ++column) {
                        const float* from = x + (((picture * rows + row + above) * columns) + column) * 2 * half + channel;
                        float* at = to + (column + 1) * 2 * RUN;
                        const float* ahead = from + AHEAD * 2 * half;
                        for (long c = 0; c < channels; c += LANES) {
                            __builtin_prefetch(ahead + c), __builtin_prefetch(ahead + half + c);
                            store(at + c, silu(load_some(from + c, channels - c)));
                            store(at + RUN + c, silu(load_some(from + half + c, channels - c)));
                        }
                    }
                if (row <= first) continue;
                const float* const rows_of_ring[3] = {ring + (row + 1) % 3 * row_size, ring + (row + 2) % 3 * row_size, to};
                for (long c = 0; c < channels; c += LANES) {
                    const long count = channels - c, at = channel + c;
                    const float* const values[3] = {rows_of_ring[0] + c, rows_of_ring[1] + c, rows_of_ring[2] + c};
                    const float* const gates[3] = {values[0] + RUN, values[1] + RUN, values[2] + RUN};
                    Vec value_taps[9], gate_taps[9];
                    for (int tap = 0; tap < 9; ++tap) {
                        value_taps[tap] = load_some(w + tap * 2 * half + at, count);
                        gate_taps[tap] = load_some(w + tap * 2 * half + half + at, count);
                    }
                    const Vec value_bias = bias ? load_some(bias + at, count) : Vec{};
                    const Vec gate_bias = bias ? load_some(bias + half + at, count) : Vec{};
                    float* out = y + ((picture * height + row - 1) * columns) * half + at;
                    for (long column = 0; column < columns; ++column) {
                        const Vec value = convolve(values, column, 2 * RUN, value_taps, value_bias);
                        const Vec gate = convolve(gates, column, 2 * RUN, gate_taps, gate_bias);
                        store_some(out + column * half, value * silu(gate), count);
                    }
                }
            }
        }
    }
    return failed;
}
