/* Placement of a plan's buffers in one workspace block. */
#ifndef MR_GRAPH_PLAN_MEMORY_H
#define MR_GRAPH_PLAN_MEMORY_H

#include "graph/plan.h"

/* Give every slot an offset (64-byte aligned) such that slots live in the same step do not overlap;
 * is_private: no two slots overlap at all. Reorders `list`. *total_p = bytes of the block. */
mr_status mr_place_slots(mr_slot **list, int n, bool is_private, int64_t *total_p);

#endif
