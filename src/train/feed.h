/* The feed of a run: the row exchanges planned for each batch that is handed to it. */
#ifndef MR_TRAIN_FEED_H
#define MR_TRAIN_FEED_H

#include "data/batch.h"
#include "dist/comm.h"
#include "dist/shard.h"
#include "graph/run.h"

typedef struct mr_feed {
    int n_seq;
    mr_exchange *xch[MR_MAX_SEQ];
    int32_t *list;  /* ids of one exchange: packed tokens, then one PAD */
    mr_counts most; /* of the batch that was planned, when ranks have agreed on it */
} mr_feed;

/* For batches of at most rows_cap rows of L positions, item rows shared by n_ranks ranks. */
mr_status mr_feed_create(mr_feed *f, int64_t rows_cap, int64_t L, int n_seq, int n_ranks);
void mr_feed_free(mr_feed *f);
/* How many rows of every pair of the `group` ranks that share the item table a step should have
 * room for: the most that a rank wants of one owner in its part of the first 8 batches of epoch 0,
 * over all ranks, a quarter more, rounded up to 32, at most all that an owner has. The same on all
 * ranks. b is scratch. Collective over world. */
mr_status mr_feed_rows_of_pair(int64_t *out, mr_comm *world, int group, int64_t table_rows,
                               mr_sampler *s, mr_batch *b);
/* From the next plan on; 0: as many as wanted. */
void mr_feed_fix(mr_feed *f, int64_t rows_of_pair);
/* Row exchanges so far that did not fit into fixed rows. */
int64_t mr_feed_misfits(const mr_feed *f);
/* Plan the exchanges of a batch over `items`. Collective. */
mr_status mr_feed_plan(mr_feed *f, mr_comm *items, int64_t table_rows, const mr_batch *b);
/* most = the largest counts of any rank for the batch that was planned. places: of this rank; the
 * largest is told. Collective over world. */
mr_status mr_feed_agree(mr_feed *f, mr_comm *world, const mr_batch *b, int64_t *places);

#endif
