/* The noise schedule of both diffusion processes and the coefficients of the reverse step
 * (model.md §6, §11.6). All in double. What it is not: random draws (kernels/shared/draw.h).
 */
#ifndef MR_MODEL_SCHEDULE_H
#define MR_MODEL_SCHEDULE_H

#include "base/config.h"

typedef struct mr_schedule {
    int64_t T;    /* steps: diffusion.steps, or the largest of diffusion.t_set */
    double *beta; /* [T+1] index t = 1..T; beta[0] = 0 */
    double *abar; /* [T+1] abar[0] = 1 */
    double *c1;   /* [T+1] factor of xhat: exactly 1 at t = 1; index 0 is 0 in c1, c2, s2 */
    double *c2;   /* [T+1] factor of x_t: exactly 0 at t = 1 */
    double *s2;   /* [T+1] variance of the posterior: exactly 0 at t = 1 */
} mr_schedule;

/* From c->diffusion. The caller frees. Not collective. ERR_CONFIG where T is outside 1..4095 or a
 * beta is outside (0, 1); ERR_MEMORY. */
mr_status mr_schedule_make(mr_schedule *out, const mr_config *c);
void mr_schedule_free(mr_schedule *s);

#endif
