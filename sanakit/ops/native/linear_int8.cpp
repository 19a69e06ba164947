// y = x W^T + b with W in 8 bits and x rounded to 8 bits row by row, or to 16 where 8 would not do.
//
// As in linear.cpp, W is the broadcast operand and x, turned into panels once per call, the vector operand.
// Before it is rounded a row may be normed and modulated; what comes out may be gated and added to y. With
// VNNI four products of bytes are summed in one instruction, x as unsigned bytes (128 more than they are, which
// is taken off again: 128 times the sum of W's row). Elsewhere the same whole numbers are multiplied as floats.
#include <algorithm>
#include <cmath>

#include "memory.h"
#include "tile.h"

#if defined(__AVX512VNNI__)
#include <immintrin.h>
#endif

namespace {

constexpr long CACHE = 384 << 10;  // bytes of W that a thread works on: under half an L2 cache
constexpr long X_BYTES = 8 << 20;  // of panels in one go: stay in an L3 cache

#if defined(__AVX512VNNI__)
typedef uint8_t Level;       // of x in a panel
typedef int8_t Factor;       // of W in a block
constexpr long QUAD = 4;     // values of k that one instruction sums
constexpr long STEP = 64;    // values of k that lie side by side in a block: a cache line
constexpr int PLANES = 2;    // high and low bytes of 16 bits

inline VecInt add_products(VecInt sum, VecInt levels, VecInt factors) {
    return (VecInt)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)levels, (__m512i)factors);
}

// total[i][j] += unit * (sum over k of block(i, k) * panel(k, j) - offsets[i])
// panel: [k / 4][PANEL][4], block: [k / 64][ROWS][64].
inline __attribute__((always_inline)) void multiply_bytes(Tile& total, const Factor* block, const float* offsets, const Level* panel,
                                                          long k, float unit) {
    VecInt sums[ROWS][2] = {};
    for (long start = 0; start < k; start += STEP, block += ROWS * STEP)
        for (long at = 0; at < STEP; at += QUAD, panel += QUAD * PANEL) {
            VecInt left, right;
            std::memcpy(&left, panel, sizeof left), std::memcpy(&right, panel + QUAD * LANES, sizeof right);
#pragma GCC unroll 16
            for (int i = 0; i < ROWS; ++i) {
                int32_t four;
                std::memcpy(&four, block + i * STEP + at, 4);
                const VecInt factors = four - VecInt{};
                sums[i][0] = add_products(sums[i][0], left, factors);
                sums[i][1] = add_products(sums[i][1], right, factors);
            }
        }
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 2
        for (int half = 0; half < 2; ++half) total[i][half] += unit * (__builtin_convertvector(sums[i][half], Vec) - offsets[i]);
}
#else
typedef float Level;
typedef float Factor;
constexpr long QUAD = 1, STEP = BLOCK;
constexpr int PLANES = 1;  // floats hold 16 bits as they are
#endif

// A row as whole numbers: y = levels * scale, to 8 bits, or to 16 if 8 would add more noise than `tolerance`
// times the root mean square of y. The levels of 16 bits are 256 times as fine.
struct Rounded {
    float scale;
    bool wide;
};

Rounded measure(const float* y, long k, float tolerance) {
    Vec most = {}, squares = {};
    long j = 0;
    for (; j + LANES <= k; j += LANES) {
        const Vec value = load(y + j), magnitude = value < 0 ? -value : value;
        most = magnitude > most ? magnitude : most;
        squares += value * value;
    }
    float top = 0, square = 0;
    for (int i = 0; i < LANES; ++i) top = std::max(top, most[i]), square += squares[i];
    for (; j < k; ++j) top = std::max(top, std::fabs(y[j])), square += y[j] * y[j];
    const float scale = square <= 3e38f ? top / 127 : NAN;  // what is no number must not end as one
    return {scale, scale * scale * k > 12 * tolerance * tolerance * square};
}

// LayerNorm of a row with its own gain and shift.
void norm(float* to, const float* x, long k, const float* gain, const float* shift, float eps) {
    Vec sums = {};
    long j = 0;
    float sum = 0, square = 0;
    for (; j + LANES <= k; j += LANES) sums += load(x + j);
    for (int i = 0; i < LANES; ++i) sum += sums[i];
    for (; j < k; ++j) sum += x[j];
    const float mean = sum / k;
    Vec squares = {};
    for (j = 0; j + LANES <= k; j += LANES) {
        const Vec apart = load(x + j) - mean;
        squares += apart * apart;
    }
    for (int i = 0; i < LANES; ++i) square += squares[i];
    for (; j < k; ++j) square += (x[j] - mean) * (x[j] - mean);
    const float factor = 1 / std::sqrt(square / k + eps);
    for (j = 0; j < k; ++j) to[j] = (x[j] - mean) * factor * gain[j] + shift[j];
}

// Rows to whole numbers, [plane][PANEL][padded] levels as the product takes them; 0 beyond k.
void levels_of(Level* to, long plane, const float* y, long k, long padded, Rounded row) {
    const float inverse = row.scale > 0 ? 1 / row.scale : 0;
#if defined(__AVX512VNNI__)
    const float finer = row.wide ? 256 * inverse : inverse;
    for (long j = 0; j < padded; j += LANES) {
        const __m512i whole = _mm512_cvtps_epi32((__m512)(load_some(y + j, k - j) * finer));  // to the nearest
        __m512i high = whole, low = _mm512_setzero_si512();
        if (row.wide) {
            high = _mm512_srai_epi32(_mm512_add_epi32(whole, _mm512_set1_epi32(128)), 8);
            low = _mm512_sub_epi32(whole, _mm512_slli_epi32(high, 8));
        }
        const __m512i middle = _mm512_set1_epi32(128);
        _mm_storeu_si128((__m128i*)(to + j), _mm512_cvtepi32_epi8(_mm512_add_epi32(high, middle)));
        _mm_storeu_si128((__m128i*)(to + plane + j), _mm512_cvtepi32_epi8(_mm512_add_epi32(low, middle)));
    }
#else
    for (long j = 0; j < padded; ++j) {
        const float value = j < k ? y[j] * inverse : 0;
        to[j] = row.wide ? std::nearbyint(value * 256) / 256 : std::nearbyint(value);
    }
#endif
}

// PANEL rows of levels, one after the other, to panels of vectors: squares of LANES x LANES words are turned.
void turn_levels(Level* to, const Level* rows, long padded) {
    const long words = padded / QUAD;
    for (int half = 0; half < 2; ++half)
        for (long j = 0; j < words; j += LANES) {
            Vec square[LANES];
#pragma GCC unroll 16
            for (int i = 0; i < LANES; ++i) square[i] = load((const float*)(rows + (half * LANES + i) * padded) + j);
            turn(square);
#pragma GCC unroll 16
            for (int i = 0; i < LANES; ++i) store((float*)to + (j + i) * PANEL + half * LANES, square[i]);
        }
}

// Rows of W to [padded / STEP][ROWS][STEP], and 128 times the sum of each.
void block_rows(Factor* to, float* offsets, const int8_t* w, long have, long k, long padded) {
    for (long i = 0; i < ROWS; ++i) {
        int32_t sum = 0;
        Factor* out = to + i * STEP;
        for (long start = 0; start < padded; start += STEP, out += ROWS * STEP) {
            const int8_t* from = w + i * k + start;
            const long count = i < have ? std::min(STEP, k - start) : 0;
            for (long j = 0; j < count; ++j) out[j] = from[j];
            for (long j = std::max<long>(count, 0); j < STEP; ++j) out[j] = 0;
            for (long j = 0; j < count; ++j) sum += from[j];
        }
        offsets[i] = 128.0f * sum;
    }
}

void product(Tile& tile, const Factor* block, const float* offsets, const Level* panel, long plane, bool wide, long padded) {
#if defined(__AVX512VNNI__)
    multiply_bytes(tile, block, offsets, panel, padded, 1);
    if (wide) multiply_bytes(tile, block, offsets, panel + plane, padded, 0x1p-8f);
#else
    (void)offsets, (void)plane, (void)wide;
    multiply(tile, block, panel, padded);
#endif
}

}  // namespace

// x: m x k. gain, shift: k, to norm the rows with first, or null. w: n x k. scale: n. bias: n, or null.
// y: m x n, written; or, if `add`, added to, times gate: n, or null for 1. Returns 0, or 1 without memory.
extern "C" int sana_linear_int8(const float* x, long m, long k, const float* gain, const float* shift, float eps, const int8_t* w,
                                const float* scale, long n, const float* bias, float tolerance, float* y, int add,
                                const float* gate, int threads) {
    const long unit = std::max<long>(STEP, QUAD * LANES);
    const long padded = up(k, unit), groups = (n + ROWS - 1) / ROWS;
    const long most = std::max<long>(1, CACHE / (ROWS * padded * long(sizeof(Factor))));
    const long tasks = up((groups + most - 1) / most, threads);
    const long plane = PANEL * padded, panel_size = PLANES * plane;  // levels
    const long chunk = std::max<long>(PANEL, X_BYTES / (panel_size * long(sizeof(Level))) * PANEL);
    const long room = std::min(chunk, up(m, PANEL));
    static thread_local Buffer panels_of_caller, rows_of_caller;
    float* memory = panels_of_caller.get(room / PANEL * panel_size * sizeof(Level) / 4);
    float* scales = rows_of_caller.get(2 * room);
    if (!memory || !scales) return 1;
    Level* panels = (Level*)memory;
    float* wide = scales + room;  // by panel: whether any row is
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        static thread_local Buffer blocks_of_thread, results_of_thread, rows_of_thread;
        const long width = most * ROWS + LANES;
        Factor* blocks = (Factor*)blocks_of_thread.get(most * ROWS * padded * sizeof(Factor) / 4);
        float* results = results_of_thread.get(PANEL * width + most * ROWS);
        float* normed = rows_of_thread.get(padded + panel_size * sizeof(Level) / 4);
        const bool ready = blocks && results && normed;
        failed |= !ready;
        float* offsets = results + PANEL * width;
        Level* levels = (Level*)(normed + padded);
        for (long start = 0; start < m; start += chunk) {
            const long rows = std::min(chunk, m - start), count = (rows + PANEL - 1) / PANEL;
#pragma omp for schedule(dynamic)
            for (long p = 0; p < count; ++p) {
                if (!ready) continue;
                bool any = false;
                for (long i = 0; i < PANEL; ++i) {
                    const long row = start + p * PANEL + i;
                    const float* from = x + row * k;
                    Rounded rounded = {0, false};
                    if (row < m && gain) norm(normed, from, k, gain, shift, eps), from = normed;
                    if (row < m) rounded = measure(from, k, tolerance);
                    levels_of(levels + i * padded, plane, row < m ? from : normed, row < m ? k : 0, padded, rounded);
                    scales[p * PANEL + i] = rounded.scale;
                    any |= rounded.wide;
                }
                wide[p] = any;
                for (int i = 0; i < (any ? PLANES : 1); ++i) turn_levels(panels + p * panel_size + i * plane, levels + i * plane, padded);
            }
#pragma omp for schedule(dynamic)
            for (long task = 0; task < tasks; ++task) {
                if (!ready) continue;
                const long first = groups * task / tasks, last = groups * (task + 1) / tasks;
                for (long g = first; g < last; ++g)
                    block_rows(blocks + (g - first) * ROWS * padded, offsets + (g - first) * ROWS, w + g * ROWS * k,
                               std::min<long>(ROWS, n - g * ROWS), k, padded);
                const long column = first * ROWS, columns = std::min(last * ROWS, n) - column;
                for (long p = 0; p < count; ++p) {
                    for (long g = first; g < last; ++g) {
                        Tile tile = {};
                        product(tile, blocks + (g - first) * ROWS * padded, offsets + (g - first) * ROWS, panels + p * panel_size, plane,
                                wide[p] != 0, padded);
                        turn_tile(results + (g - first) * ROWS, width, tile);
                    }
                    const long height = std::min<long>(PANEL, rows - p * PANEL);
                    for (long j = 0; j < height; ++j) {
                        float* to = y + (start + p * PANEL + j) * n + column;
                        const float* from = results + j * width;
                        const float of_row = scales[p * PANEL + j];
                        for (long i = 0; i < columns; ++i) {
                            const float value = from[i] * of_row * scale[column + i] + (bias ? bias[column + i] : 0.0f);
                            to[i] = !add ? value : gate ? to[i] + gate[column + i] * value : to[i] + value;
                        }
                    }
                }
            }
        }
    }
    return failed;
}
