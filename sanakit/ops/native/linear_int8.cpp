// y = x W^T + b with W in 8 bits and x rounded to 8 bits row by row; values of x that stand out have 16.
//
// x, rounded, is the broadcast operand, and W, turned into panels by the thread that needs them, the vector
// operand: sums lie in registers as they will lie in y, and are scaled, gated and added on their way there.
// Before it is rounded a row may be normed and modulated. Where values of a row stand out, the others set its
// scale, and the high bytes of those few are multiplied by themselves.
// With VNNI four products of bytes are summed in one instruction, x as unsigned bytes (128 more than they are,
// which is taken off again: 128 times the sum of W's row). Elsewhere the same whole numbers are multiplied as
// floats, which hold 16 bits as they are.
#include <algorithm>
#include <cmath>

#include "memory.h"
#include "tile.h"

#if defined(__AVX512VNNI__)
#include <immintrin.h>
#endif

namespace {

constexpr long CACHE = 384 << 10;  // bytes of W that a thread works on: under half an L2 cache
constexpr long X_BYTES = 8 << 20;  // of rounded x in one go: stays in an L3 cache

// Rows of x, in groups of ROWS: [padded / STEP][ROWS][STEP] levels. Rows of W, in panels of PANEL:
// [padded / QUAD][PANEL][QUAD] factors, beginning with the sums that a tile begins with.
#if defined(__AVX512VNNI__)
typedef uint8_t Level;
typedef int8_t Factor;
typedef VecInt Sum;
constexpr long QUAD = 4;   // values of k that one instruction sums
constexpr long STEP = 64;  // values of k that lie side by side in a group: a cache line

inline Sum add_products(Sum sum, __m512i levels, __m512i factors) {
    return (Sum)_mm512_dpbusd_epi32((__m512i)sum, levels, factors);
}

inline Vec words(const int8_t* w, long count) {
    return (Vec)_mm512_maskz_loadu_epi8(count >= STEP ? ~0ull : (1ull << count) - 1, w);
}

inline Sum start_of(Sum start, Vec factors) {  // what 128 too much in each level will add is taken off in advance
    return start - add_products(Sum{}, _mm512_set1_epi8(-128), (__m512i)factors);
}

inline __attribute__((always_inline)) void multiply_levels(Sum (&sums)[ROWS][2], const Level* group, const Factor* panel, long padded) {
    for (long start = 0; start < padded; start += STEP, group += ROWS * STEP)
        for (long at = 0; at < STEP; at += QUAD, panel += QUAD * PANEL) {
            __m512i left, right;
            std::memcpy(&left, panel, sizeof left), std::memcpy(&right, panel + QUAD * LANES, sizeof right);
#pragma GCC unroll 16
            for (int i = 0; i < ROWS; ++i) {
                int32_t four;
                std::memcpy(&four, group + i * STEP + at, 4);
                const __m512i levels = _mm512_set1_epi32(four);
                sums[i][0] = add_products(sums[i][0], levels, left);
                sums[i][1] = add_products(sums[i][1], levels, right);
            }
        }
}

inline Vec as_floats(Sum sum) { return __builtin_convertvector(sum, Vec); }
#else
typedef float Level;
typedef float Factor;
typedef Vec Sum;
constexpr long QUAD = 1, STEP = BLOCK;

inline Vec words(const int8_t* w, long count) {
    Vec floats = {};
    for (long j = 0; j < std::min<long>(count, LANES); ++j) floats[j] = w[j];
    return floats;
}

inline Sum start_of(Sum start, Vec) { return start; }

inline __attribute__((always_inline)) void multiply_levels(Sum (&sums)[ROWS][2], const Level* group, const Factor* panel, long padded) {
    multiply(sums, group, panel, padded);
}

inline Vec as_floats(Sum sum) { return sum; }
#endif
constexpr long START = PANEL;  // words at the beginning of a panel

// The high byte of a value that stands out, where its product with W is to be found.
struct Outlier {
    uint32_t at;     // in a panel: the first factor of its QUAD
    uint32_t level;  // 0..255, in its place of four bytes
    int32_t sign;    // 0, or -1 where it is to be taken off
};
constexpr float MOST = 65000;  // levels of an outlier; a little under 255 * 256
constexpr int PASSES = 3;      // that look for outliers; each finds at most k / outlying^2 of them

// The scale of a row's levels, y = level * scale: so that all have 8 bits, or, if the largest value is more
// than `outlying` times the root mean square, those that are not outliers beside the rest.
float scale_of(const float* y, long k, float outlying) {
    float bound = INFINITY, top = 0;
    for (int pass = 0; pass < PASSES; ++pass) {
        Vec most = {}, squares = {};
        for (long j = 0; j < k; j += LANES) {
            const Vec value = load_some(y + j, k - j), magnitude = value < 0 ? -value : value;
            most = magnitude > most ? magnitude : most;
            squares += magnitude > bound ? Vec{} : value * value;
        }
        float square = 0;
        for (int i = 0; i < LANES; ++i) top = std::max(top, most[i]), square += squares[i];
        if (!(square <= 3e38f)) return NAN;  // what is no number must not end as one
        bound = outlying * std::sqrt(square / k);
        if (pass == 0 && (top <= bound || square < 1e-30f)) return top / 127;  // squares that vanish tell nothing
    }
    const float rounded_up = bound / 127 * (1 + 0x1p-7f);  // to 8 bits: the same in whatever order squares are summed
    uint32_t bits;
    std::memcpy(&bits, &rounded_up, 4);
    bits &= 0xffff0000;
    float scale;
    std::memcpy(&scale, &bits, 4);
    return std::max(scale, top / MOST);
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

// A row to whole numbers, 0 beyond k. Returns how many of them are outliers: at most `room`.
long levels_of(Level* to, Outlier* found, long room, const float* y, long k, long padded, float scale) {
    const float inverse = scale > 1e-37f ? 1 / scale : 0;
    long count = 0;
#if defined(__AVX512VNNI__)
    const __m512i middle = _mm512_set1_epi32(128);
    for (long j = 0; j < padded; j += LANES) {
        const __m512i whole = _mm512_cvtps_epi32((__m512)(load_some(y + j, k - j) * inverse));  // to the nearest
        const __m512i shifted = _mm512_add_epi32(whole, middle);
        _mm_storeu_si128((__m128i*)(to + j / STEP * ROWS * STEP + j % STEP), _mm512_cvtepi32_epi8(shifted));  // its low byte
        const __m512i high = _mm512_srai_epi32(shifted, 8);
        uint32_t some = inverse > 0 ? _mm512_test_epi32_mask(high, high) : 0;
        if (!some) continue;
        int32_t bytes[LANES];
        std::memcpy(bytes, &high, sizeof bytes);
        for (; some && count < room; some &= some - 1) {
            const int i = __builtin_ctz(some);
            const uint32_t level = std::min(std::abs(bytes[i]), 255);
            found[count++] = {uint32_t((j + i) / QUAD * QUAD * PANEL), level << 8 * (i % QUAD), bytes[i] < 0 ? -1 : 0};
        }
    }
#else
    (void)found, (void)room;
    for (long j = 0; j < padded; ++j) to[j / STEP * ROWS * STEP + j % STEP] = j < k ? std::nearbyint(y[j] * inverse) : 0;
#endif
    return count;
}

// At most PANEL rows of W, `have` of them, to a panel: squares of LANES x LANES words are turned.
void panel_of(float* to, const int8_t* w, long have, long k, long padded) {
    for (int half = 0; half < 2; ++half) {
        long rows[LANES];  // where there are no more, the last again: what comes of it is not written
        for (int i = 0; i < LANES; ++i) rows[i] = std::min<long>(half * LANES + i, have - 1);
        float* words_to = to + START + half * LANES;
        Sum start = {};
        for (long j = 0; j < padded; j += LANES * QUAD, words_to += LANES * PANEL) {
            Vec square[LANES];
#pragma GCC unroll 16
            for (int i = 0; i < LANES; ++i) square[i] = words(w + rows[i] * k + j, k - j);
            turn(square);
#pragma GCC unroll 16
            for (int i = 0; i < LANES; ++i) start = start_of(start, square[i]), store(words_to + i * PANEL, square[i]);
        }
        std::memcpy(to + half * LANES, &start, sizeof start);
    }
}

// What 256 times the high bytes of a row's outliers add to its sums.
inline __attribute__((always_inline)) void add_outliers(Vec (&sums)[2], const Outlier* outliers, long count, const Factor* panel) {
#if defined(__AVX512VNNI__)
    Sum high[2] = {};
    for (long o = 0; o < count; ++o) {
        const __m512i level = _mm512_set1_epi32(outliers[o].level);
        const Sum sign = outliers[o].sign - Sum{};
        for (int half = 0; half < 2; ++half) {
            __m512i factors;
            std::memcpy(&factors, panel + outliers[o].at + half * QUAD * LANES, sizeof factors);
            high[half] += (add_products(Sum{}, level, factors) ^ sign) - sign;
        }
    }
    for (int half = 0; half < 2; ++half) sums[half] += 256 * as_floats(high[half]);
#else
    (void)sums, (void)outliers, (void)count, (void)panel;
#endif
}

// Where results go, and what becomes of them there.
struct Output {
    float* y;
    long n;
    const float *scale, *bias, *gate;
    bool add;
};

// The rows of a tile to their place in y, whose columns begin at `column`.
inline __attribute__((always_inline)) void write(const Output& out, const Vec* sums, long row, long column, float of_row) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half, column += LANES) {
        const long columns = out.n - column;
        float* to = out.y + row * out.n + column;
        Vec value = sums[half] * of_row * load_some(out.scale + column, columns);
        if (out.bias) value += load_some(out.bias + column, columns);
        if (out.gate) value *= load_some(out.gate + column, columns);
        if (out.add) value += load_some(to, columns);
        store_some(to, value, columns);
    }
}

}  // namespace

// x: m x k. gain, shift: k, to norm the rows with first, or null. w: n x k. scale: n. bias: n, or null.
// y: m x n, written; or, if `add`, added to, times gate: n, or null for 1. outlying: see `scale_of`; at least 8.
// Returns 0, or 1 without memory.
extern "C" int sana_linear_int8(const float* x, long m, long k, const float* gain, const float* shift, float eps, const int8_t* w,
                                const float* scale, long n, const float* bias, float outlying, float* y, int add,
                                const float* gate, int threads) {
    const long padded = up(k, STEP), words_of_panel = START + PANEL * padded / QUAD;
    const long panels = (n + PANEL - 1) / PANEL;
    const long most = std::max<long>(1, CACHE / (words_of_panel * 4));  // panels that a thread turns at once
    const long tasks = up((panels + most - 1) / most, threads);
    const long row_bytes = padded * sizeof(Level);
    const long chunk = std::max<long>(ROWS, X_BYTES / row_bytes / ROWS * ROWS);
    const long room = std::min(chunk, up(m, ROWS));
    const long outliers_of_row = padded / 16;  // PASSES / outlying^2 is less
    static thread_local Buffer levels_of_caller, rows_of_caller, outliers_of_caller;
    Level* levels = (Level*)levels_of_caller.get(room * row_bytes / 4);
    float* of_rows = rows_of_caller.get(2 * room);
    Outlier* outliers = (Outlier*)outliers_of_caller.get(room * outliers_of_row * sizeof(Outlier) / 4);
    if (!levels || !of_rows || !outliers) return 1;
    int32_t* counts = (int32_t*)(of_rows + room);  // of outliers
    const Output out = {y, n, scale, bias, gate, add != 0};
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        static thread_local Buffer panels_of_thread, row_of_thread;
        float* turned = panels_of_thread.get(most * words_of_panel);
        float* normed = row_of_thread.get(padded);
        const bool ready = turned && normed;
        failed |= !ready;
        for (long start = 0; start < m; start += chunk) {
            const long rows = std::min(chunk, m - start);
#pragma omp for schedule(dynamic, ROWS)
            for (long i = 0; i < rows; ++i) {
                if (!ready) continue;
                const float* from = x + (start + i) * k;
                if (gain) norm(normed, from, k, gain, shift, eps), from = normed;
                of_rows[i] = scale_of(from, k, outlying);
                Level* to = levels + i / ROWS * ROWS * padded + i % ROWS * STEP;
                counts[i] = levels_of(to, outliers + i * outliers_of_row, outliers_of_row, from, k, padded, of_rows[i]);
            }
#pragma omp for schedule(dynamic)
            for (long task = 0; task < tasks; ++task) {
                if (!ready) continue;
                const long first = panels * task / tasks, last = panels * (task + 1) / tasks;
                for (long p = first; p < last; ++p)
                    panel_of(turned + (p - first) * words_of_panel, w + p * PANEL * k, std::min<long>(PANEL, n - p * PANEL), k, padded);
                for (long group = 0; group < rows; group += ROWS)
                    for (long p = first; p < last; ++p) {
                        const float* panel = turned + (p - first) * words_of_panel;
                        const Factor* factors = (const Factor*)(panel + START);
                        const long height = std::min<long>(ROWS, rows - group);
                        for (long i = 0; i < height; ++i) __builtin_prefetch(y + (start + group + i) * n + p * PANEL, 1);
                        Sum sums[ROWS][2];
#pragma GCC unroll 16
                        for (int i = 0; i < ROWS; ++i) std::memcpy(sums[i], panel, sizeof sums[i]);
                        multiply_levels(sums, levels + group * padded, factors, padded);
                        Vec results[ROWS][2];
#pragma GCC unroll 16
                        for (int i = 0; i < ROWS; ++i) results[i][0] = as_floats(sums[i][0]), results[i][1] = as_floats(sums[i][1]);
                        for (long i = 0; i < height; ++i) {
                            const long row = group + i;
                            if (counts[row]) add_outliers(results[i], outliers + row * outliers_of_row, counts[row], factors);
                            write(out, results[i], start + row, p * PANEL, of_rows[row]);
                        }
                    }
            }
        }
    }
    return failed;
}
