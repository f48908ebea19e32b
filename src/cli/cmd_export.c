/* mealrec-dist export: weights of a checkpoint as one safetensors file, or one tensor as npy. */
#include <stdio.h>
#include <stdlib.h>

#include "cli/commands.h"
#include "io/export.h"
#include "train/restore.h"

static const mr_cli_option options[] = {
    {"checkpoint", "DIR", "a checkpoint, or a run folder (its best checkpoint)"},
    {"out", "FILE", "safetensors file of all weights"},
    {"tensor", "NAME", "one tensor only, for --npy (for example item.weight)"},
    {"npy", "FILE", "npy file of that tensor (default item.weight: the item embeddings)"},
    {NULL, NULL, NULL}};

static mr_status export(const mr_args *a, mr_restored *m)
{
    const char *out = mr_args_value(a, "out"), *npy = mr_args_value(a, "npy");
    const char *name = mr_args_value(a, "tensor");
    char *json = mr_config_json(&m->cfg);
    mr_status st = json ? MR_OK : MR_RAISE(MR_ERR_MEMORY, "no memory for the configuration");
    if (st == MR_OK && out) st = mr_export_weights(out, &m->t->params, json, m->t->items);
    if (st == MR_OK && npy)
        st = mr_export_npy(npy, &m->t->params, name ? name : "item.weight", m->t->items);
    free(json);
    return st;
}

static mr_status run(const mr_args *a)
{
    static mr_restored m;
    const char *where;
    MR_TRY(mr_args_need(a, "checkpoint", &where));
    MR_CHECK(mr_args_has(a, "out") || mr_args_has(a, "npy"), MR_ERR_USAGE,
             "export needs --out FILE (all weights) or --npy FILE (one tensor)");
    MR_TRY(mr_args_output(a, "out", false));
    MR_TRY(mr_args_output(a, "npy", false));
    MR_TRY(mr_restore(&m, where, &a->config));
    mr_status st = export(a, &m);
    mr_restored_free(&m);
    return st;
}

const mr_command mr_cmd_export = {.name = "export",
                                  .summary = "write the weights of a checkpoint for other programs",
                                  .options = options,
                                  .needs_config = true,
                                  .run = run};
