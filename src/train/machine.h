/* A machine as an alpha-beta model, and what a training step would take on it: modelled, not
 * measured. Machines are files of configs/machines; `bench machine` writes one for this machine. */
#ifndef MR_TRAIN_MACHINE_H
#define MR_TRAIN_MACHINE_H

#include "graph/plan_cost.h"
#include "train/placement.h"

/* Every field is a line `name: number` of the file; all are required. */
typedef struct mr_machine {
    char name[128], basis[256]; /* basis: where the numbers come from */
    double ranks_per_node;      /* ranks that a full node has: cores or GPUs */
    double products;            /* FLOP/s of one rank in matrix products, nobody else computing */
    double memory;              /* bytes/s of one rank in all other ops */
    double update;              /* bytes/s of one rank in the optimizer */
    double fixed;               /* seconds of a step that nothing shortens: launches, host work */
    double contention;          /* how much longer a rank of a full node computes, >= 1 */
    double capacity;            /* bytes of memory of a rank */
    double node_alpha;          /* seconds of a collective inside a node */
    double node_beta;           /* bytes/s that a rank receives inside a node */
    double net_alpha;           /* seconds of a collective between 2 nodes, */
    double net_alpha_log2;      /* and more for each doubling of the nodes */
    double net_beta;            /* bytes/s that a rank receives from other nodes */
    double overlap;             /* share of backward under which sums of dense gradients hide */
} mr_machine;

/* Errors: ERR_NO_INPUT, ERR_CONFIG with file and line. */
mr_status mr_machine_read(mr_machine *out, const char *path);
/* Such a file, comments included. */
void mr_machine_write(const mr_machine *m, FILE *f);

/* A step of `plan` on layout l. size: of the fullest rank; group_rows and group are set from the
 * placement. */
typedef struct mr_prediction {
    mr_placement placement;
    mr_count count[MR_FOR_COUNT]; /* of a typical rank */
    mr_bytes bytes[MR_FOR_COUNT]; /* the same by link */
    double seconds[MR_FOR_COUNT]; /* of the collectives, nothing hidden */
    mr_cost forward, backward;    /* of the fullest rank */
    double forward_s, backward_s, update_s, fixed_s;
    double hidden_s; /* of the sums of dense gradients, under backward */
    double step_s;
} mr_prediction;

typedef struct mr_predict_spec {
    const mr_plan *plan;
    mr_step_shape shape; /* of plan; ranks and group are not used */
    mr_layout layout;
    const int32_t *rows;     /* [layout.ranks] rows of each rank in a batch */
    const int64_t *n_unique; /* [n_seq] distinct ids of a rank */
    mr_step_size size;
    const char *item_shard;    /* dist.item_shard */
    const mr_machine *machine; /* NULL: bytes and operations only, no seconds */
} mr_predict_spec;

mr_status mr_predict(mr_prediction *out, const mr_predict_spec *s);

#endif
