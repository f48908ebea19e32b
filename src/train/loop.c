/* The training loop. What changes between two runs of the same command is only times. */
#include "train/loop.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/progress.h"
#include "dist/watchdog.h"
#include "train/sound.h"

/* Running sums of an epoch live in state.epoch_sums: rows, total loss, then the single losses. */
enum { SUM_ROWS, SUM_TOTAL, SUM_LOSS };

#define COLLAPSED 0.1 /* variance of z0 below which a warning is given */

mr_train_state mr_loop_state(const mr_config *cfg, const mr_dataset *data)
{
    return (mr_train_state){.best_epoch = -1,
                            .seed = (uint64_t)cfg->run.seed,
                            .config_hash = mr_config_hash(cfg),
                            .data_checksum = data->checksum};
}

/* ---- events ---- */
static void put_losses(const mr_loop *l, json_t *o, double total, const double *single)
{
    const mr_graph *g = l->t->train_graph;
    json_object_set_new(o, "loss", mr_json_real(total));
    for (int i = 0; i < g->n_losses; i++) {
        char key[32];
        snprintf(key, sizeof key, "loss_%s", g->loss[i].name);
        json_object_set_new(o, key, mr_json_real(single[i]));
    }
}

static json_t *new_event(const mr_loop *l, const char *name)
{
    json_t *o = mr_record_begin(name);
    json_object_set_new(o, "epoch", json_integer(l->state.epoch));
    json_object_set_new(o, "step", json_integer(l->t->step));
    return o;
}

static void step_event(mr_loop *l, double rows_per_s)
{
    json_t *o = new_event(l, "step");
    put_losses(l, o, mr_trainer_total_loss(l->t), l->t->losses);
    json_object_set_new(o, "grad_norm", mr_json_real(l->t->grad_norm));
    json_object_set_new(o, "rows_per_s", mr_json_real(rows_per_s));
    mr_record_event(l->record, o);
}

static void metrics_event(mr_loop *l, const char *name, const mr_metrics *m, double seconds)
{
    json_t *o = new_event(l, name);
    json_object_set_new(o, "seconds", mr_json_real(seconds));
    for (int i = 0; i < mr_metrics_count(m); i++) {
        char key[24];
        double v;
        mr_metrics_at(m, i, key, &v);
        json_object_set_new(o, key, mr_json_real(v));
    }
    json_object_set_new(o, "users", json_integer(m->rows));
    mr_record_event(l->record, o);
}

/* Mean over columns of the variance over the rows of the last batch: 0 would mean a collapse. */
static mr_status batch_variance(mr_loop *l, const char *output, double *out)
{
    mr_trainer *t = l->t;
    int id = mr_graph_find_output(t->train_graph, output);
    *out = -1;
    if (id < 0 || t->exact) return MR_OK; /* exact: no batch of all rows exists */
    int64_t n = t->batch.rows, w = mr_node_count(t->train_graph, id);
    char *host = NULL;
    double *s = NULL, var = 0;
    mr_status st;
    MR_TRY_GOTO(mr_alloc((void **)&host, n * w, t->params.real_bytes, "activation"), st, done);
    MR_TRY_GOTO(MR_ALLOC(&s, 2 * w + 1, "sums"), st, done);
    MR_TRY_GOTO(mr_run_output(t->train_run, output, host), st, done);
    for (int64_t i = 0; i < n * w; i++) {
        double x = t->params.real_bytes == 8 ? ((double *)(void *)host)[i]
                                             : (double)((float *)(void *)host)[i];
        s[i % w] += x;
        s[w + i % w] += x * x;
    }
    s[2 * w] = (double)n;
    MR_TRY_GOTO(t->world->allreduce(t->world, s, 2 * w + 1, MR_F64, MR_SUM), st, done);
    for (int64_t j = 0; j < w; j++) {
        double mean = s[j] / s[2 * w];
        var += s[w + j] / s[2 * w] - mean * mean;
    }
    *out = var / (double)w;
done:
    MR_FREE(host);
    MR_FREE(s);
    return st;
}

/* Without detach_target the loss of TCD can be made small by making all z0 alike, which leaves
 * nothing of the frames for NPD (docs/results.md section 2). At the start the variance is near 1.
 */
static void warn_of_collapse(mr_loop *l, double var_z0)
{
    const mr_config *c = l->t->cfg;
    if (var_z0 < 0 || var_z0 >= COLLAPSED || c->tcd.detach_target || c->tcd.lambda == 0) return;
    if (l->said_collapse || l->t->world->rank != 0) return;
    l->said_collapse = true;
    mr_warn("epoch %lld: the encoded frames z0 hardly differ between users any more (variance "
            "%.2g, near 1 at the start): the loss of TCD pulls its own target together; "
            "tcd.detach_target=true stops that",
            (long long)l->state.epoch, var_z0);
}

static mr_status epoch_event(mr_loop *l, double seconds)
{
    double *sum = l->state.epoch_sums, mean[MR_STATE_SUMS], x0, z0;
    for (int i = 1; i < MR_STATE_SUMS; i++)
        mean[i] = sum[i] / (sum[SUM_ROWS] > 0 ? sum[SUM_ROWS] : 1);
    MR_TRY(batch_variance(l, "x0", &x0));
    MR_TRY(batch_variance(l, "z0", &z0));
    json_t *o = new_event(l, "epoch");
    json_object_set_new(o, "seconds", mr_json_real(seconds));
    put_losses(l, o, mean[SUM_TOTAL], &mean[SUM_LOSS]);
    if (x0 >= 0) json_object_set_new(o, "var_x0", mr_json_real(x0));
    if (z0 >= 0) json_object_set_new(o, "var_z0", mr_json_real(z0));
    mr_record_event(l->record, o);
    warn_of_collapse(l, z0);
    mr_info("epoch %lld: loss %.6f, %.1f s, %.0f rows/s", (long long)l->state.epoch,
            mean[SUM_TOTAL], seconds, sum[SUM_ROWS] / (seconds > 0 ? seconds : 1));
    return MR_OK;
}

/* ---- checkpoints ---- */
/* A failed checkpoint costs the checkpoint, not the training: it has said so itself. */
static mr_status bear(mr_loop *l, mr_status st)
{
    if (st != MR_OK) l->save_failed = true;
    bool is_final = st == MR_ERR_COMM || st == MR_ERR_WATCHDOG || st == MR_ERR_INTERNAL;
    return is_final ? st : MR_OK;
}

static mr_status begin_checkpoint(mr_loop *l, bool is_best)
{
    l->state.step = l->t->step;
    l->saved_at = mr_seconds();
    if (!l->checkpoint_dir) return MR_OK;
    if (l->t->cfg->dist.check_every) MR_TRY(mr_sound_replicas(l->t));
    l->state.skipped_in_row = l->t->skipped_in_row;
    mr_checkpoint_save_args a = {.dir = l->checkpoint_dir,
                                 .params = &l->t->params,
                                 .state = &l->state,
                                 .config_json = l->config_json,
                                 .world = l->t->world,
                                 .is_best = is_best,
                                 .is_async = l->t->cfg->checkpoint.async,
                                 .keep = l->t->cfg->checkpoint.keep};
    return mr_checkpoint_begin(&l->saving, &a);
}

/* One is written at a time: a second one waits for the first. */
static mr_status save(mr_loop *l, bool is_best)
{
    double start = mr_seconds();
    mr_watch_phase(MR_AT_SAVE);
    mr_status st = bear(l, mr_checkpoint_finish(&l->saving));
    if (st == MR_OK) st = bear(l, begin_checkpoint(l, is_best));
    if (st == MR_OK && !l->t->cfg->checkpoint.async) st = bear(l, mr_checkpoint_finish(&l->saving));
    mr_watch_beat(l->t->step);
    mr_watch_phase(MR_AT_STEP);
    l->save_seconds += mr_seconds() - start;
    return st;
}

/* The stage of a write that needs all ranks, when the files are there. */
static mr_status advance(mr_loop *l)
{
    double start = mr_seconds();
    mr_status st = bear(l, mr_checkpoint_advance(&l->saving));
    l->save_seconds += mr_seconds() - start;
    return st;
}

/* MR_STOPPED promises a complete one. */
static mr_status save_and_stop(mr_loop *l)
{
    mr_watch_phase(MR_AT_SAVE);
    MR_TRY(bear(l, mr_checkpoint_finish(&l->saving)));
    MR_TRY(begin_checkpoint(l, false));
    MR_TRY(mr_checkpoint_finish(&l->saving));
    return MR_STOPPED;
}

/* ---- one epoch ---- */
/* A stop that any rank was asked for, and a checkpoint that is due by rank 0's clock. */
static mr_status requests(mr_loop *l, bool *stop, bool *is_due)
{
    mr_comm *w = l->t->world;
    double limit = 60.0 * (double)l->t->cfg->checkpoint.every_minutes;
    bool due = limit > 0 && l->t->step > l->state.step && mr_seconds() - l->saved_at >= limit;
    bool late = l->stop_time > 0 && (double)time(NULL) >= l->stop_time;
    mr_ring_at("requests");
    /* The number of collectives so far, from both sides: it must be the same on all ranks. */
    int64_t made = mr_ring_mine()->last;
    int64_t flag[5] = {(l->stop && *l->stop) || (w->rank == 0 && late), w->rank == 0 && due, made,
                       -made, mr_checkpoint_is_busy(l->saving)};
    if (w->size > 1) {
        w->purpose = MR_FOR_STOP;
        MR_TRY(w->allreduce(w, flag, 5, MR_I64, MR_MAX));
    }
    MR_TRY(mr_watch_same_place(-flag[3], flag[2]));
    *stop = flag[0] != 0;
    *is_due = flag[1] != 0;
    return l->saving && !flag[4] ? advance(l) : MR_OK;
}

static void add_step(mr_loop *l)
{
    mr_trainer *t = l->t;
    double rows = (double)t->batch.rows_global, *sum = l->state.epoch_sums;
    sum[SUM_ROWS] += rows;
    sum[SUM_TOTAL] += rows * mr_trainer_total_loss(t);
    for (int i = 0; i < t->train_graph->n_losses && SUM_LOSS + i < MR_STATE_SUMS; i++)
        sum[SUM_LOSS + i] += rows * t->losses[i];
    l->state.rows_seen += t->batch.rows_global;
    l->state.batch_in_epoch++;
}

static bool steps_are_over(const mr_loop *l)
{
    int64_t most = l->t->cfg->train.max_steps;
    return most > 0 && l->t->step >= most;
}

static bool limit_reached(const mr_loop *l)
{
    return l->state.epoch >= l->t->cfg->train.epochs || steps_are_over(l);
}

/* The batch after this one, if this epoch and train.max_steps have one; else -1. */
static int64_t next_batch(const mr_loop *l, int64_t n_batches)
{
    int64_t most = l->t->cfg->train.max_steps, next = l->state.batch_in_epoch + 1;
    bool is_last = next >= n_batches || (most > 0 && l->t->step + 1 >= most);
    return is_last ? -1 : next;
}

static mr_status train_epoch(mr_loop *l, double *seconds)
{
    mr_trainer *t = l->t;
    int64_t n = mr_sampler_batches(t->sampler), every = t->cfg->train.log_every;
    double start = mr_seconds(), last = start, rows = 0;
    mr_progress bar;
    char note[64];
    mr_watch_phase(MR_AT_STEP);
    mr_progress_start(&bar, l->title, "step", l->state.batch_in_epoch, n, t->world->rank);
    while (l->state.batch_in_epoch < n && !steps_are_over(l)) {
        bool stop, is_due;
        MR_TRY(requests(l, &stop, &is_due));
        if (stop) {
            mr_progress_clear(&bar);
            if (!(l->stop && *l->stop) && l->stop_time > 0)
                mr_info("stopping checkpoint.stop_before seconds before the end of the SLURM job");
            return save_and_stop(l);
        }
        if (is_due) MR_TRY(save(l, false));
        MR_TRY(mr_trainer_step_and(t, l->state.epoch, l->state.batch_in_epoch, next_batch(l, n)));
        if (t->cfg->dist.check_every && t->step % t->cfg->dist.check_every == 0)
            MR_TRY(mr_sound_replicas(t));
        mr_watch_beat(t->step);
        add_step(l);
        rows += (double)t->batch.rows_global;
        snprintf(note, sizeof note, "epoch %lld loss %.4f", (long long)l->state.epoch,
                 mr_trainer_total_loss(t));
        mr_progress_to(&bar, l->state.batch_in_epoch, note);
        if (t->step % every) continue;
        double at = mr_seconds();
        step_event(l, rows / (at > last ? at - last : 1e-9));
        rows = 0;
        last = at;
    }
    mr_progress_clear(&bar);
    *seconds = mr_seconds() - start;
    return MR_OK;
}

static mr_status score(mr_loop *l, mr_split split, mr_metrics *m)
{
    double start = mr_seconds();
    mr_evaluation what = {.split = split, .exclude_seen = l->t->cfg->train.mask_seen};
    MR_TRY(mr_evaluate(l->t, &what, m));
    double seconds = mr_seconds() - start;
    l->eval_seconds += seconds;
    metrics_event(l, split == MR_SPLIT_TEST ? "test" : "valid", m, seconds);
    return MR_OK;
}

/* Validation and the decision: true when training is over. */
static mr_status validate(mr_loop *l, bool *is_best, bool *is_over)
{
    const mr_config *c = l->t->cfg;
    mr_metrics *m = NULL;
    double value;
    MR_TRY(MR_ALLOC(&m, 1, "metrics"));
    mr_status st = score(l, MR_SPLIT_VALID, m);
    if (st == MR_OK) st = mr_metrics_get(m, c->train.valid_metric, &value);
    if (st == MR_OK) {
        mr_early_stop e = {.patience = c->train.patience,
                           .has_best = l->state.best_epoch >= 0,
                           .best = l->state.best_metric,
                           .best_epoch = l->state.best_epoch,
                           .n_worse = l->state.bad_evals};
        *is_best = mr_early_stop_enter(&e, value, l->state.epoch);
        *is_over = mr_early_stop_is_over(&e);
        if (*is_best) {
            l->valid = *m;
            l->state.best_step = l->t->step;
        }
        l->state.best_metric = e.best;
        l->state.best_epoch = e.best_epoch;
        l->state.bad_evals = e.n_worse;
        mr_info("epoch %lld: valid %s %.4f%s", (long long)l->state.epoch, c->train.valid_metric,
                value, *is_best ? " (best)" : "");
    }
    MR_FREE(m);
    return st;
}

static mr_status one_epoch(mr_loop *l, bool *is_over)
{
    const mr_config *c = l->t->cfg;
    double seconds;
    bool is_best = false;
    if (l->state.batch_in_epoch == 0) memset(l->state.epoch_sums, 0, sizeof l->state.epoch_sums);
    MR_TRY(train_epoch(l, &seconds));
    l->train_seconds += seconds;
    l->state.seconds += seconds;
    MR_TRY(epoch_event(l, seconds));
    MR_TRY(validate(l, &is_best, is_over));
    /* Only early stopping ends a run for good: a run that reached train.epochs or train.max_steps,
     * the latter perhaps inside an epoch, goes on when the limit is raised. */
    l->state.is_finished = *is_over;
    if (l->state.batch_in_epoch >= mr_sampler_batches(l->t->sampler)) {
        l->state.epoch++;
        l->state.batch_in_epoch = 0;
    }
    *is_over |= limit_reached(l);
    if (is_best || *is_over ||
        (c->checkpoint.every_epochs > 0 && l->state.epoch % c->checkpoint.every_epochs == 0))
        MR_TRY(save(l, is_best));
    return MR_OK;
}

/* The weights of the best epoch, when they were kept. */
static mr_status load_best(mr_loop *l)
{
    mr_checkpoint *c = NULL;
    double start = mr_seconds();
    mr_watch_phase(MR_AT_SAVE);
    MR_TRY(bear(l, mr_checkpoint_finish(&l->saving)));
    l->save_seconds += mr_seconds() - start;
    if (!l->checkpoint_dir) return MR_OK;
    mr_watch_phase(MR_AT_READ);
    MR_TRY(mr_checkpoint_open(&c, l->checkpoint_dir, MR_CHECKPOINT_BEST, l->t->world));
    if (!c) {
        l->is_unsaved = l->save_failed;
        if (!l->is_unsaved && l->state.best_epoch >= 0 && l->t->world->rank == 0)
            mr_warn(
                "the best epoch, %lld, was before this run began and its weights are not in %s: "
                "the last weights are tested",
                (long long)l->state.best_epoch, l->checkpoint_dir);
        return MR_OK;
    }
    /* Equal but where the save of a better epoch failed, now or in an earlier start. */
    l->is_unsaved = c->state.best_step != l->state.best_step;
    l->tested_epoch = c->state.best_epoch;
    mr_status st = mr_checkpoint_read(c, &l->t->params);
    mr_checkpoint_close(&c);
    return st;
}

static mr_status train_and_test(mr_loop *l)
{
    bool is_over = l->state.is_finished || limit_reached(l);
    while (!is_over) MR_TRY(one_epoch(l, &is_over));
    MR_TRY(load_best(l));
    return score(l, MR_SPLIT_TEST, &l->test);
}

mr_status mr_loop_run(mr_loop *l)
{
    l->t->step = l->state.step;
    l->tested_epoch = -1;
    if (l->saved_at == 0) l->saved_at = mr_seconds();
    l->t->skipped_in_row = (int)l->state.skipped_in_row;
    mr_status st = train_and_test(l);
    /* A divergence is seen by all ranks alike, so what is under way can be completed. */
    if (st == MR_ERR_DIVERGED) (void)mr_checkpoint_finish(&l->saving);
    mr_checkpoint_abandon(&l->saving);
    return st;
}
