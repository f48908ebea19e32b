/* Kernel family: matrix products, bias, activation, element-wise. See kernels.h for the common
 * rules. */
#ifndef MR_KERNELS_FAMILY_LINEAR_H
#define MR_KERNELS_FAMILY_LINEAR_H

enum { MR_ACT_NONE, MR_ACT_GELU, MR_ACT_SILU }; /* GELU is the erf form */

/* Equal products whose operands lie a fixed number of elements apart. */
typedef struct mr_gemm_batch {
    int64_t count, stride_c, stride_a, stride_b;
} mr_gemm_batch;

#define MR_KERNELS_LINEAR(X)                                                                       \
    /* c[m,n] = alpha * op(a) op(b) + beta * c, row-major.                                         \
     *   ta != 0: a is stored [k,m]; tb != 0: b is stored [n,k].                                   \
     *   lda, ldb, ldc = elements between rows. beta = 0 never reads c. sides: not MR_ACT_REAL. */ \
    X(gemm, (void *c, const void *a, const void *b, int64_t m, int64_t n, int64_t k, int ta,       \
             int tb, int64_t lda, int64_t ldb, int64_t ldc, double alpha, double beta,             \
             mr_sides sides, const mr_exec *ex))                                                   \
    /* As gemm, for q = 0 .. count-1 with c + q * stride_c, a + q * stride_a, b + q * stride_b;    \
     * the results do not overlap */                                                               \
    X(gemm_batch, (void *c, const void *a, const void *b, const mr_gemm_batch *batch, int64_t m,   \
                   int64_t n, int64_t k, int ta, int tb, int64_t lda, int64_t ldb, int64_t ldc,    \
                   double alpha, double beta, mr_sides sides, const mr_exec *ex))                  \
    /* x[n,w] rounded to bf16 (kernels/shared/bf16.h), in rows that are p(w) elements apart, with  \
     * p(w) = w rounded up to a multiple of 8:                                                     \
     *   y[p(n),p(w)] = s[n] * x, 0 behind row n and column w (s NULL = 1)                         \
     *   inv[n] = 1 / max(|x_n|, 1e-12) (may be NULL) */                                           \
    X(rows_to_bf16, (uint16_t * y, mr_real * inv, const mr_real *x, const mr_real *s, int64_t n,   \
                     int64_t w, const mr_exec *ex))                                                \
    /* gemm with a and b in bf16, sums in real arithmetic. c is bf16 if c_is_bf16, else real */    \
    X(gemm_bf16, (void *c, int c_is_bf16, const uint16_t *a, const uint16_t *b, int64_t m,         \
                  int64_t n, int64_t k, int ta, int tb, int64_t lda, int64_t ldb, int64_t ldc,     \
                  double alpha, double beta, const mr_exec *ex))                                   \
    /* A linear layer: y[n,o] = act(x[n,i] w[o,i]^T + b[o]); b may be NULL; with act               \
     *   pre[n,o] = what act is applied to (pre may be NULL) */                                    \
    X(linear_fwd, (mr_act * y, mr_act * pre, const mr_act *x, const mr_mat *w, const mr_mat *b,    \
                   int64_t n, int64_t o, int64_t i, int act, const mr_exec *ex))                   \
    /* dw[o,i] (+)= dy[n,o]^T x[n,i], db[o] (+)= sum_n dy, fixed order (db may be NULL) */         \
    X(linear_bwd_w, (mr_real * dw, mr_real * db, const mr_act *dy, const mr_act *x, int64_t n,     \
                     int64_t o, int64_t i, int acc_w, int acc_b, const mr_exec *ex))               \
    /* y[n,w] += bias[w] (bias may be NULL); then, if act:                                         \
     *   pre[n,w] = y (pre may be NULL)                                                            \
     *   y = act(y) */                                                                             \
    X(bias_act_fwd, (mr_act * y, mr_act * pre, const mr_real *bias, int64_t n, int64_t w, int act, \
                     const mr_exec *ex))                                                           \
    /* y[n] = act(x[n]); y may alias x */                                                          \
    X(act_fwd, (mr_act * y, const mr_act *x, int64_t n, int act, const mr_exec *ex))               \
    /* dpre[n,w] = dy * act'(pre), y[n,w] = act(pre); dpre may alias dy, y may be NULL */          \
    X(act_bwd, (mr_act * dpre, mr_act * y, const mr_act *dy, const mr_act *pre, int64_t n,         \
                int64_t w, int act, const mr_exec *ex))                                            \
    /* out[w] (+)= sum_n x[n,w], fixed order */                                                    \
    X(col_sum, (mr_real * out, const mr_act *x, int64_t n, int64_t w, int acc, const mr_exec *ex)) \
    /* Gradients of y[n,w] = x[n,w] + table[first .. first + w - 1]:                               \
     *   dx[n,w] (+)= dy (NULL: not wanted)                                                        \
     *   dtable[total] (+)= sums of dy over n, fixed order; unless acc_table, 0 outside of them */ \
    X(add_row_bwd, (mr_act * dx, mr_real * dtable, const mr_act *dy, int64_t n, int64_t w,         \
                    int64_t first, int64_t total, int acc_x, int acc_table, const mr_exec *ex))    \
    /* y[n] (+)= alpha * x[n]; x may alias y when acc = 0 */                                       \
    X(axpy, (void *y, const void *x, int64_t n, double alpha, int acc, mr_sides sides,             \
             const mr_exec *ex))                                                                   \
    /* out[0] = sum_i x[i] cos(0.37 i + 1): the loss of gradient checks. x: n elements in rows of  \
     * w, of which cols count; i goes by those */                                                  \
    X(probe_fwd,                                                                                   \
      (mr_real * out, const mr_act *x, int64_t n, int64_t cols, int64_t w, const mr_exec *ex))     \
    /* dx[i] (+)= weight * cos(0.37 i + 1) */                                                      \
    X(probe_bwd, (mr_act * dx, int64_t n, int64_t cols, int64_t w, double weight, int acc,         \
                  const mr_exec *ex))

#endif
