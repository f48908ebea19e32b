/* Batches: the rows of one global batch that this rank owns, packed for the kernels.
 * What it is not: features (kernels gather those by item id).
 * Invariants: users are dealt to `virtual_shards` shards and ranks own contiguous ranges of shards;
 * the global batch of a step is the same set of rows for every number of ranks; every rank can
 * compute how many rows each rank has, so counts never travel. */
#ifndef MR_DATA_BATCH_H
#define MR_DATA_BATCH_H

#include <stdint.h>

#include "base/config.h"
#include "base/status.h"
#include "data/dataset.h"

#define MR_MAX_SEQ 3 /* 0 = the history; 1, 2 = CL4SRec's augmented views */

/* One set of sequences, right-padded [rows, L] and packed (valid tokens only, row after row). */
typedef struct mr_seq {
    int32_t *ids;      /* [rows_cap, L] item ids, 0 = PAD (n_items + 1 = CL4SRec's MASK) */
    int32_t *len;      /* [rows_cap] 1..L */
    int32_t *start;    /* [rows_cap + 1] first packed token of a row */
    int32_t *tok_id;   /* [rows_cap * L] packed item ids */
    int32_t *tok_pos;  /* [rows_cap * L] position 0..L-1 of a packed token */
    int32_t *tok_row;  /* [rows_cap * L] local row of a packed token */
    uint32_t *tok_rid; /* [rows_cap * L] global row index of a packed token, for random draws */
    int64_t tokens;    /* number of packed tokens */
} mr_seq;

typedef struct mr_batch {
    int64_t rows_cap, L; /* capacities: allocation never changes */
    int64_t rows;        /* rows of this rank in this batch; may be 0 */
    int64_t rows_global; /* rows of the global batch: the divisor of every loss */
    int n_ranks;
    int32_t *rank_rows; /* [n_ranks] rows of each rank */
    uint32_t step;      /* third word of the random counter: training step, 0 in evaluation */
    uint32_t *rid;      /* [rows_cap] global row index: training row, or user in evaluation */
    int32_t *zero_pos;  /* [rows_cap] zeros: the position of a whole row, for row-space dropout */
    int32_t *user;      /* [rows_cap] */
    int32_t *target;    /* [rows_cap] item id */
    int32_t *last;      /* [rows_cap] item id of the last history item */
    /* Many rows end with the same item: what depends on it alone is made once for each of the
     * n_last distinct ones, in order of first appearance. */
    int64_t n_last;
    int32_t *last_id;    /* [rows_cap] the items */
    int32_t *last_slot;  /* [rows_cap] which of them a row has */
    int32_t *last_start; /* [rows_cap + 1] where the rows of an item begin in last_row */
    int32_t *last_row;   /* [rows_cap] ascending for each item */
    int32_t *last_hash;  /* [power of two > rows_cap] own use of mr_batch_distinct */
    int64_t hash_cap;
    int n_seq; /* 1, or 3 with augmented views */
    mr_seq seq[MR_MAX_SEQ];
} mr_batch;

mr_status mr_batch_alloc(mr_batch *b, int64_t rows_cap, int64_t L, int n_seq, int n_ranks);
void mr_batch_free(mr_batch *b);
/* Fill start, tok_*, last from ids, len, rid for all sequence sets. */
void mr_batch_pack(mr_batch *b);
/* A part of it: n_last and last_* from last. */
void mr_batch_distinct(mr_batch *b);

/* A sampler walks the rows of a split in global batches. */
typedef struct mr_sampler mr_sampler;
typedef struct mr_sampler_spec {
    const mr_dataset *data;
    mr_split split;
    int64_t batch;   /* global batch (users per block in evaluation) */
    int64_t max_len; /* L */
    int virtual_shards, rank, n_ranks;
    uint64_t seed;
    const mr_config *augment; /* non-NULL: also make CL4SRec's two views (model.md §2) */
} mr_sampler_spec;
/* Not collective (pure computation, same on all ranks). ERR_DATA when the split has no rows. */
mr_status mr_sampler_make(mr_sampler **out_p, const mr_sampler_spec *spec);
void mr_sampler_free(mr_sampler **s_p);
int64_t mr_sampler_rows(const mr_sampler *s);     /* rows of the split, all ranks */
int64_t mr_sampler_batches(const mr_sampler *s);  /* global batches an epoch; last may be partial */
int64_t mr_sampler_rows_cap(const mr_sampler *s); /* most rows this rank ever has in a batch */
int64_t mr_sampler_rows_most(const mr_sampler *s); /* most rows that any rank ever has */
/* Most tokens that this rank has in a batch of `epoch`, where each of its rows that is missing to
 * `rows` counts as one (several ranks that compute with as many rows: mr_counts). */
int64_t mr_sampler_tokens_most(mr_sampler *s, int64_t epoch, int64_t rows);
/* Fill b with this rank's part of global batch i of `epoch` (evaluation: epoch ignored, order
 * fixed). step is stored in b->step. Same global set of rows for every n_ranks. */
void mr_sampler_get(mr_sampler *s, int64_t epoch, int64_t i, uint32_t step, mr_batch *b);
/* The same part by part: virtual shards of this rank, and the rows of the k-th of them alone, which
 * do not depend on the number of ranks. rows_global stays that of the global batch. */
int mr_sampler_shards(const mr_sampler *s);
/* Most shards of a rank: k below it may be asked of every rank, and gives no rows where a rank has
 * fewer shards. */
int mr_sampler_shards_most(const mr_sampler *s);
void mr_sampler_get_shard(mr_sampler *s, int64_t epoch, int64_t i, uint32_t step, int k,
                          mr_batch *b);

#endif
