/* bench scaling: training steps on 1, 2, 4, ... ranks of one job: strong (the global batch stays)
 * and weak (the rows of a rank stay).
 * What it is not: a test of speed; where a host has fewer cores than threads, times mean nothing
 * and are left out, while bytes, memory and the equality of losses are reported.
 * Invariant: P ranks are the first P of the job, each with the threads it would have in a job of
 * all ranks; the others sleep in mr_comm_rest. */
#include <malloc.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "cli/bench.h"
#include "dist/topo.h"
#include "train/session.h"
#include "train/trainer.h"

enum { LIST = 16, LOSSES = 20 };

typedef struct list {
    int n;
    int64_t v[LIST];
} list;

/* One measurement; every rank of it has the same values. */
typedef struct point {
    bool is_weak;
    int ranks;
    int64_t rows;               /* of the global batch */
    double seconds;             /* of a step, the slowest rank's median; NaN: means nothing here */
    double bytes_in, bytes_out; /* of a step, the busiest rank's */
    double rank_mib, step_mib;  /* highest memory of a rank; of that without the data set */
    int n_losses;
    double loss[LOSSES]; /* of the first steps */
} point;

typedef struct bench {
    const mr_args *a;
    mr_session *s;
    int64_t steps, warmup;
    list ranks, strong, weak;
    json_t *points;
    bool has_blank; /* a time was left out */
} bench;

/* "1,2,4" */
static mr_status read_list(const mr_args *a, const char *name, int64_t hi, list *out)
{
    const char *text = mr_args_value(a, name);
    if (!text) return MR_OK;
    out->n = 0;
    for (const char *at = text; *at; at += *at == ',') {
        char *end;
        long long v = strtoll(at, &end, 10);
        MR_CHECK(
            end != at && (*end == ',' || !*end) && v >= 1 && v <= hi && out->n < LIST, MR_ERR_USAGE,
            "--%s %.60s: a list such as 1,2,4 of at most %d numbers from 1 to %lld is expected",
            name, text, LIST, (long long)hi);
        out->v[out->n++] = v;
        at = end;
    }
    return MR_OK;
}

static mr_status read_options(bench *b)
{
    const mr_args *a = b->a;
    int P = b->s->world->size;
    for (int p = 1; p <= P && b->ranks.n < LIST; p *= 2) b->ranks.v[b->ranks.n++] = p;
    b->strong = (list){2, {2048, 16384}};
    b->weak = (list){1, {2048}};
    MR_TRY(mr_args_int(a, "steps", 1, 100000, 20, &b->steps));
    MR_TRY(mr_args_int(a, "warmup", 0, 100000, 5, &b->warmup));
    MR_TRY(read_list(a, "ranks", P, &b->ranks));
    MR_TRY(read_list(a, "strong", 1 << 24, &b->strong));
    return read_list(a, "weak", 1 << 20, &b->weak);
}

/* Start of a measurement of memory: give back what is free, forget the highest use. */
static double memory_start(void)
{
    malloc_trim(0);
    FILE *f = fopen("/proc/self/clear_refs", "w");
    if (f) {
        fputs("5", f);
        fclose(f);
    }
    return mr_bench_status_mib("VmRSS:");
}

static void all_bytes(const mr_trainer *t, int64_t *in, int64_t *out)
{
    const mr_comm *c[3] = {t->world, t->items != t->world ? t->items : NULL, t->replicas};
    *in = *out = 0;
    for (int i = 0; i < 3; i++) {
        int64_t x, y;
        if (!c[i]) continue;
        mr_comm_stats_total(&c[i]->stats, &x, &y);
        *in += x;
        *out += y;
    }
}

static mr_status run_steps(bench *b, mr_trainer *t, point *p, double *seconds)
{
    int64_t batches = mr_sampler_batches(t->sampler), in[2] = {0}, out[2] = {0};
    if (batches > 1) batches--; /* full batches only */
    for (int64_t i = 0; i < b->warmup + b->steps; i++) {
        if (i == b->warmup) all_bytes(t, &in[0], &out[0]);
        MR_TRY(t->world->barrier(t->world));
        double at = mr_seconds();
        MR_TRY(mr_trainer_step(t, i / batches, i % batches));
        if (i >= b->warmup) seconds[i - b->warmup] = mr_seconds() - at;
        if (p->n_losses < LOSSES) p->loss[p->n_losses++] = mr_trainer_total_loss(t);
    }
    all_bytes(t, &in[1], &out[1]);
    mr_bench_sort(seconds, b->steps);
    p->rows = t->batch.rows_global;
    p->seconds = seconds[b->steps / 2];
    p->bytes_in = (double)(in[1] - in[0]) / (double)b->steps;
    p->bytes_out = (double)(out[1] - out[0]) / (double)b->steps;
    return MR_OK;
}

/* Every host of these ranks has a core for every thread. */
static mr_status is_timed(mr_comm *c, double *blank)
{
    mr_topo topo;
    MR_TRY(mr_topo_of(&topo, c));
    *blank = topo.local_size * omp_get_max_threads() > topo.cores;
    return MR_OK;
}

/* On the ranks of c. */
static mr_status measure(bench *b, mr_comm *c, const mr_config *cfg, point *p)
{
    mr_trainer *t = NULL;
    double *seconds = NULL, before = memory_start(), most[6];
    mr_trainer_opts o = {.stochastic = true, .optimizer = true};
    mr_status st;
    MR_TRY_GOTO(mr_trainer_create(&t, cfg, &b->s->data, c, &o), st, done);
    MR_TRY_GOTO(MR_ALLOC(&seconds, b->steps, "times"), st, done);
    MR_TRY_GOTO(run_steps(b, t, p, seconds), st, done);
    p->rank_mib = mr_bench_status_mib("VmHWM:");
    p->step_mib = p->rank_mib - before;
    MR_TRY_GOTO(is_timed(c, &most[5]), st, done);
    memcpy(most, (double[]){p->seconds, p->bytes_in, p->bytes_out, p->rank_mib, p->step_mib},
           5 * sizeof *most);
    MR_TRY_GOTO(c->allreduce(c, most, 6, MR_F64, MR_MAX), st, done);
    p->seconds = most[5] > 0 ? NAN : most[0];
    p->bytes_in = most[1];
    p->bytes_out = most[2];
    p->rank_mib = most[3];
    p->step_mib = most[4];
done:
    MR_FREE(seconds);
    mr_trainer_free(&t);
    return st;
}

static json_t *number(double x) { return isfinite(x) ? json_real(x) : json_null(); }

/* Largest relative difference of the first losses, infinite when one is not a number. */
static double difference(const point *p, const point *base)
{
    double worst = 0;
    for (int i = 0; i < p->n_losses; i++) {
        double d = fabs(p->loss[i] - base->loss[i]) / fabs(base->loss[i]);
        if (!(d <= worst)) worst = isnan(d) ? INFINITY : d;
    }
    return worst;
}

/* Rows a second and rank, beside those of the first point of the series. */
static void report(bench *b, const point *p, const point *base)
{
    double rate = (double)p->rows / p->seconds, base_rate = (double)base->rows / base->seconds;
    double efficiency = rate / p->ranks / (base_rate / base->ranks);
    double worst = p->is_weak && p != base ? NAN : difference(p, base);
    char time[64] = "       -          -          -", equal[32] = "-";
    if (isfinite(p->seconds))
        snprintf(time, sizeof time, "%8.1f %10.0f %10.2f", 1e3 * p->seconds, rate, efficiency);
    if (!isnan(worst)) snprintf(equal, sizeof equal, "%.1e", worst);
    printf("%6d %9lld %s %12.3f %12.3f %9.0f %9.0f %15s\n", p->ranks, (long long)p->rows, time,
           1e-6 * p->bytes_in, 1e-6 * p->bytes_out, p->rank_mib, p->step_mib, equal);
    fflush(stdout);
    json_array_append_new(
        b->points, json_pack("{s:s, s:i, s:I, s:o, s:o, s:o, s:f, s:f, s:f, s:f, s:o}", "kind",
                             p->is_weak ? "weak" : "strong", "ranks", p->ranks, "rows",
                             (json_int_t)p->rows, "step_s", number(p->seconds), "rows_per_s",
                             number(rate), "efficiency", number(efficiency), "bytes_in",
                             p->bytes_in, "bytes_out", p->bytes_out, "rank_mib", p->rank_mib,
                             "step_mib", p->step_mib, "loss_difference", number(worst)));
    b->has_blank |= !isfinite(p->seconds);
}

/* A failure is returned at once: the ranks at rest are then ended by mr_comm_end. */
static mr_status series(bench *b, bool is_weak, int64_t rows)
{
    static mr_config cfg; /* some kilobytes */
    mr_comm *world = b->s->world;
    point base = {0};
    if (world->rank == 0)
        printf("\n%s: %lld rows %s\n%6s %9s %8s %10s %10s %12s %12s %9s %9s %15s\n",
               is_weak ? "weak" : "strong", (long long)rows,
               is_weak ? "for each rank" : "in a global batch", "ranks", "rows", "step ms",
               "rows/s", "efficiency", "MB in/step", "MB out/step", "rank MiB", "step MiB",
               "loss difference");
    for (int i = 0; i < b->ranks.n; i++) {
        point p = {.is_weak = is_weak, .ranks = (int)b->ranks.v[i]};
        mr_comm *part = NULL;
        cfg = b->a->config;
        cfg.train.batch = is_weak ? rows * p.ranks : rows;
        MR_TRY(world->split(world, world->rank < p.ranks ? 0 : 1, &part));
        mr_status st = world->rank < p.ranks ? measure(b, part, &cfg, &p) : MR_OK;
        mr_comm_destroy(&part);
        MR_TRY(st);
        MR_TRY(mr_comm_rest());
        if (i == 0) base = p;
        if (world->rank == 0) report(b, &p, i == 0 ? &p : &base);
    }
    return MR_OK;
}

static mr_status write_results(bench *b)
{
    const mr_dataset *d = &b->s->data;
    json_t *o =
        json_pack("{s:s, s:s, s:b, s:I, s:I, s:I, s:i, s:i, s:I, s:O}", "bench", "scaling", "data",
                  d->name, "is_synthetic", d->is_synthetic, "users", (json_int_t)d->n_users,
                  "items", (json_int_t)d->n_items, "interactions", (json_int_t)d->n_inter,
                  "job_ranks", b->s->world->size, "threads", omp_get_max_threads(), "steps",
                  (json_int_t)b->steps, "points", b->points);
    mr_status st = mr_bench_json(b->a, o);
    json_decref(o);
    return st;
}

static mr_status all_series(const mr_args *a, mr_session *s)
{
    static bench b;
    b = (bench){.a = a, .s = s};
    mr_status st = MR_OK;
    MR_TRY(read_options(&b));
    b.points = json_array();
    if (s->world->rank == 0)
        printf("%s%s: %lld users, %lld items, %lld interactions; %d ranks with %d thread(s) each; "
               "the largest figure of a rank counts\n",
               s->data.name, s->data.is_synthetic ? " (SYNTHETIC)" : "", (long long)s->data.n_users,
               (long long)s->data.n_items, (long long)s->data.n_inter, s->world->size,
               omp_get_max_threads());
    for (int i = 0; i < b.strong.n && st == MR_OK; i++) st = series(&b, false, b.strong.v[i]);
    for (int i = 0; i < b.weak.n && st == MR_OK; i++) st = series(&b, true, b.weak.v[i]);
    if (st == MR_OK && s->world->rank == 0) {
        if (b.has_blank)
            printf("\nA host has fewer cores than threads of ranks: times mean nothing there and "
                   "are left out; bytes, memory and equality hold.\n");
        st = write_results(&b);
    }
    json_decref(b.points);
    return st;
}

static mr_status run(const mr_args *a)
{
    mr_session s;
    MR_TRY(mr_session_open(&s, &a->config));
    mr_status st = all_series(a, &s);
    mr_session_close(&s);
    return st;
}

const mr_bench mr_bench_scaling = {
    .name = "scaling", .options = "steps warmup json ranks strong weak", .run = run};
