/* The random draws of the diffusion processes: which t a row trains at, and its standard normals.
 * One definition for CPU, CUDA and for tools that recompute a step on the host (double). The float
 * forms below it compute the same normals with polynomials, within 1e-6 absolute: on a GPU a
 * logarithm, a root, a sine and a cosine in double are hundreds of instructions at half or a
 * sixty-fourth of the rate. */
#ifndef MR_KERNELS_SHARED_DRAW_H
#define MR_KERNELS_SHARED_DRAW_H

#include <stdint.h>
#include <string.h>

#include "base/config.h"
#include "base/rng.h"

/* t of global row rid: uniform over `set` (NULL or n = 0: over 1..t_max). */
MR_HD int64_t mr_draw_t(uint64_t seed, uint32_t purpose, uint32_t step, uint32_t rid, int64_t t_max,
                        const mr_int_list *set)
{
    uint32_t word = mr_philox(seed, purpose, step, rid, 0).v[0];
    if (set && set->n > 0) return set->v[mr_below(word, (uint32_t)set->n)];
    return 1 + (int64_t)mr_below(word, (uint32_t)t_max);
}

/* Standard normals of elements 4 * block .. 4 * block + 3 of a row. */
MR_HD void mr_draw_normal4(double out[4], uint64_t seed, uint32_t purpose, uint32_t step,
                           uint32_t rid, uint32_t block)
{
    mr_u32x4 r = mr_philox(seed, purpose, step, rid, block);
    mr_normal2(r.v[0], r.v[1], &out[0], &out[1]);
    mr_normal2(r.v[2], r.v[3], &out[2], &out[3]);
}

/* One element: what eps of a row is, element by element. */
MR_HD double mr_draw_normal(uint64_t seed, uint32_t purpose, uint32_t step, uint32_t rid,
                            int64_t element)
{
    double v[4];
    mr_draw_normal4(v, seed, purpose, step, rid, (uint32_t)(element / 4));
    return v[element & 3];
}

/* sqrt(-2 ln((a + 1) / 2^32)). Above sqrt(1/2) the logarithm is taken of the exact complement, so
 * that the result keeps its relative precision down to 0. Own least-squares polynomial. */
MR_HD float mr_normal_radiusf(uint32_t a)
{
    float u = (float)(int32_t)(a >> 8) * 0x1p-24f + (float)(int32_t)((a & 255u) + 1u) * 0x1p-32f;
    uint32_t bits, d = ~a;
    memcpy(&bits, &u, sizeof bits);
    /* u = m 2^e with m in [sqrt(1/2), sqrt(2)) */
    int32_t e = (int32_t)(bits - 0x3f3504f3u) >> 23;
    uint32_t mbits = bits - ((uint32_t)e << 23);
    float m;
    memcpy(&m, &mbits, sizeof m);
    float f = e == 0 ? -0x1p-32f * (float)(int32_t)d : m - 1.0f;
    float p = -0.0763442984f;
    p = p * f + 0.127615503f;
    p = p * f - 0.131601951f;
    p = p * f + 0.142017625f;
    p = p * f - 0.166233565f;
    p = p * f + 0.200012267f;
    p = p * f - 0.250008211f;
    p = p * f + 0.333333317f;
    /* ln 2 in two parts, the first exact in a product with e: the sum is rounded only once. */
    float s = f * f, rest = (s * f * p - 0.5f * s + (float)e * -2.12194440e-4f) + f;
    float ln = (float)e * 0.693359375f + rest;
    ln = ln < 0.0f ? ln : 0.0f;
    return sqrtf(-2.0f * ln);
}

/* cos and sin of 2 pi b / 2^32: the quadrant comes from the integer, so nothing is reduced. */
MR_HD void mr_turn_sincosf(uint32_t b, float *c_out, float *s_out)
{
    uint32_t q = (b + 0x20000000u) >> 30;
    int32_t rest = (int32_t)(b - (q << 30));
    /* The low bits of the angle and of 2 pi are added at first order, or rounding the angle to 24
     * bits would be the largest error. The unit is 2 pi / 2^24. */
    float high = (float)(rest >> 8), x = high * 3.745070387e-07f, z = x * x;
    float low = (float)(rest & 255) * 1.46291807926715968e-9f + high * -1.042160751e-14f;
    float s0 = x + x * z * ((-0.000195172979f * z + 0.00833217814f) * z - 0.166666549f);
    float c0 =
        1.0f - (0.5f * z - z * z * ((2.44384496e-05f * z - 0.00138873675f) * z + 0.0416666469f));
    float s = s0 + c0 * low, c = c0 - s0 * low;
    float cc = q & 1u ? s : c, ss = q & 1u ? c : s;
    *c_out = (q + 1u) & 2u ? -cc : cc;
    *s_out = q & 2u ? -ss : ss;
}

/* mr_draw_normal4 in float: what the CPU's float kernels have, element by element. */
MR_HD void mr_draw_normal4f(float out[4], uint64_t seed, uint32_t purpose, uint32_t step,
                            uint32_t rid, uint32_t block)
{
    mr_u32x4 r = mr_philox(seed, purpose, step, rid, block);
    for (int h = 0; h < 4; h += 2) {
        float rad = mr_normal_radiusf(r.v[h]), c, s;
        mr_turn_sincosf(r.v[h + 1], &c, &s);
        out[h] = rad * c;
        out[h + 1] = rad * s;
    }
}

#ifndef __CUDACC__
#define MR_NORMALS 64 /* elements of 16 blocks: one vector register of counters */

/* Normals of elements 64 i .. 64 i + 63 of a row, from block 16 i. */
static inline void mr_normals64_f32(float *out, uint64_t seed, uint32_t purpose, uint32_t step,
                                    uint32_t rid, uint32_t block)
{
    uint32_t v[4][16];
    float nrm[4][16];
    for (uint32_t i = 0; i < 16; i++) {
        mr_u32x4 r = mr_philox(seed, purpose, step, rid, block + i);
        v[0][i] = r.v[0];
        v[1][i] = r.v[1];
        v[2][i] = r.v[2];
        v[3][i] = r.v[3];
    }
    for (int h = 0; h < 4; h += 2)
        for (int i = 0; i < 16; i++) {
            float rad = mr_normal_radiusf(v[h][i]), c, s;
            mr_turn_sincosf(v[h + 1][i], &c, &s);
            nrm[h][i] = rad * c;
            nrm[h + 1][i] = rad * s;
        }
    for (int i = 0; i < 16; i++)
        for (int h = 0; h < 4; h++) out[4 * i + h] = nrm[h][i];
}

static inline void mr_normals64_f64(double *out, uint64_t seed, uint32_t purpose, uint32_t step,
                                    uint32_t rid, uint32_t block)
{
    for (uint32_t i = 0; i < 16; i++)
        mr_draw_normal4(out + 4 * i, seed, purpose, step, rid, block + i);
}
#endif

#endif
