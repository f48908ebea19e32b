/* mealrec-dist bench step: the time of one training step, beside the matrix-product rate of the
 * same machine in the same run, and the memory it takes. What it is not: a test; nothing here fails
 * because something is slow. */
#include <jansson.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/mem.h"
#include "cli/bench.h"
#include "train/session.h"
#include "train/trainer.h"

/* GFLOP/s of a 1280 x 768 x 768 product in the program's precision: the best of several. */
static mr_status product_rate(mr_trainer *t, double *out)
{
    const int64_t m = 1280, n = 768, k = 768;
    void *a = NULL, *b = NULL, *c = NULL;
    size_t real = t->params.real_bytes;
    double best = 0;
    mr_status st;
    MR_TRY_GOTO(t->dev->alloc(t->dev, &a, (size_t)(m * k) * real, "bench"), st, done);
    MR_TRY_GOTO(t->dev->alloc(t->dev, &b, (size_t)(n * k) * real, "bench"), st, done);
    MR_TRY_GOTO(t->dev->alloc(t->dev, &c, (size_t)(m * n) * real, "bench"), st, done);
    for (int i = 0; i < 20; i++) {
        double at = mr_seconds();
        t->dev->enter(t->dev);
        t->train_run->k->gemm(c, a, b, m, n, k, 0, 1, k, k, n, 1.0, 0.0, &t->train_run->ex);
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

static mr_status time_steps(mr_trainer *t, int64_t warmup, int64_t n, double *seconds)
{
    int64_t batches = mr_sampler_batches(t->sampler);
    if (batches > 1) batches--; /* full batches only */
    for (int64_t i = 0; i < warmup + n; i++) {
        MR_TRY(t->world->barrier(t->world));
        double at = mr_seconds();
        MR_TRY(mr_trainer_step(t, i / batches, i % batches));
        if (i >= warmup) seconds[i - warmup] = mr_seconds() - at;
    }
    mr_bench_sort(seconds, n);
    return MR_OK;
}

static mr_status report(const mr_args *a, mr_trainer *t, const double *s, int64_t n,
                        double rss_start, double rss_ready, double rate)
{
    double peak = mr_bench_status_mib("VmHWM:"), median = s[n / 2];
    json_t *o =
        json_pack("{s:s, s:i, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "bench", "step",
                  "ranks", t->world->size, "rows", (json_int_t)t->batch.rows_global,
                  "step_s_median", median, "step_s_min", s[0], "step_s_max", s[n - 1], "rows_per_s",
                  (double)t->batch.rows_global / median, "gemm_gflops", rate, "rss_start_mib",
                  rss_start, "step_mib", peak - rss_ready, "whole_mib", peak - rss_start);
    printf("step: median %.4f s (min %.4f, max %.4f over %lld), %.0f rows/s, %d rank(s)\n", median,
           s[0], s[n - 1], (long long)n, (double)t->batch.rows_global / median, t->world->size);
    printf("matrix product 1280 x 768 x 768: %.1f GFLOP/s\n", rate);
    printf(
        "memory of rank 0: at start %.0f MiB, highest %.0f MiB above it, of that steps %.0f MiB\n",
        rss_start, peak - rss_start, peak - rss_ready);
    mr_status st = mr_bench_json(a, o);
    json_decref(o);
    return st;
}

static mr_status bench_step(const mr_args *a, mr_session *s, double rss_start)
{
    int64_t n, warmup;
    mr_trainer *t = NULL;
    double *seconds = NULL, rate = 0;
    mr_trainer_opts o = {.stochastic = true, .optimizer = true, .whole_steps = true};
    mr_status st;
    MR_TRY(mr_args_int(a, "steps", 1, 100000, 20, &n));
    MR_TRY(mr_args_int(a, "warmup", 0, 100000, 5, &warmup));
    MR_TRY_GOTO(mr_trainer_create(&t, &a->config, &s->data, s->world, &o), st, done);
    MR_TRY_GOTO(MR_ALLOC(&seconds, n, "times"), st, done);
    double rss_ready = mr_bench_status_mib("VmRSS:");
    MR_TRY_GOTO(time_steps(t, warmup, n, seconds), st, done);
    MR_TRY_GOTO(product_rate(t, &rate), st, done);
    if (s->world->rank == 0) st = report(a, t, seconds, n, rss_start, rss_ready, rate);
done:
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

const mr_bench mr_bench_step = {.name = "step", .options = "steps warmup json", .run = run};
