/* Adam, gradient statistics over flat buffers, and what follows from them. */
#include "kernels/cpu/real.h"
#include "kernels/shared/bf16.h"

void MR_FN(adam)(void *pv, void *mv, void *vv, const void *gv, const mr_ranges *ranges,
                 uint16_t *p16, int64_t n16, double beta1, double beta2, double eps, double decay,
                 const mr_exec *ex)
{
    REAL *p = pv, *m = mv, *v = vv;
    const REAL *g = gv;
    const mr_step_state *s = ex->state;
    if (s->skip) return;
    REAL b1 = (REAL)beta1, b2 = (REAL)beta2, c1 = (REAL)(1.0 - beta1), c2 = (REAL)(1.0 - beta2);
    REAL rate = (REAL)(s->lr / s->bias1), inv2 = (REAL)(1.0 / sqrt(s->bias2));
    REAL e = (REAL)eps, wd = (REAL)decay, gs = (REAL)s->grad_scale;
    for (int q = 0; q < ranges->n; q++) {
#pragma omp parallel for simd schedule(static)
        for (int64_t i = ranges->lo[q]; i < ranges->hi[q]; i++) {
            REAL gi = g[i] * gs + wd * p[i];
            m[i] = b1 * m[i] + c1 * gi;
            v[i] = b2 * v[i] + c2 * gi * gi;
            p[i] -= rate * m[i] / (mr_sqrt(v[i]) * inv2 + e);
        }
    }
    for (int64_t i = 0; i < n16; i++) p16[i] = mr_float_to_bf16((float)p[i]);
}

static void stats(double *out, const REAL *g, int64_t n)
{
    double sum = 0;
    int64_t bad = 0;
    /* 4096-element chunks summed in order: independent of the number of threads. */
    enum { CH = 4096 };
    for (int64_t i0 = 0; i0 < n; i0 += CH) {
        int64_t i1 = i0 + CH < n ? i0 + CH : n;
        double part = 0;
#pragma omp simd reduction(+ : part)
        for (int64_t i = i0; i < i1; i++) part += (double)g[i] * (double)g[i];
        if (!isfinite(part))
            for (int64_t i = i0; i < i1; i++) bad += !isfinite((double)g[i]);
        sum += part;
    }
    out[0] = sum;
    out[1] = (double)bad;
}

void MR_FN(grad_stats)(double *out, const void *g, const mr_ranges *ranges, const mr_exec *ex)
{
    (void)ex;
    for (int q = 0; q < ranges->n; q++)
        stats(out + 2 * q, (const REAL *)g + ranges->lo[q], ranges->hi[q] - ranges->lo[q]);
}

void MR_FN(step_decide)(mr_step_state *state, void *told, const double *a, const double *b,
                        const void *losses, const mr_loss_weights *weights, double clip,
                        const mr_exec *ex)
{
    (void)ex;
    const REAL *loss = losses;
    if (told) memcpy(told, losses, (size_t)weights->n * sizeof *loss);
    double norm = sqrt(a[0] + b[0]), total = 0;
    for (int i = 0; i < weights->n; i++) total += weights->w[i] * (double)loss[i];
    state->skip = a[1] + b[1] > 0 || !isfinite(norm) || !isfinite(total);
    state->grad_scale = clip > 0 && norm > clip ? clip / norm : 1.0;
}
