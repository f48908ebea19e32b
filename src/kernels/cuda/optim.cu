/* Adam, gradient statistics over flat buffers, and what follows from them. */
#include "kernels/cuda/common.cuh"

namespace MR_ACT_SPACE
{

struct adam_args {
    float *p, *m, *v;
    const float *g;
    uint16_t *p16;
    int64_t n16, n[MR_MAX_RANGES]; /* elements of each range */
    mr_ranges r;
    float b1, b2, c1, c2, e, wd;
};

/* What is the same for all elements of a step. */
struct adam_step {
    float rate, inv2, scale;

    __device__ explicit adam_step(const mr_step_state &s)
    {
        rate = (float)(s.lr / s.bias1);
        inv2 = (float)(1.0 / sqrt(s.bias2));
        scale = (float)s.grad_scale;
    }
    __device__ void one(float *p, float *m, float *v, float g, const adam_args &a) const
    {
        float gi = g * scale + a.wd * *p;
        *m = a.b1 * *m + a.c1 * gi;
        *v = a.b2 * *v + a.c2 * gi * gi;
        *p -= rate * *m / (sqrtf(*v) * inv2 + a.e);
    }
};

enum { TURNS = 8 }; /* of a thread */

/* Elements V::COUNT at a time: each range, and its first, is a multiple. */
template <class V> __global__ void adam_kernel(adam_args a, int64_t n, const mr_step_state *state)
{
    if (state->skip) return;
    adam_step step(*state);
    for (int64_t q = (int64_t)blockIdx.x * BLOCK + threadIdx.x; q < n;
         q += (int64_t)gridDim.x * BLOCK) {
        int64_t at = q * V::COUNT, i = at < a.n[0] ? a.r.lo[0] + at : a.r.lo[1] + at - a.n[0];
        V p = at_once<V>(a.p + i), m = at_once<V>(a.m + i), v = at_once<V>(a.v + i);
        const V g = at_once<V>(a.g + i);
        several<uint16_t, V::COUNT> h;
        for (int k = 0; k < V::COUNT; k++) {
            step.one(&p.v[k], &m.v[k], &v.v[k], g.v[k], a);
            h.v[k] = bf16_t(p.v[k]).bits;
        }
        *(V *)(a.m + i) = m;
        *(V *)(a.v + i) = v;
        *(V *)(a.p + i) = p;
        if (i + V::COUNT <= a.n16)
            *(several<uint16_t, V::COUNT> *)(a.p16 + i) = h;
        else
            for (int k = 0; k < V::COUNT && i + k < a.n16; k++) a.p16[i + k] = h.v[k];
    }
}

template <class V> static void adam_by(const adam_args &a, const mr_exec *ex)
{
    int64_t n = (a.n[0] + a.n[1]) / V::COUNT;
    if (n > 0)
        LAUNCH(adam_kernel<V>, (unsigned)pieces(n, BLOCK * TURNS), BLOCK, 0, ex, a, n, ex->state);
}

void adam(void *pv, void *mv, void *vv, const void *gv, const mr_ranges *ranges, uint16_t *p16,
          int64_t n16, double beta1, double beta2, double eps, double decay, const mr_exec *ex)
{
    typedef wide<float> V;
    adam_args a = {};
    a.p = (float *)pv;
    a.m = (float *)mv;
    a.v = (float *)vv;
    a.g = (const float *)gv;
    a.p16 = p16;
    a.n16 = n16;
    a.r = *ranges;
    a.b1 = (float)beta1;
    a.b2 = (float)beta2;
    a.c1 = (float)(1.0 - beta1);
    a.c2 = (float)(1.0 - beta2);
    a.e = (float)eps;
    a.wd = (float)decay;
    bool is_wide = splits<V>(pv, 0) && splits<V>(mv, 0) && splits<V>(vv, 0) && splits<V>(gv, 0) &&
                   splits<several<uint16_t, V::COUNT>>(p16, 0);
    for (int q = 0; q < ranges->n; q++) {
        a.n[q] = ranges->hi[q] - ranges->lo[q];
        is_wide = is_wide && a.n[q] % V::COUNT == 0 && ranges->lo[q] % V::COUNT == 0;
    }
    if (is_wide)
        adam_by<V>(a, ex);
    else
        adam_by<several<float, 1>>(a, ex);
}

/* The most blocks of a range. It is fixed, so the order of additions depends on n alone: where
 * fewer blocks have all elements, the others would add 0. */
enum { STAT_BLOCKS = MR_CUDA_PARTIALS / 2 / MR_MAX_RANGES };

/* Range blockIdx.y. */
__global__ static void stats_kernel(double *out, double *part, unsigned *counter, const float *g,
                                    mr_ranges ranges)
{
    unsigned q = blockIdx.y, blocks = blocks_of_strides(ranges.hi[q] - ranges.lo[q], STAT_BLOCKS);
    double sum = 0, bad = 0;
    if (blockIdx.x >= blocks) return; /* the other range is longer */
    out += 2 * q;
    part += 2 * q * STAT_BLOCKS;
    for (int64_t i = ranges.lo[q] + (int64_t)blockIdx.x * BLOCK + threadIdx.x; i < ranges.hi[q];
         i += (int64_t)gridDim.x * BLOCK) {
        sum += (double)g[i] * (double)g[i];
        bad += isfinite(g[i]) ? 0.0 : 1.0;
    }
    sum = block_sum(sum);
    bad = block_sum(bad);
    if (threadIdx.x == 0) {
        part[2 * blockIdx.x] = sum;
        part[2 * blockIdx.x + 1] = bad;
    }
    if (!is_last_block(counter + q, blocks)) return;
    sum = bad = 0;
    for (unsigned i = threadIdx.x; i < blocks; i += BLOCK) {
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
    int64_t most = 0;
    for (int i = 0; i < ranges->n; i++)
        if (ranges->hi[i] - ranges->lo[i] > most) most = ranges->hi[i] - ranges->lo[i];
    dim3 grid(blocks_of_strides(most, STAT_BLOCKS), (unsigned)ranges->n);
    LAUNCH(stats_kernel, grid, BLOCK, 0, ex, out, q->partials, q->counters, (const float *)g,
           *ranges);
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
