/* Recorded work of a trainer, and what several ranks agree on so that it starts again.
 * What it is not: the device's part, which keeps the recordings (mr_device.replay).
 * Invariants: all ranks make the same calls with the same signatures, so each of them finds a
 * recording, or none, as all the others do, and what is started again was recorded together: a
 * signature follows from the counts agreed on and from nothing else. */
#include "train/trainer.h"

enum { EAGER = 2 };

/* dist.deterministic=world computes shard by shard, whatever the number of ranks. */
bool mr_trainer_agrees(const mr_trainer *t, const mr_run *run)
{
    return run->rounds && t->world->size > 1 && t->cfg->dist.deterministic != MR_DET_WORLD;
}

mr_status mr_trainer_agree(mr_trainer *t, const mr_run *run, mr_feed *feed, const mr_batch *b)
{
    mr_places *p = &t->places[run == t->eval_run ? MR_RECORD_BLOCK : MR_RECORD_STEP];
    p->moved += p->number != run->number || p->block != run->block;
    p->number = run->number;
    p->block = run->block;
    return mr_feed_agree(feed, t->world, b, &p->moved);
}

/* The same arguments as in a recording that is kept? Then it starts again. Several ranks ask only
 * for batches whose arguments are known from what they agreed on. */
static mr_status start_again(mr_trainer *t, mr_recorded kind, bool *is_done_p)
{
    const mr_run *run = kind == MR_RECORD_STEP ? t->train_run : t->eval_run;
    mr_device *d = t->dev;
    mr_signature s;
    *is_done_p = false;
    if (t->world->size > 1 && (!run->most || run->most->exact)) return MR_OK;
    mr_run_signature(run, &s);
    if (d->mark) d->mark(d, "recorded before");
    mr_status st = d->replay(d, kind, &s, is_done_p);
    if (d->mark) d->mark(d, NULL);
    if (st == MR_OK && *is_done_p) mr_comm_log_again(t->log[kind][d->place]);
    return st;
}

/* Recorded from here on, with its collectives. */
static mr_status begin(mr_trainer *t, mr_recorded kind, mr_comm_log **log_p)
{
    MR_TRY(mr_comm_log_begin(log_p));
    mr_status st = t->dev->capture(t->dev, kind, MR_CAPTURE_BEGIN);
    if (st != MR_OK) mr_comm_log_free(log_p);
    return st;
}

mr_status mr_trainer_recorded(mr_trainer *t, mr_recorded kind, mr_status (*work)(mr_trainer *t))
{
    mr_device *d = t->dev;
    mr_comm_log *log = NULL;
    bool is_done;
    /* The first ones let libraries choose and allocate what they need. All ranks do as many steps
     * and blocks, so a collective is recorded by all of them or by none. */
    if (!t->cfg->run.capture || t->done_here[kind]++ < EAGER) return work(t);
    MR_TRY(start_again(t, kind, &is_done));
    if (is_done) return MR_OK;
    MR_TRY(begin(t, kind, &log));
    mr_status st = work(t);
    mr_comm_log_end();
    /* Half of the work is not started: its collectives might wait for ever. */
    mr_status end = d->capture(d, kind, st == MR_OK ? MR_CAPTURE_START : MR_CAPTURE_DROP);
    if (st != MR_OK || end != MR_OK) {
        mr_comm_log_free(&log);
        return st != MR_OK ? st : end;
    }
    mr_comm_log_free(&t->log[kind][d->place]);
    t->log[kind][d->place] = log;
    return MR_OK;
}
