/* Rows by index, positions, frozen features.
 * What it is not: the exchange of rows between ranks (graph/op_embed.c).
 * Sums follow the order of the inverse index or of the rows: one thread owns a column. */
#include <cuda_fp16.h>

#include "kernels/cuda/common.cuh"

namespace MR_ACT_SPACE
{

/* v[V] += more[V], unless that is NULL. */
template <int V> __device__ static inline void add_more(float v[V], const float *more, int64_t at)
{
    float p[V];
    if (!more) return;
    load<V>(p, more + at);
    UNROLL
    for (int k = 0; k < V; k++) v[k] += p[k];
}

/* V: columns of a thread. */
template <int V, class Y, class X>
static void gather_by(Y *out, const X *table, const int32_t *row, const float *more,
                      const int32_t *at, int64_t n, int64_t w, const mr_exec *ex)
{
    cells(n, w / V, ex, [=] __device__(int64_t i, int64_t q) {
        float v[V];
        load<V>(v, table + row[i] * w + V * q);
        add_more<V>(v, more, more ? at[i] * w + V * q : 0);
        store<V>(out + i * w + V * q, v, 0);
    });
}

template <class Y, class X>
static void gather(Y *out, const X *table, const int32_t *row, const float *more, const int32_t *at,
                   int64_t n, int64_t w, const mr_exec *ex)
{
    if (splits_by<PIECE>(out, w) && splits_by<PIECE>(table, w) && splits_by<PIECE>(more, w))
        gather_by<PIECE>(out, table, row, more, at, n, w, ex);
    else
        gather_by<1>(out, table, row, more, at, n, w, ex);
}

void gather_rows(void *out, const void *table, const int32_t *row, const void *morev,
                 const int32_t *at, int64_t n, int64_t w, mr_sides sides, const mr_exec *ex)
{
    const float *more = (const float *)morev;
    OF_SIDES(sides, gather, out, table, row, more, at, n, w, ex);
}

template <int V>
static void gather_padded_by(act_t *out, const float *table, const int32_t *row,
                             const int32_t *start, const int32_t *len, int64_t B, int64_t L,
                             int64_t w, int64_t pad, const mr_exec *ex)
{
    cells(B * L, w / V, ex, [=] __device__(int64_t i, int64_t q) {
        int64_t b = i / L, l = i % L, at = l < len[b] ? start[b] + l : pad;
        float v[V];
        load<V>(v, table + row[at] * w + V * q);
        store<V>(out + i * w + V * q, v, 0);
    });
}

void gather_padded(void *outv, const void *tablev, const int32_t *row, const int32_t *start,
                   const int32_t *len, int64_t B, int64_t L, int64_t w, int64_t pad,
                   const mr_exec *ex)
{
    act_t *out = (act_t *)outv;
    const float *table = (const float *)tablev;
    if (splits_by<PIECE>(out, w) && splits_by<PIECE>(table, w))
        gather_padded_by<PIECE>(out, table, row, start, len, B, L, w, pad, ex);
    else
        gather_padded_by<1>(out, table, row, start, len, B, L, w, pad, ex);
}

/* Where the rows to be added lie, and where they go: arguments of add_rows. */
struct row_lists {
    const int32_t *row, *start, *pos, *tok_row, *tok_pos;
    int64_t L;
    int32_t skip;
    bool sets; /* rows are =, not += */

    __device__ int64_t source(int64_t k) const
    {
        int64_t t = pos[k];
        return tok_row ? tok_row[t] * L + tok_pos[t] : t;
    }
};

enum { ROWS_AHEAD = 4 }; /* read at once: an item of many tokens is a long sum in one block */

template <int V, class Y, class X>
static void scatter_by(Y *out, const X *x, row_lists l, int64_t n, int64_t w, const mr_exec *ex)
{
    cells(n, w / V, ex, [=] __device__(int64_t i, int64_t q) {
        int64_t to = l.row ? l.row[i] : i, end = l.start[to == l.skip ? i : i + 1];
        if (to == l.skip && !l.sets) return;
        float s[V] = {}, v[ROWS_AHEAD][V] = {};
        if (!l.sets) load<V>(s, out + to * w + V * q);
        for (int64_t k = l.start[i]; k < end; k += ROWS_AHEAD) {
            UNROLL
            for (int r = 0; r < ROWS_AHEAD; r++)
                if (k + r < end) load<V>(v[r], x + l.source(k + r) * w + V * q);
            UNROLL
            for (int r = 0; r < ROWS_AHEAD; r++)
                for (int c = 0; c < V && k + r < end; c++) s[c] += v[r][c];
        }
        store<V>(out + to * w + V * q, s, 0);
    });
}

template <class Y, class X>
static void scatter(Y *out, const X *x, row_lists l, int64_t n, int64_t w, const mr_exec *ex)
{
    if (splits_by<PIECE>(out, w) && splits_by<PIECE>(x, w))
        scatter_by<PIECE>(out, x, l, n, w, ex);
    else
        scatter_by<1>(out, x, l, n, w, ex);
}

template <class Y, class X> static void clear(Y *out, const X *, int64_t n, const mr_exec *ex)
{
    each(n, ex, [=] __device__(int64_t i) { out[i] = 0.0f; });
}

void add_rows(void *out, const void *x, const int32_t *row, const int32_t *start,
              const int32_t *pos, int64_t n, int64_t w, int64_t R, int acc, int32_t skip,
              const int32_t *tok_row, const int32_t *tok_pos, int64_t L, mr_sides sides,
              const mr_exec *ex)
{
    bool is_every = !row && n == R; /* so none is cleared first */
    row_lists l = {row, start, pos, tok_row, tok_pos, L, skip, !acc && is_every};
    if (!acc && !is_every) OF_SIDES(sides, clear, out, x, R * w, ex);
    OF_SIDES(sides, scatter, out, x, l, n, w, ex);
}

template <int V>
static void add_positions(act_t *y, const act_t *x, const float *table, const int32_t *pos,
                          int64_t n, int64_t w, const mr_exec *ex)
{
    cells(n, w / V, ex, [=] __device__(int64_t i, int64_t q) {
        float v[V];
        load<V>(v, x + i * w + V * q);
        add_more<V>(v, table, pos[i] * w + V * q);
        store<V>(y + i * w + V * q, v, 0);
    });
}

void position_fwd(void *yv, const void *xv, const void *tablev, const int32_t *pos, int64_t n,
                  int64_t w, const mr_exec *ex)
{
    act_t *y = (act_t *)yv;
    const act_t *x = (const act_t *)xv;
    const float *table = (const float *)tablev;
    if (splits_by<PIECE>(y, w) && splits_by<PIECE>(x, w) && splits_by<PIECE>(table, w))
        add_positions<PIECE>(y, x, table, pos, n, w, ex);
    else
        add_positions<1>(y, x, table, pos, n, w, ex);
}

/* Arguments of position_bwd. */
struct positions {
    act_t *dx;
    float *dtable;
    const act_t *dy;
    const int32_t *start, *len;
    int64_t n, B, L, w;
    int acc_x, acc_table;
};

enum { AHEAD = 4, ROW_BLOCKS = 256, LEAST_BLOCKS = 64 }; /* rows that are read at once */

/* Some rows of the batch a block, a thread V columns of a position. parts: [blocks][L w]. */
template <int V>
__global__ static void position_rows_kernel(positions a, mr_parts parts, int64_t rows)
{
    int64_t p = blockIdx.x, w = a.w, first = p * rows;
    int64_t end = first + rows < a.B ? first + rows : a.B;
    unsigned count = (unsigned)(w / V);
    for (unsigned e = threadIdx.x; e < (unsigned)a.L * count; e += blockDim.x) {
        int64_t l = e / count, j = V * (e % count);
        float s[V] = {};
        for (int64_t b = first; b < end; b += AHEAD) {
            float d[AHEAD][V] = {};
            int64_t at[AHEAD];
            UNROLL
            for (int k = 0; k < AHEAD; k++) {
                bool is_token = b + k < end && l < a.len[b + k];
                at[k] = is_token ? (a.start[b + k] + l) * w + j : -1;
                if (is_token) load<V>(d[k], a.dy + at[k]);
            }
            UNROLL
            for (int k = 0; k < AHEAD; k++) {
                UNROLL
                for (int c = 0; c < V; c++) s[c] += d[k][c];
                if (a.dx && at[k] >= 0) store<V>(a.dx + at[k], d[k], a.acc_x);
            }
        }
        store<V>(parts.part + p * parts.ld + l * w + j, s, 0);
    }
    for (int64_t i = a.start[a.B] + p; a.dx && i < a.n; i += gridDim.x) /* rows of no token */
        for (int64_t j = V * threadIdx.x; j < w; j += V * blockDim.x) {
            float d[V];
            load<V>(d, a.dy + i * w + j);
            store<V>(a.dx + i * w + j, d, a.acc_x);
        }
    add_parts(parts, (int)p, [&](int64_t e, float s) { put(&a.dtable[e], s, a.acc_table); });
}

/* Where many long rows leave no room for such sums. Position blockIdx.y, 32 columns; thread row y
 * adds up rows y, y + 32, .., and the 32 sums are added in order. Every token is met once. */
__global__ static void position_bwd_kernel(positions a)
{
    SHARED(float, part, [WARP][WARP]);
    int64_t l = blockIdx.y, w = a.w, j = (int64_t)blockIdx.x * WARP + threadIdx.x;
    float s = 0;
    for (int64_t b = threadIdx.y; j < w && b < a.B; b += WARP) {
        if (a.len[b] <= l) continue;
        int64_t e = (a.start[b] + l) * w + j;
        float g = a.dy[e];
        s += g;
        if (a.dx) put(&a.dx[e], g, a.acc_x);
    }
    /* rows of no token */
    int64_t behind = a.start[a.B] + l * WARP + threadIdx.y;
    for (int64_t i = behind; a.dx && j < w && i < a.n; i += (int64_t)gridDim.y * WARP)
        put(&a.dx[i * w + j], a.dy[i * w + j], a.acc_x);
    part[threadIdx.y][threadIdx.x] = s;
    __syncthreads();
    if (threadIdx.y || j >= w) return;
    for (int i = 1; i < WARP; i++) s += part[i][threadIdx.x];
    put(&a.dtable[l * w + j], s, a.acc_table);
}

void position_bwd(void *dx, void *dtable, const void *dy, const int32_t *start, const int32_t *len,
                  int64_t n, int64_t B, int64_t L, int64_t w, int acc_x, int acc_table,
                  const mr_exec *ex)
{
    mr_cuda_queue *q = queue_of(ex);
    positions a = {(act_t *)dx, (float *)dtable, (const act_t *)dy, start, len, n, B, L,
                   w,           acc_x,           acc_table};
    if (L <= 0 || w <= 0) return;
    int64_t room = MR_CUDA_SUMS / (L * w), most = room < ROW_BLOCKS ? room : ROW_BLOCKS;
    if (room < LEAST_BLOCKS) {
        LAUNCH(position_bwd_kernel, dim3((unsigned)pieces(w, WARP), (unsigned)L), dim3(WARP, WARP),
               0, ex, a);
        return;
    }
    int64_t rows = B > most ? pieces(B, most) : 1;
    mr_parts parts = {q->sums, L * w, L * w, (int)(B > 0 ? pieces(B, rows) : 1), q->counters};
    if (splits_by<PIECE>(a.dx, w) && splits_by<PIECE>(a.dy, w) && splits_by<PIECE>(q->sums, w))
        LAUNCH(position_rows_kernel<PIECE>, (unsigned)parts.count, threads_for(L * w / PIECE), 0,
               ex, a, parts, rows);
    else
        LAUNCH(position_rows_kernel<1>, (unsigned)parts.count, threads_for(L * w), 0, ex, a, parts,
               rows);
}

template <int V>
static void last_fwd_by(act_t *y, const act_t *x, const int32_t *start, const int32_t *len,
                        int64_t B, int64_t w, const mr_exec *ex)
{
    cells(B, w / V, ex, [=] __device__(int64_t b, int64_t q) {
        float v[V];
        load<V>(v, x + (start[b] + len[b] - 1) * w + V * q);
        store<V>(y + b * w + V * q, v, 0);
    });
}

void last_fwd(void *yv, const void *xv, const int32_t *start, const int32_t *len, int64_t B,
              int64_t w, const mr_exec *ex)
{
    act_t *y = (act_t *)yv;
    const act_t *x = (const act_t *)xv;
    if (splits_by<PIECE>(y, w) && splits_by<PIECE>(x, w))
        last_fwd_by<PIECE>(y, x, start, len, B, w, ex);
    else
        last_fwd_by<1>(y, x, start, len, B, w, ex);
}

template <int V>
static void last_bwd_by(act_t *dx, const act_t *dy, const int32_t *start, const int32_t *len,
                        int64_t B, int64_t N, int64_t w, int acc, const mr_exec *ex)
{
    cells(B, w / V, ex, [=] __device__(int64_t b, int64_t q) {
        const float zero[V] = {};
        float v[V];
        act_t *d = dx + start[b] * w + V * q;
        int64_t last = len[b] - 1;
        load<V>(v, dy + b * w + V * q);
        for (int64_t l = 0; !acc && l < last; l++) store<V>(d + l * w, zero, 0);
        store<V>(d + last * w, v, acc);
        for (int64_t i = start[B] + b; !acc && i < N; i += B) store<V>(dx + i * w + V * q, zero, 0);
    });
}

void last_bwd(void *dxv, const void *dyv, const int32_t *start, const int32_t *len, int64_t B,
              int64_t N, int64_t w, int acc, const mr_exec *ex)
{
    act_t *dx = (act_t *)dxv;
    const act_t *dy = (const act_t *)dyv;
    if (splits_by<PIECE>(dx, w) && splits_by<PIECE>(dy, w))
        last_bwd_by<PIECE>(dx, dy, start, len, B, N, w, acc, ex);
    else
        last_bwd_by<1>(dx, dy, start, len, B, N, w, acc, ex);
}

__device__ static inline float value_of(__half x) { return __half2float(x); }
__device__ static inline float value_of(float x) { return x; }

/* Element `at` of a feature matrix. */
__device__ static inline float feature(const void *data, mr_dtype dtype, int64_t at)
{
    return dtype == MR_F16 ? value_of(((const __half *)data)[at]) : ((const float *)data)[at];
}

/* V neighbours of what features are stored as. */
template <int V, class T> __device__ static inline void load_features(float v[V], const T *p)
{
    several<T, V> s = at_once<several<T, V>>(p);
    UNROLL
    for (int k = 0; k < V; k++) v[k] = value_of(s.v[k]);
}

/* Rows without a gap, V elements a thread; T: what the features are stored as. */
template <int V, class T>
static void gather_features(act_t *out, const T *data, const int32_t *id, const float *more,
                            int64_t n, int64_t w, int64_t n_items, const mr_exec *ex)
{
    cells(n, w / V, ex, [=] __device__(int64_t i, int64_t q) {
        float v[V] = {};
        if (id[i] >= 1 && id[i] <= n_items)
            load_features<V>(v, data + (id[i] - (int64_t)1) * w + V * q);
        add_more<V>(v, more, V * q);
        store<V>(out + i * w + V * q, v, 0);
    });
}

void feature_gather(void *outv, const void *data, mr_dtype dtype, const int32_t *id,
                    const void *morev, int64_t n, int64_t count, int64_t cols, int64_t w,
                    int64_t n_items, const mr_exec *ex)
{
    act_t *out = (act_t *)outv;
    const float *more = (const float *)morev;
    int64_t all = count * w;
    const __half *halves = (const __half *)data;
    const float *floats = (const float *)data;
    bool is_whole = cols == w && splits_by<PIECE>(out, all) && splits_by<PIECE>(more, all);
    if (is_whole && dtype == MR_F16 && splits_by<PIECE>(halves, all)) {
        gather_features<PIECE>(out, halves, id, more, n, all, n_items, ex);
        return;
    }
    if (is_whole && dtype != MR_F16 && splits_by<PIECE>(floats, all)) {
        gather_features<PIECE>(out, floats, id, more, n, all, n_items, ex);
        return;
    }
    cells(n, all, ex, [=] __device__(int64_t i, int64_t j) {
        int64_t k = cols == w ? 0 : j / w, c = j - k * w; /* all in one row where no gap is */
        bool known = id[i] >= 1 && id[i] <= n_items && (cols == w || c < cols);
        int64_t at = (id[i] - (int64_t)1) * count * cols + k * cols + c;
        float v = known ? feature(data, dtype, at) : 0.0f;
        out[i * all + j] = more ? v + more[j] : v;
    });
}

enum { WEIGHTS = 256 }; /* of a row, that are made once a block */

/* A row a block, V columns a thread. T: what the features are stored as. */
template <int V, class T>
__global__ static void context_kernel(act_t *out, const T *data, const int32_t *id,
                                      const int32_t *start, const int32_t *len, int64_t cols,
                                      int64_t w, int64_t n_items, double gamma)
{
    SHARED(float, weight, [WEIGHTS]);
    SHARED(double, total, [1]);
    int64_t b = blockIdx.x, n = len[b];
    if (threadIdx.x == 0) {
        total[0] = 0;
        for (int64_t k = 0; k < n; k++) total[0] += exp(-gamma * (double)k);
    }
    __syncthreads();
    for (int64_t k = threadIdx.x; k < n && k < WEIGHTS; k += blockDim.x)
        weight[k] = (float)(exp(-gamma * (double)(n - 1 - k)) / total[0]);
    __syncthreads();
    for (int64_t j = V * threadIdx.x; j < w; j += V * blockDim.x) {
        float s[V] = {};
        for (int64_t k0 = 0; j < cols && k0 < n; k0 += ROWS_AHEAD) {
            float v[ROWS_AHEAD][V] = {};
            UNROLL
            for (int r = 0; r < ROWS_AHEAD; r++) {
                int64_t item = k0 + r < n ? id[start[b] + k0 + r] : 0;
                bool is_known = item >= 1 && item <= n_items;
                if (is_known) load_features<V>(v[r], data + (item - 1) * cols + j);
            }
            UNROLL
            for (int r = 0; r < ROWS_AHEAD; r++) {
                int64_t k = k0 + r;
                if (k >= n) break;
                float a =
                    k < WEIGHTS ? weight[k] : (float)(exp(-gamma * (double)(n - 1 - k)) / total[0]);
                UNROLL
                for (int c = 0; c < V; c++) s[c] += a * v[r][c];
            }
        }
        store<V>(out + b * w + j, s, 0);
    }
}

template <class T>
static void context_of(act_t *out, const T *data, const int32_t *id, const int32_t *start,
                       const int32_t *len, int64_t B, int64_t cols, int64_t w, int64_t n_items,
                       double gamma, const mr_exec *ex)
{
    if (splits_by<PIECE>(out, w) && splits_by<PIECE>(data, cols))
        LAUNCH((context_kernel<PIECE, T>), (unsigned)B, threads_for(w / PIECE), 0, ex, out, data,
               id, start, len, cols, w, n_items, gamma);
    else
        LAUNCH((context_kernel<1, T>), (unsigned)B, threads_for(w), 0, ex, out, data, id, start,
               len, cols, w, n_items, gamma);
}

void context(void *out, const void *data, mr_dtype dtype, const int32_t *id, const int32_t *start,
             const int32_t *len, int64_t B, int64_t cols, int64_t w, int64_t n_items, double gamma,
             const mr_exec *ex)
{
    if (B > 0 && dtype == MR_F16)
        context_of((act_t *)out, (const __half *)data, id, start, len, B, cols, w, n_items, gamma,
                   ex);
    else if (B > 0)
        context_of((act_t *)out, (const float *)data, id, start, len, B, cols, w, n_items, gamma,
                   ex);
}
} // namespace MR_ACT_SPACE
