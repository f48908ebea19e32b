/* mealrec-dist bench kernels: time of every kernel at the shapes of the configured model.
 * Each kernel is called until enough time has gone by, in seven rounds; the median round counts.
 * The caches are warm, as they mostly are in a step for small arrays and are not for large ones.
 * What it is not: the kernels' cases (bench_kernels_*.c). */
#include "base/clock.h"
#include "cli/bench_kernels.h"

#include <omp.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "cli/bench.h"
#include "data/dataset.h"
#include "kernels/shared/bf16.h"
#include "train/session.h"
#include "train/trainer.h"

enum { ROUNDS = 7, MOST_CALLS = 100000 };

/* ---- memory ---- */

static void *device_memory(mr_kb *b, const void *host, int64_t bytes)
{
    void *p = NULL;
    if (b->st != MR_OK) return NULL;
    if (b->n_buf == MR_KB_BUFFERS) {
        b->st = MR_RAISE(MR_ERR_INTERNAL, "bench kernels: too many buffers in a case");
        return NULL;
    }
    b->st = b->dev->alloc(b->dev, &p, (size_t)(bytes > 0 ? bytes : 1), "bench");
    if (b->st == MR_OK) b->buf[b->n_buf++] = p;
    if (b->st == MR_OK && bytes > 0) b->st = b->dev->to_device(b->dev, p, host, (size_t)bytes);
    return p;
}

void *mr_kb_copy(mr_kb *b, const void *host, int64_t bytes)
{
    return device_memory(b, host, bytes);
}

static void *filled(mr_kb *b, int64_t n, bool is_double, double lo)
{
    void *host = NULL, *p = NULL;
    if (b->st != MR_OK) return NULL;
    size_t width = is_double ? 8 : 4;
    b->st = mr_alloc(&host, n, width, "bench");
    for (int64_t i = 0; b->st == MR_OK && i < n; i++) {
        double x = lo + (1.0 - lo) * mr_u01((uint32_t)i * 2654435761u);
        if (is_double)
            ((double *)host)[i] = x;
        else
            ((float *)host)[i] = mr_bench_number(x);
    }
    p = device_memory(b, host, n * (int64_t)width);
    MR_FREE(host);
    return p;
}

void *mr_kb_reals(mr_kb *b, int64_t n) { return filled(b, n, b->dev->real == MR_F64, -1.0); }
double *mr_kb_doubles(mr_kb *b, int64_t n) { return filled(b, n, true, 0.01); }
float *mr_kb_floats(mr_kb *b, int64_t n) { return filled(b, n, false, -1.0); }

uint16_t *mr_kb_halves(mr_kb *b, int64_t n)
{
    uint16_t *host = NULL, *p;
    if (b->st != MR_OK) return NULL;
    b->st = MR_ALLOC(&host, n, "bench");
    for (int64_t i = 0; b->st == MR_OK && i < n; i++)
        host[i] = mr_float_to_bf16((float)(2.0 * mr_u01((uint32_t)i * 2654435761u) - 1.0));
    p = device_memory(b, host, n * 2);
    MR_FREE(host);
    return p;
}

int32_t *mr_kb_ints(mr_kb *b, int64_t n, int64_t step, int64_t mod)
{
    int32_t *host = NULL, *p;
    if (b->st != MR_OK) return NULL;
    b->st = MR_ALLOC(&host, n, "bench");
    for (int64_t i = 0; b->st == MR_OK && i < n; i++)
        host[i] = (int32_t)(i * step % (mod > 0 ? mod : 1));
    p = device_memory(b, host, n * 4);
    MR_FREE(host);
    return p;
}

void mr_kb_release(mr_kb *b)
{
    while (b->n_buf > b->n_kept) b->dev->free(b->dev, b->buf[--b->n_buf]);
}

/* ---- time ---- */

void mr_kb_begin(mr_kb *b, const char *name, const char *variant, const int64_t shape[4],
                 double flop, double bytes)
{
    int at = 0;
    b->name = name;
    b->variant = variant;
    b->flop = flop;
    b->bytes = bytes;
    b->round = -2; /* one call for warmth, one that tells how many fit in a round */
    b->calls = 0;
    for (int i = 0; i < 4 && shape[i] > 0; i++)
        at += snprintf(b->shape + at, sizeof b->shape - (size_t)at, "%s%lld", i ? " x " : "",
                       (long long)shape[i]);
}

static void report(mr_kb *b)
{
    char name[64];
    mr_bench_sort(b->times, ROUNDS);
    double s = b->times[ROUNDS / 2];
    snprintf(name, sizeof name, "%s%s%s", b->name, *b->variant ? " " : "", b->variant);
    json_array_append_new(b->rows,
                          json_pack("{s:s, s:s, s:s, s:f, s:f, s:f, s:f, s:f}", "kernel", b->name,
                                    "variant", b->variant, "shape", b->shape, "seconds", s,
                                    "seconds_min", b->times[0], "seconds_max", b->times[ROUNDS - 1],
                                    "gflops", 1e-9 * b->flop / s, "gb_per_s", 1e-9 * b->bytes / s));
    if (!b->is_printing) return;
    printf("%-26s %-24s %11.1f", name, b->shape, 1e6 * s);
    if (b->flop > 0)
        printf(" %9.1f", 1e-9 * b->flop / s);
    else
        printf(" %9s", "-");
    printf(" %8.1f\n", 1e-9 * b->bytes / s);
}

static bool open_round(mr_kb *b)
{
    b->done = 0;
    b->dev->enter(b->dev);
    b->started = mr_seconds();
    return true;
}

bool mr_kb_more(mr_kb *b)
{
    if (b->st != MR_OK || (b->filter && !strstr(b->name, b->filter))) return false;
    if (b->calls == 0) {
        b->calls = 1;
        return open_round(b);
    }
    if (++b->done < b->calls) return true;
    b->dev->leave(b->dev);
    b->st = b->dev->sync(b->dev);
    double s = (mr_seconds() - b->started) / b->calls;
    if (b->round >= 0) b->times[b->round] = s;
    if (b->round == -1) {
        double n = b->least_s / ROUNDS / (s > 1e-9 ? s : 1e-9);
        b->calls = n < 1 ? 1 : n > MOST_CALLS ? MOST_CALLS : (int)n;
    }
    if (b->st == MR_OK && ++b->round < ROUNDS) return open_round(b);
    if (b->st == MR_OK) report(b);
    return false;
}

/* ---- sizes ---- */

/* Histories of B training rows, spread evenly over all of them, one after another. */
static mr_status make_batch(mr_kb *b, const mr_dataset *data)
{
    mr_rows rows = {0};
    int32_t *start = NULL, *len = NULL, *pos = NULL;
    uint32_t *rid = NULL;
    mr_kb_sizes *z = &b->z;
    mr_status st;
    MR_TRY(mr_rows_make(&rows, data, MR_SPLIT_TRAIN));
    if (z->B > rows.n) z->B = rows.n;
    MR_TRY_GOTO(z->B > 0 ? MR_OK : MR_RAISE(MR_ERR_DATA, "the data set has no training rows"), st,
                done);
    MR_TRY_GOTO(MR_ALLOC(&start, z->B + 1, "bench"), st, done);
    MR_TRY_GOTO(MR_ALLOC(&len, z->B, "bench"), st, done);
    MR_TRY_GOTO(MR_ALLOC(&pos, z->B * z->L, "bench"), st, done);
    MR_TRY_GOTO(MR_ALLOC(&rid, z->B * z->L, "bench"), st, done);
    for (int64_t i = 0; i < z->B; i++) {
        int64_t r = i * rows.n / z->B, history = rows.target[r] - data->offset[rows.user[r]];
        len[i] = (int32_t)(history < z->L ? history : z->L);
        for (int32_t l = 0; l < len[i]; l++) {
            pos[start[i] + l] = l;
            rid[start[i] + l] = (uint32_t)r;
        }
        start[i + 1] = start[i] + len[i];
    }
    z->N = start[z->B];
    b->start = mr_kb_copy(b, start, (z->B + 1) * 4);
    b->len = mr_kb_copy(b, len, z->B * 4);
    b->tok_pos = mr_kb_copy(b, pos, z->N * 4);
    b->tok_rid = mr_kb_copy(b, rid, z->N * 4);
    for (int64_t i = 0; i < z->B; i++)
        for (int64_t n = start[i]; n < start[i + 1]; n++) pos[n] = (int32_t)i;
    b->tok_row = mr_kb_copy(b, pos, z->N * 4);
    for (int64_t i = 0; i < z->B; i++) rid[i] = (uint32_t)(i * rows.n / z->B);
    b->rid = mr_kb_copy(b, rid, z->B * 4);
    b->n_kept = b->n_buf;
    st = b->st;
done:
    MR_FREE(start);
    MR_FREE(len);
    MR_FREE(pos);
    MR_FREE(rid);
    mr_rows_free(&rows);
    return st;
}

static void take_sizes(mr_kb *b, const mr_config *c, const mr_trainer *t)
{
    const mr_dataset *d = t->data;
    int64_t P = t->world->size, V = d->n_items + 1;
    b->z = (mr_kb_sizes){.B = (c->train.batch + P - 1) / P,
                         .L = c->data.max_len,
                         .d = mr_round_up(c->model.hidden, mr_device_row_unit(t->dev)),
                         .inner = c->model.inner,
                         .heads = c->model.heads,
                         .D = d->frames.data ? d->frames.width : 0,
                         .K = d->frames.data ? d->frames.count : 0,
                         .dh = d->text.data ? d->text.width : 0,
                         .C = c->tcd.unet_width,
                         .E = c->tedrec.experts,
                         .V = (V + t->items->size - 1) / t->items->size,
                         .tcd_heads = c->tcd.heads,
                         .T = c->diffusion.steps,
                         .params = t->params.n_total,
                         .topk = c->train.topk.v[c->train.topk.n - 1]};
    b->z.tcd_inner = c->tcd.inner > 0 ? c->tcd.inner : 2 * b->z.D;
}

static mr_status make_exec(mr_kb *b, const mr_config *c)
{
    const mr_kb_sizes *z = &b->z;
    int64_t w = z->d > z->D ? z->d : z->D, wide = 4 * z->C > w ? 4 * z->C : w;
    int64_t real = (int64_t)mr_dtype_bytes(b->dev->real), need = MR_NORM_SCRATCH(wide);
    const mr_conv cv = {.n = z->B, .S = z->K, .So = z->K, .ci = 2 * z->C, .co = 2 * z->C};
    const int64_t other[] = {mr_gn_scratch(z->B, z->K, wide),
                             mr_conv_scratch(&cv, true, (size_t)real, (size_t)real) / real,
                             mr_fuse_scratch(z->B, z->L, z->d),
                             mr_score_scratch(wide, real) / real};
    for (int i = 0; i < 4; i++)
        if (other[i] > need) need = other[i];
    mr_step_state state = {.step = 1,
                           .rows = z->B,
                           .rows_global = z->B,
                           .lr = c->train.lr,
                           .bias1 = 0.1,
                           .bias2 = 0.001,
                           .grad_scale = 1};
    b->ex = (mr_exec){.seed = (uint64_t)c->run.seed,
                      .scratch_bytes = (size_t)(need * real),
                      .stream = b->dev->stream,
                      .precision = b->dev->precision};
    MR_TRY(b->dev->alloc(b->dev, &b->ex.scratch, b->ex.scratch_bytes, "scratch"));
    MR_TRY(b->dev->alloc(b->dev, (void **)&b->state, sizeof state, "step state"));
    b->ex.state = b->state;
    return b->dev->to_device(b->dev, b->state, &state, sizeof state);
}

/* ---- the command ---- */

static void head(const mr_kb *b)
{
    const mr_kb_sizes *z = &b->z;
    printf("device %s, %d thread(s); B %lld, tokens %lld, L %lld, d %lld, items %lld, K %lld, D "
           "%lld, text %lld\n",
           b->dev->name, omp_get_max_threads(), (long long)z->B, (long long)z->N, (long long)z->L,
           (long long)z->d, (long long)z->V, (long long)z->K, (long long)z->D, (long long)z->dh);
    printf("%-26s %-24s %11s %9s %8s\n", "kernel", "shape", "us", "GFLOP/s", "GB/s");
}

static mr_status finish(mr_kb *b, const mr_args *a)
{
    const mr_kb_sizes *z = &b->z;
    json_t *o = json_pack("{s:s, s:s, s:i, s:I, s:I, s:I, s:I, s:O}", "bench", "kernels", "device",
                          b->dev->name, "threads", omp_get_max_threads(), "rows", (json_int_t)z->B,
                          "tokens", (json_int_t)z->N, "hidden", (json_int_t)z->d, "items",
                          (json_int_t)z->V, "kernels", b->rows);
    if (json_array_size(b->rows) == 0) {
        json_decref(o);
        return b->filter ? MR_RAISE(MR_ERR_USAGE,
                                    "--filter %s: no kernel of this model and data set has that in "
                                    "its name",
                                    b->filter)
                         : MR_OK;
    }
    mr_status st = b->is_printing ? mr_bench_json(a, o) : MR_OK;
    json_decref(o);
    return st;
}

static mr_status all_cases(mr_kb *b, const mr_args *a, const mr_session *s)
{
    mr_trainer *t = NULL;
    mr_trainer_opts o = {.stochastic = true, .optimizer = true, .is_dry = true};
    MR_TRY(mr_trainer_create(&t, &a->config, &s->data, s->world, &o));
    take_sizes(b, &a->config, t);
    mr_status st;
    b->dev = t->dev; /* the rank's own, with the configured precision */
    MR_TRY_GOTO(mr_kernels_for(&b->k, b->dev->name, b->dev->act), st, done);
    void (*const cases[])(mr_kb *) = {mr_kb_encoder, mr_kb_losses, mr_kb_content};
    MR_TRY_GOTO(make_batch(b, &s->data), st, done);
    MR_TRY_GOTO(make_exec(b, &a->config), st, done);
    if (b->is_printing) head(b);
    for (int i = 0; i < 3 && b->st == MR_OK; i++) {
        b->element = mr_dtype_bytes(cases[i] == mr_kb_losses ? b->dev->real : b->dev->act);
        cases[i](b);
    }
    st = b->st == MR_OK ? finish(b, a) : b->st;
done:
    b->n_kept = 0;
    if (b->dev) {
        mr_kb_release(b);
        b->dev->free(b->dev, b->ex.scratch);
        b->dev->free(b->dev, b->state);
    }
    mr_trainer_free(&t);
    return st;
}

/* Features that the configured model does not read are not in memory: kernels that need them are
 * left out. */
static mr_status run(const mr_args *a)
{
    mr_session s;
    static mr_kb b;
    b = (mr_kb){.filter = mr_args_value(a, "filter"), .rows = json_array()};
    int64_t ms;
    MR_TRY(mr_args_int(a, "ms", 1, 100000, 100, &ms));
    b.least_s = 1e-3 * (double)ms;
    MR_TRY(mr_session_open(&s, &a->config));
    b.is_printing = s.world->rank == 0;
    mr_status st = mr_comm_agree(s.world, all_cases(&b, a, &s));
    json_decref(b.rows);
    mr_session_close(&s);
    return st;
}

const mr_bench mr_bench_kernels = {.name = "kernels", .options = "filter ms json", .run = run};
