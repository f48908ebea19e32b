/* Dropout factors of matrix rows, for the CPU kernels. Included after real.h. */
#ifndef MR_KERNELS_CPU_MASK_H
#define MR_KERNELS_CPU_MASK_H

#include "kernels/cpu/real.h"
#include "kernels/shared/dropout.h"

/* mr_drop with everything that is constant over a call resolved. */
typedef struct mask_gen {
    bool is_on;
    REAL scale;
    uint32_t threshold, purpose, step;
    uint64_t seed;
    const uint32_t *rid;
    const int32_t *pos;
    int64_t per_row;
} mask_gen;

static inline mask_gen mask_make(const mr_drop *d, const mr_exec *ex)
{
    mask_gen m = {.is_on = d && d->p > 0};
    if (!m.is_on) return m;
    m.scale = (REAL)mr_drop_scale(d->p);
    m.threshold = mr_drop_threshold(d->p);
    m.purpose = d->purpose;
    m.step = ex->state->step;
    m.seed = ex->seed;
    m.rid = d->rows.rid;
    m.pos = d->rows.pos;
    m.per_row = d->per_row;
    return m;
}

/* y[n] = x[n] * factors of elements j0..j0+n-1 of matrix row i of width w, j0 a multiple of 8; x
 * and y point at element j0 and may be equal. Only when is_on. */
static inline void mask_piece(REAL *y, const REAL *x, int64_t j0, int64_t n, int64_t w,
                              const mask_gen *m, int64_t i)
{
    int64_t lead = i / m->per_row, position = m->pos[lead] * m->per_row + i % m->per_row;
    uint32_t block = mr_drop_first_block(position, w) + (uint32_t)(j0 / 8), rid = m->rid[lead];
    uint32_t threshold = m->threshold;
    REAL scale = m->scale;
    uint16_t bits[MR_DROP_CHUNK];
    for (int64_t c = 0; c < n; c += MR_DROP_CHUNK) {
        mr_drop_chunk(bits, m->seed, m->purpose, m->step, rid, block + (uint32_t)(c / 8));
        if (n - c >= MR_DROP_CHUNK) {
#pragma omp simd
            for (int64_t j = 0; j < MR_DROP_CHUNK; j++)
                y[c + j] = bits[j] >= threshold ? x[c + j] * scale : 0;
        } else {
#pragma omp simd
            for (int64_t j = 0; j < n - c; j++)
                y[c + j] = bits[j] >= threshold ? x[c + j] * scale : 0;
        }
    }
}

/* y[w] = x[w] * factors of matrix row i; y may be x. Only when is_on. */
static inline void mask_apply(REAL *y, const REAL *x, int64_t w, const mask_gen *m, int64_t i)
{
    mask_piece(y, x, 0, w, w, m, i);
}

#endif
