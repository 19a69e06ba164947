// y = x W^T + b with W in 8 bits and x rounded to 8 bits row by row, or to 16 where 8 would not do.
//
// x, rounded, is the broadcast operand, and W, turned into panels by the thread that needs them, the vector
// operand: sums lie in registers as they will lie in y, and are scaled, gated and added on their way there.
// Before it is rounded a row may be normed and modulated. A row of 16 bits is two of 8: its high bytes go
// among the other rows, its low ones, which count 1/256, behind them all, and are added to what those gave.
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
constexpr int PLANES = 2;  // high and low bytes

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
constexpr int PLANES = 1;

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

// A row to whole numbers, 0 beyond k; the low bytes of 16 bits to a row of their own.
void levels_of(Level* to, Level* low_to, const float* y, long k, long padded, Rounded row) {
    const float inverse = row.scale > 0 ? 1 / row.scale : 0;
#if defined(__AVX512VNNI__)
    const __m512i middle = _mm512_set1_epi32(128);
    for (long j = 0; j < padded; j += LANES) {
        const long at = j / STEP * ROWS * STEP + j % STEP;
        const Vec value = load_some(y + j, k - j) * inverse;
        __m512i high = _mm512_cvtps_epi32((__m512)value);  // to the nearest
        if (row.wide) {
            const __m512i whole = _mm512_cvtps_epi32((__m512)(value * 256));
            high = _mm512_srai_epi32(_mm512_add_epi32(whole, middle), 8);
            const __m512i low = _mm512_sub_epi32(whole, _mm512_slli_epi32(high, 8));
            _mm_storeu_si128((__m128i*)(low_to + at), _mm512_cvtepi32_epi8(_mm512_add_epi32(low, middle)));
        }
        _mm_storeu_si128((__m128i*)(to + at), _mm512_cvtepi32_epi8(_mm512_add_epi32(high, middle)));
    }
#else
    (void)low_to;
    for (long j = 0; j < padded; ++j) {
        const float value = j < k ? y[j] * inverse : 0;
        to[j / STEP * ROWS * STEP + j % STEP] = row.wide ? std::nearbyint(value * 256) / 256 : std::nearbyint(value);
    }
#endif
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

// Where results go, and what becomes of them there.
struct Output {
    float* y;
    long n;
    const float *scale, *bias, *gate;
    bool add;
};

// A tile of sums to its place. rows: of y, and what each of them is multiplied with. again: more of the same rows.
inline __attribute__((always_inline)) void write(const Output& out, const Sum (&sums)[ROWS][2], long column, const int32_t* rows,
                                                 const float* of_rows, long height, bool again) {
    for (int half = 0; half < 2; ++half, column += LANES) {
        const long columns = out.n - column;
        const Vec scale = load_some(out.scale + column, columns);
        const Vec bias = out.bias && !again ? load_some(out.bias + column, columns) : Vec{};
        const Vec gate = out.gate ? load_some(out.gate + column, columns) : splat(1);
#pragma GCC unroll 16
        for (int i = 0; i < ROWS; ++i) {
            if (i >= height) break;
            float* to = out.y + rows[i] * out.n + column;
            Vec value = as_floats(sums[i][half]) * of_rows[i] * scale + bias;
            if (out.add || again) value = load_some(to, columns) + gate * value;
            store_some(to, value, columns);
        }
    }
}

}  // namespace

// x: m x k. gain, shift: k, to norm the rows with first, or null. w: n x k. scale: n. bias: n, or null.
// y: m x n, written; or, if `add`, added to, times gate: n, or null for 1. Returns 0, or 1 without memory.
extern "C" int sana_linear_int8(const float* x, long m, long k, const float* gain, const float* shift, float eps, const int8_t* w,
                                const float* scale, long n, const float* bias, float tolerance, float* y, int add,
                                const float* gate, int threads) {
    const long padded = up(k, STEP), words_of_panel = START + PANEL * padded / QUAD;
    const long panels = (n + PANEL - 1) / PANEL;
    const long most = std::max<long>(1, CACHE / (words_of_panel * 4));  // panels that a thread turns at once
    const long tasks = up((panels + most - 1) / most, threads);
    const long row_bytes = padded * sizeof(Level);
    const long chunk = std::max<long>(ROWS, X_BYTES / (PLANES * row_bytes) / ROWS * ROWS);
    const long room = PLANES * std::min(chunk, up(m, ROWS));  // rows of levels
    static thread_local Buffer levels_of_caller, rows_of_caller;
    Level* levels = (Level*)levels_of_caller.get(room * row_bytes / 4);
    float* of_rows = rows_of_caller.get(2 * room);  // by place in `levels`: what it is multiplied with
    if (!levels || !of_rows) return 1;
    int32_t* row_at = (int32_t*)(of_rows + room);  // and which row of x it comes from
    long places = 0;
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
            const long rows = std::min(chunk, m - start), high_places = up(rows, ROWS);
#pragma omp single
            places = high_places;
#pragma omp for schedule(dynamic, ROWS)
            for (long i = 0; i < rows; ++i) {
                if (!ready) continue;
                const auto at = [&](long place) { return levels + place / ROWS * ROWS * padded + place % ROWS * STEP; };
                const float* from = x + (start + i) * k;
                if (gain) norm(normed, from, k, gain, shift, eps), from = normed;
                const Rounded rounded = measure(from, k, tolerance);
                Level* low = nullptr;
                if (PLANES == 2 && rounded.wide) {
                    long place;
#pragma omp atomic capture
                    place = places++;
                    low = at(place), of_rows[place] = rounded.scale / 256, row_at[place] = start + i;
                }
                levels_of(at(i), low, from, k, padded, rounded);
                of_rows[i] = rounded.scale, row_at[i] = start + i;
            }
#pragma omp for schedule(dynamic)
            for (long task = 0; task < tasks; ++task) {
                if (!ready) continue;
                const long first = panels * task / tasks, last = panels * (task + 1) / tasks;
                for (long p = first; p < last; ++p)
                    panel_of(turned + (p - first) * words_of_panel, w + p * PANEL * k, std::min<long>(PANEL, n - p * PANEL), k, padded);
                for (long place = 0; place < places; place += ROWS) {
                    const bool again = place >= high_places;
                    const long height = std::min<long>(ROWS, (again ? places : rows) - place);
                    for (long p = first; p < last; ++p) {
                        const float* panel = turned + (p - first) * words_of_panel;
                        for (long i = 0; i < height; ++i) __builtin_prefetch(y + row_at[place + i] * n + p * PANEL, 1);
                        Sum sums[ROWS][2];
#pragma GCC unroll 16
                        for (int i = 0; i < ROWS; ++i) std::memcpy(sums[i], panel, sizeof sums[i]);
                        multiply_levels(sums, levels + place * padded, (const Factor*)(panel + START), padded);
                        write(out, sums, p * PANEL, row_at + place, of_rows + place, height, again);
                    }
                }
            }
        }
    }
    return failed;
}
