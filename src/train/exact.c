/* The step whose bits do not depend on the ranks.
 * Why it works: rows of a virtual shard are the same for every number of ranks, and so is
 * everything that is computed from them and a whole table by kernels that see nothing else. Only
 * sums over shards are left. A gradient element x enters them as two integers, floor(x 2^16) and
 * the rest in units of 2^-62; sums of integers are exact, so shards and ranks may be added in any
 * order. Invariants: |x| < 2^30, else it counts as not finite; smaller than 2^-62 is 0; at most
 * 2^16 shards.
 */
#include "train/exact.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "train/contrast.h"

#define UNIT 65536.0               /* 2^16: the high part counts in 2^-16 */
#define REST_BITS 46               /* the low part in 2^-62 */
#define REST ((double)(1LL << 46)) /* 2^46 */
#define LARGEST 1073741824.0       /* 2^30 */

struct mr_exact {
    mr_params whole; /* values and gradients of everything, no moments */
    mr_comm *self;
    mr_contrast *contrast; /* NULL without a contrastive loss */
    int64_t n;             /* elements of a flat buffer of `whole` */
    int64_t *sum;          /* [2 n + 1] high parts, low parts, elements out of range */
};

int64_t mr_exact_elements(const mr_exact *e) { return e->n; }

static mr_status build(mr_trainer *t, mr_exact *e, bool stochastic)
{
    size_t real = mr_dtype_bytes(t->dev->real);
    mr_graph_dims dims = t->train_graph->dims;
    dims.n_ranks = 1;
    mr_graph_free(&t->train_graph); /* it declared t->params */
    MR_TRY(mr_graph_create(&t->train_graph, &dims, &e->whole, real, stochastic));
    MR_TRY(mr_model_build(t->train_graph, t->cfg, &t->sched, MR_PHASE_TRAIN));
    MR_TRY(mr_params_alloc(&e->whole, t->dev, 0, 1, false));
    e->n = e->whole.n_total;
    MR_TRY(t->dev->alloc(t->dev, &e->whole.grad, (size_t)e->n * real, "whole gradient"));
    MR_TRY(t->dev->fill(t->dev, e->whole.grad, 0, (size_t)e->n * real));
    MR_TRY(MR_ALLOC(&e->sum, 2 * e->n + 1, "exact sums"));
    MR_TRY(mr_plan_compile(&t->train_plan, t->train_graph, true, false, 0));
    MR_TRY(mr_comm_self(&e->self));
    MR_TRY(mr_trainer_run(t, &t->train_run, t->train_plan));
    t->train_run->params = &e->whole;
    t->train_run->items = t->train_run->world = e->self;
    t->train_run->group0 = 0;
    return mr_contrast_create(&e->contrast, t->train_graph, t->dev, e->self, t->cfg->train.batch);
}

mr_status mr_exact_create(mr_trainer *t, bool stochastic)
{
    /* The guard device's memory is the host's between enter and leave. */
    bool is_guard = !strcmp(t->dev->name, "guard");
    MR_CHECK(t->dev->host_memory || is_guard, MR_ERR_CONFIG,
             "dist.deterministic=world works in host memory only; run.device is %s", t->dev->name);
    MR_TRY(MR_ALLOC(&t->exact, 1, "exact step"));
    return build(t, t->exact, stochastic);
}

void mr_exact_free(mr_exact **e_p)
{
    mr_exact *e = *e_p;
    if (!e) return;
    mr_contrast_free(&e->contrast);
    mr_params_free(&e->whole);
    mr_comm_destroy(&e->self);
    MR_FREE(e->sum);
    MR_FREE(*e_p);
}

static char *at(void *flat, int64_t element, size_t real)
{
    return (char *)flat + element * (int64_t)real;
}

/* The values of this step: dense ones are here, table rows come from their owners. */
static mr_status collect_values(mr_trainer *t, mr_exact *e)
{
    const mr_param *own = &t->params.p[t->table], *all = &e->whole.p[t->table];
    size_t real = t->params.real_bytes;
    int64_t *counts = NULL, width = own->dim[1];
    mr_status st = MR_OK;
    MR_TRY(MR_ALLOC(&counts, t->items->size, "rows of ranks"));
    for (int r = 0; r < t->items->size; r++) {
        int64_t lo, hi;
        mr_shard_rows(own->dim[0], r, t->items->size, &lo, &hi);
        counts[r] = (hi - lo) * width;
    }
    t->dev->enter(t->dev);
    memcpy(e->whole.value, t->params.value, (size_t)t->params.n_dense * real);
    t->items->purpose = MR_FOR_WHOLE_TABLE;
    st = t->items->allgatherv(t->items, at(t->params.value, own->offset, real),
                              at(e->whole.value, all->offset, real), counts, t->dev->real);
    t->dev->leave(t->dev);
    MR_FREE(counts);
    return st;
}

/* Add the gradients and losses of one shard. */
static void add_shard(mr_trainer *t, mr_exact *e)
{
    const float *g32 = e->whole.grad;
    const double *g64 = e->whole.grad;
    bool is_double = e->whole.real_bytes == 8;
    int64_t *high = e->sum, *low = e->sum + e->n, *bad = &e->sum[2 * e->n];
    t->dev->enter(t->dev);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < e->n; i++) {
        double x = is_double ? g64[i] : (double)g32[i];
        if (!(fabs(x) < LARGEST)) {
#pragma omp atomic /* integer */
            (*bad)++;
            continue;
        }
        double units = floor(x * UNIT);
        high[i] += (int64_t)units;
        low[i] += llrint((x * UNIT - units) * REST);
    }
    t->dev->leave(t->dev);
}

/* The sums as gradients, whole here and this rank's part in t->params. */
static void write_back(mr_trainer *t, mr_exact *e)
{
    float *g32 = e->whole.grad;
    double *g64 = e->whole.grad;
    const mr_param *own = &t->params.p[t->table], *all = &e->whole.p[t->table];
    size_t real = e->whole.real_bytes;
    const int64_t *high = e->sum, *low = e->sum + e->n, mask = (1LL << REST_BITS) - 1;
    t->dev->enter(t->dev);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < e->n; i++) {
        int64_t units = high[i] + (low[i] >> REST_BITS);
        double x = ((double)units + (double)(low[i] & mask) / REST) / UNIT;
        if (real == 8)
            g64[i] = x;
        else
            g32[i] = (float)x;
    }
    if (e->sum[2 * e->n] > 0) { /* seen by everybody, so that the step is skipped */
        if (real == 8)
            g64[0] = NAN;
        else
            g32[0] = NAN;
    }
    int64_t first = all->offset + own->row_lo * own->dim[1];
    memcpy(t->params.grad, e->whole.grad, (size_t)(t->params.n_dense + MR_LOSS_SLOTS) * real);
    memcpy(at(t->params.grad, own->offset, real), at(e->whole.grad, first, real),
           (size_t)own->count * real);
    t->dev->leave(t->dev);
}

/* Shard k of this rank becomes the batch; false when it has no rows. */
static mr_status load(mr_trainer *t, int64_t epoch, int64_t i, int k, bool *has_rows)
{
    mr_sampler_get_shard(t->sampler, epoch, i, (uint32_t)t->step, k, &t->batch);
    *has_rows = t->batch.rows > 0;
    return mr_trainer_set_batch(t, t->train_run, &t->feed, &t->batch);
}

/* The contrastive loss looks at all rows at once: their views first. */
static mr_status contrast_views(mr_trainer *t, mr_exact *e, int64_t epoch, int64_t i)
{
    int64_t row = 0;
    bool has_rows;
    for (int k = 0; k < mr_sampler_shards(t->sampler); k++, row += t->batch.rows) {
        MR_TRY(load(t, epoch, i, k, &has_rows));
        if (!has_rows) continue;
        MR_TRY(mr_run_forward(t->train_run));
        MR_TRY(mr_contrast_take(e->contrast, t->train_run, row));
    }
    return mr_contrast_solve(e->contrast, t->world, t->batch.rank_rows);
}

mr_status mr_exact_gradients(mr_trainer *t, int64_t epoch, int64_t i)
{
    mr_exact *e = t->exact;
    int64_t row = 0;
    bool has_rows;
    MR_TRY(collect_values(t, e));
    if (t->fetch) { /* the shards' rows are parts of these */
        mr_sampler_get(t->sampler, epoch, i, (uint32_t)t->step, &t->batch);
        MR_TRY(mr_fetch_rows(t->fetch, &t->batch));
    }
    memset(e->sum, 0, (size_t)(2 * e->n + 1) * sizeof *e->sum);
    if (e->contrast) MR_TRY(contrast_views(t, e, epoch, i));
    for (int k = 0; k < mr_sampler_shards(t->sampler); k++, row += t->batch.rows) {
        MR_TRY(load(t, epoch, i, k, &has_rows));
        if (!has_rows) continue;
        if (e->contrast) mr_contrast_give(e->contrast, t->train_run, row);
        MR_TRY(mr_run_forward(t->train_run));
        MR_TRY(mr_run_backward(t->train_run, NULL, NULL));
        add_shard(t, e);
    }
    t->world->purpose = MR_FOR_EXACT_SUMS;
    MR_TRY(t->world->allreduce(t->world, e->sum, 2 * e->n + 1, MR_I64, MR_SUM));
    write_back(t, e);
    MR_TRY(mr_run_losses(t->train_run, t->losses));
    if (e->contrast) {
        int index;
        double loss = mr_contrast_loss(e->contrast, &index);
        t->losses[index] = loss;
    }
    return MR_OK;
}

mr_status mr_exact_stats(mr_trainer *t, double *sum, double *bad)
{
    mr_run *r = t->train_run;
    mr_params *w = &t->exact->whole;
    mr_step_report *own = t->report;
    mr_ranges ranges = mr_trainer_ranges(w);
    t->dev->enter(t->dev);
    mr_k(r)->grad_stats(t->report_dev->dense, w->grad, &ranges, &r->ex);
    t->dev->leave(t->dev);
    MR_TRY(t->dev->to_host(t->dev, own, t->report_dev, sizeof *own));
    *sum = own->dense[0] + own->shard[0];
    *bad = own->dense[1] + own->shard[1];
    return MR_OK;
}
