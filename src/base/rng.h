/* The only source of random numbers: Philox4x32-10 (Random123) as a pure function of
 * (seed, purpose, step, row, block). Usable from C and CUDA; no state, nothing to checkpoint.
 *   key     = 64-bit run seed
 *   counter = { block, row, step, purpose }
 * `row` is a global training row (or user) index, never a position inside a rank, so a draw does
 * not depend on batch layout, thread, backend or number of ranks. */
#ifndef MR_BASE_RNG_H
#define MR_BASE_RNG_H

#include <math.h>
#include <stdint.h>

#ifdef __CUDACC__
#define MR_HD __host__ __device__ static inline
#else
#define MR_HD static inline
#endif

/* Purposes: the fourth counter word. Ops add their own op number (graph order) to MR_RNG_OP. */
enum {
    MR_RNG_INIT = 1,    /* parameter initialisation: row = parameter number */
    MR_RNG_SHUFFLE = 2, /* epoch order of a virtual shard */
    MR_RNG_AUGMENT = 3, /* CL4SRec views */
    MR_RNG_T_TCD = 4,   /* diffusion step of a row, TCD */
    MR_RNG_T_NPD = 5,
    MR_RNG_EPS_TCD = 6, /* forward noise */
    MR_RNG_EPS_NPD = 7,
    MR_RNG_FRAMES = 8,    /* robustness noise on visual features: row = item */
    MR_RNG_SYNTH = 9,     /* synthetic data sets */
    MR_RNG_POST_TCD = 16, /* + reverse step t: posterior noise, up to 4096 steps */
    MR_RNG_POST_NPD = 16 + 4096,
    MR_RNG_OP = 65536 /* + node number: dropout and gate noise */
};

typedef struct mr_u32x4 {
    uint32_t v[4];
} mr_u32x4;

/* Philox4x32-10 with the published constants (Salmon et al., SC'11), checked against Random123. */
MR_HD mr_u32x4 mr_philox(uint64_t seed, uint32_t purpose, uint32_t step, uint32_t row,
                         uint32_t block)
{
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    uint32_t c0 = block, c1 = row, c2 = step, c3 = purpose;
    for (int r = 0; r < 10; r++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    mr_u32x4 o;
    o.v[0] = c0;
    o.v[1] = c1;
    o.v[2] = c2;
    o.v[3] = c3;
    return o;
}

/* (0, 1]: never 0, so its logarithm is finite. */
MR_HD double mr_u01(uint32_t x) { return ((double)x + 1.0) * (1.0 / 4294967296.0); }

/* Two standard normals from two 32-bit words (Box-Muller, in double). */
MR_HD void mr_normal2(uint32_t a, uint32_t b, double *n0, double *n1)
{
    double r = sqrt(-2.0 * log(mr_u01(a))),
           w = 6.283185307179586476925 * ((double)b * (1.0 / 4294967296.0));
    *n0 = r * cos(w);
    *n1 = r * sin(w);
}

/* Uniform integer in [0, n) from one 32-bit word by multiply-shift (bias below n / 2^32). */
MR_HD uint32_t mr_below(uint32_t x, uint32_t n) { return (uint32_t)(((uint64_t)x * n) >> 32); }

/* Dropout: element e of a row uses 16 bits of block e / 8: word (e & 7) / 2, low half first.
 * Kept when those bits >= mr_drop_threshold(p); kept values are scaled by mr_drop_scale(p). */
MR_HD uint32_t mr_drop_threshold(double p) { return (uint32_t)(p * 65536.0 + 0.5); }
MR_HD double mr_drop_scale(double p) { return 65536.0 / (65536.0 - (double)mr_drop_threshold(p)); }

#endif
