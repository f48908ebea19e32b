/* mealrec-dist dump-step: one training step as a safetensors file. */
#include <stdio.h>

#include "cli/commands.h"
#include "train/dump.h"
#include "train/session.h"

static const mr_cli_option options[] = {
    {"out", "FILE", "file to write; must not exist"},
    {"rows", "N", "rows of the step (default: train.batch)"},
    {"steps", "N", "also the losses of N steps on this batch (1)"},
    {NULL, NULL, NULL}};

static mr_status run(const mr_args *a)
{
    static mr_config cfg;
    const char *out;
    int64_t rows, steps;
    mr_session s;
    mr_trainer *t = NULL;
    mr_trainer_opts o = {.stochastic = false, .optimizer = true};
    cfg = a->config;
    MR_TRY(mr_args_need(a, "out", &out));
    MR_TRY(mr_args_output(a, "out", true));
    MR_TRY(mr_args_int(a, "rows", 1, 1 << 24, cfg.train.batch, &rows));
    MR_TRY(mr_args_int(a, "steps", 1, 1 << 20, 1, &steps));
    cfg.train.batch = rows;
    MR_TRY(mr_session_open(&s, &cfg));
    mr_status st = mr_trainer_create(&t, &cfg, &s.data, s.world, &o);
    if (st == MR_OK) st = mr_dump_step(t, steps, out);
    if (st == MR_OK && s.world->rank == 0)
        printf("%s: %lld step(s) of %lld rows, last total loss %.9g\n", out, (long long)steps,
               (long long)t->batch.rows_global, mr_trainer_total_loss(t));
    mr_trainer_free(&t);
    mr_session_close(&s);
    return st;
}

const mr_command mr_cmd_dump_step = {
    .name = "dump-step",
    .summary = "write one training step (parameters, gradients, inputs, draws) as safetensors",
    .options = options,
    .needs_config = true,
    .run = run};
