/* plan --ranks P --nodes N --machine FILE: what a step would move, compute and take on another
 * number of ranks. Modelled from the compiled plan and a typical batch, not measured.
 * What it is not: a plan for P ranks; the step is the one of this process, its sizes are scaled. */
#include "cli/plan_ranks.h"

#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "train/machine.h"

/* A batch as rank 0 of `ranks` has it. */
typedef struct typical {
    int32_t *rows; /* [ranks] */
    int64_t n_unique[MR_MAX_SEQ], n_items[MR_ITEM_SETS];
    mr_step_size size; /* of the fullest rank */
} typical;

static mr_status look(typical *y, mr_sampler *sampler, mr_batch *b, int ranks, int64_t table_rows,
                      int64_t n_items)
{
    mr_wanted w = {0};
    int64_t most = 0;
    mr_sampler_get(sampler, 0, 0, 0, b);
    MR_TRY(MR_ALLOC(&y->rows, ranks, "rows of ranks"));
    MR_TRY(mr_wanted_of(&w, b, table_rows, n_items));
    for (int r = 0; r < ranks; r++) {
        y->rows[r] = b->rank_rows[r];
        most = y->rows[r] > most ? y->rows[r] : most;
    }
    double scale = b->rows > 0 ? (double)most / (double)b->rows : 0;
    y->size.rows[MR_SPACE_ROWS] = (double)most;
    y->size.rows[MR_SPACE_LAST] = scale * (double)b->n_last;
    y->size.world_rows = (double)b->rows_global;
    for (int q = 0; q < b->n_seq; q++) {
        y->n_unique[q] = w.n[q];
        y->size.rows[mr_space_tok(q)] = scale * (double)w.tokens[q];
    }
    for (int k = 0; k < MR_ITEM_SETS; k++) y->n_items[k] = w.n_items[k];
    mr_wanted_free(&w);
    return MR_OK;
}

static mr_status typical_batch(typical *y, const mr_trainer *t, int ranks)
{
    mr_sampler_spec spec = mr_trainer_sampling(t, 0, ranks);
    mr_sampler *sampler = NULL;
    mr_batch b = {0};
    mr_status st;
    if (spec.virtual_shards < ranks) {
        mr_warn("%d ranks need dist.virtual_shards=%d or more; taken as that for the prediction",
                ranks, ranks);
        spec.virtual_shards = ranks;
    }
    MR_TRY_GOTO(mr_sampler_make(&sampler, &spec), st, done);
    MR_TRY_GOTO(mr_batch_alloc(&b, mr_sampler_rows_cap(sampler) + 1, spec.max_len,
                               spec.augment ? MR_MAX_SEQ : 1, ranks),
                st, done);
    MR_TRY_GOTO(look(y, sampler, &b, ranks, t->table_rows, t->data->n_items), st, done);
done:
    mr_batch_free(&b);
    mr_sampler_free(&sampler);
    return st;
}

static void to_stdout(void *user, const char *text)
{
    (void)user;
    printf("%s\n", text);
}

static void print_collectives(const mr_prediction *p, bool has_times)
{
    printf("%-14s %-14s %-8s %6s %14s %14s%s\n", "purpose", "collective", "among", "calls",
           "bytes in node", "from others", has_times ? "           ms" : "");
    for (int k = 0; k < MR_FOR_COUNT; k++) {
        const mr_purpose_line *line = mr_purpose_at((mr_purpose)k);
        if (!p->count[k].calls) continue;
        printf("%-14s %-14s %-8s %6lld %14.0f %14.0f", line->id, mr_coll_name(line->kind),
               line->among, (long long)p->count[k].calls, p->bytes[k].node, p->bytes[k].net);
        if (has_times) printf(" %12.4f", 1e3 * p->seconds[k]);
        printf("\n");
    }
}

/* The collectives as a table of docs/distributed.md: what purposes.def says, and the figures of
 * this step. */
static void print_table(const mr_prediction *p)
{
    printf(
        "| purpose | when | collective | among | what travels | bytes received by rank r | calls "
        "| bytes |\n| --- | --- | --- | --- | --- | --- | --- | --- |\n");
    for (int k = MR_FOR_OTHER + 1; k < MR_FOR_COUNT; k++) {
        const mr_purpose_line *line = mr_purpose_at((mr_purpose)k);
        printf("| %s | %s | %s | %s | %s | %s | %lld | %.0f |\n", line->id, line->when,
               mr_coll_name(line->kind), line->among, line->what, line->received,
               (long long)p->count[k].calls, p->bytes[k].node + p->bytes[k].net);
    }
}

static void print_times(const mr_prediction *p, const mr_machine *m)
{
    double comm = -p->hidden_s;
    for (int k = 0; k < MR_FOR_COUNT; k++) comm += p->seconds[k];
    printf("modelled on %s (%s)\n", m->name, m->basis);
    printf("modelled step %.4f ms: forward %.4f, backward %.4f, update %.4f, fixed %.4f, "
           "collectives %.4f beside %.4f hidden; %.0f rows/s\n",
           1e3 * p->step_s, 1e3 * p->forward_s, 1e3 * p->backward_s, 1e3 * p->update_s,
           1e3 * p->fixed_s, 1e3 * comm, 1e3 * p->hidden_s, (double)p->placement.batch / p->step_s);
}

static void print_all(const mr_prediction *p, const mr_trainer *t, const mr_machine *m)
{
    int group = p->placement.of[p->placement.chosen].group;
    mr_placement_print(&p->placement, to_stdout, NULL);
    bool is_spread = !strcmp(t->cfg->data.features, "shard");
    int64_t items = t->data->n_items, ranks = is_spread ? p->placement.layout.ranks : 1;
    printf("features: %s, %.1f MB on a rank\n", is_spread ? "spread over all ranks" : "whole",
           1e-6 * (double)(mr_fetch_item_bytes(t->cfg, t->data) * ((items + ranks - 1) / ranks)));
    print_collectives(p, m != NULL);
    printf("GFLOP of the fullest rank: forward %.6f, backward %.6f; in matrix products %.6f; "
           "other ops touch %.3f GB, the update %.3f GB\n",
           1e-9 * p->forward.flops, 1e-9 * p->backward.flops,
           1e-9 * (p->forward.products + p->backward.products),
           1e-9 * (p->forward.bytes + p->backward.bytes),
           1e-9 * mr_plan_update_bytes(t->train_plan, group));
    if (m) print_times(p, m);
}

mr_status mr_plan_ranks(const mr_trainer *t, const mr_plan_ranks_spec *o)
{
    typical y = {.rows = NULL};
    mr_machine m;
    mr_predict_spec s = {.plan = t->train_plan, .item_shard = o->item_shard};
    mr_prediction p;
    mr_status st;
    MR_TRY_GOTO(mr_layout_even(&s.layout, o->ranks, o->nodes), st, done);
    if (o->machine) MR_TRY_GOTO(mr_machine_read(&m, o->machine), st, done);
    MR_TRY_GOTO(mr_volume_shape(&s.shape, t->train_plan, t->table, t->batch.n_seq), st, done);
    MR_TRY_GOTO(typical_batch(&y, t, o->ranks), st, done);
    if (!strcmp(t->cfg->data.features, "shard") && o->ranks > 1)
        mr_volume_features(&s.shape, t->cfg, t->data);
    memcpy(s.shape.typical_items, y.n_items, sizeof y.n_items);
    s.rows = y.rows;
    s.n_unique = y.n_unique;
    s.size = y.size;
    s.machine = o->machine ? &m : NULL;
    MR_TRY_GOTO(mr_predict(&p, &s), st, done);
    if (o->is_table)
        print_table(&p);
    else
        print_all(&p, t, s.machine);
done:
    MR_FREE(y.rows);
    return st;
}
