/* Evaluation: blocks of users through the evaluation plan, then exact ranking over the sharded
 * table. Invariant: all ranks run the same number of blocks, with or without rows of their own. */
#include "train/evaluate.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "dist/watchdog.h"
#include "train/rank.h"

/* The rows of a block on this rank, in the order in which they are computed. */
typedef struct block_rows {
    int64_t n;
    int32_t *user, *target; /* the batch's own, or [rows_cap] */
} block_rows;

typedef struct evaluation {
    mr_trainer *t;
    const mr_evaluation *what;
    mr_sampler *sampler; /* the trainer's */
    mr_batch batch;
    bool is_ahead; /* the next block is prepared while the device works on one */
    mr_ahead ahead;
    mr_ranker *ranker;
    bool by_shard;       /* dist.deterministic=world: users of one virtual shard at a time */
    block_rows all;      /* users of a block */
    char *x;             /* by_shard: [rows_cap, d] their vectors in host memory */
    void *x_dev;         /* the same on the device */
    int64_t *counts;     /* [size] rows of each rank of the item group in a block */
    int32_t *rank;       /* [rows_cap] */
    int64_t *skip_start; /* [rows_cap + 1] */
    int32_t *skip_id;    /* seen items of a block, grown as needed */
    int64_t skip_cap;
    int32_t *top_id; /* [rows_cap, k] */
    double *top_score;
    mr_metrics *metrics;
} evaluation;

static mr_status make_sampler(evaluation *e)
{
    const mr_trainer *t = e->t;
    const mr_config *c = t->cfg;
    mr_sampler_spec spec = {.data = t->data,
                            .split = e->what->split,
                            .batch = c->train.eval_batch,
                            .max_len = c->data.max_len,
                            .virtual_shards = (int)c->dist.virtual_shards,
                            .rank = t->world->rank,
                            .n_ranks = t->world->size,
                            .seed = (uint64_t)c->run.seed};
    mr_sampler **kept = &e->t->eval_sampler[spec.split];
    if (!*kept) MR_TRY(mr_sampler_make(kept, &spec));
    e->sampler = *kept;
    return mr_batch_alloc(&e->batch, mr_trainer_rows_cap(t, e->sampler), c->data.max_len, 1,
                          t->world->size);
}

mr_rank_spec mr_evaluation_ranking(const mr_trainer *t, int64_t top_k)
{
    const mr_param *p = &t->params.p[t->table];
    return (mr_rank_spec){.dev = t->dev,
                          .comm = t->dev_items,
                          .row_lo = p->row_lo,
                          .row_hi = p->row_hi,
                          .n_items = t->data->n_items,
                          .d = p->dim[1],
                          .is_cosine = mr_model_is_cosine(t->cfg),
                          .rows_cap = t->cfg->train.eval_batch,
                          .top_k = top_k};
}

static mr_status make_ranker(evaluation *e)
{
    mr_trainer *t = e->t;
    const mr_param *p = &t->params.p[t->table];
    int64_t cap = e->batch.rows_cap;
    mr_rank_spec spec = mr_evaluation_ranking(t, e->what->topk ? e->what->topk->k : 0);
    spec.k = t->eval_run->k;
    spec.table = (char *)t->params.value + p->offset * (int64_t)t->params.real_bytes;
    MR_TRY(mr_ranker_create(&e->ranker, &spec));
    mr_ranker_refresh(e->ranker);
    MR_TRY(MR_ALLOC(&e->counts, t->items->size, "rows of ranks"));
    MR_TRY(MR_ALLOC(&e->rank, cap, "ranks"));
    MR_TRY(MR_ALLOC(&e->skip_start, cap + 1, "seen items"));
    int64_t k = spec.top_k;
    if (!k) return MR_OK;
    MR_TRY(MR_ALLOC(&e->top_id, cap * k, "top items"));
    return MR_ALLOC(&e->top_score, cap * k, "top scores");
}

static int ascending(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

/* Items of each user's history (what lies before the target), ascending, without repeats. */
static mr_status list_seen(evaluation *e)
{
    const mr_dataset *d = e->t->data;
    mr_split split = e->what->split; /* NEXT has no target: the whole history was seen */
    int64_t cut = split == MR_SPLIT_NEXT ? 0 : split == MR_SPLIT_TEST ? 1 : 2, n = 0;
    for (int64_t i = 0; i < e->all.n; i++) {
        int32_t u = e->all.user[i];
        int64_t len = d->offset[u + 1] - d->offset[u] - cut;
        if (n + len > e->skip_cap) {
            int32_t *more = NULL;
            MR_TRY(MR_ALLOC(&more, 2 * (n + len), "seen items"));
            if (n) memcpy(more, e->skip_id, (size_t)n * sizeof *more);
            MR_FREE(e->skip_id);
            e->skip_id = more;
            e->skip_cap = 2 * (n + len);
        }
        int32_t *mine = e->skip_id + n;
        memcpy(mine, d->items + d->offset[u], (size_t)len * sizeof *mine);
        qsort(mine, (size_t)len, sizeof *mine, ascending);
        e->skip_start[i] = n;
        for (int64_t k = 0; k < len; k++)
            if (k == 0 || mine[k] != mine[k - 1]) e->skip_id[n++] = mine[k];
        e->skip_start[i + 1] = n;
    }
    if (e->all.n == 0) e->skip_start[0] = 0;
    return MR_OK;
}

static mr_status run_forward(mr_trainer *t) { return mr_run_forward(t->eval_run); }

/* User vectors of the rows of the batch that was set, on the device. */
static mr_status forward(evaluation *e, const void **x_p)
{
    mr_trainer *t = e->t;
    MR_TRY(mr_trainer_recorded(t, MR_RECORD_BLOCK, run_forward));
    *x_p = mr_val(t->eval_run, mr_graph_find_output(t->eval_graph, "user"));
    return MR_OK;
}

/* The block shard by shard: the same calls of kernels whatever the number of ranks. */
static mr_status forward_shards(evaluation *e, int64_t i, const void **x_p)
{
    mr_trainer *t = e->t;
    size_t row = (size_t)t->params.p[t->table].dim[1] * mr_dtype_bytes(t->dev->act);
    const void *x;
    e->all.n = 0;
    for (int k = 0; k < mr_sampler_shards_most(e->sampler); k++) {
        mr_sampler_get_shard(e->sampler, 0, i, 0, k, &e->batch);
        MR_TRY(mr_trainer_set_batch(t, t->eval_run, &t->eval_feed, &e->batch));
        MR_TRY(forward(e, &x));
        if (e->batch.rows == 0) continue;
        size_t bytes = (size_t)e->batch.rows * sizeof(int32_t);
        MR_TRY(
            t->dev->to_host(t->dev, e->x + (size_t)e->all.n * row, x, (size_t)e->batch.rows * row));
        memcpy(e->all.user + e->all.n, e->batch.user, bytes);
        memcpy(e->all.target + e->all.n, e->batch.target, bytes);
        e->all.n += e->batch.rows;
    }
    *x_p = e->x_dev;
    return t->dev->to_device(t->dev, e->x_dev, e->x, (size_t)e->all.n * row);
}

static mr_status forward_block(evaluation *e, int64_t i, const void **x_p)
{
    mr_trainer *t = e->t;
    if (e->by_shard) return forward_shards(e, i, x_p);
    MR_TRY(mr_ahead_load(&e->ahead, t, t->eval_run, e->sampler, 0, i, 0, &e->batch, &t->eval_feed));
    e->all = (block_rows){e->batch.rows, e->batch.user, e->batch.target};
    MR_TRY(forward(e, x_p));
    if (!e->is_ahead || i + 1 == mr_sampler_batches(e->sampler)) return MR_OK;
    return mr_ahead_prepare(&e->ahead, t, t->eval_run, e->sampler, 0, i + 1, 0);
}

static mr_status one_block(evaluation *e, int64_t i)
{
    mr_trainer *t = e->t;
    const void *x;
    MR_TRY(forward_block(e, i, &x));
    for (int r = 0; r < t->items->size; r++) e->counts[r] = e->batch.rank_rows[t->group0 + r];
    if (e->what->exclude_seen) MR_TRY(list_seen(e));
    mr_rank_block b = {.x = x,
                       .counts = e->counts,
                       .target = e->all.target,
                       .skip_start = e->what->exclude_seen ? e->skip_start : NULL,
                       .skip_id = e->skip_id,
                       .rank = e->rank,
                       .top_id = e->top_id,
                       .top_score = e->top_score};
    MR_TRY(mr_ranker_run(e->ranker, &b));
    mr_metrics_add(e->metrics, e->rank, e->all.n);
    for (int64_t k = 0; k < e->all.n; k++) {
        int32_t u = e->all.user[k];
        if (e->what->user_rank) e->what->user_rank[u] = e->rank[k];
        if (!e->what->topk) continue;
        int64_t n = e->what->topk->k;
        memcpy(e->what->topk->id + u * n, e->top_id + k * n, (size_t)n * sizeof *e->top_id);
        memcpy(e->what->topk->score + u * n, e->top_score + k * n, (size_t)n * sizeof(double));
    }
    return MR_OK;
}

/* Each user belongs to one rank; the others hold zeros. */
static mr_status share(evaluation *e)
{
    mr_comm *w = e->t->world;
    int64_t n = e->t->data->n_users;
    if (w->size == 1) return MR_OK;
    if (e->what->user_rank) MR_TRY(w->allreduce(w, e->what->user_rank, n, MR_I32, MR_SUM));
    if (!e->what->topk) return MR_OK;
    n *= e->what->topk->k;
    MR_TRY(w->allreduce(w, e->what->topk->id, n, MR_I32, MR_SUM));
    return w->allreduce(w, e->what->topk->score, n, MR_F64, MR_SUM);
}

static void clear_outputs(evaluation *e)
{
    int64_t n = e->t->data->n_users;
    if (e->what->user_rank) memset(e->what->user_rank, 0, (size_t)n * sizeof(int32_t));
    if (!e->what->topk) return;
    n *= e->what->topk->k;
    memset(e->what->topk->id, 0, (size_t)n * sizeof(int32_t));
    memset(e->what->topk->score, 0, (size_t)n * sizeof(double));
}

static mr_status make_ahead(evaluation *e)
{
    mr_trainer *t = e->t;
    e->is_ahead = !t->dev->host_memory && !e->by_shard && mr_ahead_is_wanted(t);
    return e->is_ahead ? mr_ahead_make(&e->ahead, t, &e->batch, t->eval_exchange_rows) : MR_OK;
}

static mr_status make_shards(evaluation *e)
{
    mr_trainer *t = e->t;
    int64_t cap = e->batch.rows_cap, d = t->params.p[t->table].dim[1];
    size_t bytes = (size_t)(cap * d) * mr_dtype_bytes(t->dev->act);
    e->by_shard = t->cfg->dist.deterministic == MR_DET_WORLD;
    if (!e->by_shard) return MR_OK;
    MR_TRY(MR_ALLOC(&e->all.user, cap, "users of a block"));
    MR_TRY(MR_ALLOC(&e->all.target, cap, "users of a block"));
    MR_TRY(mr_alloc((void **)&e->x, (int64_t)bytes, 1, "user vectors"));
    return t->dev->alloc(t->dev, &e->x_dev, bytes, "user vectors");
}

static void release(evaluation *e)
{
    if (e->by_shard) {
        MR_FREE(e->all.user);
        MR_FREE(e->all.target);
        MR_FREE(e->x);
        e->t->dev->free(e->t->dev, e->x_dev);
    }
    mr_ranker_free(&e->ranker);
    mr_ahead_free(&e->ahead);
    mr_batch_free(&e->batch);
    MR_FREE(e->counts);
    MR_FREE(e->rank);
    MR_FREE(e->skip_start);
    MR_FREE(e->skip_id);
    MR_FREE(e->top_id);
    MR_FREE(e->top_score);
}

mr_status mr_evaluate(mr_trainer *t, const mr_evaluation *what, mr_metrics *out)
{
    evaluation e = {.t = t, .what = what, .metrics = out};
    mr_status st;
    int k[MR_METRIC_CUTOFFS], n = t->cfg->train.topk.n;
    MR_CHECK(n <= MR_METRIC_CUTOFFS, MR_ERR_CONFIG, "train.topk: at most %d cutoffs",
             MR_METRIC_CUTOFFS);
    for (int i = 0; i < n; i++) k[i] = (int)t->cfg->train.topk.v[i];
    mr_watch_phase(MR_AT_EVAL);
    MR_TRY(mr_metrics_begin(out, k, n));
    clear_outputs(&e);
    MR_TRY_GOTO(make_sampler(&e), st, done);
    MR_TRY_GOTO(mr_trainer_eval_exchange(t, e.batch.rows_cap, e.sampler, &e.batch), st, done);
    MR_TRY_GOTO(mr_trainer_eval_ready(t, e.batch.rows_cap), st, done);
    MR_TRY_GOTO(make_ranker(&e), st, done);
    MR_TRY_GOTO(make_shards(&e), st, done);
    MR_TRY_GOTO(make_ahead(&e), st, done);
    for (int64_t i = 0; i < mr_sampler_batches(e.sampler); i++) {
        mr_ring_at("block of users");
        MR_TRY_GOTO(one_block(&e, i), st, done);
        mr_watch_beat(t->step);
    }
    mr_ring_at("metrics");
    MR_TRY_GOTO(mr_metrics_reduce(out, t->world), st, done);
    if (what->user_rank || what->topk) /* long sums, and then files, without a sign of life */
        mr_watch_phase(MR_AT_WORK);
    MR_TRY_GOTO(share(&e), st, done);
done:
    release(&e);
    return st;
}
