/* TedRec: gates, dropout and mixing of the experts; circular convolutions with gates.
 * What it is not: the experts' matrix products (graph/op_moe.c calls gemm).
 * Invariant: a thread owns its columns throughout. */
#include "kernels/cuda/common.cuh"

namespace MR_ACT_SPACE
{

/* y[count,n,w]: row k of y is x of row k % n, dropped for expert e + k / n. Rows are counted in 32
 * bits, which a grid has. */
struct expert_drop {
    act_t *y;
    const act_t *x;
    mask m;
    int64_t n, w;
    int e, E;

    template <int V> __device__ void at(int64_t k, int64_t j) const
    {
        int64_t i = (uint32_t)k % (uint32_t)n, expert = e + (uint32_t)k / (uint32_t)n;
        mask_row row = {0, 0, 0};
        if (m.is_on)
            row = {m.rid[i], mr_drop_first_block((int64_t)m.pos[i] * E + expert, w), m.state->step};
        float v[V], f[V];
        load<V>(v, x + i * w + j);
        m.factors<V>(f, row, j);
        UNROLL
        for (int c = 0; c < V; c++) v[c] *= f[c];
        store<V>(y + k * w + j, v, 0);
    }
};

void moe_drop(void *y, const void *x, mr_rows_of rows, int64_t n, int64_t w, int e, int count,
              int E, double p, uint32_t purpose, const mr_exec *ex)
{
    mr_drop drop = {p, purpose, rows, 1};
    expert_drop f = {(act_t *)y, (const act_t *)x, mask_of(&drop, ex), n, w, e, E};
    bool in_pieces = splits_by<PIECE>(f.y, w) && splits_by<PIECE>(f.x, w);
    cells_by(in_pieces, count * n, w, ex, f);
}

enum { PER_LANE = MR_MOE_MAX_EXPERTS / WARP }; /* experts of a lane: lane, lane + 32 */

__device__ static inline double softplus(double x) { return x > 30.0 ? x : log1p(exp(x)); }

/* Standard normal of expert j at a position. */
__device__ static double gate_noise(int j, int E, int64_t pos, uint32_t rid, uint64_t seed,
                                    uint32_t purpose, uint32_t step)
{
    uint32_t base = MR_MOE_NOISE + (uint32_t)(pos * ((E + 3) / 4));
    mr_u32x4 r = mr_philox(seed, purpose, step, rid, base + (uint32_t)(j / 4));
    double n0, n1;
    mr_normal2(j & 2 ? r.v[2] : r.v[0], j & 2 ? r.v[3] : r.v[1], &n0, &n1);
    return j & 1 ? n1 : n0;
}

/* A warp does one position, a lane its experts. */
__global__ static void gate_kernel(act_t *p, float *factor, const float *clean, const float *noisy,
                                   const int32_t *start, const uint32_t *rid, int64_t L, int E,
                                   int use_noise, uint32_t purpose, uint64_t seed,
                                   const mr_step_state *state)
{
    int64_t b = blockIdx.x / L, l = blockIdx.x % L, n = start[b] - start[0] + l;
    bool is_token = l < start[b + 1] - start[b];
    double g[PER_LANE], m = -INFINITY, sum = 0;
    for (int q = 0; q < PER_LANE; q++) {
        int j = (int)threadIdx.x + q * WARP;
        g[q] = -INFINITY;
        if (j >= E) continue;
        g[q] = is_token ? (double)clean[n * E + j] : 0.0;
        if (use_noise) {
            double z = is_token ? (double)noisy[n * E + j] : 0.0;
            double eps = gate_noise(j, E, l, rid[b], seed, purpose, state->step);
            g[q] += eps * (softplus(z) + 0.01);
            if (is_token) factor[n * E + j] = (float)(eps * mr_sigmoid_f64(z));
        }
        m = g[q] > m ? g[q] : m;
    }
    m = warp_max(m);
    for (int q = 0; q < PER_LANE; q++) sum += g[q] = exp(g[q] - m);
    sum = warp_sum(sum);
    for (int q = 0; q < PER_LANE; q++) {
        int j = (int)threadIdx.x + q * WARP;
        if (j < E) p[(b * L + l) * E + j] = (float)(g[q] / sum);
    }
}

void moe_gate_fwd(void *p, void *factor, const void *clean, const void *noisy, const int32_t *start,
                  const uint32_t *rid, int64_t B, int64_t L, int E, int use_noise, uint32_t purpose,
                  const mr_exec *ex)
{
    if (B * L > 0)
        LAUNCH(gate_kernel, (unsigned)(B * L), WARP, 0, ex, (act_t *)p, (float *)factor,
               (const float *)clean, (const float *)noisy, start, rid, L, E, use_noise, purpose,
               ex->seed, ex->state);
}

void moe_mix_fwd(void *uv, const void *yv, const void *pv, const void *tv, const int32_t *start,
                 int64_t B, int64_t L, int E, int64_t d, const mr_exec *ex)
{
    act_t *u = (act_t *)uv;
    const act_t *y = (const act_t *)yv, *p = (const act_t *)pv, *t = (const act_t *)tv;
    cells(B * L, d, ex, [=] __device__(int64_t i, int64_t c) {
        int64_t b = i / L, l = i % L, n = start[b] - start[0] + l;
        bool is_token = l < start[b + 1] - start[b];
        float s = 0;
        for (int64_t j = 0; j < E; j++) {
            float v = is_token ? (float)y[(n * E + j) * d + c] : 0.0f;
            s += p[i * E + j] * (v - t[(j * L + l) * d + c]);
        }
        u[i * d + c] = s;
    });
}

/* A warp does one position; every lane knows all dot products, and keeps those of its experts. */
__global__ static void gate_bwd_kernel(act_t *dclean, act_t *dnoisy, const act_t *du,
                                       const act_t *y, const act_t *p, const act_t *t,
                                       const float *factor, const int32_t *start, int64_t B,
                                       int64_t N, int64_t L, int E, int64_t d)
{
    zero_rows(dclean, start[B] - start[0], N, E, E);
    if (dnoisy) zero_rows(dnoisy, start[B] - start[0], N, E, E);
    int64_t b = blockIdx.x / L, l = blockIdx.x % L, n = start[b] - start[0] + l;
    if (l >= start[b + 1] - start[b]) return;
    const act_t *g = du + (b * L + l) * d, *q = p + (b * L + l) * E;
    double own[PER_LANE] = {}, mean = 0;
    for (int64_t j = 0; j < E; j++) {
        const act_t *yj = y + (n * E + j) * d, *tj = t + (j * L + l) * d;
        float s = 0;
        for (int64_t c = threadIdx.x; c < d; c += WARP) s += g[c] * (yj[c] - tj[c]);
        double a = (double)warp_sum(s);
        mean += (double)q[j] * a;
        for (int k = 0; k < PER_LANE; k++)
            if (j == (int64_t)threadIdx.x + k * WARP) own[k] = a;
    }
    for (int k = 0; k < PER_LANE; k++) {
        int64_t j = (int64_t)threadIdx.x + k * WARP;
        if (j >= E) continue;
        double v = (double)q[j] * (own[k] - mean);
        dclean[n * E + j] = (float)v;
        if (dnoisy) dnoisy[n * E + j] = (float)(v * (double)factor[n * E + j]);
    }
}

void moe_gate_bwd(void *dclean, void *dnoisy, const void *du, const void *y, const void *p,
                  const void *t, const void *factor, const int32_t *start, int64_t B, int64_t N,
                  int64_t L, int E, int64_t d, const mr_exec *ex)
{
    if (B * L > 0)
        LAUNCH(gate_bwd_kernel, (unsigned)(B * L), WARP, 0, ex, (act_t *)dclean, (act_t *)dnoisy,
               (const act_t *)du, (const act_t *)y, (const act_t *)p, (const act_t *)t,
               (const float *)factor, start, B, N, L, E, d);
}

/* V: elements of a thread. */
template <class V>
static void weigh_by(act_t *z, const act_t *du, const act_t *p, const int32_t *row,
                     const int32_t *pos, int64_t n, int64_t L, int E, int e, int count, int64_t d,
                     const mr_exec *ex)
{
    cells(n * count, d / V::COUNT, ex, [=] __device__(int64_t k, int64_t q) {
        int64_t i = (uint32_t)k / (uint32_t)count, expert = e + (uint32_t)k % (uint32_t)count;
        int64_t at = row[i] * L + pos[i];
        V v = {};
        if (row[i] >= 0) {
            float share = p[at * E + expert];
            v = at_once<V>(du + at * d + q * V::COUNT);
            for (int c = 0; c < V::COUNT; c++) v.v[c] = share * v.v[c];
        }
        *(V *)(z + k * d + q * V::COUNT) = v;
    });
}

void moe_weigh(void *zv, const void *duv, const void *pv, const int32_t *row, const int32_t *pos,
               int64_t n, int64_t L, int E, int e, int count, int64_t d, const mr_exec *ex)
{
    act_t *z = (act_t *)zv;
    const act_t *du = (const act_t *)duv, *p = (const act_t *)pv;
    typedef several<act_t, 4> V;
    if (splits<V>(z, d) && splits<V>(du, d))
        weigh_by<V>(z, du, p, row, pos, n, L, E, e, count, d, ex);
    else
        weigh_by<several<act_t, 1>>(z, du, p, row, pos, n, L, E, e, count, d, ex);
}
} // namespace MR_ACT_SPACE
