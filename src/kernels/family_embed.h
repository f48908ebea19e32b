/* Kernel family: rows by index, positions, frozen features. See kernels.h for the common rules. */
#ifndef MR_KERNELS_FAMILY_EMBED_H
#define MR_KERNELS_FAMILY_EMBED_H

#include "tensor/dtype.h"

#define MR_KERNELS_EMBED(X)                                                                        \
    /* out[i,w] = table[row[i],w] + more[at[i],w], i < n; rows are in range. more = NULL: nothing  \
     * is added */                                                                                 \
    X(gather_rows, (void *out, const void *table, const int32_t *row, const mr_real *more,         \
                    const int32_t *at, int64_t n, int64_t w, mr_sides sides, const mr_exec *ex))   \
    /* Ragged to padded:                                                                           \
     *   out[b,l,w] = table[row[start[b] + l],w]   for l < len[b]                                  \
     *   out[b,l,w] = table[row[pad],w]            else */                                         \
    X(gather_padded,                                                                               \
      (mr_act * out, const mr_real *table, const int32_t *row, const int32_t *start,               \
       const int32_t *len, int64_t B, int64_t L, int64_t w, int64_t pad, const mr_exec *ex))       \
    /* Sum of rows by an inverse index, out[R,w]; for i < n with row[i] != skip:                   \
     *   out[row[i]] += sum of x[src(pos[k])] over k in start[i]..start[i+1]-1, ascending          \
     * row = NULL: row[i] = i. The rows are distinct. acc = 0: all R rows are zeroed first.        \
     * tok_row = NULL: src(t) = t; else packed to padded: src(t) = tok_row[t] * L + tok_pos[t]. */ \
    X(add_rows,                                                                                    \
      (void *out, const void *x, const int32_t *row, const int32_t *start, const int32_t *pos,     \
       int64_t n, int64_t w, int64_t R, int acc, int32_t skip, const int32_t *tok_row,             \
       const int32_t *tok_pos, int64_t L, mr_sides sides, const mr_exec *ex))                      \
    /* y[n,w] = x[n,w] + table[pos[n],w]; y may alias x */                                         \
    X(position_fwd, (mr_act * y, const mr_act *x, const mr_real *table, const int32_t *pos,        \
                     int64_t n, int64_t w, const mr_exec *ex))                                     \
    /* From dy[n,w], of which rows start[b] .. start[b] + len[b] - 1 are the tokens of row b < B:  \
     *   dx[n,w] (+)= dy (NULL: not wanted)                                                        \
     *   dtable[l,w] (+)= sum of dy[start[b] + l,w] over b with len[b] > l, l < L, fixed order */  \
    X(position_bwd,                                                                                \
      (mr_act * dx, mr_real * dtable, const mr_act *dy, const int32_t *start, const int32_t *len,  \
       int64_t n, int64_t B, int64_t L, int64_t w, int acc_x, int acc_table, const mr_exec *ex))   \
    /* y[b,w] = x[start[b] + len[b] - 1,w] */                                                      \
    X(last_fwd, (mr_act * y, const mr_act *x, const int32_t *start, const int32_t *len, int64_t B, \
                 int64_t w, const mr_exec *ex))                                                    \
    /* dx of every packed token:                                                                   \
     *   the last one of row b (+)= dy[b,w]                                                        \
     *   the others = 0 when acc = 0, and so are rows start[B]..N-1 */                             \
    X(last_bwd, (mr_act * dx, const mr_act *dy, const int32_t *start, const int32_t *len,          \
                 int64_t B, int64_t N, int64_t w, int acc, const mr_exec *ex))                     \
    /* out[i,k,w] = data[id[i] - 1,k,cols] as real + more[k,w] (NULL: nothing); of ids outside     \
     * 1..n_items data is zeros. data: MR_F16 or MR_F32, finite values; k < count */               \
    X(feature_gather,                                                                              \
      (mr_act * out, const void *data, mr_dtype dtype, const int32_t *id, const mr_real *more,     \
       int64_t n, int64_t count, int64_t cols, int64_t w, int64_t n_items, const mr_exec *ex))     \
    /* Over the n = len[b] items id_k = id[start[b] + k - 1] of a row, k = 1..n (paper eq. 7):     \
     *   alpha_k = exp(-gamma (n - k)) / sum of the same                                           \
     *   out[b,w] = sum_k alpha_k data[id_k - 1,cols]                                              \
     * Ids outside 1..n_items add zero. */                                                         \
    X(context, (mr_act * out, const void *data, mr_dtype dtype, const int32_t *id,                 \
                const int32_t *start, const int32_t *len, int64_t B, int64_t cols, int64_t w,      \
                int64_t n_items, double gamma, const mr_exec *ex))

#endif
