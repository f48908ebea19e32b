/* Kernel family: layer normalisation and dropout. See kernels.h for the rules that hold for all
 * entries. */
#ifndef MR_KERNELS_FAMILY_NORM_H
#define MR_KERNELS_FAMILY_NORM_H

#include "kernels/shared/dropout.h"

/* layer_norm_bwd splits its rows in at most MR_NORM_PARTS parts and wants scratch for
 * MR_NORM_SCRATCH(w) real elements: partial sums of both parameter gradients, two rows to work in.
 * A GPU works with more parts where there is more, up to twice as much. */
#define MR_NORM_PARTS 128
#define MR_NORM_SCRATCH(w) (4 * MR_NORM_PARTS * (w))

#define MR_KERNELS_NORM(X)                                                                         \
    /* Per row, mean and variance over its first cols columns:                                     \
     *   u[n,w] = m_in * x + residual                                                              \
     *   y[n,w] = m_out * ((u - mean) * rstd * gamma + beta)                                       \
     *   rstd = 1 / sqrt(biased variance of u + eps)                                               \
     * mean[n], rstd[n] are outputs for backward (both may be NULL).                               \
     * residual[n,w], gamma[w], beta[w] may be NULL. m_in, m_out: dropout factors (0 or scale)     \
     * of `in` and `out`, 1 where p = 0. y may alias x. */                                         \
    X(layer_norm_fwd,                                                                              \
      (mr_act * y, mr_real * mean, mr_real * rstd, const mr_act *x, const mr_act *residual,        \
       const mr_real *gamma, const mr_real *beta, int64_t n, int64_t w, int64_t cols, double eps,  \
       const mr_drop *in, const mr_drop *out, const mr_exec *ex))                                  \
    /* With u, mean, rstd as in forward, xhat = (u - mean) * rstd, g = m_out * dy:                 \
     *   du = rstd * (g gamma - mean_cols(g gamma) - xhat * mean_cols(g gamma xhat))               \
     *   dx[n,w] (+)= m_in * du                                                                    \
     *   dres[n,w] (+)= du                                                                         \
     *   dgamma[w] (+)= sum_n g xhat                                                               \
     *   dbeta[w] (+)= sum_n g                                                                     \
     * Every output may be NULL (not wanted); dx may alias dres when acc_res = 1 (x = residual).   \
     * Sums over rows in a fixed order. Scratch: MR_NORM_SCRATCH(w). */                            \
    X(layer_norm_bwd,                                                                              \
      (mr_act * dx, mr_act * dres, mr_real * dgamma, mr_real * dbeta, const mr_act *dy,            \
       const mr_act *x, const mr_act *residual, const mr_real *gamma, const mr_real *mean,         \
       const mr_real *rstd, int64_t n, int64_t w, int64_t cols, int acc_x, int acc_res,            \
       int acc_gamma, int acc_beta, const mr_drop *in, const mr_drop *out, const mr_exec *ex))     \
    /* y[n,w] (+)= m * x, m = dropout factors of `drop` (p = 0: 1); its own backward.              \
     * y may alias x when acc = 0. */                                                              \
    X(dropout, (mr_act * y, const mr_act *x, int64_t n, int64_t w, int acc, const mr_drop *drop,   \
                const mr_exec *ex))

#endif
