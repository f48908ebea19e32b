/* Full ranking: scores with bits that do not depend on tiles, counting, best-k lists.
 * Invariant: every score is the sum over k = 0, 1, .. of fused multiply-adds in that order,
 * whichever tile or thread computes it; hence a product of its own instead of cuBLAS. */
#include "kernels/cuda/common.cuh"

namespace MR_ACT_SPACE
{

/* A block makes TILE x TILE scores, a thread EACH x EACH of them: four neighbours and the four that
 * are HALF further on, of rows and of columns. DEPTH columns of both inputs at a time lie in shared
 * memory, in rows of PITCH elements (k, row), read by four. */
enum { TILE = 128, EACH = 8, QUAD = 4, HALF = TILE / 2, SIDE = TILE / EACH, DEPTH = 8 };
enum { THREADS = SIDE * SIDE, PITCH = TILE / QUAD + 1, MINE = TILE * DEPTH / THREADS };
typedef several<float, QUAD> quad;

/* Place in the tile of a thread's k-th row (or column), of those that begin at QUAD * t. */
__device__ static inline int place_of(int t, int k)
{
    return QUAD * t + k % QUAD + k / QUAD * HALF;
}

/* A thread's share of m[row0 .. row0+TILE-1, k0 .. k0+DEPTH-1], V at once; zero outside. */
template <int V>
__device__ static inline void fetch(float mine[MINE], const float *m, int64_t row0, int64_t rows,
                                    int64_t k0, int64_t w)
{
    UNROLL
    for (int q = 0; q < MINE / V; q++) {
        int i = (int)threadIdx.x + q * THREADS;
        int64_t row = row0 + i / (DEPTH / V), k = k0 + i % (DEPTH / V) * V;
        UNROLL
        for (int v = 0; v < V; v++) mine[q * V + v] = 0.0f;
        if (row < rows && k < w) load<V>(mine + q * V, m + row * w + k);
    }
}

/* The same to shared memory, columns as rows. */
template <int V> __device__ static inline void put_tile(quad (*tile)[PITCH], const float *mine)
{
    UNROLL
    for (int q = 0; q < MINE / V; q++) {
        int i = (int)threadIdx.x + q * THREADS, row = i / (DEPTH / V), k = i % (DEPTH / V) * V;
        UNROLL
        for (int v = 0; v < V; v++) tile[k + v][row / QUAD].v[row % QUAD] = mine[q * V + v];
    }
}

/* acc += the products of one column of both tiles. */
__device__ static inline void step(float acc[EACH][EACH], const quad *x, const quad *e, int ty,
                                   int tx)
{
    quad a[2] = {x[ty], x[ty + HALF / QUAD]}, b[2] = {e[tx], e[tx + HALF / QUAD]};
    UNROLL
    for (int i = 0; i < EACH; i++) {
        UNROLL
        for (int c = 0; c < EACH; c++)
            acc[i][c] = fmaf(a[i / QUAD].v[i % QUAD], b[c / QUAD].v[c % QUAD], acc[i][c]);
    }
}

/* acc[i][c] = the sum for row i0 + place_of(ty, i) of x and c0 + place_of(tx, c) of e. The next
 * columns come while these are computed with. */
template <int V>
__device__ static void sums(float acc[EACH][EACH], const float *x, const float *e, int64_t i0,
                            int64_t c0, int64_t n, int64_t m, int64_t w)
{
    SHARED(quad, xs, [DEPTH][PITCH]);
    SHARED(quad, es, [DEPTH][PITCH]);
    int ty = (int)threadIdx.x / SIDE, tx = (int)threadIdx.x % SIDE;
    float next_x[MINE], next_e[MINE];
    fetch<V>(next_x, x, i0, n, 0, w);
    fetch<V>(next_e, e, c0, m, 0, w);
    for (int64_t k0 = 0; k0 < w; k0 += DEPTH) {
        put_tile<V>(xs, next_x);
        put_tile<V>(es, next_e);
        __syncthreads();
        if (k0 + DEPTH < w) {
            fetch<V>(next_x, x, i0, n, k0 + DEPTH, w);
            fetch<V>(next_e, e, c0, m, k0 + DEPTH, w);
        }
        if (k0 + DEPTH <= w) {
            UNROLL
            for (int k = 0; k < DEPTH; k++) step(acc, xs[k], es[k], ty, tx);
        } else {
            for (int k = 0; k < (int)(w - k0); k++) step(acc, xs[k], es[k], ty, tx);
        }
        __syncthreads();
    }
}

/* The scores of a thread, rows i0 + place_of(ty, i) and columns c0 + place_of(tx, c), go to memory.
 */
struct to_memory {
    enum { BLOCKS = 1 }; /* of a multiprocessor: no register is spilled on any chip */
    float *s;
    const float *cs;
    __device__ void operator()(const float acc[EACH][EACH], int64_t i0, int64_t c0, int ty, int tx,
                               int64_t n, int64_t m) const
    {
        UNROLL
        for (int i = 0; i < EACH; i++) {
            int64_t row = i0 + place_of(ty, i);
            float *to = s + row * m;
            UNROLL
            for (int c = 0; c < EACH; c++) {
                int64_t col = c0 + place_of(tx, c);
                if (row < n && col < m) to[col] = cs ? acc[i][c] * cs[col] : acc[i][c];
            }
        }
    }
};

/* Or they are counted. Rows of threads are halves of warps: each adds up its counts, and one of it
 * adds them to those of other blocks, in integers, whose order is no matter. */
struct to_counts {
    enum { BLOCKS = 2 };
    int32_t *count;
    const float *cs, *ts;
    const int32_t *target;
    int64_t lo;
    __device__ void operator()(const float acc[EACH][EACH], int64_t i0, int64_t c0, int ty, int tx,
                               int64_t n, int64_t m) const
    {
        UNROLL
        for (int i = 0; i < EACH; i++) {
            int64_t row = i0 + place_of(ty, i), at = row < n ? target[row] - lo : 0;
            float t = row < n ? ts[row] : 0.0f;
            int before = 0;
            UNROLL
            for (int c = 0; c < EACH; c++) {
                int64_t col = c0 + place_of(tx, c);
                if (row >= n || col >= m || col == at) continue;
                float s = cs ? acc[i][c] * cs[col] : acc[i][c];
                before += col < at ? !(s < t) : !(s <= t); /* as in rank_count_kernel */
            }
            for (int o = SIDE / 2; o > 0; o /= 2) before += __shfl_xor_sync(ALL_LANES, before, o);
            if (tx == 0 && before > 0) atomicAdd(count + row, before); /* integer */
        }
    }
};

/* Scores of rows first .. n-1 of x and all of e. */
template <int V, class Use>
__global__ static void __launch_bounds__(THREADS, V == QUAD ? Use::BLOCKS : 1)
    scores_kernel(const float *x, const float *e, int64_t first, int64_t n, int64_t m, int64_t w,
                  Use use)
{
    int64_t i0 = first + (int64_t)blockIdx.y * TILE, c0 = (int64_t)blockIdx.x * TILE;
    float acc[EACH][EACH] = {};
    sums<V>(acc, x, e, i0, c0, n, m, w);
    use(acc, i0, c0, (int)threadIdx.x / SIDE, (int)threadIdx.x % SIDE, n, m);
}

template <class Use>
static void for_scores(const void *xv, const void *ev, int64_t n, int64_t m, int64_t w, Use use,
                       const mr_exec *ex)
{
    const int64_t most = (int64_t)65535 * TILE; /* rows of one launch: grid.y has 16 bits */
    const float *x = (const float *)xv, *e = (const float *)ev;
    bool by_four = splits<quad>(x, w) && splits<quad>(e, w);
    for (int64_t i = 0; i < n && m > 0; i += most) {
        dim3 grid((unsigned)pieces(m, TILE), (unsigned)pieces(n - i < most ? n - i : most, TILE));
        if (by_four)
            LAUNCH((scores_kernel<QUAD, Use>), grid, THREADS, 0, ex, x, e, i, n, m, w, use);
        else
            LAUNCH((scores_kernel<1, Use>), grid, THREADS, 0, ex, x, e, i, n, m, w, use);
    }
}

void score_tile(void *s, const void *x, const void *e, const void *cs, int64_t n, int64_t m,
                int64_t w, const mr_exec *ex)
{
    for_scores(x, e, n, m, w, to_memory{(float *)s, (const float *)cs}, ex);
}

void score_count(int32_t *count, const void *x, const void *e, const void *cs,
                 const void *target_score, const int32_t *target, int64_t n, int64_t m, int64_t w,
                 int64_t lo, const mr_exec *ex)
{
    to_counts use = {count, (const float *)cs, (const float *)target_score, target, lo};
    for_scores(x, e, n, m, w, use, ex);
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
