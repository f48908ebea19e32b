/* What an op needs around it in a test: a batch, features, a diffusion schedule, a communicator of
 * one rank, the row exchange. Everything is a function of the sizes alone. What it is not: the data
 * pipeline or the distributed code; those have their own tests. */
#ifndef MR_TESTS_OP_WORLD_H
#define MR_TESTS_OP_WORLD_H

#include "graph/run.h"

typedef struct op_sizes {
    int64_t rows, L, n_items; /* rows of the batch; the capacity is rows + 1 */
    int64_t D, K, dh;         /* features; 0 = absent */
    int n_seq;                /* 0 = 1 */
    const int32_t *len;       /* [rows] history lengths of every set; NULL = mixed 1..L */
    int64_t T;                /* diffusion steps; 0 = 5 */
    bool whole_products;      /* as on a GPU */
    mr_precision precision;   /* of the device; a CPU takes bf16 here, for its kernels' sake */
    mr_dtype feature;         /* MR_F32 (0) or MR_F16 */
} op_sizes;

typedef struct op_world {
    op_sizes s;
    mr_graph_dims dims;
    mr_batch batch;
    mr_features feat;
    mr_features dev_feat; /* of a device that does not read host memory */
    mr_device *dev;       /* that device, borrowed; it must live longer */
    mr_comm comm;         /* one rank: every collective is a copy */
    mr_exchange xch[MR_MAX_SEQ];
    mr_step_state state;
    double *abar, *c1, *c2, *s2; /* [T + 1] */
    mr_int_list t_set;           /* empty */
} op_world;

void op_world_make(op_world *w, const op_sizes *s);
void op_world_free(op_world *w);
/* Make the batch empty (0 rows on this rank, the global batch keeps its rows), or full again. */
void op_world_empty(op_world *w, bool is_empty);
/* Hand everything to a run: batch, state, features, schedule, communicator, exchange. */
void op_world_attach(op_world *w, mr_run *r);

/* Spoil everything on the host that a kernel must read from the device: the arrays of the batch,
 * the lists of the exchange, features, schedule. What ops read on the host (counts, start) stays.
 * For a run on a device that does not read host memory; op_world_attach would take the spoiled
 * values. */
void op_world_spoil(op_world *w);

/* Numbers in [-1, 1), always the same for the same arguments. */
double op_random(uint32_t stream, int64_t i);

#endif
