// Softmax attention of many queries to few keys: a prompt's 30 or so tokens, at most 300.
//
// softmax(q k^T) v is two matrix products of the common tile with the softmax between them, in cache: ROWS
// queries at a time, keys and values of the head laid out once per task.
#include <algorithm>
#include <cmath>

#include "memory.h"
#include "silu.h"
#include "tile.h"

namespace {

constexpr long QUERIES = 16 * ROWS;  // of a task
constexpr float NEVER = -3e38f;      // the score of a key that is only padding

// Scores of ROWS queries in place to weights: e^(s - max), with the inverse of their sums.
inline void soften(float* scores, long keys, float (&inverse)[ROWS]) {
    for (int i = 0; i < ROWS; ++i, scores += keys) {
        float highest = NEVER, sum = 0;
        for (long j = 0; j < keys; ++j) highest = std::max(highest, scores[j]);
        Vec sums = {};
        for (long j = 0; j < keys; j += LANES) {
            const Vec weight = exponential(load(scores + j) - highest);
            store(scores + j, weight);
            sums += weight;
        }
        for (int lane = 0; lane < LANES; ++lane) sum += sums[lane];
        inverse[i] = 1.0f / sum;
    }
}

// ROWS rows of `width` floats, `stride` apart, to blocks [padded / BLOCK][ROWS][BLOCK]; zeros around them.
inline void block_rows(float* to, const float* from, long stride, long count, long width, long padded) {
    for (long block = 0; block < padded; block += BLOCK, to += ROWS * BLOCK)
        for (long i = 0; i < ROWS; ++i)
            if (i < count && block + BLOCK <= width)
                std::memcpy(to + i * BLOCK, from + i * stride + block, BLOCK * sizeof(float));
            else
                for (long j = 0; j < BLOCK; ++j)
                    to[i * BLOCK + j] = i < count && block + j < width ? from[i * stride + block + j] : 0.0f;
}

}  // namespace

// query: batch x heads x tokens x width, key and value: batch x heads x keys x width, each with the strides of
// its first three axes, in floats. y: batch x tokens x heads x width. Returns 0, or 1 without memory.
extern "C" int sana_attention(const float* query, long query_batch, long query_head, long query_token, const float* key,
                              long key_batch, long key_head, long key_token, const float* value, long value_batch,
                              long value_head, long value_token, long batch, long heads, long tokens, long keys, long width,
                              float scale, float* y, int threads) {
    const long depth = up(width, BLOCK), wide = up(width, PANEL);
    const long many = up(keys, std::max(BLOCK, PANEL));  // columns of one product, terms of the other
    const long tasks = (tokens + QUERIES - 1) / QUERIES;
    int failed = 0;
#pragma omp parallel for num_threads(threads) schedule(dynamic) reduction(| : failed)
    for (long task = 0; task < batch * heads * tasks; ++task) {
        const long sample = task / tasks / heads, head = task / tasks % heads, start = task % tasks * QUERIES;
        static thread_local Buffer scratch_of_thread;
        float* turned = scratch_of_thread.get(depth * many + many * wide + ROWS * (depth + 2 * many));
        failed |= turned == nullptr;
        if (!turned) continue;
        float *values = turned + depth * many, *blocks = values + many * wide, *scores = blocks + ROWS * depth;
        float* weights = scores + ROWS * many;
        const float* k = key + sample * key_batch + head * key_head;
        const float* v = value + sample * value_batch + head * value_head;
        std::memset(turned, 0, (depth * many + many * wide) * sizeof(float));
        for (long panel = 0; panel < many; panel += PANEL)  // keys to [panel][depth][PANEL]
            for (long c = 0; c < width; ++c)
                for (long j = panel; j < std::min(keys, panel + PANEL); ++j)
                    turned[panel * depth + c * PANEL + j - panel] = scale * k[j * key_token + c];
        for (long panel = 0; panel < wide; panel += PANEL)  // values to [panel][many][PANEL]
            for (long j = 0; j < keys; ++j)
                std::memcpy(values + panel * many + j * PANEL, v + j * value_token + panel,
                            std::min<long>(PANEL, width - panel) * sizeof(float));
        for (long n = start; n < std::min(tokens, start + QUERIES); n += ROWS) {
            const long count = std::min<long>(ROWS, tokens - n);
            const float* q = query + sample * query_batch + head * query_head + n * query_token;
            block_rows(blocks, q, query_token, count, width, depth);
            for (long panel = 0; panel < many; panel += PANEL) {
                Tile sums = {};
                multiply(sums, blocks, turned + panel * depth, depth);
                for (int i = 0; i < ROWS; ++i)
                    for (int half = 0; half < 2; ++half) store(scores + i * many + panel + half * LANES, sums[i][half]);
            }
            for (int i = 0; i < ROWS; ++i)
                for (long j = keys; j < many; ++j) scores[i * many + j] = NEVER;
            float inverse[ROWS];
            soften(scores, many, inverse);
            block_rows(weights, scores, many, ROWS, many, many);
            for (long panel = 0; panel < wide; panel += PANEL) {
                Tile sums = {};
                multiply(sums, weights, values + panel * many, many);
                for (long i = 0; i < count; ++i)
                    for (int half = 0; half < 2; ++half) {
                        const long column = panel + half * LANES;
                        float* to = y + ((sample * tokens + n + i) * heads + head) * width + column;
                        store_some(to, sums[i][half] * inverse[i], width - column);
                    }
            }
        }
    }
    return failed;
}
