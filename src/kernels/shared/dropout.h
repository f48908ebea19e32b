/* Dropout masks: what every kernel that drops elements shares, so that forward, backward, CPU and
 * CUDA see the same mask without storing it. The definition is rng.h's: element e of a row uses 16
 * bits of Philox block e / 8, counter {block, rid, step, purpose}. A matrix row n of width w starts
 * at block position(n) * ceil8(w) / 8. Attention probabilities number their elements themselves
 * (mr_drop_att_block). */
#ifndef MR_KERNELS_SHARED_DROPOUT_H
#define MR_KERNELS_SHARED_DROPOUT_H

#include <stdint.h>
#include <string.h>

#include "base/rng.h"
#include "kernels/exec.h"

/* One dropout as kernels take it (host struct; the arrays of rows are device memory). */
typedef struct mr_drop {
    double p;         /* probability of dropping; 0 = off and nothing else is read */
    uint32_t purpose; /* fourth counter word */
    mr_rows_of rows;  /* rid, pos of the leading rows */
    int64_t per_row;  /* matrix rows per leading row (>= 1): matrix row n belongs to leading row
                       * n / per_row at position pos * per_row + n % per_row */
} mr_drop;

/* Probabilities that the 16-bit definition can express: something is always kept. */
MR_HD int mr_drop_is_valid(double p) { return p >= 0 && mr_drop_threshold(p) < 65536u; }

/* A second, independent mask of the same op. */
#define MR_DROP_SECOND 0x80000000u

/* First block of a matrix row of width w. */
MR_HD uint32_t mr_drop_first_block(int64_t position, int64_t w)
{
    return (uint32_t)(position * ((w + 7) / 8));
}

/* First block of the probabilities of (head, query): S = most keys of a row, so that a query has
 * the same bits whichever of the other queries are computed. Element of key j: 8 * block + j. */
MR_HD uint32_t mr_drop_att_block(int64_t head, int64_t query, int64_t S)
{
    return (uint32_t)((head * S + query) * ((S + 7) / 8));
}

/* The 16 bits of element e, counted from block `first`: the scalar definition. */
MR_HD uint32_t mr_drop_bits_at(uint64_t seed, uint32_t purpose, uint32_t step, uint32_t rid,
                               uint32_t first, int64_t e)
{
    mr_u32x4 r = mr_philox(seed, purpose, step, rid, first + (uint32_t)(e / 8));
    /* not r.v[(e & 7) / 2]: a GPU's registers have no index */
    uint32_t low = e & 2 ? r.v[1] : r.v[0], high = e & 2 ? r.v[3] : r.v[2];
    uint32_t word = e & 4 ? high : low;
    return (e & 1) ? word >> 16 : word & 0xffffu;
}

#ifndef __CUDACC__
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the halves of a word are read in memory order: little-endian machines only"
#endif

#define MR_DROP_CHUNK 128 /* elements of 16 blocks, one vector register of counters */

/* 16 consecutive blocks at once: lanes are blocks, so that the compiler uses one vector per word.
 */
static inline void mr_drop_chunk(uint16_t *out, uint64_t seed, uint32_t purpose, uint32_t step,
                                 uint32_t rid, uint32_t block)
{
    uint32_t o[64];
    for (uint32_t i = 0; i < 16; i++) {
        mr_u32x4 r = mr_philox(seed, purpose, step, rid, block + i);
        o[4 * i] = r.v[0];
        o[4 * i + 1] = r.v[1];
        o[4 * i + 2] = r.v[2];
        o[4 * i + 3] = r.v[3];
    }
    memcpy(out, o, sizeof o);
}

/* out[e] = bits of elements e = 0..n-1 from block `first`; out has room for n rounded up to 128. */
static inline void mr_drop_bits(uint16_t *out, int64_t n, uint64_t seed, uint32_t purpose,
                                uint32_t step, uint32_t rid, uint32_t first)
{
    for (int64_t e = 0; e < n; e += MR_DROP_CHUNK)
        mr_drop_chunk(out + e, seed, purpose, step, rid, first + (uint32_t)(e / 8));
}
#endif

#endif
