/* dist.deterministic=world: the same bits on every number of ranks and for every placement of the
 * item table. A step is made of one part for each virtual shard, computed with the whole table, and
 * the gradients of the parts are added as integers, which may be added in any order.
 * What it is not: fast. docs/distributed.md has the cost. */
#ifndef MR_TRAIN_EXACT_H
#define MR_TRAIN_EXACT_H

#include "train/trainer.h"

/* Graph, plan and run of t's training step, over a parameter set with the whole table; t->params
 * has to be declared. Sets t->exact, t->train_graph, t->train_plan and t->train_run. ERR_CONFIG on
 * a device whose memory is not the host's. */
mr_status mr_exact_create(mr_trainer *t, bool stochastic);
void mr_exact_free(mr_exact **e_p);
/* Losses and gradients of global batch i of an epoch: t->losses, t->params.grad. Collective. */
mr_status mr_exact_gradients(mr_trainer *t, int64_t epoch, int64_t i);
/* Squared norm and number of non-finite elements of the whole gradient. Not collective. */
mr_status mr_exact_stats(mr_trainer *t, double *sum, double *bad);
/* Elements that are summed: dense gradients, loss slots, the whole table. */
int64_t mr_exact_elements(const mr_exact *e);

#endif
