// Gated delta attention in steps of frames: the sums of each frame, a scan over frames in both directions, and
// every query against the states of its frame.
//
// A task takes one head of one sample. Its tokens are laid out CHUNK at a time, so that the sums over them are
// matrix products in registers. Keys times keys are symmetric: half of those products are mirrored. For values
// of one channel (a denominator) products of keys would cost more than all else: there the rule is followed
// token by token, with two products of a token's key in each direction.
#include <algorithm>
#include <type_traits>

#include "memory.h"
#include "turn.h"

namespace {

constexpr int STEP = LANES == 16 ? 8 : 4;  // rows of sums held in registers
constexpr long CHUNK = 64;                 // tokens that are laid out at once
constexpr long AHEAD = 12;                 // tokens whose rows are fetched before they are needed: they lie apart

inline void fetch(const float* row, long width) {
    for (long j = 0; j < width; j += 16) __builtin_prefetch(row + j);
}

template <int N>
using Constant = std::integral_constant<int, N>;

struct View {  // of query, key or value: rows of floats at each place, and the strides between places
    const float* data;
    long batch, frame, token, head;
    const float* at(long sample, long t, long h) const { return data + sample * batch + t * frame + h * head; }
};

// Call task(N, column) for tiles of N registers that cover so many columns: 2 each, but 3 rather than 2 and 1.
template <typename Task>
inline __attribute__((always_inline)) void tiles(long column, long columns, Task task) {
    while (columns - column > 3 * LANES || columns - column == 2 * LANES) task(Constant<2>(), column), column += 2 * LANES;
    if (columns - column == 3 * LANES) task(Constant<3>(), column);
    if (columns - column == LANES) task(Constant<1>(), column);
}

// STEP rows x N registers of sums over `count` steps: left(row, step) * right(step, column).
// Turned: the rows of `left` lie side by side, its steps `stride` apart; else the other way round.
template <int N, bool TURNED>
inline __attribute__((always_inline)) void multiply(Vec (&sums)[STEP][N], const float* left, long stride, const float* right,
                                                    long width, long count) {
    for (long k = 0; k < count; ++k, right += width) {
        Vec row[N];
#pragma GCC unroll 3
        for (int j = 0; j < N; ++j) row[j] = load(right + j * LANES);
#pragma GCC unroll 8
        for (int i = 0; i < STEP; ++i) {
            const Vec factor = splat(TURNED ? left[k * stride + i] : left[i * stride + k]);
#pragma GCC unroll 3
            for (int j = 0; j < N; ++j) sums[i][j] += factor * row[j];
        }
    }
}

// to (rows x columns, a stride of columns) += turned(left) right, from the first of `columns` that a row needs.
template <int N>
inline void add_tile(float* to, const float* left, long rows, const float* right, long columns, long count) {
    Vec sums[STEP][N];
    for (int i = 0; i < STEP; ++i)
        for (int j = 0; j < N; ++j) sums[i][j] = load(to + i * columns + j * LANES);
    multiply<N, true>(sums, left, rows, right, columns, count);
    for (int i = 0; i < STEP; ++i)
        for (int j = 0; j < N; ++j) store(to + i * columns + j * LANES, sums[i][j]);
}

// left: count x rows, right: count x columns; to: rows x columns. Half: only what lies right of the diagonal's
// blocks of LANES.
void add_product(float* to, const float* left, long rows, const float* right, long columns, long count, bool half) {
    for (long i = 0; i < rows; i += STEP)
        tiles(half ? i / LANES * LANES : 0, columns, [&](auto n, long j) {
            add_tile<n>(to + i * columns + j, left + i, rows, right + j, columns, count);
        });
}

void mirror(float* square, long side) {  // what `half` left out, LANES x LANES at a time
    for (long i = LANES; i < side; i += LANES)
        for (long j = 0; j < i; j += LANES) {
            Vec block[LANES];
#pragma GCC unroll 16
            for (int r = 0; r < LANES; ++r) block[r] = load(square + (j + r) * side + i);
            turn(block);
#pragma GCC unroll 16
            for (int r = 0; r < LANES; ++r) store(square + (i + r) * side + j, block[r]);
        }
}

// to = decay (state - keys state) + values. keys: side x side; the others: side x columns.
template <int N>
inline void step_tile(float* to, const float* keys, long side, const float* values, float decay, const float* state,
                      long columns, long at) {
    Vec sums[STEP][N] = {};
    multiply<N, true>(sums, keys, side, state + at % columns, columns, side);
    for (int i = 0; i < STEP; ++i)
        for (int j = 0; j < N; ++j) {
            const long place = at + i * columns + j * LANES;
            store(to + place, splat(decay) * (load(state + place) - sums[i][j]) + load(values + place));
        }
}

void step(float* to, const float* keys, long side, const float* values, float decay, const float* state, long columns) {
    if (!state) {
        std::memcpy(to, values, side * columns * sizeof(float));
        return;
    }
    for (long i = 0; i < side; i += STEP)
        tiles(0, columns, [&](auto n, long j) {
            step_tile<n>(to, keys + i, side, values, decay, state, columns, i * columns + j);
        });
}

// STEP rows of queries, or the first `rows` of them, against a state of width x columns; y: rows of `values` floats.
template <int N>
inline void attend_tile(float* y, long y_token, const float* query, long token, long rows, const float* state, long width,
                        long columns, long values, long at) {
    Vec sums[STEP][N] = {};
    if (rows >= STEP)
        multiply<N, false>(sums, query, token, state + at, columns, width);
    else
        for (long i = 0; i < rows; ++i)
            for (long k = 0; k < width; ++k)
                for (int j = 0; j < N; ++j) sums[i][j] += splat(query[i * token + k]) * load(state + k * columns + at + j * LANES);
    for (long i = 0; i < std::min<long>(rows, STEP); ++i)
        for (int j = 0; j < N; ++j) store_some(y + i * y_token + at + j * LANES, sums[i][j], values - at - j * LANES);
}

void attend(float* y, long y_token, const float* query, long token, long tokens, const float* state, long width, long columns,
            long values) {
    for (long n = 0; n < tokens; n += STEP, y += STEP * y_token, query += STEP * token) {
        for (int i = 0; i < STEP; ++i) fetch(query + (STEP + i) * token, width);
        tiles(0, columns, [&](auto size, long j) {
            attend_tile<size>(y, y_token, query, token, tokens - n, state, width, columns, values, j);
        });
    }
}

struct Problem {
    View query, key, value;
    const float *beta, *decay, *state;  // beta: B T S h, decay: B T h, state: B h d e or null
    const int64_t* chunks;
    long count, frames, tokens, heads, width, values;
    float *y, *last;  // B T S h e, B h d e

    float kept(long sample, long t, long head) const { return decay[(sample * frames + t) * heads + head]; }
};

// One head of one sample. memory: as many floats as `needed` says.
long needed(const Problem& p) {
    const long side = up(p.width, LANES), columns = up(p.values, LANES);
    return p.frames * side * (side + 2 * columns) + 2 * side * columns + CHUNK * (2 * side + columns);
}

void head_of(const Problem& p, long sample, long head, float* memory) {
    const long side = up(p.width, LANES), columns = up(p.values, LANES), square = side * side, area = side * columns;
    float *keys = memory, *values = keys + p.frames * square, *states = values + p.frames * area;
    float *one = states + p.frames * area, *other = one + area;  // states on the way back; before: what was given
    float *weighted = other + area, *plain = weighted + CHUNK * side, *given = plain + CHUNK * side;
    const float* before = nullptr;
    if (p.state) {
        const float* from = p.state + (sample * p.heads + head) * p.width * p.values;
        std::memset(one, 0, area * sizeof(float));
        for (long i = 0; i < p.width; ++i) std::memcpy(one + i * columns, from + i * p.values, p.values * sizeof(float));
        before = one;
    }
    for (long t = 0; t < p.frames; ++t, before = states + (t - 1) * area) {
        std::memset(keys + t * square, 0, square * sizeof(float)), std::memset(values + t * area, 0, area * sizeof(float));
        const float *k = p.key.at(sample, t, head), *v = p.value.at(sample, t, head);
        const float* beta = p.beta + (sample * p.frames + t) * p.tokens * p.heads + head;
        for (long start = 0; start < p.tokens; start += CHUNK) {
            const long count = std::min(CHUNK, p.tokens - start);
            for (long n = 0; n < count; ++n, k += p.key.token, v += p.value.token) {
                fetch(k + AHEAD * p.key.token, p.width), fetch(v + AHEAD * p.value.token, p.values);
                const Vec weight = splat(beta[(start + n) * p.heads]);
                for (long j = 0; j < side; j += LANES) {
                    const Vec row = load_some(k + j, p.width - j);
                    store(plain + n * side + j, row), store(weighted + n * side + j, weight * row);
                }
                for (long j = 0; j < columns; j += LANES) store(given + n * columns + j, load_some(v + j, p.values - j));
            }
            add_product(keys + t * square, weighted, side, plain, side, count, true);
            add_product(values + t * area, weighted, side, given, columns, count, false);
        }
        mirror(keys + t * square, side);
        step(states + t * area, keys + t * square, side, values + t * area, p.kept(sample, t, head), before, columns);
    }
    float* last = p.last + (sample * p.heads + head) * p.width * p.values;
    const float* end = states + (p.frames - 1) * area;
    for (long i = 0; i < p.width; ++i) std::memcpy(last + i * p.values, end + i * columns, p.values * sizeof(float));
    for (long chunk = p.count - 1, stop = p.frames; chunk >= 0; stop -= p.chunks[chunk--]) {
        const float* later = nullptr;  // the state of the frames behind t
        for (long t = stop - 1; t >= stop - p.chunks[chunk]; --t) {
            float *state = states + t * area, *to = later == one ? other : one;
            if (t < stop - 1) {
                step(to, keys + (t + 1) * square, side, values + (t + 1) * area, p.kept(sample, t + 1, head), later, columns);
                for (long i = 0; i < area; i += LANES) store(state + i, load(state + i) + load(to + i));
                later = to;
            }
            float* y = p.y + ((sample * p.frames + t) * p.tokens * p.heads + head) * p.values;
            const float* query = p.query.at(sample, t, head);
            attend(y, p.heads * p.values, query, p.query.token, p.tokens, state, p.width, columns, p.values);
        }
    }
}

// The products of LANES rows, or the first `rows` of them, with a vector of `width` floats: a lane for each row.
inline Vec products(const float* x, long token, long rows, const float* vector, long width) {
    Vec parts[LANES] = {};
    for (long i = 0; i < std::min<long>(rows, LANES); ++i, x += token)
        for (long j = 0; j < width; j += LANES) parts[i] += load_some(x + j, width - j) * load(vector + j);
    turn(parts);
    Vec total = {};
#pragma GCC unroll 16
    for (int i = 0; i < LANES; ++i) total += parts[i];
    return total;
}

// state += sum over a frame's tokens of key * beta * (value - key . old), for values of one channel.
void follow(const Problem& p, long sample, long t, long head, float* state, const float* old, long side) {
    const float *k = p.key.at(sample, t, head), *v = p.value.at(sample, t, head);
    const float* beta = p.beta + (sample * p.frames + t) * p.tokens * p.heads + head;
    for (long n = 0; n < p.tokens; n += LANES, k += LANES * p.key.token, v += LANES * p.value.token) {
        const long rows = std::min<long>(LANES, p.tokens - n);
        const Vec found = products(k, p.key.token, rows, old, p.width);
        float change[LANES];
        for (long i = 0; i < rows; ++i) change[i] = beta[(n + i) * p.heads] * (v[i * p.value.token] - found[i]);
        for (long j = 0; j < side; j += LANES) {
            Vec even = load(state + j), odd = {};
            long i = 0;
            for (; i + 1 < rows; i += 2) {
                even += splat(change[i]) * load_some(k + i * p.key.token + j, p.width - j);
                odd += splat(change[i + 1]) * load_some(k + (i + 1) * p.key.token + j, p.width - j);
            }
            if (i < rows) even += splat(change[i]) * load_some(k + i * p.key.token + j, p.width - j);
            store(state + j, even + odd);
        }
    }
}

// One head of one sample with values of one channel. memory: frames + 2 vectors of `side` floats.
void column_of(const Problem& p, long sample, long head, float* memory) {
    const long side = up(p.width, LANES);
    float *states = memory, *old = states + p.frames * side, *later = old + side;
    std::memset(memory, 0, (p.frames + 2) * side * sizeof(float));
    const auto take = [&](float* state, const float* before, long t) {  // state: decay * before, and the frame
        const float kept = p.kept(sample, t, head);
        for (long i = 0; i < p.width; ++i) old[i] = state[i] = kept * before[i];
        follow(p, sample, t, head, state, old, side);
    };
    if (p.state) std::memcpy(later, p.state + (sample * p.heads + head) * p.width, p.width * sizeof(float));
    for (long t = 0; t < p.frames; ++t) take(states + t * side, t ? states + (t - 1) * side : later, t);
    std::memcpy(p.last + (sample * p.heads + head) * p.width, states + (p.frames - 1) * side, p.width * sizeof(float));
    for (long chunk = p.count - 1, stop = p.frames; chunk >= 0; stop -= p.chunks[chunk--]) {
        std::memset(later, 0, side * sizeof(float));
        for (long t = stop - 2; t >= stop - p.chunks[chunk]; --t) {
            take(later, later, t + 1);
            for (long i = 0; i < side; ++i) states[t * side + i] += later[i];
        }
    }
    for (long t = 0; t < p.frames; ++t) {
        const float* q = p.query.at(sample, t, head);
        float* y = p.y + (sample * p.frames + t) * p.tokens * p.heads + head;
        for (long n = 0; n < p.tokens; n += LANES, q += LANES * p.query.token) {
            const long rows = std::min<long>(LANES, p.tokens - n);
            const Vec found = products(q, p.query.token, rows, states + t * side, p.width);
            for (long i = 0; i < rows; ++i) y[(n + i) * p.heads] = found[i];
        }
    }
}

}  // namespace

// query, key: B T S h d and value: B T S h e, each with the strides of its first four axes, in floats. beta: B T S h.
// decay: B T h. state: B h d e, or null. chunks: `count` numbers of frames, T in all. y: B T S h e. last: B h d e, the
// state behind the last frame. Returns 0, or 1 without memory.
extern "C" int sana_gated_delta(const float* query, long query_batch, long query_frame, long query_token, long query_head,
                                const float* key, long key_batch, long key_frame, long key_token, long key_head,
                                const float* value, long value_batch, long value_frame, long value_token, long value_head,
                                const float* beta, const float* decay, const float* state, const int64_t* chunks, long count,
                                long batch, long frames, long tokens, long heads, long width, long values, float* y, float* last,
                                int threads) {
    const Problem p{{query, query_batch, query_frame, query_token, query_head},
                    {key, key_batch, key_frame, key_token, key_head},
                    {value, value_batch, value_frame, value_token, value_head},
                    beta, decay, state, chunks, count, frames, tokens, heads, width, values, y, last};
    const bool column = values == 1;
    const long floats = column ? (frames + 2) * up(width, LANES) : needed(p);
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        static thread_local Buffer buffer;
        float* memory = buffer.get(floats);
        failed |= memory == nullptr;
#pragma omp for schedule(dynamic)
        for (long task = 0; task < batch * heads; ++task) {
            if (!memory) continue;
            if (column)
                column_of(p, task / heads, task % heads, memory);
            else
                head_of(p, task / heads, task % heads, memory);
        }
    }
    return failed;
}
