/* A data set in memory: interactions by user in time order, item features, original ids.
 * What it is not: batches (batch.h), nor files (io/h5_dataset.h reads and writes them).
 * Invariants: item ids 1..n_items (0 = PAD), users 0..n_users-1; every id has been range-checked
 * and every feature checked to be finite before anybody sees this struct. */
#ifndef MR_DATA_DATASET_H
#define MR_DATA_DATASET_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "tensor/dtype.h"

typedef struct mr_feature {
    mr_dtype dtype; /* MR_F32 or MR_F16; meaningless when data is NULL */
    int64_t width;  /* columns of one vector */
    int64_t count;  /* vectors per item: 1, or K for frames */
    void *data;     /* [n_items, count, width]; row 0 belongs to item 1. NULL = absent. Owned. */
} mr_feature;

typedef struct mr_dataset {
    char name[64];
    bool is_synthetic;
    int64_t n_users, n_items, n_inter;
    int64_t *offset;   /* [n_users+1] into items */
    int32_t *items;    /* [n_inter], oldest first within a user */
    mr_feature visual; /* [I, D]      v */
    mr_feature frames; /* [I, K, D]   F */
    mr_feature text;   /* [I, d_h]    h */
    int64_t user_id_bytes, item_id_bytes;
    char *user_ids;    /* [n_users, user_id_bytes], zero padded original ids */
    char *item_ids;    /* [n_items, item_id_bytes] */
    uint64_t checksum; /* XXH3-64 over the checksums of all datasets of the file */
    /* data.features=shard: the feature arrays hold the items of rows feature_lo..feature_hi-1 only
     * (room for one row at least, so that data is never NULL for want of rows). */
    bool is_sharded;
    int64_t feature_lo, feature_hi; /* set when is_sharded */
} mr_dataset;

void mr_dataset_free(mr_dataset *d);

/* Items of rank `rank` when n items are spread over `size` ranks: blocks of ceil(n / size), as rows
 * of the item table. May be empty. */
void mr_feature_block(int64_t n, int rank, int size, int64_t *lo, int64_t *hi);
/* The items whose features are here: 0..n_items-1 unless they are spread. */
void mr_feature_rows(const mr_dataset *d, int64_t *lo, int64_t *hi);
/* Keep rank's block of every feature and give the rest back. ERR_MEMORY: d is as before. */
mr_status mr_dataset_spread(mr_dataset *d, int rank, int size);

/* NEXT: every user with at least one item, the whole history, no target: what to recommend now. */
typedef enum mr_split { MR_SPLIT_TRAIN, MR_SPLIT_VALID, MR_SPLIT_TEST, MR_SPLIT_NEXT } mr_split;
enum { MR_N_SPLITS = MR_SPLIT_NEXT + 1 };

/* model.md §1. Leave one out for a user with n items s_1..s_n (n >= 3):
 * test: history s_1..s_{n-1}, target s_n; valid: history s_1..s_{n-2}, target s_{n-1};
 * training rows: for j = 2..n-2 history s_1..s_{j-1}, target s_j (n - 3 rows).
 * A history is cut to its last max_len items. */
typedef struct mr_rows {
    int64_t n;       /* rows of this split in the whole data set */
    int32_t *user;   /* [n] */
    int32_t *target; /* [n] index into dataset.items of the target interaction; NEXT: one past the
                        history */
} mr_rows;
/* Canonical row order: users ascending, then j ascending; the row number is the global row index
 * that every random draw uses. Caller frees with mr_rows_free. */
mr_status mr_rows_make(mr_rows *out, const mr_dataset *d, mr_split split);
void mr_rows_free(mr_rows *r);

#endif
