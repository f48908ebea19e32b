/* The model's gradients against central differences of its loss, in float64. */
#ifndef MR_TRAIN_GRADCHECK_H
#define MR_TRAIN_GRADCHECK_H

#include <stdio.h>

#include "train/trainer.h"

typedef struct mr_gradcheck_spec {
    double step;        /* of the differences, e.g. 1e-5 */
    double tolerance;   /* worst allowed relative difference, e.g. 5e-6 */
    int64_t per_tensor; /* elements tried per named tensor, at most */
    FILE *table;        /* one line per tensor, or NULL */
} mr_gradcheck_spec;

/* Train-mode gradients (dropout on, draws fixed) of the first batch on t, which must be a cpu64
 * trainer with optimizer buffers. *worst_p = worst |analytic - numeric| / max(|analytic|,
 * |numeric|, floor), floor = 1e-3 of the tensor's RMS gradient plus what rounding of the loss
 * itself allows (see .c). Collective. ERR_INTERNAL when the tolerance is exceeded, naming the
 * tensor and element. */
mr_status mr_gradcheck(mr_trainer *t, const mr_gradcheck_spec *spec, double *worst_p);

#endif
