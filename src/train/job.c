/* A training job from its configuration to its last line. */
#include "train/job.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/stop.h"
#include "dist/agree.h"
#include "dist/watchdog.h"
#include "train/run_folder.h"

/* Wall-clock second at which this job should stop so that SLURM does not cut it off; 0: none. */
static double stop_time(const mr_config *cfg)
{
    const char *text = getenv("SLURM_JOB_END_TIME");
    char *end;
    if (!text || !cfg->checkpoint.stop_before) return 0;
    double at = strtod(text, &end);
    if (end == text || *end || !(at > 1e9 && at < 1e11)) {
        mr_warn("SLURM_JOB_END_TIME is '%.40s', not a time in seconds since 1970; it is ignored",
                text);
        return 0;
    }
    return at - (double)cfg->checkpoint.stop_before;
}

/* The latest checkpoint in a folder, if it is one of this configuration and data; *c_p NULL when
 * the run's own folder holds none yet. Collective. */
static mr_status open_checkpoint(const mr_job *j, mr_checkpoint **c_p, const char *where)
{
    const char *how = j->cfg->checkpoint.resume;
    mr_train_state want = mr_loop_state(j->cfg, &j->session->data);
    mr_checkpoint *c = NULL;
    MR_TRY(mr_checkpoint_open(&c, where, MR_CHECKPOINT_LATEST, j->session->world));
    MR_CHECK(c || !strcmp(how, "auto"), MR_ERR_NO_INPUT,
             "checkpoint.resume=%s: the folder holds no checkpoint", how);
    bool is_other = c && c->state.config_hash != want.config_hash;
    if (c && (is_other || c->state.data_checksum != want.data_checksum)) {
        mr_status st =
            MR_RAISE(MR_ERR_CONFIG,
                     "%s was made by another %s; use another run.name, or checkpoint.resume=never",
                     c->path, is_other ? "configuration" : "data set");
        mr_checkpoint_close(&c);
        return st;
    }
    *c_p = c;
    return MR_OK;
}

/* A checkpoint that was asked for by name is looked at before the run folder is touched. */
static mr_status check_resume(const mr_job *j)
{
    const char *how = j->cfg->checkpoint.resume;
    mr_checkpoint *c = NULL;
    if (!strcmp(how, "auto") || !strcmp(how, "never")) return MR_OK;
    MR_TRY(open_checkpoint(j, &c, how));
    mr_checkpoint_close(&c);
    return MR_OK;
}

/* Where to go on from: checkpoint.resume = auto (this run's own), never, or a folder. */
static mr_status resume(mr_job *j, mr_run_folder *f, mr_loop *l)
{
    const char *how = j->cfg->checkpoint.resume;
    mr_checkpoint *c = NULL;
    l->state = mr_loop_state(j->cfg, &j->session->data);
    if (!strcmp(how, "never") || (!strcmp(how, "auto") && !f->is_continued)) return MR_OK;
    MR_TRY(open_checkpoint(j, &c, !strcmp(how, "auto") ? f->checkpoints : how));
    if (!c) return MR_OK;
    mr_status st = mr_checkpoint_read(c, &l->t->params);
    if (st == MR_OK) {
        l->state = c->state;
        mr_info("going on from %s: epoch %lld, step %lld", c->path, (long long)c->state.epoch,
                (long long)c->state.step);
    }
    mr_checkpoint_close(&c);
    return st;
}

static void to_log(void *user, const char *text)
{
    (void)user;
    mr_info("%s", text);
}

static void describe(const mr_job *j, const mr_trainer *t)
{
    const mr_dataset *d = &j->session->data;
    mr_info("data %s: %lld users, %lld items, %lld interactions, %lld training rows%s", d->name,
            (long long)d->n_users, (long long)d->n_items, (long long)d->n_inter,
            (long long)mr_sampler_rows(t->sampler), d->is_synthetic ? " (SYNTHETIC)" : "");
    mr_info("model: %lld parameters; %d rank(s), device %s, item table shared by %d rank(s)",
            (long long)mr_params_count(&t->params), t->world->size, t->dev->name, t->items->size);
    if (t->world->size > 1) mr_placement_print(&t->placement, to_log, NULL);
    if (t->exchange_rows)
        mr_info("row exchange: %lld rows of the item table for each of %d x %d pairs of ranks",
                (long long)t->exchange_rows, t->items->size, t->items->size);
    if (d->is_sharded) {
        double own = (double)(mr_fetch_item_bytes(j->cfg, d) * (d->feature_hi - d->feature_lo));
        mr_info(
            "features: spread over %d ranks by item, %.1f MB on each, %.1f MB for the rows of a "
            "batch",
            t->world->size, own / 1e6, (double)mr_fetch_bytes(t->fetch) / 1e6);
    }
    mr_info("memory: step workspace %.1f MB, parameters with gradients and moments %.1f MB",
            (double)t->train_plan->ws_bytes / 1e6,
            4.0 * (double)t->params.n_total * (double)t->params.real_bytes / 1e6);
}

static void keep_results(mr_job *j, const mr_loop *l)
{
    j->valid = l->valid;
    j->test = l->test;
    j->train_seconds = l->train_seconds;
    j->eval_seconds = l->eval_seconds;
    j->save_seconds = l->save_seconds;
    j->epochs = l->state.epoch + (l->state.batch_in_epoch > 0);
    j->is_unsaved = l->is_unsaved;
    j->tested_epoch = l->tested_epoch;
    j->best_epoch = l->state.best_epoch;
}

static mr_status run_loop(mr_job *j, mr_run_folder *f, mr_trainer *t)
{
    mr_loop *l = NULL;
    char *json = mr_config_json(j->cfg);
    mr_status st;
    MR_TRY_GOTO(json ? MR_OK : MR_RAISE(MR_ERR_MEMORY, "no memory for the configuration"), st,
                done);
    MR_TRY_GOTO(MR_ALLOC(&l, 1, "training loop"), st, done);
    *l = (mr_loop){.t = t,
                   .checkpoint_dir = f->checkpoints,
                   .config_json = json,
                   .title = j->title ? j->title : "train",
                   .stop = mr_stop_flag(),
                   .stop_time = stop_time(j->cfg)};
    MR_TRY_GOTO(resume(j, f, l), st, done);
    MR_TRY_GOTO(mr_run_folder_start(f, l->state.step > 0 ? l->state.step : -1), st, done);
    l->record = f->record;
    json_t *event = mr_record_begin("start");
    json_object_set_new(event, "step", json_integer(l->state.step));
    json_object_set_new(event, "ranks", json_integer(t->world->size));
    json_object_set_new(event, "parameters", json_integer(mr_params_count(&t->params)));
    mr_record_event(l->record, event);
    st = mr_loop_run(l);
    int64_t misfits = mr_feed_misfits(&t->feed) + mr_feed_misfits(&t->ahead.feed);
    if (misfits)
        mr_warn("%lld row exchanges of this run did not fit into %lld rows for each pair of ranks "
                "and were exact; a larger dist.exchange_rows makes room for them",
                (long long)misfits, (long long)t->exchange_rows);
    keep_results(j, l);
    event = mr_record_begin("end");
    json_object_set_new(event, "step", json_integer(t->step));
    mr_status ended = st == MR_OK && l->is_unsaved ? MR_ERR_IO : st;
    json_object_set_new(event, "exit", json_integer(mr_exit_code(ended)));
    if (t->dev->counts.most_bytes > 0)
        json_object_set_new(event, "device_bytes", json_integer(t->dev->counts.most_bytes));
    if (j->cfg->run.capture) {
        json_object_set_new(event, "recorded", json_integer(t->dev->counts.recorded));
        json_object_set_new(event, "replayed", json_integer(t->dev->counts.replayed));
    }
    mr_record_event(l->record, event);
done:
    MR_FREE(l);
    free(json);
    return st;
}

/* What must be the same everywhere although each rank worked it out for itself. */
static mr_status same_layout(const mr_trainer *t)
{
    mr_fact *fact = NULL;
    const struct {
        const char *name;
        int64_t value;
    } number[] = {{"the number of parameters", mr_params_count(&t->params)},
                  {"the number of tensors", mr_named_count(&t->params)},
                  {"the rows of the item table", t->table_rows},
                  {"the ranks of an item group", t->items->size},
                  {"the training rows", mr_sampler_rows(t->sampler)},
                  {"the batches of an epoch", mr_sampler_batches(t->sampler)},
                  {"the bytes of a number", (int64_t)t->params.real_bytes}};
    enum { N = sizeof number / sizeof *number };
    mr_status st = mr_comm_agree(t->world, MR_ALLOC(&fact, N + 1, "facts"));
    for (int i = 0; st == MR_OK && i < N; i++) {
        fact[i].name = number[i].name;
        snprintf(fact[i].text, sizeof fact[i].text, "%lld", (long long)number[i].value);
    }
    if (st == MR_OK) {
        fact[N].name = "the device";
        snprintf(fact[N].text, sizeof fact[N].text, "%s", t->dev->name);
        st = mr_agree_facts(t->world, fact, N + 1, "look for what differs between the hosts");
    }
    MR_FREE(fact);
    return st;
}

mr_status mr_job_run(mr_job *j)
{
    mr_trainer *t = NULL;
    mr_run_folder *f = NULL;
    mr_session *s = j->session;
    mr_trainer_opts o = {.stochastic = true, .optimizer = true, .whole_steps = true};
    mr_run_info info = {.device = mr_trainer_device(j->cfg),
                        .data_path = j->cfg->data.path,
                        .data_checksum = s->data.checksum,
                        .argc = j->argc,
                        .argv = j->argv};
    mr_status st;
    mr_watch_phase(MR_AT_START);
    /* First what can refuse the configuration: a refused one leaves no run folder behind. */
    MR_TRY_GOTO(mr_trainer_create(&t, j->cfg, &s->data, s->world, &o), st, done);
    MR_TRY_GOTO(mr_trainer_check_eval(t), st, done);
    MR_TRY_GOTO(check_resume(j), st, done);
    MR_TRY_GOTO(same_layout(t), st, done);
    MR_TRY_GOTO(mr_run_folder_open(&f, j->cfg, &info, s->world), st, done);
    MR_TRY_GOTO(mr_watch_folder(f->path, s->world), st, done);
    describe(j, t);
    st = run_loop(j, f, t);
    if (st == MR_OK || st == MR_STOPPED) {
        mr_status ended = mr_watch_end(s->world);
        if (ended != MR_OK) st = ended;
    }
done:
    if (st == MR_STOPPED)
        mr_info("stopped on request; the same command goes on from %s", f->checkpoints);
    mr_trainer_free(&t);
    mr_run_folder_close(&f);
    return st;
}

mr_status mr_job_saved(const mr_job *j)
{
    MR_CHECK(!j->is_unsaved || j->tested_epoch < 0, MR_ERR_IO,
             "%s/%s/checkpoints does not hold the best epoch, %lld, since its save failed: the "
             "test above is of epoch %lld; make room, then the same command goes on from the last "
             "checkpoint, and another --run.name starts anew",
             j->cfg->run.dir, j->cfg->run.name, (long long)j->best_epoch,
             (long long)j->tested_epoch);
    MR_CHECK(!j->is_unsaved, MR_ERR_IO,
             "%s/%s/checkpoints holds no checkpoint, since every save failed: the results above "
             "are of weights that were not saved; make room and start the same command again",
             j->cfg->run.dir, j->cfg->run.name);
    return MR_OK;
}
