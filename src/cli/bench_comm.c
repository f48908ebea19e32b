/* bench comm: the collectives of a training step, one after another with the sizes of batch 0, and
 * a sweep of sums over all ranks from which latency and bandwidth are fitted.
 * What it is not: the check of the bytes (bench_comm_check.c), nor a training step: nothing is
 * computed between the calls, so nothing overlaps. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "cli/bench.h"
#include "train/trainer.h"

/* One collective, ready to be called again and again. */
typedef struct job {
    mr_purpose purpose;
    mr_comm *comm;
    mr_dtype type;
    int64_t n;            /* elements of a sum */
    const mr_plan *plan;  /* its buckets are summed instead */
    int64_t *give, *take; /* [comm->size] elements to and from each rank */
} job;

typedef struct bench {
    mr_trainer *t;
    void *send, *recv; /* [elements] of 8 bytes */
    int64_t elements, steps, warmup;
    double *seconds; /* [steps] */
    json_t *list;
} bench;

static mr_status call_buckets(bench *b, const job *j)
{
    for (int i = 0; i < j->plan->n_buckets; i++) {
        const mr_bucket *k = &j->plan->bucket[i];
        char *at = (char *)b->send + k->lo * (int64_t)mr_dtype_bytes(j->type);
        MR_TRY(j->comm->iallreduce(j->comm, at, k->hi - k->lo, j->type));
    }
    return j->comm->wait_all(j->comm);
}

static mr_status call(bench *b, const job *j)
{
    mr_comm *c = j->comm;
    if (j->plan) return call_buckets(b, j);
    switch (mr_purpose_at(j->purpose)->kind) {
    case MR_COLL_ALLREDUCE: return c->allreduce(c, b->send, j->n, j->type, MR_SUM);
    case MR_COLL_ALLGATHER: return c->allgatherv(c, b->send, b->recv, j->give, j->type);
    case MR_COLL_REDUCE_SCATTER: return c->reduce_scatterv(c, b->send, b->recv, j->give, j->type);
    case MR_COLL_ALLTOALL: return c->alltoallv(c, b->send, j->give, b->recv, j->take, j->type);
    default: return MR_OK;
    }
}

/* Median seconds of a call on this rank, and the bytes that it received. */
static mr_status measure(bench *b, const job *j, double *seconds, int64_t *bytes)
{
    mr_comm *world = b->t->world;
    int64_t in[2], out;
    for (int64_t i = 0; i < b->warmup + b->steps; i++) {
        MR_TRY(world->barrier(world));
        mr_comm_stats_total(&j->comm->stats, &in[0], &out);
        double at = mr_seconds();
        MR_TRY(call(b, j));
        if (i >= b->warmup) b->seconds[i - b->warmup] = mr_seconds() - at;
        mr_comm_stats_total(&j->comm->stats, &in[1], &out);
    }
    mr_bench_sort(b->seconds, b->steps);
    *seconds = b->seconds[b->steps / 2];
    *bytes = in[1] - in[0];
    return MR_OK;
}

static mr_status report(bench *b, const job *j)
{
    double s;
    int64_t bytes;
    const mr_purpose_line *line = mr_purpose_at(j->purpose);
    MR_TRY(measure(b, j, &s, &bytes));
    if (b->t->world->rank) return MR_OK;
    printf("%-14s %-14s %-8s %5d %14lld %12.1f %10.1f\n", line->id, mr_coll_name(line->kind),
           line->among, j->comm->size, (long long)bytes, 1e6 * s, 1e-6 * (double)bytes / s);
    json_array_append_new(b->list, json_pack("{s:s, s:s, s:s, s:i, s:I, s:f}", "purpose", line->id,
                                             "collective", mr_coll_name(line->kind), "among",
                                             line->among, "ranks", j->comm->size, "bytes_in",
                                             (json_int_t)bytes, "seconds", s));
    return MR_OK;
}

/* counts x width of one exchange or gather. */
static void scale(int64_t *out, const int64_t *counts, int n, int64_t width)
{
    for (int i = 0; i < n; i++) out[i] = counts[i] * width;
}

/* The four calls of the row exchange of sequence set 0. */
static mr_status row_jobs(bench *b, job j)
{
    mr_trainer *t = b->t;
    const mr_exchange *x = t->feed.xch[0];
    int64_t d = t->params.p[t->table].dim[1];
    int n = j.comm->size;
    for (int i = 0; i < n; i++) j.give[i] = j.take[i] = 1;
    j.purpose = MR_FOR_ROW_COUNTS;
    j.type = MR_I64;
    MR_TRY(report(b, &j));
    scale(j.give, x->want, n, 1);
    scale(j.take, x->give, n, 1);
    j.purpose = MR_FOR_ROW_IDS;
    j.type = MR_I32;
    MR_TRY(report(b, &j));
    scale(j.give, x->give, n, d);
    scale(j.take, x->want, n, d);
    j.purpose = MR_FOR_ROWS;
    j.type = t->dev->real;
    MR_TRY(report(b, &j));
    scale(j.give, x->want, n, d);
    scale(j.take, x->give, n, d);
    j.purpose = MR_FOR_ROW_GRADS;
    return report(b, &j);
}

static mr_status loss_jobs(bench *b, job j)
{
    mr_trainer *t = b->t;
    int64_t d = t->params.p[t->table].dim[1];
    const int32_t *rows = t->batch.rank_rows + t->group0;
    j.type = t->dev->real;
    for (int i = 0; i < j.comm->size; i++) j.give[i] = rows[i] * d;
    j.purpose = MR_FOR_LOSS_ROWS;
    MR_TRY(report(b, &j));
    j.purpose = MR_FOR_LOSS_GRADS;
    MR_TRY(report(b, &j));
    for (int i = 0; i < j.comm->size; i++) j.give[i] = rows[i];
    j.purpose = MR_FOR_LOSS_TARGETS;
    j.type = MR_I32;
    MR_TRY(report(b, &j));
    int64_t all = 0;
    for (int i = 0; i < j.comm->size; i++) all += rows[i];
    for (int i = 0; i < j.comm->size; i++) j.give[i] = 3 * all; /* one chunk, as if it were all */
    j.purpose = MR_FOR_LOSS_PARTIALS;
    j.type = MR_F64;
    return report(b, &j);
}

static mr_status world_jobs(bench *b, job j)
{
    mr_trainer *t = b->t;
    j.purpose = MR_FOR_DENSE_GRADS;
    j.type = t->dev->real;
    j.plan = t->train_plan;
    MR_TRY(report(b, &j));
    j.plan = NULL;
    if (t->replicas) {
        j.purpose = MR_FOR_TABLE_GRADS;
        j.comm = t->replicas;
        j.n = t->params.p[t->table].count;
        MR_TRY(report(b, &j));
    }
    j.comm = t->world;
    if (t->batch.n_seq < MR_MAX_SEQ) return MR_OK;
    int64_t d = t->params.p[t->table].dim[1];
    for (int i = 0; i < j.comm->size; i++) j.give[i] = t->batch.rank_rows[i] * d;
    j.purpose = MR_FOR_VIEWS;
    MR_TRY(report(b, &j));
    j.purpose = MR_FOR_VIEW_GRADS;
    return report(b, &j);
}

/* Sums of 8 bytes to 8 MiB over all ranks: seconds = alpha + bytes received / beta. alpha is the
 * time of the smallest sum, beta comes from the largest. */
static mr_status sweep(bench *b, job j, double *alpha, double *beta)
{
    double s[2];
    int64_t bytes[2];
    j.purpose = MR_FOR_DENSE_GRADS;
    j.type = MR_F32;
    for (int i = 0; i < 2; i++) {
        j.n = i ? (int64_t)1 << 21 : 2;
        MR_TRY(measure(b, &j, &s[i], &bytes[i]));
    }
    *alpha = s[0];
    *beta = s[1] > s[0] ? (double)(bytes[1] - bytes[0]) / (s[1] - s[0]) : 0;
    if (b->t->world->rank == 0)
        printf("sum over all ranks: alpha %.1f us, beta %.1f MB/s received\n", 1e6 * *alpha,
               1e-6 * *beta);
    return MR_OK;
}

static mr_status write_json(const bench *b, const mr_args *a, double alpha, double beta)
{
    json_t *o = json_pack("{s:s, s:i, s:i, s:O, s:f, s:f}", "bench", "comm", "ranks",
                          b->t->world->size, "group", b->t->items->size, "collectives", b->list,
                          "alpha_s", alpha, "beta_bytes_per_s", beta);
    mr_status st = mr_bench_json(a, o);
    json_decref(o);
    return st;
}

static mr_status run_all(bench *b, const job *j, const mr_args *a)
{
    double alpha, beta;
    if (b->t->world->rank == 0)
        printf("purpose        collective     among    ranks       bytes in microseconds"
               "       MB/s\n");
    if (b->t->items->size > 1) {
        job of_items = *j;
        of_items.comm = b->t->items;
        MR_TRY(row_jobs(b, of_items));
        MR_TRY(loss_jobs(b, of_items));
    }
    MR_TRY(world_jobs(b, *j));
    MR_TRY(sweep(b, *j, &alpha, &beta));
    return b->t->world->rank == 0 ? write_json(b, a, alpha, beta) : MR_OK;
}

/* Elements that the largest of the calls needs. */
static int64_t room(const mr_trainer *t)
{
    int64_t d = t->params.p[t->table].dim[1], rows = 3 + d, most = (int64_t)1 << 21;
    const int64_t need[] = {t->params.n_total, t->batch.rows_global * rows * t->world->size,
                            (t->feed.xch[0]->n_unique + t->feed.xch[0]->n_give) * d};
    for (int i = 0; i < 3; i++) most = need[i] > most ? need[i] : most;
    return most;
}

static mr_status bench_comm(const mr_args *a, mr_session *s)
{
    bench b = {0};
    job j = {.comm = s->world};
    mr_trainer_opts o = {.stochastic = true, .optimizer = true};
    mr_status st;
    MR_CHECK(s->world->size > 1, MR_ERR_USAGE,
             "bench comm needs several ranks; start it with mpirun -np 2 or more");
    MR_TRY(mr_args_int(a, "steps", 1, 100000, 20, &b.steps));
    MR_TRY(mr_args_int(a, "warmup", 0, 100000, 5, &b.warmup));
    MR_TRY_GOTO(mr_trainer_create(&b.t, &a->config, &s->data, s->world, &o), st, done);
    MR_TRY_GOTO(mr_trainer_load(b.t, b.t->train_run, 0, 0), st, done);
    b.list = json_array();
    b.elements = room(b.t);
    MR_TRY_GOTO(mr_alloc(&b.send, b.elements, 8, "bench"), st, done);
    MR_TRY_GOTO(mr_alloc(&b.recv, b.elements, 8, "bench"), st, done);
    MR_TRY_GOTO(MR_ALLOC(&b.seconds, b.steps, "times"), st, done);
    MR_TRY_GOTO(MR_ALLOC(&j.give, s->world->size, "counts"), st, done);
    MR_TRY_GOTO(MR_ALLOC(&j.take, s->world->size, "counts"), st, done);
    MR_TRY_GOTO(run_all(&b, &j, a), st, done);
done:
    MR_FREE(j.give);
    MR_FREE(j.take);
    MR_FREE(b.send);
    MR_FREE(b.recv);
    MR_FREE(b.seconds);
    json_decref(b.list);
    mr_trainer_free(&b.t);
    return st;
}

static mr_status run(const mr_args *a)
{
    mr_session s;
    MR_TRY(mr_session_open(&s, &a->config));
    mr_status st = mr_args_has(a, "check") ? mr_bench_comm_check(a, &s) : bench_comm(a, &s);
    mr_session_close(&s);
    return st;
}

const mr_bench mr_bench_comm = {.name = "comm", .options = "check steps warmup json", .run = run};
