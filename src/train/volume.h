/* How many bytes a training step moves between ranks, from shapes alone: the closed forms behind
 * `bench comm --check`, the choice of placement and `plan --ranks`.
 * What it is not: a measurement. It shares no code with the counting of src/dist/comm.c, so that
 * the two can check each other; the definition of a byte is the one of dist/comm.h. */
#ifndef MR_TRAIN_VOLUME_H
#define MR_TRAIN_VOLUME_H

#include "data/batch.h"
#include "dist/comm.h"
#include "graph/plan.h"
#include "train/fetch.h"

enum { MR_VOLUME_BUCKETS = 256 };

/* What is the same for every batch. */
typedef struct mr_step_shape {
    int ranks, group;            /* P, and G ranks that share one copy of the item table */
    int64_t real_bytes;          /* b */
    bool whole_products;         /* as in mr_graph_dims, */
    mr_precision precision;      /* and so is this */
    int64_t table_rows, width;   /* of item.weight: V, d */
    int n_seq;                   /* sequence sets with a row exchange each */
    int lookups[MR_MAX_SEQ];     /* look-ups of a sequence set, forward */
    int lookups_bwd[MR_MAX_SEQ]; /* and backward */
    int n_contrast;              /* NT-Xent losses */
    int n_item_loss;             /* losses over the item table */
    int64_t exchange_rows; /* rows of every pair (dist.exchange=fixed); 0: as many as wanted */
    int64_t n_items;
    int n_features[MR_ITEM_SETS];        /* fetched features by item set; 0: none is spread */
    int64_t feature_bytes[MR_ITEM_SETS]; /* of one item in all of them */
    int64_t typical_items[MR_ITEM_SETS]; /* distinct items of a rank, for mr_volume_typical */
    int64_t exact; /* gradient elements summed exactly (train/exact.h); 0: not so */
    int n_buckets;
    int64_t bucket[MR_VOLUME_BUCKETS]; /* elements of each bucket of dense gradients */
} mr_step_shape;

/* The shape of plan's step; ranks and group are the caller's. n_seq: sequence sets of a batch. */
mr_status mr_volume_shape(mr_step_shape *out, const mr_plan *plan, int table, int n_seq);

/* Add the features of d as cfg's model fetches them when they are spread. */
void mr_volume_features(mr_step_shape *s, const mr_config *cfg, const mr_dataset *d);

/* What differs from batch to batch. */
typedef struct mr_step_rows {
    int ranks, group, n_seq;
    int64_t *rows;  /* [ranks] rows of each rank */
    int64_t *want;  /* [n_seq, ranks, group] distinct ids that a rank wants of each owner of its
                     * group */
    int64_t *fetch; /* [MR_ITEM_SETS, ranks, ranks] distinct items whose features a rank wants of
                     * each; NULL: features are not spread */
} mr_step_rows;

mr_status mr_step_rows_alloc(mr_step_rows *out, const mr_step_shape *s);
void mr_step_rows_free(mr_step_rows *r);

/* Distinct ids of a batch, PAD included, of each sequence set: ascending. */
typedef struct mr_wanted {
    int n_seq;
    int64_t n[MR_MAX_SEQ], tokens[MR_MAX_SEQ];
    int32_t *id[MR_MAX_SEQ];
    int64_t n_items[MR_ITEM_SETS]; /* distinct items (no PAD, no MASK), as rows of features */
    int32_t *item[MR_ITEM_SETS];
} mr_wanted;

mr_status mr_wanted_of(mr_wanted *out, const mr_batch *b, int64_t table_rows, int64_t n_items);
void mr_wanted_free(mr_wanted *w);
/* Fill one rank's part of want. */
void mr_step_rows_set(mr_step_rows *r, const mr_step_shape *s, int rank, const mr_wanted *w);

/* Calls and bytes of one step on one rank, by purpose: the part of mr_trainer_step. */
void mr_volume_of_rank(mr_count out[MR_FOR_COUNT], const mr_step_shape *s, const mr_step_rows *r,
                       int rank);

/* The same on rank 0 when ranks are alike: rank r has rows[r] rows, and every rank wants
 * n_unique[q] distinct ids of sequence set q, spread evenly over the owners. What the choice of
 * placement and predictions use. */
mr_status mr_volume_typical(mr_count out[MR_FOR_COUNT], const mr_step_shape *s, const int32_t *rows,
                            const int64_t *n_unique);

#endif
