/* Device memory of a training, part by part.
 * Why: an allocation that fails after the first epoch, when the evaluation begins, costs an epoch.
 * Invariant: nothing is allocated on the device here. */
#include "train/need.h"

#include "train/evaluate.h"
#include "train/fetch.h"

int64_t mr_need_total(const mr_need *n)
{
    return n->params + n->features + n->step + n->eval + n->batch;
}

/* What helps most: it depends on the largest part. */
static const char *advice(const mr_need *n)
{
    if (n->step >= n->eval && n->step >= n->params && n->step >= n->features)
        return "lower train.batch, or use more ranks";
    if (n->eval >= n->params && n->eval >= n->features) return "lower train.eval_batch";
    if (n->params >= n->features) return "share the item table among more ranks (dist.item_shard)";
    if (n->may_spread) return "spread the features over the ranks (data.features=shard)";
    return "store the features as float16, or use a model that reads fewer of them";
}

mr_status mr_need_check(const mr_need *n, const char *device, int64_t free_bytes, int64_t total)
{
    const double gib = 1073741824.0;
    MR_CHECK(mr_need_total(n) <= free_bytes, MR_ERR_MEMORY,
             "%s: training needs %.3f GiB on %s and %.3f of %.3f GiB are free: parameters and "
             "moments %.3f, features %.3f, a step of %lld rows %.3f, evaluation of %lld rows %.3f, "
             "lists of a batch %.3f; %s",
             mr_device_owner(), (double)mr_need_total(n) / gib, device, (double)free_bytes / gib,
             (double)total / gib, (double)n->params / gib, (double)n->features / gib,
             (long long)n->rows, (double)n->step / gib, (long long)n->eval_rows,
             (double)n->eval / gib, (double)n->batch / gib, advice(n));
    return MR_OK;
}

/* All items' features, or what a batch of `rows` rows reads of them. */
static int64_t feature_bytes(const mr_trainer *t, int64_t rows)
{
    int64_t sum = 0;
    for (int i = 0; i < MR_FEATURE_COUNT; i++) {
        mr_item_set set;
        int64_t n = t->data->n_items;
        if (!mr_fetch_reads(t->cfg, t->data, i, &set)) continue;
        int64_t wanted = rows * (set == MR_ITEMS_LAST ? 1 : t->batch.L);
        if (t->data->is_sharded && wanted < n) n = wanted;
        sum += n * mr_fetch_row_bytes(t->data, i);
    }
    return sum;
}

/* Workspace of the evaluation plan for `rows` rows. */
static mr_status eval_bytes(mr_trainer *t, int64_t rows, int64_t *out)
{
    mr_graph *g = NULL;
    mr_plan *p = NULL;
    mr_status st;
    mr_graph_dims dims = t->train_graph->dims;
    dims.rows_cap = rows;
    dims.tokens_cap = 0;
    dims.rows_global_cap = t->cfg->train.eval_batch;
    dims.n_ranks = t->items->size;
    MR_TRY(mr_graph_create(&g, &dims, &t->params, mr_dtype_bytes(t->dev->real), false));
    MR_TRY_GOTO(mr_model_build(g, t->cfg, &t->sched, MR_PHASE_EVAL), st, done);
    MR_TRY_GOTO(mr_plan_compile(&p, g, false, false, 0), st, done);
    *out = p->ws_bytes;
done:
    mr_plan_free(&p);
    mr_graph_free(&g);
    return st;
}

mr_status mr_need_of(mr_need *out, mr_trainer *t, bool with_optimizer)
{
    const mr_config *c = t->cfg;
    const mr_dataset *d = t->data;
    int64_t P = t->world->size, real = (int64_t)mr_dtype_bytes(t->dev->real);
    mr_need n = {.rows = t->batch.rows_cap, .eval_rows = (c->train.eval_batch + P - 1) / P};
    if (n.eval_rows > d->n_users) n.eval_rows = d->n_users;
    n.may_spread = P > 1 && !d->is_sharded;
    n.params = t->params.n_total * real * (with_optimizer ? 4 : 1);
    if (t->dev->act == MR_BF16) n.params += t->params.n_dense * 2;
    n.features = feature_bytes(t, n.rows);
    if (d->is_sharded) n.features += feature_bytes(t, n.eval_rows);
    /* eight lists of tokens and four of exchanges a sequence set, ten of rows; 4 bytes each */
    n.batch = 4 * n.rows * (12 * t->batch.L * t->batch.n_seq + 10);
    if (t->train_plan) n.step = t->train_plan->ws_bytes;
    MR_TRY(eval_bytes(t, n.eval_rows, &n.eval));
    mr_rank_spec ranking = mr_evaluation_ranking(t, 0);
    if (n.eval <= n.step) n.eval = 0; /* it works in the step's workspace */
    n.eval += mr_ranker_bytes(&ranking);
    *out = n;
    return MR_OK;
}

mr_status mr_need_fits(mr_trainer *t, bool with_optimizer)
{
    mr_need n;
    int64_t left = 0, total = 0;
    if (!t->dev->memory) return MR_OK;
    MR_TRY(mr_need_of(&n, t, with_optimizer));
    mr_status st = t->dev->memory(t->dev, &left, &total);
    if (st == MR_OK) st = mr_need_check(&n, t->dev->id[0] ? t->dev->id : t->dev->name, left, total);
    return mr_comm_agree(t->world, st);
}
