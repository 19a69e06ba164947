// 3x3 convolution, stride 1, as Winograd's F(4x4, 3x3): 36 products where 144 are, exact but for rounding.
//
// Y = A^T [(G g G^T) o (B^T d B)] A for tiles of 4x4 outputs d of 6x6 inputs (Lavin and Gray, arXiv:1509.09308),
// with interpolation at 0, 1, -1, 2, -2 and infinity. Summed over channels, each of the 36 places is a matrix
// product: tiles x channels in by channels in x channels out.
// After a nearest-neighbour upsampling, rows (columns) 1 and 2, and 3 and 4, of every 6x6 input are alike. What
// is interpolated at -1 is then 0, so 11 of the 36 products are left out, and the large map is never made.
// A 3x3x3 convolution of frames is the 3x3 one of three frames at once, whose channels follow each other.
#include <algorithm>

#include "memory.h"
#include "silu.h"
#include "tile.h"

namespace {

constexpr int SIDE = 6, PLACES = SIDE * SIDE, OUT = 4;
constexpr long SCRATCH = 9 << 20;   // bytes of transformed tiles that a thread works on, at most
constexpr long WEIGHTS = 40 << 20;  // bytes of transformed weights, at most
constexpr long GROUPS = 8;          // of ROWS tiles that it takes at once: it reads the weights that many times less
constexpr long CACHED = 20 << 20;   // bytes of weights that stay in an L3 cache, so that 2 groups will do, from L2
constexpr long COLUMNS = 128;       // channels out whose products it then holds

// B^T d, G g and A^T m along one axis.
inline void input_axis(const Vec (&d)[SIDE], Vec (&v)[SIDE]) {
    const Vec a = d[4] - 4.0f * d[2], b = d[3] - 4.0f * d[1], c = d[4] - d[2], e = 2.0f * (d[3] - d[1]);
    v[0] = 4.0f * d[0] - 5.0f * d[2] + d[4];
    v[1] = a + b, v[2] = a - b, v[3] = c + e, v[4] = c - e;
    v[5] = 4.0f * d[1] - 5.0f * d[3] + d[5];
}

inline void weight_axis(const Vec (&g)[3], Vec (&u)[SIDE]) {
    const Vec even = (g[0] + g[2]) * (-1.0f / 6), odd = g[1] * (-1.0f / 6);
    const Vec wide = g[0] * (1.0f / 24) + g[2] * (1.0f / 6), twice = g[1] * (1.0f / 12);
    u[0] = g[0] * 0.25f, u[1] = even + odd, u[2] = even - odd, u[3] = wide + twice, u[4] = wide - twice, u[5] = g[2];
}

inline void output_axis(const Vec (&m)[SIDE], Vec (&y)[OUT]) {
    const Vec a = m[1] + m[2], b = m[1] - m[2], c = m[3] + m[4], d = m[3] - m[4];
    y[0] = m[0] + a + c, y[1] = b + 2.0f * d, y[2] = a + 4.0f * c, y[3] = b + 8.0f * d + m[5];
}

struct Shape {
    long rows, columns, channels, above, below, outputs;  // of the input, its neighbours included; channels out
    bool upsample;
    long taps, frames;  // input frames of an output frame; output frames of a batch item
    long plane() const { return rows * columns * channels; }
    long slots() const { return up(channels, LANES); }  // channels of a frame, with padding
    long depth() const { return up(taps * slots(), BLOCK); }
    long scale() const { return upsample ? 2 : 1; }
    long height() const { return (rows - above - below) * scale(); }
    long width() const { return columns * scale(); }
    long down() const { return up(height(), OUT) / OUT; }
    long across() const { return up(width(), OUT) / OUT; }
    bool used(int place) const { return !upsample || (place / SIDE != 2 && place % SIDE != 2); }
};

// Filters of one panel of PANEL outputs to [place][padded channels][PANEL], `stride` floats from place to place.
template <Stored stored>
void transform_weights(float* to, long stride, const void* w, const Shape& s, long first) {
    const long padded = s.depth();
    for (long channel = 0; channel < padded; channel += LANES)
        for (int half = 0; half < 2; ++half) {
            const long frame = channel / s.slots(), inner = channel % s.slots();
            alignas(64) float gathered[LANES][9][LANES];  // channel, tap, output
            for (int i = 0; i < LANES; ++i) {
                const long output = first + half * LANES + i;
                for (int j = 0; j < LANES; ++j)
                    for (int tap = 0; tap < 9; ++tap) {
                        const bool inside = output < s.outputs && inner + j < s.channels && frame < s.taps;
                        const long at = ((output * s.channels + inner + j) * s.taps + frame) * 9 + tap;
                        gathered[j][tap][i] = inside ? widen(w, at, stored) : 0.0f;
                    }
            }
            for (int j = 0; j < LANES; ++j) {
                Vec down[3][SIDE];
                for (int column = 0; column < 3; ++column) {
                    const Vec g[3] = {load(gathered[j][column]), load(gathered[j][3 + column]), load(gathered[j][6 + column])};
                    weight_axis(g, down[column]);
                }
                for (int row = 0; row < SIDE; ++row) {
                    const Vec g[3] = {down[0][row], down[1][row], down[2][row]};
                    Vec u[SIDE];
                    weight_axis(g, u);
                    for (int column = 0; column < SIDE; ++column)
                        store(to + (row * SIDE + column) * stride + (channel + j) * PANEL + half * LANES, u[column]);
                }
            }
        }
}

// One tile of the input, LANES channels from `channel` on, to `to`, `stride` floats from place to place.
// inner: all of the tile lies inside the input.
template <bool upsample, bool inner>
void transform_input(float* to, long stride, const float* x, const Shape& s, long top, long left, long channel) {
    const long count = s.channels - channel;
    Vec across[SIDE][SIDE];
    for (int i = 0; i < SIDE; ++i) {
        const long row = (upsample ? (top + i) >> 1 : top + i) + s.above;
        Vec d[SIDE];
        for (int j = 0; j < SIDE; ++j) {
            const long column = upsample ? (left + j) >> 1 : left + j;
            const float* from = x + (row * s.columns + column) * s.channels + channel;
            const bool inside = inner || (row >= 0 && row < s.rows && column >= 0 && column < s.columns);
            d[j] = inner ? load(from) : inside ? load_some(from, count) : Vec{};
        }
        input_axis(d, across[i]);
    }
    for (int j = 0; j < SIDE; ++j) {
        if (upsample && j == 2) continue;
        const Vec d[SIDE] = {across[0][j], across[1][j], across[2][j], across[3][j], across[4][j], across[5][j]};
        Vec v[SIDE];
        input_axis(d, v);
        for (int i = 0; i < SIDE; ++i)
            if (!(upsample && i == 2)) store(to + (i * SIDE + j) * stride, v[i]);
    }
}

template <bool upsample>
void transform_tile(float* to, long stride, const float* x, const Shape& s, long tile_row, long tile_column) {
    const long top = tile_row * OUT - 1, left = tile_column * OUT - 1, last = SIDE - 1;
    const long from_row = (upsample ? top >> 1 : top) + s.above, to_row = (upsample ? (top + last) >> 1 : top + last) + s.above;
    const long to_column = upsample ? (left + last) >> 1 : left + last;
    const bool inner = from_row >= 0 && to_row < s.rows && left >= 0 && to_column < s.columns;
    for (long place = 0; place < s.depth(); place += LANES) {
        float* at = to + place / BLOCK * ROWS * BLOCK + place % BLOCK;
        const long frame = place / s.slots(), channel = frame < s.taps ? place % s.slots() : s.channels;
        const float* from = frame < s.taps ? x + frame * s.plane() : x;
        if (inner && channel + LANES <= s.channels)
            transform_input<upsample, true>(at, stride, from, s, top, left, channel);
        else
            transform_input<upsample, false>(at, stride, from, s, top, left, channel);
    }
}

// LANES outputs of one tile from its 36 products; `stride` floats from place to place.
void transform_output(float* y, const float* from, long stride, const Shape& s, long tile_row, long tile_column, long output,
                      const float* bias, bool activate) {
    const long count = s.outputs - output, row = tile_row * OUT, column = tile_column * OUT;
    Vec down[OUT][SIDE];
    for (int j = 0; j < SIDE; ++j) {
        Vec m[SIDE], r[OUT];
        for (int i = 0; i < SIDE; ++i) m[i] = s.used(i * SIDE + j) ? load(from + (i * SIDE + j) * stride) : Vec{};
        output_axis(m, r);
        for (int i = 0; i < OUT; ++i) down[i][j] = r[i];
    }
    const Vec offset = bias ? load_some(bias + output, count) : Vec{};
    const int height = std::min<long>(OUT, s.height() - row), width = std::min<long>(OUT, s.width() - column);
    for (int i = 0; i < height; ++i) {
        Vec r[OUT];
        output_axis(down[i], r);
        for (int j = 0; j < width; ++j) {
            const Vec value = r[j] + offset;
            store_some(y + ((row + i) * s.width() + column + j) * s.outputs + output, activate ? silu(value) : value, count);
        }
    }
}

// The matrix product of every place: `count` tiles of v by `columns` outputs of u.
void multiply_places(float* products, long product_stride, const float* v, long v_stride, const float* u, long u_stride,
                     const Shape& s, long depth, long count, long most, long columns) {
    for (int place = 0; place < PLACES; ++place) {
        if (!s.used(place)) continue;
        for (long panel = 0; panel < columns / PANEL; ++panel)
            for (long group = 0; group * ROWS < count; ++group) {
                Tile sums = {};
                multiply(sums, v + place * v_stride + group * ROWS * depth, u + place * u_stride + panel * depth * PANEL, depth);
                float* to = products + place * product_stride + (panel * most + group * ROWS) * PANEL;
                for (int i = 0; i < ROWS; ++i) store(to + i * PANEL, sums[i][0]), store(to + i * PANEL + LANES, sums[i][1]);
            }
    }
}

// `all_frames`: output frames of the whole batch. Returns 0, or 1 without memory.
int convolve(const float* x, long all_frames, const Shape& s, const void* w, int stored, const float* bias, bool activate,
             float* y, int threads) {
    const long outputs = s.outputs;
    const long depth = s.depth(), wide = up(outputs, PANEL), tiles = s.down() * s.across(), all = all_frames * tiles;
    const long at_once = PLACES * 4 * depth * wide > CACHED ? GROUPS : 2;
    const long fitting = std::clamp<long>(SCRATCH / (PLACES * 4 * depth * ROWS), 1, at_once), held = std::min(COLUMNS, wide);
    const long groups = (all + ROWS - 1) / ROWS, blocks = up((groups + fitting - 1) / fitting, threads);
    const long most = (groups + blocks - 1) / blocks * ROWS;
    // Of the outputs so many at a time, that their transformed weights fit.
    const long share = std::min(wide, std::max<long>(1, WEIGHTS / (PLACES * 4 * depth * held)) * held);
    // From place to place one cache line more than the values take: powers of 2 would all fall into one set.
    const long u_stride = depth * share + BLOCK, v_stride = most * depth + BLOCK, product_stride = most * held + BLOCK;
    static thread_local Buffer weights_of_caller;
    float* u = weights_of_caller.get(PLACES * u_stride);  // [place][panel][depth][PANEL]
    if (!u) return 1;
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        static thread_local Buffer scratch_of_thread;
        float* v = scratch_of_thread.get(PLACES * (v_stride + product_stride));  // [place][group][depth / BLOCK][ROWS][BLOCK]
        float* products = v + PLACES * v_stride;                                 // [place][panel][most][PANEL]
        failed |= v == nullptr;
        for (long begin = 0; begin < wide; begin += share) {
            const long end = std::min(wide, begin + share);
#pragma omp for schedule(dynamic)
            for (long output = begin; output < end; output += PANEL) {
                float* to = u + (output - begin) * depth;
                if (stored == FLOAT32) transform_weights<FLOAT32>(to, u_stride, w, s, output);
                if (stored == BFLOAT16) transform_weights<BFLOAT16>(to, u_stride, w, s, output);
                if (stored == FLOAT16) transform_weights<FLOAT16>(to, u_stride, w, s, output);
            }
#pragma omp for schedule(dynamic)
            for (long block = 0; block < blocks; ++block) {
                if (!v) continue;
                const long first = groups * block / blocks * ROWS;
                const long count = std::min(all, groups * (block + 1) / blocks * ROWS) - first;
                for (long tile = 0; tile < count; ++tile) {
                    const long picture = (first + tile) / tiles, place = (first + tile) % tiles;
                    const float* from = x + (picture + picture / s.frames * (s.taps - 1)) * s.plane();
                    float* to = v + tile / ROWS * ROWS * depth + tile % ROWS * BLOCK;
                    if (s.upsample)
                        transform_tile<true>(to, v_stride, from, s, place / s.across(), place % s.across());
                    else
                        transform_tile<false>(to, v_stride, from, s, place / s.across(), place % s.across());
                }
                for (long start = begin; start < end; start += held) {
                    const long stop = std::min(end, start + held);
                    multiply_places(products, product_stride, v, v_stride, u + (start - begin) * depth, u_stride, s, depth, count,
                                    most, stop - start);
                    for (long tile = 0; tile < count; ++tile) {
                        const long picture = (first + tile) / tiles, place = (first + tile) % tiles;
                        float* to = y + picture * s.height() * s.width() * outputs;
                        for (long output = start; output < std::min(stop, outputs); output += LANES) {
                            const float* from = products + ((output - start) / PANEL * most + tile) * PANEL + output % PANEL;
                            transform_output(to, from, product_stride, s, place / s.across(), place % s.across(), output, bias,
                                             activate);
                        }
                    }
                }
            }
        }
    }
    return failed;
}

}  // namespace

// x: batch x rows x columns x channels. w: outputs x channels x 3 x 3 as `stored`. bias: outputs, or null.
// y: batch x scale (rows - above - below) x scale columns x outputs. Returns 0, or 1 without memory.
extern "C" int sana_conv3x3(const float* x, long batch, long rows, long columns, long channels, int above, int below,
                            int upsample, const void* w, int stored, long outputs, const float* bias, int activate, float* y,
                            int threads) {
    const Shape s{rows, columns, channels, above, below, outputs, bool(upsample), 1, 1};
    return convolve(x, batch, s, w, stored, bias, activate, y, threads);
}

// x: batch x (frames + 2) x rows x columns x channels. w: outputs x channels x 3 x 3 x 3 as `stored`. bias: outputs, or null.
// y: batch x frames x (rows - above - below) x columns x outputs. Returns 0, or 1 without memory.
extern "C" int sana_conv3x3x3(const float* x, long batch, long frames, long rows, long columns, long channels, int above,
                              int below, const void* w, int stored, long outputs, const float* bias, float* y, int threads) {
    const Shape s{rows, columns, channels, above, below, outputs, false, 3, frames};
    return convolve(x, batch * frames, s, w, stored, bias, false, y, threads);
}
