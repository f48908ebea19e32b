/* Kernel family: diffusion noise, posterior step, condition of NPD. See kernels.h for the common
 * rules. Rows are samples: rid[n] (device memory) is the global row of each, so that draws do not
 * depend on the batch. Definitions of the draws: shared/draw.h. */
#ifndef MR_KERNELS_FAMILY_DIFFUSION_H
#define MR_KERNELS_FAMILY_DIFFUSION_H

#include "base/config.h"

/* How t and eps of a row are drawn. */
typedef struct mr_noise {
    uint32_t purpose_t, purpose_eps;
    int64_t t; /* 0: each row draws its own t; else this t for all rows */
    int64_t t_max;
    const mr_int_list *t_set; /* host memory; NULL or n = 0: t uniform in 1..t_max */
    bool pure;                /* x_t = eps: x0 and abar are not read */
    int64_t ld, cols;         /* the w columns of a sample are rows of ld, of which cols count;
                               * 0, 0: all of them do */
} mr_noise;

#define MR_KERNELS_DIFFUSION(X)                                                                    \
    /* xt[n,w] = sqrt(abar_t) x0[n,w] + sqrt(1 - abar_t) eps[n,w]                                  \
     * abar [t_max + 1] doubles, device memory. xt may alias x0. Draws go by the elements that     \
     * count, in their order. */                                                                   \
    X(noise_fwd, (mr_act * xt, const mr_act *x0, const double *abar, const uint32_t *rid,          \
                  int64_t n, int64_t w, const mr_noise *nz, const mr_exec *ex))                    \
    /* dx0[n,w] (+)= sqrt(abar_t) dxt; dx0 may alias dxt when acc = 0. Not for pure noise. */      \
    X(noise_bwd, (mr_act * dx0, const mr_act *dxt, const double *abar, const uint32_t *rid,        \
                  int64_t n, int64_t w, const mr_noise *nz, int acc, const mr_exec *ex))           \
    /* out[n,w] = c1 xhat + c2 xt + sd eps, with ld and cols as in mr_noise                        \
     * sd = 0: no noise is drawn. out may alias xhat or xt. */                                     \
    X(posterior, (mr_act * out, const mr_act *xhat, const mr_act *xt, const uint32_t *rid,         \
                  int64_t n, int64_t w, int64_t ld, int64_t cols, double c1, double c2, double sd, \
                  uint32_t purpose, const mr_exec *ex))                                            \
    /* out[n,w] = [x0[n,d], mean over K of frames[n,K,d], text[n,d]] of their first cols columns,  \
     * w >= 3 cols */                                                                              \
    X(pool_concat_fwd,                                                                             \
      (mr_act * out, const mr_act *x0, const mr_act *frames, const mr_act *text, int64_t n,        \
       int64_t K, int64_t cols, int64_t d, int64_t w, const mr_exec *ex))                          \
    /* The gradients of the three, (+)= each by its acc bit; each may be NULL */                   \
    X(pool_concat_bwd, (mr_act * dx0, mr_act * dframes, mr_act * dtext, const mr_act *dout,        \
                        int64_t n, int64_t K, int64_t cols, int64_t d, int64_t w, int acc_x0,      \
                        int acc_frames, int acc_text, const mr_exec *ex))

#endif
