/* bench comm --check: the bytes that the communicators counted in a few training steps, beside the
 * closed form of train/volume.c, for every rank and every purpose of a collective.
 * What it is not: a measurement of time. Invariant: the formula sees shapes, the sampler and the
 * distinct ids of each rank's rows, and nothing of the run that it checks. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "cli/bench.h"
#include "train/exact.h"
#include "train/trainer.h"
#include "train/volume.h"

/* Sums over the checked steps, of all ranks: [ranks, MR_FOR_COUNT]. */
typedef struct totals {
    int ranks;
    mr_count *counted, *formula;
} totals;

static void add(mr_count *to, const mr_count *c)
{
    for (int p = 0; p < MR_FOR_COUNT; p++) {
        to[p].calls += c[p].calls;
        to[p].bytes_in += c[p].bytes_in;
        to[p].bytes_out += c[p].bytes_out;
    }
}

/* Ranks that compute with the same counts send the same: the most rows of any, rounded up. */
static void all_as_many(mr_step_rows *rows, int64_t cap)
{
    int64_t most = 0;
    for (int r = 0; r < rows->ranks; r++) most = rows->rows[r] > most ? rows->rows[r] : most;
    for (int r = 0; r < rows->ranks; r++) rows->rows[r] = mr_run_rounded(most, cap);
}

/* The closed form of step `step`, added for every rank. */
static mr_status add_formula(const mr_trainer *t, const mr_step_shape *shape, int64_t batch,
                             int64_t step, totals *sum)
{
    mr_step_rows rows;
    mr_status st = MR_OK;
    MR_TRY(mr_step_rows_alloc(&rows, shape));
    for (int r = 0; st == MR_OK && r < shape->ranks; r++) {
        mr_sampler_spec spec = mr_trainer_sampling(t, r, shape->ranks);
        mr_sampler *sampler = NULL;
        mr_batch b = {0};
        mr_wanted w = {0};
        st = mr_sampler_make(&sampler, &spec);
        if (st == MR_OK)
            st = mr_batch_alloc(&b, mr_sampler_rows_cap(sampler) + 1, spec.max_len, shape->n_seq,
                                shape->ranks);
        if (st == MR_OK) {
            mr_sampler_get(sampler, 0, batch, (uint32_t)step, &b);
            st = mr_wanted_of(&w, &b, shape->table_rows, t->data->n_items);
        }
        if (st == MR_OK) {
            rows.rows[r] = b.rows;
            mr_step_rows_set(&rows, shape, r, &w);
        }
        mr_wanted_free(&w);
        mr_batch_free(&b);
        mr_sampler_free(&sampler);
    }
    if (mr_trainer_agrees(t, t->train_run)) all_as_many(&rows, t->batch.rows_cap);
    for (int r = 0; st == MR_OK && r < shape->ranks; r++) {
        mr_count one[MR_FOR_COUNT];
        mr_volume_of_rank(one, shape, &rows, r);
        add(sum->formula + (int64_t)r * MR_FOR_COUNT, one);
    }
    mr_step_rows_free(&rows);
    return st;
}

enum { MOST_COMMS = 6 };

/* The communicators of a step, each once: those of lists on the host, and those of device memory
 * over NCCL; others are the same ones or copy through them, and have their counts. */
static int comms_of(const mr_trainer *t, mr_comm *out[MOST_COMMS])
{
    mr_comm *host[3] = {t->world, t->items, t->replicas};
    mr_comm *dev[3] = {t->dev_world, t->dev_items, t->dev_replicas};
    int n = 0;
    for (int i = 0; i < 3; i++) {
        bool is_new = host[i] != NULL;
        for (int k = 0; k < i; k++) is_new &= host[i] != host[k];
        if (is_new) out[n++] = host[i];
        if (dev[i] && !strcmp(dev[i]->kind, "nccl")) out[n++] = dev[i];
    }
    return n;
}

/* One step with the counters of its communicators before and after. */
static mr_status counted_step(mr_trainer *t, int64_t batch, mr_count *mine)
{
    mr_comm *all[MOST_COMMS];
    mr_comm_stats before[MOST_COMMS], used;
    int n = comms_of(t, all);
    for (int i = 0; i < n; i++) before[i] = all[i]->stats;
    MR_TRY(mr_trainer_step(t, 0, batch));
    for (int i = 0; i < n; i++) {
        mr_comm_stats_since(&used, &all[i]->stats, &before[i]);
        add(mine, used.made_for);
    }
    return MR_OK;
}

/* mine[MR_FOR_COUNT] of every rank -> sum->counted, on all ranks. */
static mr_status meet(mr_comm *world, const mr_count *mine, mr_count *all)
{
    enum { FIELDS = 3 * MR_FOR_COUNT };
    int64_t *counts = NULL;
    MR_TRY(MR_ALLOC(&counts, world->size, "counts"));
    for (int r = 0; r < world->size; r++) counts[r] = FIELDS;
    mr_status st = world->allgatherv(world, mine, all, counts, MR_I64);
    MR_FREE(counts);
    return st;
}

static mr_status run_steps(mr_trainer *t, const mr_step_shape *shape, int64_t steps, totals *sum)
{
    mr_count mine[MR_FOR_COUNT] = {{0, 0, 0}};
    int64_t batches = mr_sampler_batches(t->sampler);
    for (int64_t i = 0; i < steps; i++) {
        MR_TRY(add_formula(t, shape, i % batches, t->step, sum));
        MR_TRY(counted_step(t, i % batches, mine));
    }
    return meet(t->world, mine, sum->counted);
}

static int64_t difference(const mr_count *a, const mr_count *b)
{
    return llabs((long long)(a->calls - b->calls)) + llabs((long long)(a->bytes_in - b->bytes_in)) +
           llabs((long long)(a->bytes_out - b->bytes_out));
}

/* Prints what one rank did; returns the sum of all differences. */
static int64_t print_rank(const totals *sum, int rank, json_t *list)
{
    int64_t bad = 0;
    for (int p = 0; p < MR_FOR_COUNT; p++) {
        const mr_count *c = &sum->counted[(int64_t)rank * MR_FOR_COUNT + p];
        const mr_count *f = &sum->formula[(int64_t)rank * MR_FOR_COUNT + p];
        const mr_purpose_line *line = mr_purpose_at((mr_purpose)p);
        bad += difference(c, f);
        if (!c->calls && !f->calls) continue;
        printf("%4d  %-14s %-14s %6lld %6lld %14lld %14lld %14lld %14lld %lld\n", rank, line->id,
               mr_coll_name(line->kind), (long long)c->calls, (long long)f->calls,
               (long long)c->bytes_in, (long long)f->bytes_in, (long long)c->bytes_out,
               (long long)f->bytes_out, (long long)difference(c, f));
        json_array_append_new(
            list, json_pack("{s:i, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I}", "rank", rank,
                            "purpose", line->id, "collective", mr_coll_name(line->kind), "calls",
                            (json_int_t)c->calls, "calls_formula", (json_int_t)f->calls, "bytes_in",
                            (json_int_t)c->bytes_in, "bytes_in_formula", (json_int_t)f->bytes_in,
                            "bytes_out", (json_int_t)c->bytes_out, "bytes_out_formula",
                            (json_int_t)f->bytes_out));
    }
    return bad;
}

static mr_status report(const mr_args *a, const mr_trainer *t, const totals *sum, int64_t steps)
{
    json_t *list = json_array();
    int64_t bad = 0;
    printf("rank  purpose        collective      calls formula       bytes in        formula"
           "      bytes out        formula difference\n");
    for (int r = 0; r < sum->ranks; r++) bad += print_rank(sum, r, list);
    printf("%lld step(s), %d rank(s), item table shared by %d: difference %lld bytes\n",
           (long long)steps, sum->ranks, t->items->size, (long long)bad);
    json_t *o = json_pack("{s:s, s:i, s:i, s:I, s:I, s:o}", "bench", "comm-check", "ranks",
                          sum->ranks, "group", t->items->size, "steps", (json_int_t)steps,
                          "difference", (json_int_t)bad, "counts", list);
    mr_status st = mr_bench_json(a, o);
    json_decref(o);
    if (st == MR_OK && bad)
        st = MR_RAISE(MR_ERR_INTERNAL,
                      "the collectives of %lld steps differ from their formula by %lld bytes or "
                      "calls; the table names ranks and purposes",
                      (long long)steps, (long long)bad);
    return st;
}

mr_status mr_bench_comm_check(const mr_args *a, mr_session *s)
{
    int64_t steps;
    mr_trainer *t = NULL;
    mr_step_shape shape;
    totals sum = {.ranks = s->world->size};
    mr_trainer_opts o = {.stochastic = true, .optimizer = true, .whole_steps = true};
    mr_status st;
    MR_TRY(mr_args_int(a, "steps", 1, 100000, 3, &steps));
    MR_TRY_GOTO(mr_trainer_create(&t, &a->config, &s->data, s->world, &o), st, done);
    MR_TRY_GOTO(mr_volume_shape(&shape, t->train_plan, t->table, t->batch.n_seq), st, done);
    shape.ranks = s->world->size;
    shape.group = t->items->size;
    shape.exchange_rows = t->exchange_rows;
    if (t->data->is_sharded) mr_volume_features(&shape, &a->config, t->data);
    shape.exact = t->exact ? mr_exact_elements(t->exact) : 0;
    MR_TRY_GOTO(MR_ALLOC(&sum.counted, (int64_t)sum.ranks * MR_FOR_COUNT, "counts"), st, done);
    MR_TRY_GOTO(MR_ALLOC(&sum.formula, (int64_t)sum.ranks * MR_FOR_COUNT, "counts"), st, done);
    MR_TRY_GOTO(run_steps(t, &shape, steps, &sum), st, done);
    if (s->world->rank == 0) st = report(a, t, &sum, steps);
    st = mr_comm_agree(s->world, st);
done:
    MR_FREE(sum.counted);
    MR_FREE(sum.formula);
    mr_trainer_free(&t);
    return st;
}
