/* A plan: the compiled form of a graph. Which nodes run, in which order forward and backward, who
 * writes and who accumulates, where every buffer lives in one workspace block, and when a gradient
 * bucket is complete. */
#ifndef MR_GRAPH_PLAN_H
#define MR_GRAPH_PLAN_H

#include <stdio.h>

#include "graph/graph.h"

typedef struct mr_slot { /* one buffer of the workspace */
    int64_t offset;      /* bytes; -1 = none */
    int64_t bytes;
    int first, last; /* steps in which it is live: forward 0..n-1, backward n.. */
    bool is_partial; /* sized for full histories: a batch seldom fills it */
} mr_slot;

typedef struct mr_bucket {
    int64_t lo, hi; /* elements of the dense gradient buffer, loss slots included in the last */
    int after;      /* index into bwd[] after which it is complete; -1 = before backward */
} mr_bucket;

/* Offsets. A plan with backward lays its buffers over the gradient block as well: until a
 * parameter's gradient is first written, its place is free. Offsets below grad_bytes are in
 * params->grad, the rest (less grad_bytes) in the run's own workspace. */
typedef struct mr_plan {
    const mr_graph *g;
    bool backward;   /* has a backward part */
    bool is_private; /* check mode: no memory is shared, everything poisoned first */
    int n_fwd, *fwd; /* node ids in order */
    int n_bwd, *bwd;
    int *root;           /* [n_nodes] node whose memory an alias uses */
    bool *needs_grad;    /* [n_nodes] */
    mr_slot *val, *grad; /* [n_nodes] */
    /* [n_nodes] A cheap op whose value is wanted again in backward: forward runs a second time,
     * just before step again[id].first, into this slot, with the scratch of backward. val then
     * lives in forward alone. */
    mr_slot *again;
    mr_slot (*saved)[MR_MAX_SAVED];
    mr_slot (*scratch)[2];        /* [n_nodes] of forward and backward, each live in one step */
    unsigned *acc_in, *acc_param; /* [n_nodes] bit masks */
    bool *is_joined;              /* [n_nodes] forward is done by the only reader */
    int *grad_of;  /* [n_nodes] whose gradient's memory is its own: the root's, or the reader's */
    int *begun_by; /* [n_nodes] the node whose step, the one before, begins backward; -1 = none */
    int n_zero, zero[MR_MAX_PARAMS]; /* parameters without any gradient: zeroed before backward */
    int n_buckets;
    mr_bucket bucket[256];
    int64_t grad_bytes; /* of the gradient block, 0 = not used for buffers */
    int64_t ws_bytes;   /* of the workspace beside it */
} mr_plan;

/* Compile. backward = false: only what the outputs and losses need, nothing kept.
 * bucket_elems: least elements of a gradient bucket (0 = one bucket). */
mr_status mr_plan_compile(mr_plan **out_p, const mr_graph *g, bool backward, bool is_private,
                          int64_t bucket_elems);
void mr_plan_free(mr_plan **p_p);
/* Elements of the value of node id for so many rows: more than its shape says where it is joined.
 */
int64_t mr_plan_value_elements(const mr_plan *p, int id, int64_t rows);
/* Brute force: no two buffers that are live in the same step overlap. ERR_INTERNAL names the pair.
 */
mr_status mr_plan_verify(const mr_plan *p);
/* The numbered list of the step: op, label, shape, buffers, parameters. */
void mr_plan_print(const mr_plan *p, FILE *f);

#endif
