// y = x W^T + b with W read as its file stores it.
//
// W is the broadcast operand: rows of it are copied (and 16-bit ones widened) into blocks that stay in the
// second-level cache, which needs no transposition. x is the vector operand: it is small beside W, so it is
// the one that is transposed, once per call, into panels of PANEL rows. A tile comes out with x's rows along
// its vectors and is turned on its way to memory.
#include <algorithm>

#include "memory.h"
#include "tile.h"

namespace {

constexpr long CACHE = 384 << 10;  // bytes of widened W that a thread works on: under half an L2 cache
constexpr long X_BYTES = 8 << 20;  // of transposed x in one go: stays in an L3 cache

template <Stored stored>
void block_rows(float* to, const void* w, long row, long count, long k, long padded) {  // to [padded / BLOCK][ROWS][BLOCK]
    for (long i = 0; i < ROWS; ++i) {
        float* out = to + i * BLOCK;
        if (i >= count) {
            for (long block = 0; block < padded; block += BLOCK, out += ROWS * BLOCK) std::memset(out, 0, BLOCK * 4);
            continue;
        }
        const long start = (row + i) * k;
        long block = 0;
        for (; block + BLOCK <= k; block += BLOCK, out += ROWS * BLOCK)
            for (int j = 0; j < BLOCK; ++j) out[j] = widen(w, start + block + j, stored);
        if (block < padded)
            for (int j = 0; j < BLOCK; ++j) out[j] = block + j < k ? widen(w, start + block + j, stored) : 0.0f;
    }
}

// x: rows of k floats, at most PANEL of them, to [padded][PANEL]
void turn_rows(float* to, const float* x, long rows, long k, long padded) {
    for (int half = 0; half < 2; ++half, to += LANES, x += LANES * k, rows -= LANES) {
        long j = 0;
        for (; j + LANES <= k; j += LANES) {
            Vec square[LANES];
#pragma GCC unroll 16
            for (int i = 0; i < LANES; ++i) square[i] = i < rows ? load(x + i * k + j) : Vec{};
            turn(square);
#pragma GCC unroll 16
            for (int i = 0; i < LANES; ++i) store(to + (j + i) * PANEL, square[i]);
        }
        for (; j < padded; ++j)
            for (int i = 0; i < LANES; ++i) to[j * PANEL + i] = i < rows && j < k ? x[i * k + j] : 0.0f;
    }
}

}  // namespace

// x: m x k. w: n x k as `stored`. bias: n, or null. y: m x n. Returns 0, or 1 without memory.
extern "C" int sana_linear(const float* x, long m, long k, const void* w, int stored, long n, const float* bias, float* y,
                           int threads) {
    const long padded = up(k, BLOCK), groups = (n + ROWS - 1) / ROWS;
    const long most = std::max<long>(1, CACHE / (ROWS * padded * 4));  // groups of ROWS that a thread widens at once
    const long tasks = up((groups + most - 1) / most, threads);
    const long chunk = std::max<long>(PANEL, X_BYTES / (padded * 4) / PANEL * PANEL);
    static thread_local Buffer panels_of_caller;
    float* panels = panels_of_caller.get(std::min(chunk, up(m, PANEL)) * padded);
    if (!panels) return 1;
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        static thread_local Buffer blocks_of_thread;
        const long width = most * ROWS + LANES;
        float* blocks = blocks_of_thread.get(most * ROWS * padded + PANEL * width);
        float* results = blocks + most * ROWS * padded;
        failed |= blocks == nullptr;
        for (long start = 0; start < m; start += chunk) {
            const long rows = std::min(chunk, m - start), count = (rows + PANEL - 1) / PANEL;
#pragma omp for schedule(dynamic)
            for (long p = 0; p < count; ++p) {
                const float* from = x + (start + p * PANEL) * k;
                turn_rows(panels + p * PANEL * padded, from, std::min<long>(PANEL, rows - p * PANEL), k, padded);
            }
#pragma omp for schedule(dynamic)
            for (long task = 0; task < tasks; ++task) {
                if (!blocks) continue;
                const long first = groups * task / tasks, last = groups * (task + 1) / tasks;
                for (long g = first; g < last; ++g) {
                    float* to = blocks + (g - first) * ROWS * padded;
                    const long have = std::min<long>(ROWS, n - g * ROWS);
                    if (stored == FLOAT32) block_rows<FLOAT32>(to, w, g * ROWS, have, k, padded);
                    if (stored == BFLOAT16) block_rows<BFLOAT16>(to, w, g * ROWS, have, k, padded);
                    if (stored == FLOAT16) block_rows<FLOAT16>(to, w, g * ROWS, have, k, padded);
                }
                const long column = first * ROWS, columns = std::min(last * ROWS, n) - column;
                for (long p = 0; p < count; ++p) {
                    for (long g = first; g < last; ++g) {
                        Tile sums = {};
                        multiply(sums, blocks + (g - first) * ROWS * padded, panels + p * PANEL * padded, padded);
                        turn_tile(results + (g - first) * ROWS, width, sums);
                    }
                    const long height = std::min<long>(PANEL, rows - p * PANEL);
                    float* to = y + (start + p * PANEL) * n + column;
                    for (long j = 0; j < height; ++j)
                        for (long i = 0; i < columns; ++i)
                            to[j * n + i] = results[j * width + i] + (bias ? bias[column + i] : 0.0f);
                }
            }
        }
    }
    return failed;
}
