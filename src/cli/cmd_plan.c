/* mealrec-dist plan: the compiled training step as a list, and what it would be on other ranks. */
#include <stdio.h>

#include "cli/commands.h"
#include "cli/plan_ranks.h"
#include "train/session.h"
#include "train/trainer.h"

static const mr_cli_option options[] = {
    {"eval", NULL, "the evaluation plan instead of the training step"},
    {"ranks", "P", "the step on P ranks: placement, bytes, operations; no list"},
    {"nodes", "N", "nodes that these ranks are spread over (default 1)"},
    {"table", NULL, "with --ranks: the collectives as the table of docs/distributed.md"},
    {"machine", "FILE", "a machine of configs/machines: modelled times (implies --ranks 1)"},
    {NULL, NULL, NULL}};

/* About ranks that are not those of this job? */
static bool models_ranks(const mr_args *a)
{
    return mr_args_has(a, "ranks") || mr_args_has(a, "machine");
}

static mr_status print(const mr_args *a, const mr_trainer *t, const mr_plan *p)
{
    int64_t ranks, nodes;
    bool is_model = models_ranks(a);
    MR_TRY(mr_args_int(a, "ranks", 1, 4096, is_model ? 1 : t->world->size, &ranks));
    MR_TRY(mr_args_int(a, "nodes", 1, 4096, is_model ? 1 : t->placement.layout.nodes, &nodes));
    if (!is_model) {
        mr_plan_print(p, stdout);
        printf("parameters %lld, on this rank %lld elements in each of value, gradient and two "
               "moments\n",
               (long long)mr_params_count(&t->params), (long long)t->params.n_total);
        int64_t lo, hi;
        mr_feature_rows(t->data, &lo, &hi);
        printf("features of %lld of %lld items on this rank, %.1f MB; %.1f MB for the rows of a "
               "batch\n",
               (long long)(hi - lo), (long long)t->data->n_items,
               1e-6 * (double)(mr_fetch_item_bytes(t->cfg, t->data) * (hi - lo)),
               t->fetch ? 1e-6 * (double)mr_fetch_bytes(t->fetch) : 0.0);
    }
    if (mr_args_has(a, "eval")) return MR_OK;
    if (!is_model && ranks % nodes) nodes = 1; /* ranks spread unevenly: taken as one node */
    const mr_plan_ranks_spec o = {.item_shard = a->config.dist.item_shard,
                                  .ranks = (int)ranks,
                                  .nodes = (int)nodes,
                                  .machine = mr_args_value(a, "machine"),
                                  .is_table = mr_args_has(a, "table")};
    return mr_plan_ranks(t, &o);
}

static mr_status run(const mr_args *a)
{
    mr_session s;
    mr_config own = a->config;
    mr_trainer *t = NULL;
    mr_trainer_opts o = {.stochastic = true, .optimizer = true};
    if (models_ranks(a)) snprintf(own.dist.item_shard, sizeof own.dist.item_shard, "auto");
    MR_TRY(mr_session_open(&s, &own));
    mr_status st = mr_trainer_create(&t, &own, &s.data, s.world, &o);
    const mr_plan *p = st == MR_OK ? t->train_plan : NULL;
    if (st == MR_OK && mr_args_has(a, "eval")) {
        st = mr_trainer_eval_ready(t, a->config.train.eval_batch);
        p = t->eval_plan;
    }
    if (st == MR_OK) st = mr_comm_agree(s.world, s.world->rank == 0 ? print(a, t, p) : MR_OK);
    mr_trainer_free(&t);
    mr_session_close(&s);
    return st;
}

const mr_command mr_cmd_plan = {.name = "plan",
                                .summary = "list the compiled training step: ops, shapes, buffers, "
                                           "collectives, memory; model other ranks",
                                .options = options,
                                .needs_config = true,
                                .run = run};
