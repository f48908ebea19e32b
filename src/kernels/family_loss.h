/* Kernel family: losses, the parts of the sharded softmax cross-entropy. See
 * kernels.h for the rules that hold for all entries. `rows_global` is ex->state->rows_global.
 *
 * Softmax cross-entropy of rows x[n,w] over ids whose rows are spread over ranks (op_softmax.c):
 *   raw   = x table^T                        [n,v], this rank's ids lo .. lo+v-1
 *   l     = scale * col_scale[c] * raw       (col_scale: inverse norms for cosine scores)
 *   stats = max l, sum exp(l - max), l of the target; gathered over the ranks
 *   coef  = weight / rows_global * exp(max_rank - M) / Z
 * so that, with q = scale * col_scale * exp(l - max) left in place of raw, the gradients are
 *   dtable += q^T (coef x),  dx += coef (q table),  minus the target's part (ce_target).
 * Nothing of size [n,v] is read again to normalise it.
 * In bf16 (op_softmax_bf16.c) raw and q are rounded, and q is 0 at the target: there the derivative
 * is the small difference of two large numbers, so ce_target takes all of it, unrounded. */
#ifndef MR_KERNELS_FAMILY_LOSS_H
#define MR_KERNELS_FAMILY_LOSS_H

#define MR_KERNELS_LOSS(X)                                                                         \
    /* y[n] = 0 */                                                                                 \
    X(zero, (mr_real * y, int64_t n, const mr_exec *ex))                                           \
    /* loss[1] = sum_{n,w} (target - pred)^2 / (rows_global * count), fixed order; and, with       \
     * g = 2 weight / (rows_global * count) * (pred - target):                                     \
     *   dpred (+)= g, dtarget (+)= -g;  each of the three may be NULL                             \
     * Rows from ex->state->rows on belong to no batch: they add 0, and g = 0 */                   \
    X(mse, (mr_real * loss, mr_act * dpred, mr_act * dtarget, const mr_act *pred,                  \
            const mr_act *target, int64_t n, int64_t w, int64_t count, double weight,              \
            int acc_pred, int acc_target, const mr_exec *ex))                                      \
    /* inv[n] = 1 / max(|x_n|, 1e-12), x[n,w] */                                                   \
    X(row_inv_norm, (mr_real * inv, const mr_real *x, int64_t n, int64_t w, const mr_exec *ex))    \
    /* y[n,w] = s[n] * x[n,w]; y may alias x */                                                    \
    X(row_scale,                                                                                   \
      (mr_real * y, const mr_real *x, const mr_real *s, int64_t n, int64_t w, const mr_exec *ex))  \
    /* s[n] = sum_w a[n,w] b[n,w] */                                                               \
    X(row_dot,                                                                                     \
      (mr_real * s, const mr_real *a, const mr_real *b, int64_t n, int64_t w, const mr_exec *ex))  \
    /* Gradient through x / max(|x|, 1e-12), where h already carries one factor inv:               \
     *   y[n,w] (+)= h - x inv^2 (x . h - s0)                                                      \
     * without the second term where the norm is clamped. s0[n] = x . h of what was in h before    \
     * (NULL = 0). y may alias h when acc = 0. */                                                  \
    X(norm_project, (mr_real * y, const mr_real *h, const mr_real *x, const mr_real *inv,          \
                     const mr_real *s0, int64_t n, int64_t w, int acc, const mr_exec *ex))         \
    /* raw[n,v] -> q in place (see above), and stats[n,3]. target[n] ids; skip[n] ids left out of  \
     * the softmax (q = 0 there), or NULL; col_scale[v] or NULL = 1. v = 0: max = -inf, sum = 0.   \
     * known_max: no l is above it, and it is near enough to stand for the largest; INFINITY: the  \
     * largest is looked for */                                                                    \
    X(ce_rows, (mr_real * raw, double *stats, const int32_t *target, const int32_t *skip,          \
                const mr_real *col_scale, int64_t n, int64_t v, int64_t lo, double scale,          \
                double known_max, const mr_exec *ex))                                              \
    /* The same for raw of bf16 in rows of pitch p(v) = v rounded up to a multiple of 8, from an   \
     * address that is a multiple of 16 bytes, as col_scale is. Statistics and exponentials are    \
     * real; q is bf16, and 0 at the target and behind column v */                                 \
    X(ce_rows_bf16,                                                                                \
      (uint16_t * raw, double *stats, const int32_t *target, const mr_real *col_scale, int64_t n,  \
       int64_t v, int64_t lo, double scale, double known_max, const mr_exec *ex))                  \
    /* raw[n,v] = x in the columns that are nobody's. Columns are rows of ranks, B each, over and  \
     * over: column c is row c % B of rank c / B % size, and somebody's when that is below         \
     * rank_rows[size] */                                                                          \
    X(leave_out, (mr_real * raw, const int32_t *rank_rows, int64_t n, int64_t v, int64_t B,        \
                  int size, double x, const mr_exec *ex))                                          \
    /* stats[size,n,3] in rank order ->                                                            \
     *   coef[n] as above                                                                          \
     *   ce[n] = M + log Z - l_target                                                              \
     *   xs[n,w] = coef[n] x[n,w] (NULL: not wanted)                                               \
     * target[n] < 0: a row of no batch, all of these are 0 */                                     \
    X(ce_combine, (mr_real * coef, double *ce, mr_real *xs, const double *stats,                   \
                   const int32_t *target, const mr_real *x, int64_t n, int64_t w, int size,        \
                   int rank, double weight, const mr_exec *ex))                                    \
    /* dx[n,w] *= coef[n] (coef NULL = 1; dx NULL: not wanted). Then, for rows b, in order, whose  \
     * target t is among this rank's ids:                                                          \
     *   g = weight / rows_global * scale * col_scale[t]                                           \
     *   dtable[t] -= g x[b], dx[b] -= g table[t]                                                  \
     * dtable, dx: may be NULL. ce[n], or NULL: q was 0 at the target; then g *= 1 - exp(-ce) */   \
    X(ce_target, (mr_real * dtable, mr_real * dx, const mr_real *table, const mr_real *x,          \
                  const int32_t *target, const mr_real *col_scale, const double *ce,               \
                  const mr_real *coef, int64_t n, int64_t v, int64_t w, int64_t lo, double scale,  \
                  double weight, const mr_exec *ex))                                               \
    /* NT-Xent: own anchor i of view s (0, 1) is row s * B + i, its id s * G + first + i.          \
     *   skip[2B] = its id                                                                         \
     *   target[2B] = the id of its other view                                                     \
     * and both are -1 for i from ex->state->rows on, which belong to no batch */                  \
    X(pair_ids,                                                                                    \
      (int32_t * target, int32_t * skip, int64_t B, int64_t first, int64_t G, const mr_exec *ex))  \
    /* loss[1] = alpha * sum_n ce[n] / rows_global */                                              \
    X(ce_sum, (mr_real * loss, const double *ce, int64_t n, double alpha, const mr_exec *ex))

#endif
