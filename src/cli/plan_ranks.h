/* What `mealrec-dist plan` says about ranks, of this job or of another one. */
#ifndef MR_CLI_PLAN_RANKS_H
#define MR_CLI_PLAN_RANKS_H

#include "train/trainer.h"

/* item_shard: dist.item_shard for those ranks. Placement, collectives with bytes, operations, and
 * with a machine (a file of configs/machines, or NULL) modelled times of a step on `ranks` ranks of
 * `nodes` nodes, to standard output. Errors: those of mr_layout_even, mr_machine_read and the
 * placement. Not collective. */
mr_status mr_plan_ranks(const mr_trainer *t, const char *item_shard, int ranks, int nodes,
                        const char *machine);

#endif
