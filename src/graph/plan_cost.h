/* What a step of a plan costs: floating-point operations and bytes of memory touched, by op.
 * What it is not: time; rates of a machine turn costs into times (train/machine.h). */
#ifndef MR_GRAPH_PLAN_COST_H
#define MR_GRAPH_PLAN_COST_H

#include "graph/plan.h"

/* How large the step is: actual leading rows of each space on this rank, and of others. */
typedef struct mr_step_size {
    double rows[MR_N_SPACES]; /* FIXED is not used */
    double group_rows;        /* rows of all ranks that share the item table */
    double world_rows;        /* rows of the global batch */
    int group;                /* ranks that share the item table */
} mr_step_size;

typedef struct mr_cost {
    double flops;    /* multiplications and additions of products, attention, convolution */
    double products; /* the part of flops that is matrix products */
    double bytes;    /* read and written by ops that are not matrix products */
} mr_cost;

/* Of node id, forward or backward. Operations between elements count as bytes only. */
mr_cost mr_plan_node_cost(const mr_plan *p, int id, bool forward, const mr_step_size *s);
/* Of all forward or all backward steps. */
mr_cost mr_plan_cost(const mr_plan *p, bool forward, const mr_step_size *s);
/* Bytes that the update of a rank's parameters touches: value, gradient and two moments read, all
 * but the gradient written; the gradient read once more for its norm. */
double mr_plan_update_bytes(const mr_plan *p, int group);

#endif
