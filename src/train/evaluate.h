/* Scoring a model: the rank of every user's held-out item among all items, and top-k lists. */
#ifndef MR_TRAIN_EVALUATE_H
#define MR_TRAIN_EVALUATE_H

#include "train/metrics.h"
#include "train/rank.h"
#include "train/trainer.h"

typedef struct mr_topk {
    int64_t k;
    int32_t *id;   /* [n_users, k] item ids, best first, -1 behind the last */
    double *score; /* [n_users, k] */
} mr_topk;

/* Metrics over all users of a split (leave one out, full ranking, PAD masked, items already seen
 * too when train.mask_seen). The same integers for every number of ranks. user_rank (may be NULL):
 * [n_users] 1-based rank of each user's target, 0 without one, on all ranks. topk (may be NULL):
 * lists of each user of the split, filled on all ranks; exclude_seen leaves out the user's history.
 * Collective. */
typedef struct mr_evaluation {
    mr_split split;
    bool exclude_seen;
    int32_t *user_rank;
    mr_topk *topk;
} mr_evaluation;
/* The ranking that an evaluation of lists of top_k items makes; without its kernels and table. The
 * parameters are declared, not necessarily in memory. */
mr_rank_spec mr_evaluation_ranking(const mr_trainer *t, int64_t top_k);
mr_status mr_evaluate(mr_trainer *t, const mr_evaluation *what, mr_metrics *out);

#endif
