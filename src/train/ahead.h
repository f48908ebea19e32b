/* The host's part of a batch, made while the device still works on the one before it: of the next
 * step in training, of the next block of users in evaluation. */
#ifndef MR_TRAIN_AHEAD_H
#define MR_TRAIN_AHEAD_H

#include "data/batch.h"
#include "graph/run.h"
#include "train/feed.h"

struct mr_trainer;

typedef struct mr_ahead {
    bool is_ready;
    int64_t epoch, i, step; /* what it is ready for */
    mr_batch batch;
    mr_feed feed;
} mr_ahead;

/* Is anything prepared? Where ranks exchange through host memory it is not: several ranks plan
 * their exchange in a meeting of hosts. Over NCCL their GPUs meet by themselves meanwhile; by then
 * every host has asked for all that its GPU does, so none waits for another one's GPU. */
bool mr_ahead_is_wanted(const struct mr_trainer *t);
/* Room for batches like `like`, with exchange_rows of every pair of ranks (0: as many as wanted).
 * Caller frees. Not collective. */
mr_status mr_ahead_make(mr_ahead *a, const struct mr_trainer *t, const mr_batch *like,
                        int64_t exchange_rows);
void mr_ahead_free(mr_ahead *a);
/* Batch i of s in this epoch, for this step: its rows, its exchange planned, its block written for
 * run. Collective. */
mr_status mr_ahead_prepare(mr_ahead *a, struct mr_trainer *t, mr_run *run, mr_sampler *s,
                           int64_t epoch, int64_t i, int64_t step);
/* *b and *f become that batch, and run gets it: as it was prepared, with a taking what they were
 * (t->n_ahead counts it), or made now. Collective. */
mr_status mr_ahead_load(mr_ahead *a, struct mr_trainer *t, mr_run *run, mr_sampler *s,
                        int64_t epoch, int64_t i, int64_t step, mr_batch *b, mr_feed *f);

#endif
