/* One training step: batch, row exchange, forward, backward with gradient reduction on the way,
 * update. */
#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "dist/ring.h"
#include "dist/watchdog.h"
#include "train/exact.h"
#include "train/room.h"
#include "train/sound.h"
#include "train/trainer.h"

_Static_assert(MR_WEIGHTED_LOSSES >= MR_MAX_LOSSES, "every loss has a weight");

/* One rank's step on its own: dist.deterministic=world. */
static bool is_exact(const mr_trainer *t, const mr_run *run)
{
    return t->exact && run == t->train_run;
}

mr_status mr_trainer_plan_rows(mr_trainer *t, const mr_run *run, mr_feed *feed, const mr_batch *b)
{
    mr_ring_at("row exchange");
    MR_TRY(mr_feed_plan(feed, is_exact(t, run) ? run->items : t->items, t->table_rows, b));
    return mr_trainer_agrees(t, run) ? mr_trainer_agree(t, run, feed, b) : MR_OK;
}

mr_status mr_trainer_hand_over(mr_trainer *t, mr_run *run, const mr_feed *feed, const mr_batch *b)
{
    const mr_config *c = t->cfg;
    const mr_counts *most = mr_trainer_agrees(t, run) ? &feed->most : NULL;
    if (run == t->train_run) {
        MR_TRY(mr_room_make(t, b, most));
        run = t->train_run;
    }
    for (int s = 0; s < b->n_seq; s++) run->xch[s] = feed->xch[s];
    run->most = most;
    mr_fetch *fetch = run == t->eval_run ? t->eval_fetch : t->fetch;
    if (fetch) {
        if (!is_exact(t, run))
            MR_TRY(mr_fetch_rows(fetch, b)); /* exact: those of the whole batch are here */
        MR_TRY(mr_fetch_places(fetch, b));
        mr_fetch_attach(fetch, run);
    }
    double k = (double)(t->step + 1);
    mr_step_state st = {.lr = c->train.lr,
                        .bias1 = 1.0 - pow(c->train.beta1, k),
                        .bias2 = 1.0 - pow(c->train.beta2, k),
                        .grad_scale = 1.0};
    t->sent_at = mr_seconds();
    return mr_run_set_batch(run, b, &st);
}

mr_status mr_trainer_set_batch(mr_trainer *t, mr_run *run, mr_feed *feed, const mr_batch *b)
{
    MR_TRY(mr_trainer_plan_rows(t, run, feed, b));
    return mr_trainer_hand_over(t, run, feed, b);
}

mr_status mr_trainer_load(mr_trainer *t, mr_run *run, int64_t epoch, int64_t i)
{
    return mr_ahead_load(&t->ahead, t, run, t->sampler, epoch, i, t->step, &t->batch, &t->feed);
}

/* A dense gradient range is final on this rank: start its sum over ranks while backward goes on. */
static mr_status reduce_bucket(void *user, int64_t lo, int64_t hi)
{
    mr_trainer *t = user;
    if (t->world->size == 1) return MR_OK;
    char *g = (char *)t->params.grad + lo * (int64_t)t->params.real_bytes;
    t->dev->enter(t->dev);
    t->dev_world->purpose = MR_FOR_DENSE_GRADS;
    mr_status st = t->dev_world->iallreduce(t->dev_world, g, hi - lo, t->dev->real);
    t->dev->leave(t->dev);
    return st;
}

mr_status mr_trainer_gradients(mr_trainer *t)
{
    mr_run *r = t->train_run;
    mr_ring_at("forward");
    MR_TRY(mr_run_forward(r));
    mr_ring_at("backward");
    MR_TRY(mr_run_backward(r, reduce_bucket, t));
    mr_ring_at("gradients");
    t->dev->enter(t->dev);
    mr_status st = t->dev_world->wait_all(t->dev_world);
    if (st == MR_OK && t->replicas) {
        const mr_param *p = &t->params.p[t->table];
        char *g = (char *)t->params.grad + p->offset * (int64_t)t->params.real_bytes;
        t->dev_replicas->purpose = MR_FOR_TABLE_GRADS;
        st = t->dev_replicas->allreduce(t->dev_replicas, g, p->count, t->dev->real, MR_SUM);
    }
    t->dev->leave(t->dev);
    return st;
}

mr_ranges mr_trainer_ranges(const mr_params *ps)
{
    /* The loss slots lie between them. */
    return (mr_ranges){2, {0, ps->n_dense + MR_LOSS_SLOTS}, {ps->n_dense, ps->n_total}};
}

/* Squared norm and number of non-finite elements of all gradients, on the device. Equal on all
 * ranks. */
static mr_status put_stats(mr_trainer *t)
{
    mr_run *r = t->train_run;
    mr_step_report *dev = t->report_dev;
    mr_status st = MR_OK;
    mr_ranges ranges = mr_trainer_ranges(&t->params);
    t->dev->enter(t->dev);
    mr_k(r)->grad_stats(dev->dense, t->params.grad, &ranges, &r->ex);
    if (t->items->size > 1) {
        t->dev_items->purpose = MR_FOR_TABLE_NORM;
        st = t->dev_items->allreduce(t->dev_items, dev->shard, 2, MR_F64, MR_SUM);
    }
    t->dev->leave(t->dev);
    return st;
}

/* It comes to the host: the one wait of a step, at its end. The wait also ends when a collective
 * fails or is ended, and what has come then is nothing. */
static mr_status take_report(mr_trainer *t, double *sum, double *bad)
{
    const mr_step_report *own = t->report;
    MR_TRY(t->dev->to_host(t->dev, t->report, t->report_dev, sizeof *own));
    if (t->world->size > 1) MR_TRY(mr_watch_poll());
    mr_run_read_losses(t->train_run, t->losses, own->losses);
    *sum = own->dense[0] + own->shard[0];
    *bad = own->dense[1] + own->shard[1];
    return MR_OK;
}

mr_status mr_trainer_report(mr_trainer *t, double *sum, double *bad)
{
    if (t->exact) return mr_exact_stats(t, sum, bad);
    MR_TRY(put_stats(t));
    t->dev->enter(t->dev);
    mr_run_put_losses(t->train_run, t->report_dev->losses);
    t->dev->leave(t->dev);
    return take_report(t, sum, bad);
}

static void apply(mr_trainer *t)
{
    const mr_config *c = t->cfg;
    mr_run *r = t->train_run;
    mr_params *ps = &t->params;
    mr_ranges ranges = mr_trainer_ranges(ps);
    t->dev->enter(t->dev);
    mr_k(r)->adam(ps->value, ps->m, ps->v, ps->grad, &ranges, ps->value16,
                  ps->value16 ? ps->n_dense : 0, c->train.beta1, c->train.beta2, c->train.eps,
                  c->train.weight_decay, &r->ex);
    t->dev->leave(t->dev);
}

/* The device decides whether the update is skipped and how far it is clipped; the host learns it
 * afterwards. */
static mr_status update_on_device(mr_trainer *t)
{
    mr_run *r = t->train_run;
    const mr_graph *g = t->train_graph;
    mr_step_report *dev = t->report_dev;
    mr_loss_weights weights = {.n = g->n_losses};
    for (int i = 0; i < g->n_losses; i++) weights.w[i] = g->loss[i].weight;
    MR_TRY(put_stats(t));
    t->dev->enter(t->dev);
    mr_k(r)->step_decide(r->state_dev, dev->losses, dev->dense, dev->shard, mr_run_loss_slots(r),
                         &weights, t->cfg->train.clip, &r->ex);
    t->dev->leave(t->dev);
    apply(t);
    return MR_OK;
}

/* dist.deterministic=world: gradients and losses are the host's. */
static mr_status exact_update(mr_trainer *t)
{
    mr_run *r = t->train_run;
    double sum, bad, clip = t->cfg->train.clip;
    MR_TRY(mr_exact_stats(t, &sum, &bad));
    t->grad_norm = sqrt(sum);
    MR_TRY(mr_sound_finite(t, bad));
    if (clip > 0 && t->grad_norm > clip) r->state_host.grad_scale = clip / t->grad_norm;
    MR_TRY(mr_run_send_state(r));
    apply(t);
    return MR_OK;
}

/* The gradients are still there, so that what is not finite can be named. */
static mr_status judge(mr_trainer *t)
{
    double sum, bad;
    MR_TRY(take_report(t, &sum, &bad));
    t->grad_norm = sqrt(sum);
    return mr_sound_finite(t, bad);
}

mr_status mr_trainer_update(mr_trainer *t)
{
    mr_ring_at("update");
    if (t->exact) return exact_update(t);
    MR_TRY(update_on_device(t));
    return judge(t);
}

static void mark(mr_trainer *t, const char *name)
{
    if (t->dev->mark) t->dev->mark(t->dev, name);
}

/* All that the device does, with no word of the host in between. */
static mr_status gradients_and_update(mr_trainer *t)
{
    mark(t, "gradients");
    mr_status st = mr_trainer_gradients(t);
    mark(t, NULL);
    MR_TRY(st);
    mr_ring_at("update");
    mark(t, "update");
    st = update_on_device(t);
    mark(t, NULL);
    return st;
}

static mr_status one_step(mr_trainer *t, int64_t epoch, int64_t i, int64_t next)
{
    if (t->exact) {
        MR_TRY(mr_exact_gradients(t, epoch, i));
        return mr_trainer_update(t);
    }
    MR_TRY(mr_trainer_load(t, t->train_run, epoch, i));
    MR_TRY(mr_trainer_recorded(t, MR_RECORD_STEP, gradients_and_update));
    t->start_s = mr_seconds() - t->sent_at;
    if (next >= 0 && mr_ahead_is_wanted(t))
        MR_TRY(mr_ahead_prepare(&t->ahead, t, t->train_run, t->sampler, epoch, next, t->step + 1));
    mr_ring_at("update");
    return judge(t);
}

mr_status mr_trainer_step_and(mr_trainer *t, int64_t epoch, int64_t i, int64_t next)
{
    MR_TRY(one_step(t, epoch, i, next));
    t->step++;
    return MR_OK;
}

mr_status mr_trainer_step(mr_trainer *t, int64_t epoch, int64_t i)
{
    return mr_trainer_step_and(t, epoch, i, -1);
}

double mr_trainer_total_loss(const mr_trainer *t)
{
    double s = 0;
    for (int i = 0; i < t->train_graph->n_losses; i++)
        s += t->train_graph->loss[i].weight * t->losses[i];
    return s;
}

int mr_trainer_loss_index(const mr_trainer *t, const char *name)
{
    for (int i = 0; i < t->train_graph->n_losses; i++)
        if (!strcmp(t->train_graph->loss[i].name, name)) return i;
    return -1;
}
