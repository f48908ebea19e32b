/* What `mealrec-dist plan` says about ranks, of this job or of another one. */
#ifndef MR_CLI_PLAN_RANKS_H
#define MR_CLI_PLAN_RANKS_H

#include "train/trainer.h"

typedef struct mr_plan_ranks_spec {
    const char *item_shard; /* dist.item_shard for these ranks */
    int ranks, nodes;
    const char *machine; /* a file of configs/machines, or NULL: no times */
    bool is_table;       /* only the table of collectives, for docs/distributed.md */
} mr_plan_ranks_spec;

/* Placement, collectives with bytes, operations, and with a machine modelled times of a step, to
 * standard output. Errors: those of mr_layout_even, mr_machine_read and the placement. Not
 * collective. */
mr_status mr_plan_ranks(const mr_trainer *t, const mr_plan_ranks_spec *o);

#endif
