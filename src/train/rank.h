/* Exact full ranking against a table whose rows are spread over ranks: the rank of each row's
 * target among all items, and the best k items. Scores are streamed in tiles and never kept. Rules
 * (model.md §1): an item ranks before the target when its score is greater, or equal with a lower
 * id; PAD (0) and every id above n_items (MASK) take no part; a NaN score ranks before everything.
 * Ranks are the same integers for any number of ranks and any block size, because a score depends
 * on its two rows alone (kernel score_tile). */
#ifndef MR_TRAIN_RANK_H
#define MR_TRAIN_RANK_H

#include "dist/comm.h"
#include "kernels/kernels.h"
#include "tensor/device.h"

typedef struct mr_rank_spec {
    mr_device *dev; /* borrowed, as all pointers here */
    const mr_kernels *k;
    mr_comm *comm;     /* ranks that share the table; NULL = this one alone. Takes device memory */
    const void *table; /* device [row_hi - row_lo, d]: this rank's rows */
    int64_t row_lo, row_hi, n_items, d;
    bool is_cosine;   /* scores cos(x, E_i), else x . E_i */
    int64_t rows_cap; /* most rows of a block, all ranks together; the same on all ranks */
    int64_t top_k;    /* length of the lists, 0 = ranks only */
} mr_rank_spec;

typedef struct mr_ranker mr_ranker;
mr_status mr_ranker_create(mr_ranker **out_p, const mr_rank_spec *spec);
void mr_ranker_free(mr_ranker **r_p);
/* Device memory that such a ranker takes, without the lists of left-out items. spec->table and
 * spec->k may be NULL. Local. */
int64_t mr_ranker_bytes(const mr_rank_spec *spec);
/* Note the table's present values (inverse norms): once before the first block and after each
 * change. */
void mr_ranker_refresh(mr_ranker *r);

typedef struct mr_rank_block {
    const void *x;         /* device [rows, d] */
    const int64_t *counts; /* [size] rows of each rank in this block; may be 0 */
    const int32_t *target; /* host [rows] item ids 1..n_items; 0 = no target (its rank is 0) */
    const int64_t
        *skip_start;        /* host [rows + 1]: items left out, by row; NULL = none, on all ranks */
    const int32_t *skip_id; /* host; ascending in a row. The target itself is never left out */
    int32_t *rank;          /* host [rows] out: 1 = best */
    int32_t *top_id;   /* host [rows, top_k] out, best first, -1 behind the last item; or NULL */
    double *top_score; /* host [rows, top_k] out; or NULL */
} mr_rank_block;
/* Rank one block of rows. Collective over comm. */
mr_status mr_ranker_run(mr_ranker *r, const mr_rank_block *b);

#endif
