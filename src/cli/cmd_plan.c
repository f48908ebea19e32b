/* mealrec-dist plan: the compiled training step as a list. */
#include <stdio.h>

#include "cli/commands.h"
#include "train/session.h"
#include "train/trainer.h"

static const mr_cli_option options[] = {
    {"eval", NULL, "the evaluation plan instead of the training step"}, {NULL, NULL, NULL}};

static mr_status run(const mr_args *a)
{
    mr_session s;
    mr_trainer *t = NULL;
    mr_trainer_opts o = {.stochastic = true, .optimizer = true};
    MR_TRY(mr_session_open(&s, &a->config));
    mr_status st = mr_trainer_create(&t, &a->config, &s.data, s.world, &o);
    const mr_plan *p = st == MR_OK ? t->train_plan : NULL;
    if (st == MR_OK && mr_args_has(a, "eval")) {
        st = mr_trainer_eval_ready(t, a->config.train.eval_batch);
        p = t->eval_plan;
    }
    if (st == MR_OK && s.world->rank == 0) {
        mr_plan_print(p, stdout);
        printf("parameters %lld, on this rank %lld elements in each of value, gradient and two "
               "moments\n",
               (long long)mr_params_count(&t->params), (long long)t->params.n_total);
    }
    mr_trainer_free(&t);
    mr_session_close(&s);
    return st;
}

const mr_command mr_cmd_plan = {
    .name = "plan",
    .summary = "list the compiled training step: ops, shapes, buffers, collectives, memory",
    .options = options,
    .needs_config = true,
    .run = run};
