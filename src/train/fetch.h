/* Features of a batch where they are spread over ranks by item (data.features=shard): the distinct
 * rows that a batch reads, from their owners, in one place, and where each is used.
 * What it is not: for rows of the item table (feed.h). Features are frozen: nothing goes back. */
#ifndef MR_TRAIN_FETCH_H
#define MR_TRAIN_FETCH_H

#include "base/config.h"
#include "data/batch.h"
#include "data/dataset.h"
#include "dist/comm.h"
#include "graph/run.h"
#include "tensor/device.h"

/* Items whose features a batch reads: the last ones of the histories, or all of them. */
typedef enum mr_item_set { MR_ITEMS_LAST, MR_ITEMS_ALL, MR_ITEM_SETS } mr_item_set;

/* Of which items cfg's model reads feature i (order of mr_features: visual, frames, text); false:
 * it does not read it. */
bool mr_fetch_reads(const mr_config *cfg, const mr_dataset *d, int i, mr_item_set *set_p);
/* Bytes of one item's row. */
int64_t mr_fetch_row_bytes(const mr_dataset *d, int i);
/* Bytes of one item in all features that cfg's model reads. */
int64_t mr_fetch_item_bytes(const mr_config *cfg, const mr_dataset *d);

typedef struct mr_fetch mr_fetch;

/* For batches of at most rows_cap rows of L positions. world and dev are borrowed, and d, whose
 * features are spread over world. Not collective. */
mr_status mr_fetch_create(mr_fetch **out_p, const mr_config *cfg, const mr_dataset *d,
                          mr_comm *world, mr_device *dev, int64_t rows_cap, int64_t L);
void mr_fetch_free(mr_fetch **f_p);
/* Bring the rows that b reads. Collective over world, also for a rank without rows. */
mr_status mr_fetch_rows(mr_fetch *f, const mr_batch *b);
/* Find the places of b's items among them; b is the batch of the last mr_fetch_rows or a part of
 * it. Not collective. ERR_INTERNAL when a row is not there. */
mr_status mr_fetch_places(mr_fetch *f, const mr_batch *b);
/* Let r read them, from its next mr_run_set_batch on. */
void mr_fetch_attach(const mr_fetch *f, mr_run *r);
/* The same in host memory: the rows of feature i, and ids [rows] or [tokens] of the batch. */
const mr_feature *mr_fetch_host(const mr_fetch *f, int i);
const mr_feature_ids *mr_fetch_ids(const mr_fetch *f, int i);
/* Bytes of buffers on this rank, on the host. */
int64_t mr_fetch_bytes(const mr_fetch *f);

#endif
