// ReLU linear attention in its two halves: sums over the keys and values, then every query against the sums.
//
// A task takes some heads of one sample and walks over its tokens, so that it reads whole cache lines of rows
// that hold all heads; the sums of its heads stay in the first-level cache.
#include <algorithm>

#include "simd.h"

namespace {

constexpr int HEAD = 32, VECS = HEAD / LANES;  // width of a head, which is 32 in every published model
constexpr long SUMS = (HEAD + 1) * HEAD;       // floats that a head's sums take
constexpr long HEADS = 4;                      // heads of a task
constexpr long CHUNK = 32;                     // tokens whose ReLU is taken at once
constexpr int STEP = LANES == 16 ? 8 : 4;      // rows of sums held in registers

inline Vec relu(Vec x) { return x < Vec{} ? Vec{} : x; }  // NaN stays NaN

struct View {  // of query, key or value: HEAD floats at each place, and the strides between places
    const float* data;
    long batch, head, token;
    const float* at(long sample, long h, long n) const { return data + sample * batch + h * head + n * token; }
};

}  // namespace

// sums: batch x heads x HEAD + 1 x HEAD, overwritten; row i: sum of relu(key_i) value, the last row: sum of relu(key).
extern "C" int sana_attention_sums(const float* key, long key_batch, long key_head, long key_token, const float* value,
                                   long value_batch, long value_head, long value_token, long batch, long heads, long tokens,
                                   float* sums, int threads) {
    const View keys{key, key_batch, key_head, key_token}, values{value, value_batch, value_head, value_token};
    const long groups = (heads + HEADS - 1) / HEADS;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (long task = 0; task < batch * groups; ++task) {
        const long sample = task / groups, first = task % groups * HEADS, last = std::min(heads, first + HEADS);
        std::memset(sums + (sample * heads + first) * SUMS, 0, (last - first) * SUMS * sizeof(float));
        for (long start = 0; start < tokens; start += CHUNK)
            for (long head = first; head < last; ++head) {
                const long count = std::min(CHUNK, tokens - start);
                const float* k = keys.at(sample, head, start);
                const float* v = values.at(sample, head, start);
                float* to = sums + (sample * heads + head) * SUMS;
                alignas(64) float positive[CHUNK][HEAD];
                Vec total[VECS];
                for (int j = 0; j < VECS; ++j) total[j] = load(to + HEAD * HEAD + j * LANES);
                for (long n = 0; n < count; ++n)
                    for (int j = 0; j < VECS; ++j) {
                        const Vec r = relu(load(k + n * keys.token + j * LANES));
                        store(positive[n] + j * LANES, r);
                        total[j] += r;
                    }
                for (int j = 0; j < VECS; ++j) store(to + HEAD * HEAD + j * LANES, total[j]);
                for (int row = 0; row < HEAD; row += STEP)
                    for (int half = 0; half < VECS; half += 2) {
                        Vec held[STEP][2] = {};
                        for (long n = 0; n < count; ++n) {
                            const float* at = v + n * values.token + half * LANES;
                            const Vec left = load(at), right = load(at + LANES);
#pragma GCC unroll 8
                            for (int i = 0; i < STEP; ++i) {
                                const Vec factor = splat(positive[n][row + i]);
                                held[i][0] += factor * left, held[i][1] += factor * right;
                            }
                        }
                        for (int i = 0; i < STEP; ++i)
                            for (int j = 0; j < 2; ++j) {
                                float* at = to + (row + i) * HEAD + (half + j) * LANES;
                                store(at, load(at) + held[i][j]);
                            }
                    }
            }
    }
    return 0;
}

// y: batch x tokens x heads x HEAD: relu(query) sums / (relu(query) totals + epsilon).
extern "C" int sana_attend(const float* query, long query_batch, long query_head, long query_token, const float* sums, long batch,
                           long heads, long tokens, float epsilon, float* y, int threads) {
    const View queries{query, query_batch, query_head, query_token};
    const long chunks = (tokens + CHUNK - 1) / CHUNK;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (long task = 0; task < batch * chunks; ++task) {
        const long sample = task / chunks, start = task % chunks * CHUNK, count = std::min(CHUNK, tokens - start);
        for (long head = 0; head < heads; ++head) {
            const float* q = queries.at(sample, head, start);
            const float* s = sums + (sample * heads + head) * SUMS;
            alignas(64) float positive[CHUNK][HEAD];
            for (long n = 0; n < CHUNK; ++n)
                for (int j = 0; j < VECS; ++j)
                    store(positive[n] + j * LANES, n < count ? relu(load(q + n * queries.token + j * LANES)) : Vec{});
            for (long n = 0; n < count; n += STEP) {
                float inverse[STEP];
                for (int i = 0; i < STEP; ++i) {
                    Vec products = {};
                    for (int j = 0; j < VECS; ++j)
                        products += load(positive[n + i] + j * LANES) * load(s + HEAD * HEAD + j * LANES);
                    float total = epsilon;
                    for (int lane = 0; lane < LANES; ++lane) total += products[lane];
                    inverse[i] = 1.0f / total;
                }
                for (int half = 0; half < VECS; half += 2) {
                    Vec held[STEP][2] = {};
                    for (int row = 0; row < HEAD; ++row) {
                        const Vec left = load(s + row * HEAD + half * LANES), right = load(s + row * HEAD + (half + 1) * LANES);
#pragma GCC unroll 8
                        for (int i = 0; i < STEP; ++i) {
                            const Vec factor = splat(positive[n + i][row]);
                            held[i][0] += factor * left, held[i][1] += factor * right;
                        }
                    }
                    for (int i = 0; i < STEP && n + i < count; ++i) {
                        float* to = y + ((sample * tokens + start + n + i) * heads + head) * HEAD + half * LANES;
                        store(to, held[i][0] * inverse[i]), store(to + LANES, held[i][1] * inverse[i]);
                    }
                }
            }
        }
    }
    return 0;
}
