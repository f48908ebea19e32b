/* mealrec-dist train: trains, validates, keeps the best checkpoint, tests once at the end. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/mem.h"
#include "cli/commands.h"
#include "train/loop.h"
#include "train/session.h"

static void print_event(void *user, json_t *event)
{
    json_dumpf(event, user, JSON_COMPACT | JSON_REAL_PRECISION(9));
    fputc('\n', user);
    fflush(user);
    json_decref(event);
}

static mr_status run(const mr_args *a)
{
    const mr_config *c = &a->config;
    mr_session s;
    mr_trainer *t = NULL;
    mr_loop *l = NULL;
    mr_trainer_opts o = {.stochastic = true, .optimizer = true};
    char dir[1200], file[1300];
    MR_TRY(mr_session_open(&s, c));
    mr_status st = mr_trainer_create(&t, c, &s.data, s.world, &o);
    if (st == MR_OK) st = MR_ALLOC(&l, 1, "loop");
    if (st != MR_OK) goto done;
    snprintf(dir, sizeof dir, "%s/%s/checkpoints", c->run.dir, c->run.name);
    mkdir(c->run.dir, 0777);
    snprintf(file, sizeof file, "%s/%s", c->run.dir, c->run.name);
    mkdir(file, 0777);
    mkdir(dir, 0777);
    snprintf(file, sizeof file, "%s/%s/metrics.jsonl", c->run.dir, c->run.name);
    l->t = t;
    l->on_event = print_event;
    l->user = fopen(file, "a");
    l->checkpoint_dir = dir;
    l->config_json = mr_config_json(c);
    l->title = "train";
    l->state = mr_loop_state(c, &s.data);
    st = mr_loop_run(l);
    if (st == MR_OK && s.world->rank == 0) {
        json_t *m = mr_metrics_json("test", &l->test);
        print_event(stdout, m);
    }
done:
    MR_FREE(l);
    mr_trainer_free(&t);
    mr_session_close(&s);
    return st;
}

const mr_command mr_cmd_train = {.name = "train",
                                 .summary = "train a model, keep the best checkpoint, test it once",
                                 .needs_config = true,
                                 .run = run};
