/* Reference loops in double, written from the definitions, one element at a time; every output is
 * written as `=`. Shapes as in kernels/family_unet.h and family_diffusion.h. */
#ifndef MR_TESTS_NAIVE_B_H
#define MR_TESTS_NAIVE_B_H

#include "kernels/kernels.h"

void naive_conv(double *y, const double *x, const double *w, const double *bias, const double *res,
                const double *ctx, const mr_conv *cv);
void naive_conv_bwd(double *dx, double *dw, const double *dy, const double *x, const double *w,
                    const mr_conv *cv);
/* x[n,S,c] in the rows of cv, framed or not, where zeros are */
void naive_rows(double *rows, const double *x, int64_t c, const mr_conv *cv);
/* mr_conv_begin: unfolded and dbias, both zero before */
void naive_unfold(double *unfolded, double *dbias, const double *dy, const mr_conv *cv);
/* Dropout of a group norm: 0, or the scale of kept elements */
void naive_mask(double *mask, const mr_gn *gn, uint64_t seed, uint32_t step);
/* mask [n,S,c]: 0, or the scale of kept elements; film [n,2c] or NULL */
void naive_gn(double *y, double *mean, double *rstd, const double *x, const double *gamma,
              const double *beta, const double *film, const double *mask, const mr_gn *gn);
/* By the full Jacobian of each group: O(n^2), nothing shared with the kernel's formula. */
void naive_gn_bwd(double *dx, double *dgamma, double *dbeta, double *dfilm, const double *dy,
                  const double *x, const double *gamma, const double *beta, const double *film,
                  const double *mask, const mr_gn *gn);

#endif
