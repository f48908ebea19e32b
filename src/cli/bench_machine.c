/* bench machine: the numbers of configs/machines for this machine, from training steps of the
 * configured model and sums over the ranks. One rank computes alone, then all at once.
 * What it is not: a step of several ranks; every rank trains by itself on the whole batch, so that
 * no collective is in what is timed. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "cli/bench.h"
#include "train/machine.h"
#include "train/trainer.h"

/* Seconds of one step and the work done in them. */
typedef struct sample {
    double products_s, other_s, update_s, step_s;
    mr_cost cost;
} sample;

static mr_status timed_nodes(mr_trainer *t, bool forward, const mr_step_size *size, sample *s)
{
    const mr_plan *p = t->train_plan;
    for (int i = 0; i < (forward ? p->n_fwd : p->n_bwd); i++) {
        int id = forward ? p->fwd[i] : p->bwd[i];
        mr_cost c = mr_plan_node_cost(p, id, forward, size);
        double at = mr_seconds();
        MR_TRY(forward ? mr_run_forward_step(t->train_run, i)
                       : mr_run_backward_step(t->train_run, i));
        MR_TRY(t->dev->sync(t->dev));
        *(c.products > 0 ? &s->products_s : &s->other_s) += mr_seconds() - at;
        s->cost.products += c.products;
        s->cost.bytes += c.bytes;
    }
    return MR_OK;
}

/* Step by parts on batch i, then the same batch as a whole. */
static mr_status take(mr_trainer *t, int64_t i, sample *out)
{
    sample s = {.step_s = 0};
    MR_TRY(mr_trainer_load(t, t->train_run, 0, i));
    mr_step_size size = {.group = 1,
                         .group_rows = (double)t->batch.rows,
                         .world_rows = (double)t->batch.rows_global};
    for (int k = 0; k < MR_N_SPACES; k++) size.rows[k] = (double)t->train_run->count[k];
    MR_TRY(timed_nodes(t, true, &size, &s));
    MR_TRY(timed_nodes(t, false, &size, &s));
    MR_TRY(mr_trainer_gradients(t));
    MR_TRY(t->dev->sync(t->dev));
    double at = mr_seconds();
    MR_TRY(mr_trainer_update(t));
    MR_TRY(t->dev->sync(t->dev));
    s.update_s = mr_seconds() - at;
    at = mr_seconds();
    MR_TRY(mr_trainer_step(t, 0, i));
    MR_TRY(t->dev->sync(t->dev));
    s.step_s = mr_seconds() - at;
    *out = s;
    return MR_OK;
}

static int by_step(const void *a, const void *b)
{
    double x = ((const sample *)a)->step_s, y = ((const sample *)b)->step_s;
    return (x > y) - (x < y);
}

/* The sample of the fastest step: what else runs on the machine can only add. */
static mr_status measure(mr_trainer *t, int64_t warmup, int64_t n, sample *all, sample *out)
{
    int64_t batches = mr_sampler_batches(t->sampler);
    if (batches > 1) batches--; /* full batches only */
    for (int64_t i = 0; i < warmup + n; i++)
        MR_TRY(take(t, i % batches, &all[i < warmup ? 0 : i - warmup]));
    qsort(all, (size_t)n, sizeof *all, by_step);
    *out = all[0];
    return MR_OK;
}

/* Seconds of sums of n floats over all ranks, as gradients are summed; the median. */
static mr_status time_sum(mr_comm *world, float *buf, int64_t n, int64_t steps, double *out)
{
    double *s = NULL;
    mr_status st = MR_OK;
    MR_TRY(MR_ALLOC(&s, steps, "times"));
    for (int64_t i = 0; st == MR_OK && i < steps; i++) {
        st = world->barrier(world);
        double at = mr_seconds();
        if (st == MR_OK) st = world->iallreduce(world, buf, n, MR_F32);
        if (st == MR_OK) st = world->wait_all(world);
        s[i] = mr_seconds() - at;
    }
    mr_bench_sort(s, steps);
    *out = s[steps / 2];
    MR_FREE(s);
    return st;
}

/* The large sum has about the size of all dense gradients and lies in no cache: on one host that is
 * several times slower than a sum of a few megabytes, and it is most of what a step sends. */
static mr_status links(mr_comm *world, int64_t steps, mr_machine *m)
{
    const int64_t large = (int64_t)1 << 24;
    float *buf = NULL;
    double small_s, large_s = 0;
    MR_TRY(MR_ALLOC(&buf, large, "bench"));
    mr_status st = time_sum(world, buf, 2, steps, &small_s);
    if (st == MR_OK) st = time_sum(world, buf, large, steps, &large_s);
    MR_FREE(buf);
    MR_TRY(st);
    double bytes = 2.0 * (world->size - 1) / world->size * 4.0 * (double)large;
    m->node_alpha = m->net_alpha = small_s;
    m->node_beta = m->net_beta = bytes / fmax(large_s - small_s, 1e-9);
    return MR_OK;
}

static void fill(mr_machine *m, const mr_trainer *t, const sample *alone, double together,
                 int ranks)
{
    double parts = alone->products_s + alone->other_s + alone->update_s;
    *m = (mr_machine){.ranks_per_node = ranks};
    snprintf(m->name, sizeof m->name, "this machine, %d ranks", ranks);
    snprintf(m->basis, sizeof m->basis,
             "measured by bench machine on %lld rows, width %lld; nothing was measured between "
             "nodes",
             (long long)t->batch.rows, (long long)t->params.p[t->table].dim[1]);
    m->products = alone->cost.products / alone->products_s;
    m->memory = alone->cost.bytes / alone->other_s;
    m->update = mr_plan_update_bytes(t->train_plan, 1) / alone->update_s;
    m->fixed = fmax(alone->step_s - parts, 0);
    m->contention = fmax(together / alone->step_s, 1);
    m->capacity = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE) / ranks;
}

static mr_status write_file(const mr_args *a, const mr_machine *m)
{
    const char *path = mr_args_value(a, "out");
    FILE *f = path ? fopen(path, "w") : stdout;
    MR_CHECK(f, MR_ERR_IO, "--out %s: cannot write it", path);
    mr_machine_write(m, f);
    bool failed = ferror(f) != 0;
    failed |= path && fclose(f) != 0;
    MR_CHECK(!failed, MR_ERR_IO, "--out %s: cannot write it", path ? path : "standard output");
    return MR_OK;
}

static mr_status all_parts(const mr_args *a, mr_comm *world, mr_trainer *t)
{
    int64_t n, warmup;
    sample *all = NULL, alone = {.step_s = 0}, together = {.step_s = 0};
    mr_machine m;
    mr_status st;
    MR_TRY(mr_args_int(a, "steps", 1, 100000, 20, &n));
    MR_TRY(mr_args_int(a, "warmup", 0, 100000, 5, &warmup));
    MR_TRY_GOTO(MR_ALLOC(&all, n, "times"), st, done);
    if (world->rank == 0) MR_TRY_GOTO(measure(t, warmup, n, all, &alone), st, done);
    MR_TRY_GOTO(world->barrier(world), st, done);
    MR_TRY_GOTO(measure(t, warmup, n, all, &together), st, done);
    MR_TRY_GOTO(world->allreduce(world, &together.step_s, 1, MR_F64, MR_MAX), st, done);
    fill(&m, t, &alone, together.step_s, world->size);
    MR_TRY_GOTO(links(world, n, &m), st, done);
    st = mr_comm_agree(world, world->rank == 0 ? write_file(a, &m) : MR_OK);
done:
    MR_FREE(all);
    return st;
}

static mr_status bench_machine(const mr_args *a, mr_session *s)
{
    mr_comm *self = NULL;
    mr_trainer *t = NULL;
    mr_trainer_opts o = {.stochastic = true, .optimizer = true};
    mr_status st;
    MR_CHECK(s->world->size > 1, MR_ERR_USAGE,
             "bench machine needs as many ranks as a node has cores or GPUs; use mpirun -np 2 or "
             "more");
    MR_TRY_GOTO(mr_comm_self(&self), st, done);
    MR_TRY_GOTO(mr_trainer_create(&t, &a->config, &s->data, self, &o), st, done);
    MR_TRY_GOTO(all_parts(a, s->world, t), st, done);
done:
    mr_trainer_free(&t);
    mr_comm_destroy(&self);
    return st;
}

static mr_status run(const mr_args *a)
{
    mr_session s;
    MR_TRY(mr_session_open(&s, &a->config));
    mr_status st = bench_machine(a, &s);
    mr_session_close(&s);
    return st;
}

const mr_bench mr_bench_machine = {.name = "machine", .options = "steps warmup out", .run = run};
