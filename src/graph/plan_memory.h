/* Placement of a plan's buffers in one workspace block. */
#ifndef MR_GRAPH_PLAN_MEMORY_H
#define MR_GRAPH_PLAN_MEMORY_H

#include "graph/plan.h"

#define MR_RED_ZONE 64 /* bytes behind every buffer of a private plan */

/* Give every slot an offset (64-byte aligned) such that slots live in the same step do not overlap;
 * is_private: no two slots overlap at all, and MR_RED_ZONE bytes lie behind each. Reorders `list`.
 * fixed[n_fixed], by ascending offset, are in place already and are kept clear. *total_p = bytes of
 * the block. */
mr_status mr_place_slots(mr_slot **list, int n, mr_slot *fixed, int n_fixed, bool is_private,
                         int64_t *total_p);

/* The gradient block of p's parameters as slots, ascending: each gradient from the backward step
 * that first writes it, everything between them (alignment, loss slots) always, and a wall of 64
 * bytes behind the block, so that no buffer lies across its end. Sets p->grad_bytes. fixed: [2 *
 * MR_MAX_PARAMS + 2]. */
int mr_gradient_slots(mr_plan *p, mr_slot *fixed);

#endif
