/* The item head in bf16: rounding of rows, softmax rows; products are in linear.cu. Rows of bf16
 * start at multiples of 16 bytes and are read and written eight elements at a time. Sums are
 * float32, over many numbers double, in a fixed order. */
#include "kernels/cuda/common.cuh"
#include "kernels/shared/bf16.h"

namespace MR_ACT_SPACE
{

#define NORM_MIN 1e-12

enum { EIGHT = 8, ROWS = BLOCK / WARP }; /* elements of a load; rows of a block: a warp each */
static_assert(ROWS == EIGHT, "padded rows fill the blocks");

struct alignas(16) eight_bf16 {
    uint32_t w[4]; /* two elements each, the first in the lower half */
};
struct alignas(16) four_floats {
    float v[4];
};

__device__ static inline void unpack(float x[EIGHT], eight_bf16 p)
{
    for (int i = 0; i < EIGHT; i++)
        x[i] = mr_bf16_to_float((uint16_t)(p.w[i / 2] >> (i % 2 ? 16 : 0)));
}

__device__ static inline eight_bf16 packed(const float x[EIGHT])
{
    eight_bf16 p;
    for (int i = 0; i < EIGHT; i += 2)
        p.w[i / 2] = (uint32_t)mr_float_to_bf16(x[i + 1]) << 16 | (uint32_t)mr_float_to_bf16(x[i]);
    return p;
}

/* x[0] .. x[7] of an array of which `left` are there; 0 for the others. is_wide: x is a multiple of
 * 16 bytes. */
__device__ static inline void load(float out[EIGHT], const float *x, int64_t left, bool is_wide)
{
    if (is_wide && left >= EIGHT) {
        four_floats a = *(const four_floats *)x, b = *(const four_floats *)(x + 4);
        for (int i = 0; i < 4; i++) {
            out[i] = a.v[i];
            out[i + 4] = b.v[i];
        }
        return;
    }
    for (int i = 0; i < EIGHT; i++) out[i] = i < left ? x[i] : 0.0f;
}

__global__ static void rows_to_bf16_kernel(uint16_t *y, float *inv, const float *x, const float *s,
                                           int64_t n, int64_t w, bool is_wide)
{
    int64_t i = (int64_t)blockIdx.x * ROWS + threadIdx.x / WARP, pitch = mr_bf16_pitch(w);
    int64_t there = i < n ? w : 0; /* of this row */
    float f = s && i < n ? s[i] : 1.0f, square = 0;
    for (int64_t c = threadIdx.x % WARP * EIGHT; c < pitch; c += WARP * EIGHT) {
        float v[EIGHT];
        load(v, x + i * w + c, there - c, is_wide);
        for (int k = 0; k < EIGHT; k++) {
            square += v[k] * v[k];
            v[k] = c + k < there ? f * v[k] : 0.0f; /* not -0 */
        }
        *(eight_bf16 *)(y + i * pitch + c) = packed(v);
    }
    if (!inv) return;
    double norm = sqrt((double)warp_sum(square));
    if (threadIdx.x % WARP == 0 && i < n)
        inv[i] = (float)(1.0 / (norm > NORM_MIN ? norm : NORM_MIN));
}

void rows_to_bf16(uint16_t *y, void *inv, const void *x, const void *s, int64_t n, int64_t w,
                  const mr_exec *ex)
{
    bool is_wide = (uintptr_t)x % 16 == 0 && w % 4 == 0;
    if (n > 0)
        LAUNCH(rows_to_bf16_kernel, (unsigned)pieces(n, ROWS), BLOCK, 0, ex, y, (float *)inv,
               (const float *)x, (const float *)s, n, w, is_wide);
}

/* Columns of a row of logits: how many there are, and what a raw score is multiplied by. */
struct columns {
    const float *cs;
    int64_t v;
    float scale;

    __device__ float factor(int64_t c) const { return cs ? cs[c] * scale : scale; }
    /* Of columns c .. c + 7. */
    __device__ void factors(float f[EIGHT], int64_t c) const
    {
        if (cs) load(f, cs + c, v - c, true);
        for (int i = 0; i < EIGHT; i++) f[i] = cs ? f[i] * scale : scale;
    }
};

/* One row a block: largest l, then q in place and the sum of exponentials. */
__global__ static void ce_rows_bf16_kernel(uint16_t *rawv, double *stats, const int32_t *target,
                                           columns col, int64_t lo, float known_max)
{
    int64_t b = blockIdx.x, t = target[b] - lo, pitch = mr_bf16_pitch(col.v);
    uint16_t *raw = rawv + b * pitch;
    bool is_known = known_max < INFINITY && col.v > 0;
    float m = is_known ? known_max : -INFINITY, x[EIGHT], f[EIGHT];
    double sum = 0, l_target = 0;
    if (threadIdx.x == 0 && t >= 0 && t < col.v)
        l_target = (double)(mr_bf16_to_float(raw[t]) * col.factor(t));
    for (int64_t c = threadIdx.x * EIGHT; c < pitch && !is_known; c += BLOCK * EIGHT) {
        unpack(x, *(const eight_bf16 *)(raw + c));
        col.factors(f, c);
        for (int i = 0; i < EIGHT; i++) {
            float l = x[i] * f[i];
            m = c + i < col.v && l > m ? l : m;
        }
    }
    m = block_max(m); /* its barrier: the target's logit is read before it is overwritten */
    for (int64_t c = threadIdx.x * EIGHT; c < pitch; c += BLOCK * EIGHT) {
        float part = 0;
        unpack(x, *(const eight_bf16 *)(raw + c));
        col.factors(f, c);
        for (int i = 0; i < EIGHT; i++) {
            float e = c + i < col.v ? mr_expf(x[i] * f[i] - m) : 0.0f;
            part += e;
            x[i] = c + i < col.v && c + i != t ? f[i] * e : 0.0f;
        }
        sum += (double)part;
        *(eight_bf16 *)(raw + c) = packed(x);
    }
    sum = block_sum(sum);
    if (threadIdx.x) return;
    stats[3 * b] = (double)m;
    stats[3 * b + 1] = sum;
    stats[3 * b + 2] = l_target;
}

void ce_rows_bf16(uint16_t *raw, double *stats, const int32_t *target, const void *col_scale,
                  int64_t n, int64_t v, int64_t lo, double scale, double known_max,
                  const mr_exec *ex)
{
    columns col = {(const float *)col_scale, v, (float)scale};
    if (n > 0)
        LAUNCH(ce_rows_bf16_kernel, (unsigned)n, BLOCK, 0, ex, raw, stats, target, col, lo,
               (float)known_max);
}
} // namespace MR_ACT_SPACE
