/* NT-Xent over the global batch for dist.deterministic=world: the views of all rows are gathered
 * and every rank computes the whole loss and its gradient by itself, so that neither depends on how
 * the rows are spread. */
#ifndef MR_TRAIN_CONTRAST_H
#define MR_TRAIN_CONTRAST_H

#include "graph/run.h"

typedef struct mr_contrast mr_contrast;

/* For the NT-Xent loss of `graph`; *out_p stays NULL when it has none. rows_cap: rows of a global
 * batch. self: a communicator of one rank. All but out_p borrowed. Not collective. */
mr_status mr_contrast_create(mr_contrast **out_p, const mr_graph *graph, mr_device *dev,
                             mr_comm *self, int64_t rows_cap);
void mr_contrast_free(mr_contrast **c_p);
/* Keep both views of r's batch, whose forward has run, as rows `at`.. of this rank's rows. */
mr_status mr_contrast_take(mr_contrast *c, const mr_run *r, int64_t at);
/* Gather the views of all ranks (rank_rows [world->size] rows each), compute loss and gradients.
 * Collective over world: one all-gather a view. */
mr_status mr_contrast_solve(mr_contrast *c, mr_comm *world, const int32_t *rank_rows);
/* Let r's backward take the gradients of rows `at`.. of this rank's rows. */
void mr_contrast_give(const mr_contrast *c, mr_run *r, int64_t at);
/* The loss and its index among the graph's losses. */
double mr_contrast_loss(const mr_contrast *c, int *index_p);

#endif
