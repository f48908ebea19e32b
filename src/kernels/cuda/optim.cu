/* Adam, gradient statistics over flat buffers, and what follows from them. */
#include "kernels/cuda/common.cuh"

namespace MR_ACT_SPACE
{

void adam(void *pv, void *mv, void *vv, const void *gv, const mr_ranges *ranges, uint16_t *p16,
          int64_t n16, double beta1, double beta2, double eps, double decay, const mr_exec *ex)
{
    float *p = (float *)pv, *m = (float *)mv, *v = (float *)vv;
    const float *g = (const float *)gv;
    const mr_step_state *s = ex->state;
    float b1 = (float)beta1, b2 = (float)beta2, c1 = (float)(1.0 - beta1),
          c2 = (float)(1.0 - beta2), e = (float)eps, wd = (float)decay;
    const mr_ranges r = *ranges;
    int64_t n[MR_MAX_RANGES] = {}, first = 0;
    for (int q = 0; q < r.n; q++) n[q] = r.hi[q] - r.lo[q];
    first = n[0];
    each(n[0] + n[1], ex, [=] __device__(int64_t at) {
        int64_t i = at < first ? r.lo[0] + at : r.lo[1] + at - first;
        if (s->skip) return;
        float rate = (float)(s->lr / s->bias1), inv2 = (float)(1.0 / sqrt(s->bias2));
        float gi = g[i] * (float)s->grad_scale + wd * p[i];
        float mi = b1 * m[i] + c1 * gi, vi = b2 * v[i] + c2 * gi * gi;
        m[i] = mi;
        v[i] = vi;
        float pi = p[i] - rate * mi / (sqrtf(vi) * inv2 + e);
        p[i] = pi;
        if (i < n16) p16[i] = bf16_t(pi).bits;
    });
}

/* The number of blocks is fixed, so the order of additions depends on n alone. */
enum { STAT_BLOCKS = MR_CUDA_PARTIALS / 2 / MR_MAX_RANGES };

/* Range blockIdx.y. */
__global__ static void stats_kernel(double *out, double *part, unsigned *counter, const float *g,
                                    mr_ranges ranges)
{
    unsigned q = blockIdx.y;
    double sum = 0, bad = 0;
    out += 2 * q;
    part += 2 * q * STAT_BLOCKS;
    for (int64_t i = ranges.lo[q] + (int64_t)blockIdx.x * BLOCK + threadIdx.x; i < ranges.hi[q];
         i += (int64_t)STAT_BLOCKS * BLOCK) {
        sum += (double)g[i] * (double)g[i];
        bad += isfinite(g[i]) ? 0.0 : 1.0;
    }
    sum = block_sum(sum);
    bad = block_sum(bad);
    if (threadIdx.x == 0) {
        part[2 * blockIdx.x] = sum;
        part[2 * blockIdx.x + 1] = bad;
    }
    if (!is_last_block(counter + q, STAT_BLOCKS)) return;
    sum = bad = 0;
    for (int i = (int)threadIdx.x; i < STAT_BLOCKS; i += BLOCK) {
        sum += part[2 * i];
        bad += part[2 * i + 1];
    }
    sum = block_sum(sum);
    bad = block_sum(bad);
    if (threadIdx.x) return;
    out[0] = sum;
    out[1] = bad;
}

void grad_stats(double *out, const void *g, const mr_ranges *ranges, const mr_exec *ex)
{
    mr_cuda_queue *q = queue_of(ex);
    LAUNCH(stats_kernel, dim3(STAT_BLOCKS, (unsigned)ranges->n), BLOCK, 0, ex, out, q->partials,
           q->counters, (const float *)g, *ranges);
}

__global__ static void decide_kernel(mr_step_state *state, float *told, const double *a,
                                     const double *b, const float *loss, mr_loss_weights weights,
                                     double clip)
{
    double norm = sqrt(a[0] + b[0]), total = 0;
    for (int i = 0; i < weights.n; i++) {
        total += weights.w[i] * (double)loss[i];
        if (told) told[i] = loss[i];
    }
    state->skip = a[1] + b[1] > 0 || !isfinite(norm) || !isfinite(total);
    state->grad_scale = clip > 0 && norm > clip ? clip / norm : 1.0;
}

void step_decide(mr_step_state *state, void *told, const double *a, const double *b,
                 const void *losses, const mr_loss_weights *weights, double clip, const mr_exec *ex)
{
    LAUNCH(decide_kernel, 1, 1, 0, ex, state, (float *)told, a, b, (const float *)losses, *weights,
           clip);
}
} // namespace MR_ACT_SPACE
