/* Kernel family: matrix products, bias, activation, element-wise. See kernels.h for the common
 * rules. */
#ifndef MR_KERNELS_FAMILY_LINEAR_H
#define MR_KERNELS_FAMILY_LINEAR_H

enum { MR_ACT_NONE, MR_ACT_GELU, MR_ACT_SILU }; /* GELU is the erf form */

#define MR_KERNELS_LINEAR(X)                                                                       \
    /* c[m,n] = alpha * op(a) op(b) + beta * c, row-major.                                         \
     *   ta != 0: a is stored [k,m]; tb != 0: b is stored [n,k].                                   \
     *   lda, ldb, ldc = elements between rows. beta = 0 never reads c. */                         \
    X(gemm,                                                                                        \
      (void *c, const void *a, const void *b, int64_t m, int64_t n, int64_t k, int ta, int tb,     \
       int64_t lda, int64_t ldb, int64_t ldc, double alpha, double beta, const mr_exec *ex))       \
    /* y[n,w] += bias[w] (bias may be NULL); then, if act:                                         \
     *   pre[n,w] = y (pre may be NULL)                                                            \
     *   y = act(y) */                                                                             \
    X(bias_act_fwd,                                                                                \
      (void *y, void *pre, const void *bias, int64_t n, int64_t w, int act, const mr_exec *ex))    \
    /* y[n] = act(x[n]); y may alias x */                                                          \
    X(act_fwd, (void *y, const void *x, int64_t n, int act, const mr_exec *ex))                    \
    /* dpre[n,w] = dy * act'(pre); dpre may alias dy */                                            \
    X(act_bwd, (void *dpre, const void *dy, const void *pre, int64_t n, int64_t w, int act,        \
                const mr_exec *ex))                                                                \
    /* out[w] (+)= sum_n x[n,w], fixed order */                                                    \
    X(col_sum, (void *out, const void *x, int64_t n, int64_t w, int acc, const mr_exec *ex))       \
    /* y[n] (+)= alpha * x[n]; x may alias y when acc = 0 */                                       \
    X(axpy, (void *y, const void *x, int64_t n, double alpha, int acc, const mr_exec *ex))         \
    /* out[0] = sum_i x[i] cos(0.37 i + 1): the loss of gradient checks */                         \
    X(probe_fwd, (void *out, const void *x, int64_t n, const mr_exec *ex))                         \
    /* dx[i] (+)= weight * cos(0.37 i + 1) */                                                      \
    X(probe_bwd, (void *dx, int64_t n, double weight, int acc, const mr_exec *ex))

#endif
