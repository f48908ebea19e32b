/* Row exchange of the sharded item table: which distinct rows a batch needs, from whom, and where
 * each of them is used. Host side only; ops move the rows themselves. */
#ifndef MR_DIST_SHARD_H
#define MR_DIST_SHARD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "dist/comm.h"

typedef struct mr_exchange {
    int64_t cap;                    /* most ids in a list */
    int64_t n;                      /* ids in the current list */
    int64_t n_unique;               /* distinct ids */
    int32_t *unique_id;             /* [cap] ascending: rows of one owner are consecutive */
    int32_t *inv;                   /* [cap] list position -> index into unique_id */
    int32_t *csr_start;             /* [cap + 1] first entry of csr_pos of a distinct id */
    int32_t *csr_pos;               /* [cap] list positions of a distinct id, ascending */
    int size;                       /* ranks of the communicator */
    mr_purpose for_counts, for_ids; /* of the plan's collectives: ROW_COUNTS, ROW_IDS when made */
    int64_t *want;                  /* [size] distinct rows this rank wants from each owner */
    int64_t *give;                  /* [size] rows that each rank wants from this one */
    int64_t n_give;                 /* sum of give */
    int64_t give_cap;               /* size of the give arrays; grows in plan (host memory) */
    int32_t *give_row;  /* [n_give] local rows (id - row_lo), by asking rank, ascending in each */
    int64_t n_own;      /* distinct local rows among give_row */
    int32_t *own_row;   /* [n_own] local row, ascending */
    int32_t *own_start; /* [n_own + 1] */
    int32_t *own_pos;   /* [n_give] positions in give_row of a local row, in rank order */
    /* A fixed number of rows for every pair of ranks: who makes x may set fixed, the same on all
     * ranks. Then inv and own_pos are places in buffers of size * fixed rows, those of rank r from
     * r * fixed on, and so is give_row, with 0 where nothing is given. A list that does not fit on
     * some rank is laid out as without fixed, on all ranks. */
    int64_t fixed;    /* 0: as many rows as are wanted */
    bool is_fixed;    /* the current list is laid out so */
    int64_t n_slots;  /* rows of an asker's buffer: n_unique, or size * fixed */
    int64_t n_send;   /* rows of an owner's buffer: n_give, or size * fixed */
    int32_t *slot;    /* [cap] place of a distinct id in the asker's buffer; when is_fixed */
    int64_t n_misfit; /* lists so far that did not fit */
    int32_t *sort_cap, *sort_give; /* [cap], [give_cap]: scratch of the sorts */
} mr_exchange;

/* cap: most ids in a list, below 2^31; size: ranks of the communicator. Not collective. Caller
 * frees. */
mr_status mr_exchange_create(mr_exchange **out_p, int64_t cap, int size);
void mr_exchange_free(mr_exchange **x_p);
/* Rows that move between this rank and rank r: from it in forward, to it on the way back; and the
 * other way round. */
int64_t mr_exchange_wants(const mr_exchange *x, int r);
int64_t mr_exchange_gives(const mr_exchange *x, int r);
/* Plan for a list of n ids in [0, n_rows); collective over comm. Rows are owned in contiguous
 * blocks of ceil(n_rows / size). Ids may repeat and come in any order; n may be 0 and differ
 * between ranks, n_rows may not. One rank alone does not communicate. After an error x holds no
 * plan. ERR_INTERNAL: id out of range, list too long; ERR_COMM: as raised, or ranks that disagree
 * on n_rows. */
mr_status mr_exchange_plan(mr_exchange *x, mr_comm *comm, int64_t n_rows, const int32_t *ids,
                           int64_t n);

#endif
