/* Paired buffers for comparing kernels of both precisions. */
#include "kernel_pair.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/mem.h"
#include "op_world.h"

pair pair_make(int64_t n, uint32_t stream)
{
    pair p = {.n = n};
    assert_int_equal(MR_ALLOC(&p.d, n, "pair"), MR_OK);
    assert_int_equal(MR_ALLOC(&p.f, n, "pair"), MR_OK);
    for (int64_t i = 0; i < n; i++) {
        p.f[i] = stream ? (float)op_random(stream, i) : NAN;
        p.d[i] = (double)p.f[i];
    }
    return p;
}

pair pair_copy(const pair *p)
{
    pair q = pair_make(p->n, 0);
    for (int64_t i = 0; i < p->n; i++) {
        q.f[i] = p->f[i];
        q.d[i] = p->d[i];
    }
    return q;
}

void pair_free(pair *p)
{
    MR_FREE(p->d);
    MR_FREE(p->f);
}

void pair_compare(const char *what, const pair *got, const double *want, int64_t K)
{
    double square = 0, top = 0;
    for (int64_t i = 0; i < got->n; i++) {
        square += want[i] * want[i];
        top = fmax(top, fabs(want[i]));
    }
    double rms = sqrt(square / (double)(got->n ? got->n : 1));
    double tol = 1e-5 * sqrt(fmax(1.0, (double)K / 1000.0)) * rms;
    for (int64_t i = 0; i < got->n; i++) {
        if (!(fabs(got->d[i] - want[i]) <= 1e-12 * top))
            fail_msg("%s[%lld]: float64 %.15g, reference %.15g", what, (long long)i, got->d[i],
                     want[i]);
        if (!(fabs((double)got->f[i] - got->d[i]) <= tol))
            fail_msg("%s[%lld]: float32 %.9g, float64 %.9g, %.1f%% of the tolerance", what,
                     (long long)i, (double)got->f[i], got->d[i],
                     100 * fabs((double)got->f[i] - got->d[i]) / tol);
    }
}

void pair_exec_make(pair_exec *e, int64_t scratch)
{
    memset(e, 0, sizeof *e);
    e->state.step = 11;
    e->ex.seed = 0x123456789abcdefull;
    e->ex.scratch_bytes = (size_t)scratch * 8;
    assert_int_equal(mr_alloc(&e->ex.scratch, scratch, 8, "scratch"), MR_OK);
    if (scratch) memset(e->ex.scratch, 0xFF, e->ex.scratch_bytes);
}

void pair_exec_free(pair_exec *e) { MR_FREE(e->ex.scratch); }

double drop_factor(const mr_drop *d, const mr_exec *ex, int64_t row, int64_t w, int64_t col)
{
    if (!d || !(d->p > 0)) return 1.0;
    int64_t lead = row / d->per_row, width8 = (w + 7) / 8 * 8;
    int64_t at = (d->rows.pos[lead] * d->per_row + row % d->per_row) * width8 + col;
    mr_u32x4 r =
        mr_philox(ex->seed, d->purpose, ex->state->step, d->rows.rid[lead], (uint32_t)(at / 8));
    uint32_t word = r.v[(at % 8) / 2], bits = at % 2 ? word >> 16 : word & 0xffff;
    return bits >= mr_drop_threshold(d->p) ? mr_drop_scale(d->p) : 0.0;
}
