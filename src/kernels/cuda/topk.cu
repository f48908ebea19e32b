/* Full ranking: scores with bits that do not depend on tiles, counting, best-k lists.
 * Invariant: every score is the sum over k = 0, 1, .. of fused multiply-adds in that order,
 * whichever tile or thread computes it; hence a product of its own instead of cuBLAS. */
#include "kernels/cuda/common.cuh"

namespace MR_ACT_SPACE
{

/* A block makes a TILE x TILE piece of s, a thread EACH x EACH of it; DEPTH columns of both inputs
 * at a time in shared memory. */
enum { TILE = 64, EACH = 4, SIDE = TILE / EACH, DEPTH = 16 };

/* shared[k][row] = m[row0 + row, k0 + k], zero outside. */
__device__ static void load_tile(float (*shared)[TILE + 1], const float *m, int64_t row0,
                                 int64_t rows, int64_t k0, int64_t w)
{
    for (int i = (int)threadIdx.x; i < TILE * DEPTH; i += SIDE * SIDE) {
        int64_t row = row0 + i / DEPTH, k = k0 + i % DEPTH;
        shared[i % DEPTH][i / DEPTH] = row < rows && k < w ? m[row * w + k] : 0.0f;
    }
}

__global__ static void score_kernel(float *s, const float *x, const float *e, const float *cs,
                                    int64_t n, int64_t m, int64_t w)
{
    SHARED(float, xs, [DEPTH][TILE + 1]);
    SHARED(float, es, [DEPTH][TILE + 1]);
    int64_t i0 = (int64_t)blockIdx.y * TILE, c0 = (int64_t)blockIdx.x * TILE;
    int ty = (int)threadIdx.x / SIDE, tx = (int)threadIdx.x % SIDE;
    float acc[EACH][EACH] = {};
    for (int64_t k0 = 0; k0 < w; k0 += DEPTH) {
        load_tile(xs, x, i0, n, k0, w);
        load_tile(es, e, c0, m, k0, w);
        __syncthreads();
        int depth = w - k0 < DEPTH ? (int)(w - k0) : DEPTH;
        for (int k = 0; k < depth; k++)
            for (int i = 0; i < EACH; i++)
                for (int c = 0; c < EACH; c++)
                    acc[i][c] = fmaf(xs[k][ty + i * SIDE], es[k][tx + c * SIDE], acc[i][c]);
        __syncthreads();
    }
    for (int i = 0; i < EACH; i++)
        for (int c = 0; c < EACH; c++) {
            int64_t row = i0 + ty + i * SIDE, col = c0 + tx + c * SIDE;
            if (row < n && col < m) s[row * m + col] = cs ? acc[i][c] * cs[col] : acc[i][c];
        }
}

void score_tile(void *s, const void *x, const void *e, const void *col_scale, int64_t n, int64_t m,
                int64_t w, const mr_exec *ex)
{
    const int64_t rows_most = (int64_t)65535 * TILE; /* of one launch: grid.y has 16 bits */
    for (int64_t i = 0; i < n && m > 0; i += rows_most) {
        int64_t rows = n - i < rows_most ? n - i : rows_most;
        dim3 grid((unsigned)pieces(m, TILE), (unsigned)pieces(rows, TILE));
        LAUNCH(score_kernel, grid, SIDE * SIDE, 0, ex, (float *)s + i * m, (const float *)x + i * w,
               (const float *)e, (const float *)col_scale, rows, m, w);
    }
}

void score_target(void *sv, const void *xv, const void *ev, const void *csv, const int32_t *target,
                  int64_t n, int64_t v, int64_t w, int64_t lo, const mr_exec *ex)
{
    float *s = (float *)sv;
    const float *x = (const float *)xv, *e = (const float *)ev, *cs = (const float *)csv;
    each(n, ex, [=] __device__(int64_t i) {
        int64_t t = target[i] - lo;
        bool here = t >= 0 && t < v;
        float acc = 0;
        for (int64_t k = 0; here && k < w; k++) acc = fmaf(x[i * w + k], e[t * w + k], acc);
        s[i] = here && cs ? acc * cs[t] : acc;
    });
}

__global__ static void score_skip_kernel(float *s, const int64_t *skip_start,
                                         const int32_t *skip_id, const int32_t *target, int64_t m,
                                         int64_t lo)
{
    int64_t i = blockIdx.x;
    for (int64_t j = skip_start[i] + threadIdx.x; j < skip_start[i + 1]; j += blockDim.x) {
        int64_t c = skip_id[j] - lo;
        if (c >= 0 && c < m && skip_id[j] != target[i]) s[i * m + c] = -INFINITY;
    }
}

void score_skip(void *s, const int64_t *skip_start, const int32_t *skip_id, const int32_t *target,
                int64_t n, int64_t m, int64_t lo, const mr_exec *ex)
{
    if (n > 0)
        LAUNCH(score_skip_kernel, (unsigned)n, WARP, 0, ex, (float *)s, skip_start, skip_id, target,
               m, lo);
}

__global__ static void rank_count_kernel(int32_t *count, const float *sv, const float *ts,
                                         const int32_t *target, int64_t m, int64_t lo)
{
    int64_t i = blockIdx.x, at = target[i] - lo;
    const float *s = sv + i * m, t = ts[i];
    int32_t c = 0;
    /* columns before the target win a tie, those after it lose it; negated so that NaN counts */
    for (int64_t j = threadIdx.x; j < m; j += blockDim.x)
        if (j != at) c += j < at ? !(s[j] < t) : !(s[j] <= t);
    c = block_sum(c);
    if (threadIdx.x == 0) count[i] += c;
}

void rank_count(int32_t *count, const void *s, const void *target_score, const int32_t *target,
                int64_t n, int64_t m, int64_t lo, const mr_exec *ex)
{
    if (n > 0)
        LAUNCH(rank_count_kernel, (unsigned)n, BLOCK, 0, ex, count, (const float *)s,
               (const float *)target_score, target, m, lo);
}

/* A column of s and its score; column -1 = none. */
struct candidate {
    float score;
    int64_t column;
};

__device__ static inline bool is_better(candidate a, candidate b)
{
    if (a.column < 0 || b.column < 0) return a.column >= 0;
    return a.score > b.score || (a.score == b.score && a.column < b.column);
}

/* The best column of s[m] after `last` whose score is above floor; the same in every thread. */
__device__ static candidate best_after(const float *s, int64_t m, candidate last, float floor)
{
    SHARED(candidate, part, [BLOCK]);
    candidate best = {0, -1};
    for (int64_t j = threadIdx.x; j < m; j += BLOCK) {
        candidate c = {s[j], j};
        if (!(c.score > floor)) continue;
        if (last.column >= 0 && !is_better(last, c)) continue;
        if (is_better(c, best)) best = c;
    }
    part[threadIdx.x] = best;
    __syncthreads();
    for (int o = BLOCK / 2; o > 0; o /= 2) {
        if (threadIdx.x < (unsigned)o && is_better(part[threadIdx.x + o], part[threadIdx.x]))
            part[threadIdx.x] = part[threadIdx.x + o];
        __syncthreads();
    }
    best = part[0];
    __syncthreads();
    return best;
}

/* One row a block. The columns that enter are found best first; few do once the list is good. Ids
 * ascend from call to call, so an equal score goes behind those in the list. */
__global__ static void topk_kernel(int32_t *ids, float *scores, const float *sv, int64_t m,
                                   int64_t k, int64_t lo, int first)
{
    int64_t i = blockIdx.x;
    float *best = scores + i * k;
    int32_t *id = ids + i * k;
    for (int64_t q = threadIdx.x; first && q < k; q += BLOCK) {
        best[q] = -INFINITY;
        id[q] = -1;
    }
    __syncthreads();
    candidate last = {0, -1};
    for (int64_t round = 0; round < k; round++) {
        last = best_after(sv + i * m, m, last, best[k - 1]);
        if (last.column < 0) return; /* the whole block alike */
        if (threadIdx.x == 0) {
            int64_t q = k - 1;
            for (; q > 0 && last.score > best[q - 1]; q--) {
                best[q] = best[q - 1];
                id[q] = id[q - 1];
            }
            best[q] = last.score;
            id[q] = (int32_t)(lo + last.column);
        }
        __syncthreads();
    }
}

void topk_merge(int32_t *ids, void *scores, const void *s, int64_t n, int64_t m, int64_t k,
                int64_t lo, int first, const mr_exec *ex)
{
    if (n > 0 && k > 0)
        LAUNCH(topk_kernel, (unsigned)n, BLOCK, 0, ex, ids, (float *)scores, (const float *)s, m, k,
               lo, first);
}
} // namespace MR_ACT_SPACE
