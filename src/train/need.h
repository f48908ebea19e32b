/* Device memory that a training needs, told and compared with what is free before any is taken.
 * What it is not: exact to the byte; libraries, and lists that grow with the data, come on top. */
#ifndef MR_TRAIN_NEED_H
#define MR_TRAIN_NEED_H

#include "train/trainer.h"

typedef struct mr_need {
    int64_t params;    /* values, gradients, two moments */
    int64_t features;  /* frozen item features */
    int64_t step;      /* workspace of a training step */
    int64_t eval;      /* workspace of an evaluation block beyond a step's, and its ranking */
    int64_t batch;     /* rows, tokens and exchange lists of a batch */
    int64_t rows;      /* of a training batch on this rank */
    int64_t eval_rows; /* of an evaluation block on this rank */
    bool may_spread;   /* features are whole on every one of several ranks */
} mr_need;

int64_t mr_need_total(const mr_need *n);
/* ERR_MEMORY, in one sentence with need, free memory and what to change, when n does not fit. */
mr_status mr_need_check(const mr_need *n, const char *device, int64_t free_bytes, int64_t total);
/* Of a trainer whose training plan is compiled. Compiles an evaluation plan for the purpose. */
mr_status mr_need_of(mr_need *out, mr_trainer *t, bool with_optimizer);
/* Both, on devices that know their free memory; elsewhere nothing. All ranks get the status of the
 * first rank that it does not fit. Collective. */
mr_status mr_need_fits(mr_trainer *t, bool with_optimizer);

#endif
