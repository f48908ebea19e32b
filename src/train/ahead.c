/* A batch prepared ahead. Invariant: two batches and two feeds change places, so what a run still
 * points to is not written before the device has been waited for. */
#include "train/ahead.h"

#include <string.h>

#include "train/trainer.h"

bool mr_ahead_is_wanted(const mr_trainer *t)
{
    return t->world->size == 1 || !strcmp(t->dev_world->kind, "nccl");
}

mr_status mr_ahead_make(mr_ahead *a, const mr_trainer *t, const mr_batch *like,
                        int64_t exchange_rows)
{
    MR_TRY(mr_batch_alloc(&a->batch, like->rows_cap, like->L, like->n_seq, t->world->size));
    MR_TRY(mr_feed_create(&a->feed, like->rows_cap, like->L, like->n_seq, t->items->size));
    mr_feed_fix(&a->feed, exchange_rows);
    return MR_OK;
}

void mr_ahead_free(mr_ahead *a)
{
    mr_feed_free(&a->feed);
    mr_batch_free(&a->batch);
}

mr_status mr_ahead_prepare(mr_ahead *a, mr_trainer *t, mr_run *run, mr_sampler *s, int64_t epoch,
                           int64_t i, int64_t step)
{
    mr_sampler_get(s, epoch, i, (uint32_t)step, &a->batch);
    MR_TRY(mr_trainer_plan_rows(t, run, &a->feed, &a->batch));
    const mr_counts *most = mr_trainer_agrees(t, run) ? &a->feed.most : NULL;
    mr_run_stage(run, &a->batch, a->feed.xch, most);
    a->epoch = epoch;
    a->i = i;
    a->step = step;
    a->is_ready = true;
    return MR_OK;
}

/* True when it was prepared; b and f change places with it. */
static bool take(mr_ahead *a, int64_t epoch, int64_t i, int64_t step, mr_batch *b, mr_feed *f)
{
    bool is_it = a->is_ready && a->epoch == epoch && a->i == i && a->step == step;
    a->is_ready = false;
    if (!is_it) return false;
    mr_batch batch = *b;
    mr_feed feed = *f;
    *b = a->batch;
    *f = a->feed;
    a->batch = batch;
    a->feed = feed;
    return true;
}

mr_status mr_ahead_load(mr_ahead *a, mr_trainer *t, mr_run *run, mr_sampler *s, int64_t epoch,
                        int64_t i, int64_t step, mr_batch *b, mr_feed *f)
{
    if (take(a, epoch, i, step, b, f)) {
        t->n_ahead++;
        return mr_trainer_hand_over(t, run, f, b);
    }
    mr_sampler_get(s, epoch, i, (uint32_t)step, b);
    return mr_trainer_set_batch(t, run, f, b);
}
