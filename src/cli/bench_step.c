/* mealrec-dist bench step: the time of one training step, beside the matrix-product rate of the
 * same machine in the same run, and the memory it takes. What it is not: a test; nothing here fails
 * because something is slow. */
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "cli/bench.h"
#include "train/session.h"
#include "train/trainer.h"

enum { LEAST_GPU_RATE = 1000, REPEAT = 4194301 }; /* GFLOP/s; a prime number of elements */

/* What a step asks of its device, taken over the timed steps: counts for one of them, allocations
 * and recordings for all; and how long the host takes from sending a batch to the start of the
 * device's work, or, where nothing is recorded, until it has started all of it. */
typedef struct asked {
    mr_device_counts counts;
    double *start_s; /* [steps] sorted */
} asked;

/* n numbers that fill the bits: a GPU takes less power, and so less time, for zeros. They repeat
 * after a while, for making as many as the largest product has would take a second. */
static mr_status operand(mr_trainer *t, void **out_p, int64_t n)
{
    int64_t real = (int64_t)t->params.real_bytes, some = n < REPEAT ? n : REPEAT;
    void *host = NULL;
    MR_TRY(mr_alloc(&host, some, (size_t)real, "bench"));
    for (int64_t i = 0; i < some; i++) {
        double x = mr_u01((uint32_t)i * 2654435761u) - 0.5;
        if (real == 8)
            ((double *)host)[i] = x;
        else
            ((float *)host)[i] = mr_bench_number(x);
    }
    mr_status st = t->dev->alloc(t->dev, out_p, (size_t)(n * real), "bench");
    for (int64_t i = 0; st == MR_OK && i < n; i += some) {
        int64_t count = n - i < some ? n - i : some;
        st = t->dev->to_device(t->dev, (char *)*out_p + i * real, host, (size_t)(count * real));
    }
    MR_FREE(host);
    return st;
}

/* GFLOP/s of an m x n x k product in the program's precision: the best of several. */
static mr_status product_rate(mr_trainer *t, const int64_t size[3], double *out)
{
    const int64_t m = size[0], n = size[1], k = size[2];
    void *a = NULL, *b = NULL, *c = NULL;
    double best = 0;
    mr_status st;
    MR_TRY_GOTO(operand(t, &a, m * k), st, done);
    MR_TRY_GOTO(operand(t, &b, n * k), st, done);
    MR_TRY_GOTO(operand(t, &c, m * n), st, done);
    for (int i = 0; i < 20; i++) {
        double at = mr_seconds();
        t->dev->enter(t->dev);
        t->train_run->k->gemm(c, a, b, m, n, k, 0, 1, k, k, n, 1.0, 0.0, MR_ACT_ACT,
                              &t->train_run->ex);
        t->dev->leave(t->dev);
        MR_TRY_GOTO(t->dev->sync(t->dev), st, done);
        double rate = 2e-9 * (double)(m * n * k) / (mr_seconds() - at);
        if (rate > best) best = rate;
    }
    *out = best;
done:
    t->dev->free(t->dev, a);
    t->dev->free(t->dev, b);
    t->dev->free(t->dev, c);
    return st;
}

/* Each ends when the device is done. */
static mr_status time_steps(mr_trainer *t, int64_t warmup, int64_t n, double *seconds, asked *out)
{
    mr_device_counts before = t->dev->counts;
    int64_t batches = mr_sampler_batches(t->sampler);
    if (batches > 1) batches--; /* full batches only */
    for (int64_t i = 0; i < warmup + n; i++) {
        if (i == warmup) before = t->dev->counts;
        MR_TRY(t->world->barrier(t->world));
        double at = mr_seconds();
        int64_t k = i % batches; /* as the training loop does it */
        MR_TRY(mr_trainer_step_and(t, i / batches, k, k + 1 < batches ? k + 1 : -1));
        MR_TRY(t->dev->sync(t->dev));
        if (i < warmup) continue;
        seconds[i - warmup] = mr_seconds() - at;
        out->start_s[i - warmup] = t->start_s;
    }
    mr_bench_sort(seconds, n);
    mr_bench_sort(out->start_s, n);
    const mr_device_counts *after = &t->dev->counts;
    out->counts = (mr_device_counts){.allocs = after->allocs - before.allocs,
                                     .copies_in = (after->copies_in - before.copies_in) / n,
                                     .copies_out = (after->copies_out - before.copies_out) / n,
                                     .waits = (after->waits - before.waits) / n - 1, /* ours */
                                     .calls = (after->calls - before.calls) / n,
                                     .launches = (after->launches - before.launches) / n,
                                     .recorded = after->recorded - before.recorded,
                                     .replayed = after->replayed - before.replayed};
    return MR_OK;
}

/* Device memory in use, where that is something else than the process's. */
static double device_mib(mr_trainer *t)
{
    int64_t left = 0, total = 0;
    if (strcmp(t->dev->name, "cuda") != 0) return 0;
    if (t->dev->memory(t->dev, &left, &total) != MR_OK) return 0;
    return (double)(total - left) / 1048576.0;
}

static void put_asked(json_t *o, const mr_trainer *t, const asked *q, int64_t n)
{
    const double *s = q->start_s;
    json_object_set_new(o, "device", json_string(t->dev->id[0] ? t->dev->id : t->dev->name));
    json_object_set_new(o, "precision", json_string(t->cfg->run.precision));
    json_object_set_new(o, "kernel_calls", json_integer(q->counts.calls));
    json_object_set_new(o, "launches", json_integer(q->counts.launches));
    json_object_set_new(o, "allocations", json_integer(q->counts.allocs));
    json_object_set_new(o, "waits", json_integer(q->counts.waits));
    json_object_set_new(o, "copies_in", json_integer(q->counts.copies_in));
    json_object_set_new(o, "copies_out", json_integer(q->counts.copies_out));
    printf("a step: %lld kernel calls, %lld launches on a GPU, %lld waits, copies %lld in and %lld "
           "out; allocations in all timed steps: %lld\n",
           (long long)q->counts.calls, (long long)q->counts.launches, (long long)q->counts.waits,
           (long long)q->counts.copies_in, (long long)q->counts.copies_out,
           (long long)q->counts.allocs);
    json_object_set_new(o, "host_start_s_median", json_real(s[n / 2]));
    json_object_set_new(o, "host_start_s_max", json_real(s[n - 1]));
    json_object_set_new(o, "recorded", json_integer(q->counts.recorded));
    json_object_set_new(o, "replayed", json_integer(q->counts.replayed));
    printf("host, from sending a batch to the start of its step: median %.1f us (min %.1f, max "
           "%.1f); steps recorded %lld, started again without recording %lld of %lld\n",
           1e6 * s[n / 2], 1e6 * s[0], 1e6 * s[n - 1], (long long)q->counts.recorded,
           (long long)q->counts.replayed, (long long)n);
}

typedef struct figures {
    const double *s; /* [n] sorted */
    int64_t n;
    double rss_start, rss_ready, peak, rate; /* MiB; GFLOP/s */
    double most_mib;                         /* of device memory, in own allocations */
    const int64_t *product;                  /* [3] */
    asked asked;
    json_t *parts; /* NULL: not asked for */
} figures;

static mr_status report(const mr_args *a, mr_trainer *t, const figures *f)
{
    const double *s = f->s, rss_start = f->rss_start;
    int64_t n = f->n;
    double peak = f->peak, median = s[n / 2], gpu = device_mib(t), own = f->most_mib;
    json_t *o = json_pack("{s:s, s:i, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "bench",
                          "step", "ranks", t->world->size, "rows", (json_int_t)t->batch.rows_global,
                          "step_s_median", median, "step_s_min", s[0], "step_s_max", s[n - 1],
                          "rows_per_s", (double)t->batch.rows_global / median, "gemm_gflops",
                          f->rate, "rss_start_mib", rss_start, "step_mib", peak - f->rss_ready,
                          "whole_mib", peak - rss_start, "device_mib", gpu);
    json_object_set_new(o, "own_device_mib", json_real(own));
    if (f->parts) json_object_set(o, "parts", f->parts);
    printf("step: median %.4f s (min %.4f, max %.4f over %lld), %.0f rows/s, %d rank(s)\n", median,
           s[0], s[n - 1], (long long)n, (double)t->batch.rows_global / median, t->world->size);
    printf("matrix product %lld x %lld x %lld: %.1f GFLOP/s\n", (long long)f->product[0],
           (long long)f->product[1], (long long)f->product[2], f->rate);
    printf(
        "memory of rank 0: at start %.0f MiB, highest %.0f MiB above it, of that steps %.0f MiB\n",
        rss_start, peak - rss_start, peak - f->rss_ready);
    if (gpu > 0)
        printf("device memory in use: %.0f MiB; most in this process's allocations: %.1f MiB\n",
               gpu, own);
    put_asked(o, t, &f->asked, n);
    mr_status st = mr_bench_json(a, o);
    json_decref(o);
    return st;
}

static mr_status bench_step(const mr_args *a, mr_session *s, double rss_start)
{
    int64_t n, warmup;
    mr_trainer *t = NULL;
    double *seconds = NULL;
    /* The largest products of a step; a GPU is full only with more (an emulated one is not). */
    static const int64_t small[3] = {1280, 768, 768}, large[3] = {8192, 8192, 8192};
    mr_trainer_opts o = {.stochastic = true, .optimizer = true, .whole_steps = true};
    figures f = {.rss_start = rss_start, .product = small};
    mr_status st;
    MR_TRY(mr_args_int(a, "steps", 1, 100000, 20, &n));
    MR_TRY(mr_args_int(a, "warmup", 0, 100000, 5, &warmup));
    MR_TRY_GOTO(mr_trainer_create(&t, &a->config, &s->data, s->world, &o), st, done);
    MR_TRY_GOTO(MR_ALLOC(&seconds, 2 * n, "times"), st, done);
    f.rss_ready = mr_bench_status_mib("VmRSS:");
    f.s = seconds;
    f.n = n;
    f.asked.start_s = seconds + n;
    MR_TRY_GOTO(time_steps(t, warmup, n, seconds, &f.asked), st, done);
    f.peak = mr_bench_status_mib("VmHWM:");
    f.most_mib = (double)t->dev->counts.most_bytes / 1048576.0; /* the products below not counted */
    if (mr_args_has(a, "parts")) MR_TRY_GOTO(mr_bench_parts(t, warmup, n, &f.parts), st, done);
    MR_TRY_GOTO(product_rate(t, f.product, &f.rate), st, done);
    if (!strcmp(t->dev->name, "cuda") && f.rate > LEAST_GPU_RATE) {
        f.product = large;
        MR_TRY_GOTO(product_rate(t, f.product, &f.rate), st, done);
    }
    if (s->world->rank == 0) st = report(a, t, &f);
done:
    json_decref(f.parts);
    MR_FREE(seconds);
    mr_trainer_free(&t);
    return st;
}

static mr_status run(const mr_args *a)
{
    mr_session s;
    MR_TRY(mr_session_start(&s, &a->config));
    double rss_start = mr_bench_status_mib("VmRSS:");
    mr_status st = mr_session_load(&s, &a->config);
    if (st == MR_OK) st = bench_step(a, &s, rss_start);
    mr_session_close(&s);
    return st;
}

const mr_bench mr_bench_step = {.name = "step", .options = "steps warmup parts json", .run = run};
