/* Kernel family: the 1-D U-Net over the frame axis. See kernels.h for the common rules.
 * Tensors are [n,S,c]: n samples, S frames, c channels (channels fastest). */
#ifndef MR_KERNELS_FAMILY_UNET_H
#define MR_KERNELS_FAMILY_UNET_H

#include "base/config.h"
#include "kernels/shared/dropout.h"

/* Sizes of one convolution: kernel 3, zero padding 1; So = ceil(S / stride), stride 1 or 2.
 *   y[b,u,o] = sum_{j=0..2, i} w[o,j,i] x[b, u*stride + j - 1, i], frames outside 0..S-1 being zero
 */
typedef struct mr_conv {
    int64_t n, S, So, ci, co;
    int stride;
    int64_t ctx_ld; /* elements between the contexts of samples */
    bool x_framed;  /* x lies in framed rows (mr_framed_rows), with zeros between samples */
    bool is_begun;  /* for conv3_bwd: dy is unfolded, and the added terms are done */
} mr_conv;

/* Accumulate bits of conv3_bwd. */
typedef struct mr_conv_acc {
    int x, w, bias, res, ctx;
} mr_conv_acc;

/* One group norm with FiLM: c channels in `groups` groups; statistics over S x (c / groups).
 *   u = (x - mean) rstd gamma + beta;  v = u (1 + scale) + shift;  y = dropout(silu(v))
 * film holds scale[c] then shift[c] for a sample; film_ld = elements between samples, 0 = one row
 * for all. The dropout mask numbers a sample's elements as one matrix row of width S * c. */
typedef struct mr_gn {
    int64_t n, S, c, groups, film_ld;
    double eps;
    mr_drop drop; /* host struct */
} mr_gn;

#define MR_GN_BLOCK 16 /* samples of one partial sum in group_norm_bwd */
#define MR_GN_WARPS 4  /* the same on a GPU where a warp does a sample */
/* Elements of scratch that group_norm_bwd needs: some rows of c, and a sample, for each partial sum
 * of a CPU; three rows for each of a GPU. */
static inline int64_t mr_gn_scratch(int64_t n, int64_t S, int64_t c)
{
    int64_t blocks = (n + MR_GN_BLOCK - 1) / MR_GN_BLOCK * (4 + S) * c;
    int64_t warps = (n + MR_GN_WARPS - 1) / MR_GN_WARPS * 3 * c;
    return blocks > warps ? blocks : warps;
}
/* Framed rows: frames of samples with a row of zeros in front of every sample and behind the last.
 * Rows from one sample to the next, and of n samples: the window of a frame, three rows, is never
 * longer than the distance to the next sample's. */
MR_HD int64_t mr_framed_period(int64_t S) { return S > 1 ? S + 1 : 3; }
MR_HD int64_t mr_framed_rows(int64_t n, int64_t S)
{
    return n > 0 ? n * mr_framed_period(S) + 1 : 0;
}
/* Rows that backward goes through: x's, the zero rows of framed x included. */
static inline int64_t mr_conv_rows(const mr_conv *cv)
{
    return cv->x_framed ? mr_framed_rows(cv->n, cv->S) : cv->n * cv->S;
}

/* What backward of a convolution begins with, one pass over dy[n,So,co] for all of it. Kernels that
 * write a dy may take it along (`next`: the convolution whose dy it is, or NULL):
 *   unfolded[mr_conv_rows,co,3] = dy[b,(s + 1 - tap) / stride,o] for frame s of sample b, zero
 * where there is no such frame and in the zero rows of framed x. The products are then those of a
 *     linear layer: dw = unfolded^T x, dx = unfolded w.
 *   dbias, dres, dctx as conv3_bwd_add, by acc; each of the four may be NULL.
 * scratch: mr_conv_sums for dbias. */
typedef struct mr_conv_begin {
    mr_conv cv;
    mr_conv_acc acc;
    void *unfolded, *dbias, *dres, *dctx, *scratch; /* mr_act; scratch and dbias mr_real */
} mr_conv_begin;

#define MR_CONV_BLOCK 4 /* samples of a partial sum of dbias on a GPU */
static inline int64_t mr_conv_sums(const mr_conv *cv)
{
    return ((cv->n + MR_CONV_BLOCK - 1) / MR_CONV_BLOCK * cv->co + 15) / 16 * 16;
}
#define MR_SUM_BLOCK 64 /* samples of one partial sum in conv3_bwd_add on a CPU */
/* Bytes of scratch that any of the conv3 kernels needs, for an mr_real and an mr_act of so many
 * bytes. whole_products, as a GPU's kernels need it: forward a framed copy of x; backward the
 * partial sums (mr_conv_sums), then dy unfolded. */
static inline int64_t mr_conv_scratch(const mr_conv *cv, bool whole_products, size_t real,
                                      size_t act)
{
    int64_t w = 3 * cv->ci * cv->co, part = (cv->n + MR_SUM_BLOCK - 1) / MR_SUM_BLOCK * cv->co;
    int64_t most = (w > part ? w : part) * (int64_t)real;
    if (!whole_products) return most;
    int64_t width = 3 * cv->co > cv->ci ? 3 * cv->co : cv->ci;
    int64_t whole =
        mr_conv_sums(cv) * (int64_t)real + mr_framed_rows(cv->n, cv->S) * width * (int64_t)act;
    return whole > most ? whole : most;
}

#define MR_KERNELS_UNET(X)                                                                         \
    /* y[n,So,co] = conv(x[n,S,ci], w[co,3,ci]) + bias[co] + residual[n,So,co] + context[n,co],    \
     * the context (rows cv->ctx_ld apart) on every frame; each of the three may be NULL. y        \
     * aliases nothing. Scratch: mr_conv_scratch reals, as for the backward kernels */             \
    X(conv3_fwd,                                                                                   \
      (mr_act * y, const mr_act *x, const mr_mat *w, const mr_real *bias, const mr_act *residual,  \
       const mr_act *context, const mr_conv *cv, const mr_exec *ex))                               \
    /* From dy[n,So,co], each by its acc bit, each may be NULL; sums in a fixed order:             \
     *   dx[n,S,ci] (+)= transposed convolution of dy                                              \
     *   dw[co,3,ci] (+)= sum over samples and frames of dy x                                      \
     *   dbias, dres, dctx: as conv3_bwd_add                                                       \
     * dres may be dx (the residual is x), and then goes by acc->x. x and w are not read when dw   \
     * and dx are not wanted. cv->is_begun: dy is unfolded (mr_conv_begin); dbias and dctx are     \
     * NULL, and dres only says whether it is dx. */                                               \
    X(conv3_bwd, (mr_act * dx, mr_real * dw, mr_real * dbias, mr_act * dres, mr_act * dctx,        \
                  const mr_act *dy, const mr_act *x, const mr_mat *w, const mr_conv *cv,           \
                  const mr_conv_acc *acc, const mr_exec *ex))                                      \
    /* The added terms in one pass over dy[n,S,w]; each may be NULL; fixed order:                  \
     *   dbias[w] (+)= sum_{n,S} dy                                                                \
     *   dres[n,S,w] (+)= dy      (may alias dy when acc_res = 0)                                  \
     *   dctx[n,w] (+)= sum_S dy, rows ctx_ld apart                                                \
     * Scratch: (n + MR_SUM_BLOCK - 1) / MR_SUM_BLOCK * w reals when dbias is wanted, on a GPU     \
     * (n + MR_CONV_BLOCK - 1) / MR_CONV_BLOCK * w */                                              \
    X(conv3_bwd_add,                                                                               \
      (mr_real * dbias, mr_act * dres, mr_act * dctx, const mr_act *dy, int64_t n, int64_t S,      \
       int64_t w, int64_t ctx_ld, int acc_bias, int acc_res, int acc_ctx, const mr_exec *ex))      \
    /* What conv3_bwd begins with, where no kernel before it has done it */                        \
    X(conv3_bwd_begin, (const mr_conv_begin *begin, const mr_act *dy, const mr_exec *ex))          \
    /* y[n,S,c] = x[n,S,c] + v[n,c] on every frame; y may alias x */                               \
    X(frame_add, (mr_act * y, const mr_act *x, const mr_act *v, int64_t n, int64_t S, int64_t c,   \
                  const mr_exec *ex))                                                              \
    /* y[n,S,c] as above (struct mr_gn); mean[n,groups], rstd[n,groups] of x[n,S,c]; gamma, beta   \
     * [c]; film may be NULL (scale = shift = 0) */                                                \
    X(group_norm_fwd,                                                                              \
      (mr_act * y, mr_real * mean, mr_real * rstd, const mr_act *x, const mr_real *gamma,          \
       const mr_real *beta, const mr_act *film, const mr_gn *gn, const mr_exec *ex))               \
    /* Both in one: u = group_norm_fwd(x), then y = conv3_fwd(u). u goes into framed rows          \
     * framed[mr_framed_rows(n,S),ci], zeros included, as conv3_bwd takes it with x_framed; gn and \
     * cv agree in n, S and channels; cv->x_framed is not looked at. framed aliases nothing */     \
    X(group_norm_conv3_fwd,                                                                        \
      (mr_act * y, mr_act * framed, mr_real * mean, mr_real * rstd, const mr_act *x,               \
       const mr_real *gamma, const mr_real *beta, const mr_act *film, const mr_gn *gn,             \
       const mr_mat *w, const mr_real *bias, const mr_act *residual, const mr_act *context,        \
       const mr_conv *cv, const mr_exec *ex))                                                      \
    /* dx[n,S,c] (+)=, dgamma[c], dbeta[c] (+)=, dfilm[n,2c] (+)= (NULL: not wanted; rows film_ld  \
     * apart, as in film). dx may be NULL and may alias dy when acc_x = 0. next: dx is its dy.     \
     * Scratch: mr_gn_scratch reals */                                                             \
    X(group_norm_bwd,                                                                              \
      (mr_act * dx, mr_real * dgamma, mr_real * dbeta, mr_act * dfilm, const mr_act *dy,           \
       const mr_act *x, const mr_real *mean, const mr_real *rstd, const mr_real *gamma,            \
       const mr_real *beta, const mr_act *film, const mr_gn *gn, int acc_x, int acc_gamma,         \
       int acc_beta, int acc_film, const mr_conv_begin *next, const mr_exec *ex))                  \
    /* y[n,S2,c] = x[n, floor(i * S / S2), c] */                                                   \
    X(upsample_fwd, (mr_act * y, const mr_act *x, int64_t n, int64_t S, int64_t S2, int64_t c,     \
                     const mr_exec *ex))                                                           \
    /* next: dx is its dy */                                                                       \
    X(upsample_bwd, (mr_act * dx, const mr_act *dy, int64_t n, int64_t S, int64_t S2, int64_t c,   \
                     int acc, const mr_conv_begin *next, const mr_exec *ex))                       \
    /* y[n,wa+wb] = [a[n,wa], b[n,wb]] + bias[wa+wb] (may be NULL); wb may be 0 */                 \
    X(concat_fwd, (mr_act * y, const mr_act *a, const mr_act *b, const mr_real *bias, int64_t n,   \
                   int64_t wa, int64_t wb, const mr_exec *ex))                                     \
    /* da (+)= dy[:, :wa], db (+)= dy[:, wa:]; each may be NULL; db may be da, with acc_b = 1.     \
     * next: da is its dy, in n = next->cv.n * next->cv.So rows; db is not da */                   \
    X(concat_bwd, (mr_act * da, mr_act * db, const mr_act *dy, int64_t n, int64_t wa, int64_t wb,  \
                   int acc_a, int acc_b, const mr_conv_begin *next, const mr_exec *ex))            \
    /* out[n,C] = [sin(t w_i), cos(t w_i)], w_i = 10000^(-i / (C/2 - 1)), i < C/2 (model.md        \
     * 11.1). t of row b: mr_draw_t (shared/draw.h) of global row rid[b], or b + 1 where rid is    \
     * NULL. t_set: host memory, may be NULL */                                                    \
    X(time_embed, (mr_act * out, const uint32_t *rid, int64_t n, int64_t C, uint32_t purpose,      \
                   int64_t t_max, const mr_int_list *t_set, const mr_exec *ex))                    \
    /* y[n] = silu(x[n]); dx[n] (+)= dy silu'(x) */                                                \
    X(silu_fwd, (mr_act * y, const mr_act *x, int64_t n, const mr_exec *ex))                       \
    X(silu_bwd,                                                                                    \
      (mr_act * dx, const mr_act *dy, const mr_act *x, int64_t n, int acc, const mr_exec *ex))

#endif
