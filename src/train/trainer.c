/* Making a trainer: communicators of the item table, device, features, graphs, parameters, plans.
 */
#include "train/trainer.h"

#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "train/exact.h"
#include "train/need.h"
#include "train/own_device.h"
#include "train/room.h"

const char *mr_trainer_device(const mr_config *cfg)
{
    return strcmp(cfg->run.device, "auto") ? cfg->run.device : "cpu";
}

/* Bytes of memory for each rank of the fullest node; the same in every run on the same machine. */
static mr_status memory_of_rank(mr_comm *world, double *out)
{
    mr_comm *host = NULL;
    MR_TRY(world->split_host(world, &host));
    double mine = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE) / host->size;
    mr_comm_destroy(&host);
    MR_TRY(world->allreduce(world, &mine, 1, MR_F64, MR_MIN));
    *out = mine;
    return MR_OK;
}

/* What the placement needs to know of a step before its graph exists. */
static void table_shape(const mr_trainer *t, mr_step_shape *out)
{
    *out = (mr_step_shape){.ranks = t->world->size,
                           .group = 1,
                           .real_bytes = (int64_t)mr_dtype_bytes(t->dev->real),
                           .whole_products = t->dev->whole_products,
                           .precision = t->dev->precision,
                           .table_rows = mr_model_table_rows(t->cfg, t->data->n_items),
                           .width = mr_round_up(t->cfg->model.hidden, mr_device_row_unit(t->dev)),
                           .n_seq = t->batch.n_seq,
                           .n_item_loss = 1};
    for (int q = 0; q < out->n_seq; q++) out->lookups[q] = out->lookups_bwd[q] = 1;
}

/* Rank 0 looks at its rows of the first batch and decides for all. */
static mr_status decide(mr_trainer *t, double memory)
{
    mr_wanted w = {0};
    mr_step_shape shape;
    table_shape(t, &shape);
    mr_sampler_get(t->sampler, 0, 0, 0, &t->batch);
    MR_TRY(mr_wanted_of(&w, &t->batch, shape.table_rows, t->data->n_items));
    mr_status st = mr_placement_choose(&t->placement, &shape, &t->placement.layout,
                                       t->batch.rank_rows, w.n, memory, t->cfg->dist.item_shard);
    mr_wanted_free(&w);
    return st;
}

/* The table has a row for PAD as well, but a rank of which no item is would only be in the way. */
static mr_status check_ranks(const mr_trainer *t)
{
    int64_t I = t->data->n_items;
    MR_CHECK(t->world->size <= I, MR_ERR_CONFIG,
             "%d ranks but only %lld items in %s, so ranks %lld to %d would have no item; start at "
             "most %lld ranks",
             t->world->size, (long long)I, t->data->name, (long long)I, t->world->size - 1,
             (long long)I);
    return MR_OK;
}

/* Which ranks share the item table: groups of G consecutive ranks. */
static mr_status make_groups(mr_trainer *t)
{
    int P = t->world->size, rank = t->world->rank;
    double memory = 0;
    MR_TRY(mr_layout_of(&t->placement.layout, t->world));
    MR_TRY(memory_of_rank(t->world, &memory));
    MR_TRY(mr_comm_agree(t->world, rank == 0 ? decide(t, memory) : MR_OK));
    MR_TRY(t->world->bcast(t->world, &t->placement, sizeof t->placement, MR_U8, 0));
    int G = t->placement.of[t->placement.chosen].group;
    t->group0 = rank / G * G;
    if (P == 1) {
        t->items = t->world;
        return MR_OK;
    }
    /* A communicator of its own even when it is everybody: small exchanges of rows do not queue
     * behind the sums of dense gradients. */
    MR_TRY(t->world->split(t->world, rank / G, &t->items));
    return G == P ? MR_OK : t->world->split(t->world, rank % G, &t->replicas);
}

/* Dense sums and the item table's collectives get communicators of their own, so that they can be
 * under way at the same time. */
static mr_status make_device_comms(mr_trainer *t)
{
    MR_TRY(mr_own_device_comm(&t->dev_world, t->cfg, t->world, t->dev, false));
    MR_TRY(mr_own_device_comm(&t->dev_items, t->cfg, t->items, t->dev, true));
    return mr_own_device_comm(&t->dev_replicas, t->cfg, t->replicas, t->dev, false);
}

static void free_device_comms(mr_trainer *t)
{
    if (t->dev_items != t->items) mr_comm_destroy(&t->dev_items);
    if (t->dev_replicas != t->replicas) mr_comm_destroy(&t->dev_replicas);
    if (t->dev_world != t->world) mr_comm_destroy(&t->dev_world);
}

static mr_status feature_to_device(mr_trainer *t, mr_feature *out, const mr_feature *f)
{
    *out = *f;
    if (!f->data || t->dev->host_memory) return MR_OK;
    size_t bytes = (size_t)(t->data->n_items * f->count * f->width) * mr_dtype_bytes(f->dtype);
    out->data = NULL;
    MR_TRY(t->dev->alloc(t->dev, &out->data, bytes, "features"));
    return t->dev->to_device(t->dev, out->data, f->data, bytes);
}

static mr_status make_features(mr_trainer *t)
{
    const mr_config *c = t->cfg;
    if (t->data->is_sharded)
        return mr_fetch_create(&t->fetch, c, t->data, t->world, t->dev, t->batch.rows_cap,
                               c->data.max_len);
    t->owns_features = !t->dev->host_memory;
    if (mr_model_uses_text(c)) MR_TRY(feature_to_device(t, &t->feat.text, &t->data->text));
    if (!mr_model_is_mealrec(c)) return MR_OK;
    MR_TRY(feature_to_device(t, &t->feat.visual, &t->data->visual));
    return feature_to_device(t, &t->feat.frames, &t->data->frames);
}

/* Where all ranks compute with as many rows, those of all of them are more than a batch has. */
static mr_graph_dims dims_for(const mr_trainer *t, int64_t rows_cap, int64_t rows_global)
{
    const mr_dataset *d = t->data;
    int64_t all = rows_cap * t->world->size;
    if (t->dev->whole_products && all > rows_global) rows_global = all;
    return (mr_graph_dims){.rows_cap = rows_cap,
                           .L = t->cfg->data.max_len,
                           .n_items = d->n_items,
                           .D = d->frames.data ? d->frames.width : d->visual.width,
                           .K = d->frames.data ? d->frames.count : 0,
                           .dh = d->text.data ? d->text.width : 0,
                           .n_ranks = t->items->size,
                           .rows_global_cap = rows_global,
                           .whole_products = t->dev->whole_products,
                           .precision = t->dev->precision,
                           .act_bytes = mr_dtype_bytes(t->dev->act),
                           .row_unit = mr_device_row_unit(t->dev)};
}

mr_sampler_spec mr_trainer_sampling(const mr_trainer *t, int rank, int n_ranks)
{
    const mr_config *c = t->cfg;
    bool views = mr_model_backbone(c) == MR_BACKBONE_CL4SREC;
    return (mr_sampler_spec){.data = t->data,
                             .split = MR_SPLIT_TRAIN,
                             .batch = c->train.batch,
                             .max_len = c->data.max_len,
                             .virtual_shards = (int)c->dist.virtual_shards,
                             .rank = rank,
                             .n_ranks = n_ranks,
                             .seed = (uint64_t)c->run.seed,
                             .augment = views ? c : NULL};
}

int64_t mr_trainer_rows_cap(const mr_trainer *t, const mr_sampler *s)
{
    int64_t cap = t->dev->whole_products ? mr_sampler_rows_most(s) : mr_sampler_rows_cap(s);
    return cap > 0 ? cap : 1;
}

static mr_status make_sampler(mr_trainer *t)
{
    mr_sampler_spec spec = mr_trainer_sampling(t, t->world->rank, t->world->size);
    MR_TRY(mr_sampler_make(&t->sampler, &spec));
    int64_t cap = mr_trainer_rows_cap(t, t->sampler);
    return mr_batch_alloc(&t->batch, cap, spec.max_len, spec.augment ? MR_MAX_SEQ : 1,
                          t->world->size);
}

mr_status mr_trainer_run(mr_trainer *t, mr_run **out_p, const mr_plan *plan)
{
    mr_run *r = NULL;
    const mr_run *lender = plan == t->eval_plan ? t->train_run : NULL; /* never both at once */
    MR_TRY(mr_run_create_in(&r, plan, t->dev, &t->params, (uint64_t)t->cfg->run.seed, lender));
    r->feat = &t->feat;
    r->items = t->dev_items;
    r->world = t->dev_world;
    r->group0 = t->group0;
    r->abar_host = t->sched.abar;
    r->c1 = t->sched.c1;
    r->c2 = t->sched.c2;
    r->s2 = t->sched.s2;
    r->t_max = t->sched.T;
    r->t_set = &t->cfg->diffusion.t_set;
    *out_p = r;
    return MR_OK;
}

static bool is_exact(const mr_trainer *t, const mr_trainer_opts *o)
{
    return t->cfg->dist.deterministic == MR_DET_WORLD && o->whole_steps;
}

/* dist.exchange=fixed, or steps that are recorded, of which others are to be started again: room
 * for the rows of every pair of ranks. */
static mr_status fix_exchange(mr_trainer *t)
{
    const mr_config *c = t->cfg;
    bool is_asked_for = !strcmp(c->dist.exchange, "fixed") || c->run.capture;
    if (!is_asked_for || t->items->size == 1) return MR_OK;
    t->exchange_rows = c->dist.exchange_rows;
    if (!t->exchange_rows)
        MR_TRY(mr_feed_rows_of_pair(&t->exchange_rows, t->world, t->items->size,
                                    mr_model_table_rows(c, t->data->n_items), t->sampler,
                                    &t->batch));
    mr_feed_fix(&t->feed, t->exchange_rows);
    return MR_OK;
}

static mr_status make_report(mr_trainer *t)
{
    MR_TRY(t->dev->alloc(t->dev, (void **)&t->report_dev, sizeof *t->report_dev, "report"));
    return t->dev->alloc_host(t->dev, (void **)&t->report, sizeof *t->report, "report");
}

mr_status mr_trainer_compile(mr_trainer *t, int64_t tokens)
{
    const mr_trainer_opts *o = &t->opts;
    size_t real = mr_dtype_bytes(t->dev->real);
    mr_graph_dims dims = dims_for(t, t->batch.rows_cap, t->cfg->train.batch);
    dims.exchange_rows = t->exchange_rows;
    dims.tokens_cap = tokens;
    MR_TRY(mr_graph_create(&t->train_graph, &dims, &t->params, real, o->stochastic));
    MR_TRY(mr_model_build(t->train_graph, t->cfg, &t->sched, MR_PHASE_TRAIN));
    if (t->table < 0) { /* the first one: now all parameters are known */
        t->table = mr_param_find(&t->params, "item.weight");
        t->table_rows = t->params.p[t->table].dim[0];
        mr_params_layout(&t->params, t->dev, t->items->rank, t->items->size, o->optimizer);
    }
    int64_t bucket = (int64_t)(t->cfg->dist.bucket_mb * 1048576.0) / (int64_t)real;
    if (!o->optimizer || is_exact(t, o)) return MR_OK;
    return mr_plan_compile(&t->train_plan, t->train_graph, true, o->is_private, bucket);
}

static mr_status make_training(mr_trainer *t)
{
    const mr_trainer_opts *o = &t->opts;
    int64_t tokens = o->tokens;
    if (!tokens) MR_TRY(mr_room_first(t, &tokens));
    MR_TRY(mr_trainer_compile(t, tokens));
    if (o->is_dry) return MR_OK;
    MR_TRY(mr_need_fits(t, o->optimizer));
    MR_TRY(make_features(t));
    MR_TRY(mr_params_alloc(&t->params, t->dev, t->items->rank, t->items->size, o->optimizer));
    MR_TRY(mr_params_init(&t->params, (uint64_t)t->cfg->run.seed));
    if (!o->optimizer) return MR_OK;
    MR_TRY(make_report(t));
    if (is_exact(t, o)) return mr_exact_create(t, o->stochastic);
    return mr_trainer_run(t, &t->train_run, t->train_plan);
}

/* Collectives can be recorded where the device makes them. */
static mr_status check_capture(const mr_trainer *t)
{
    bool is_staged = !strcmp(t->dev_world->kind, "staged");
    MR_CHECK(!t->cfg->run.capture || t->world->size == 1 || !is_staged, MR_ERR_CONFIG,
             "run.capture=true on %d ranks needs NCCL, and these exchange through host memory "
             "(run.device=%s, dist.comm=%s); use --dist.comm=nccl with one GPU a rank, or leave "
             "run.capture out",
             t->world->size, t->dev->name, t->cfg->dist.comm);
    return MR_OK;
}

/* run.device=auto is known only here. */
static mr_status check_device(const mr_config *cfg, const char *device)
{
    const char *p = cfg->run.precision;
    bool is_reduced = !strcmp(p, "tf32") || !strcmp(p, "bf16");
    MR_CHECK(!is_reduced || !strcmp(device, "cuda"), MR_ERR_CONFIG,
             "run.precision=%s needs a GPU and this run computes on %s; use auto or fp32", p,
             device);
    bool records = !strcmp(device, "cuda") || !strcmp(device, "guard");
    MR_CHECK(records || !cfg->run.capture, MR_ERR_CONFIG,
             "run.capture=true needs a GPU and this run computes on %s; leave it out", device);
    return MR_OK;
}

mr_status mr_trainer_create(mr_trainer **out_p, const mr_config *cfg, const mr_dataset *data,
                            mr_comm *world, const mr_trainer_opts *opts)
{
    mr_trainer *t = NULL;
    mr_status st;
    MR_TRY(check_device(cfg, opts->device ? opts->device : mr_trainer_device(cfg)));
    MR_TRY(MR_ALLOC(&t, 1, "trainer"));
    t->cfg = cfg;
    t->data = data;
    t->world = world;
    t->opts = *opts;
    t->opts.device = NULL; /* the caller's */
    t->table = -1;
    MR_TRY_GOTO(check_ranks(t), st, fail);
    const char *device = opts->device ? opts->device : mr_trainer_device(cfg);
    MR_TRY_GOTO(mr_own_device_open(&t->dev, device, cfg, world), st, fail);
    if (opts->row_unit) t->dev->row_bytes = (size_t)opts->row_unit * mr_dtype_bytes(t->dev->act);
    MR_TRY_GOTO(make_sampler(t), st, fail);
    MR_TRY_GOTO(make_groups(t), st, fail);
    MR_TRY_GOTO(make_device_comms(t), st, fail);
    MR_TRY_GOTO(check_capture(t), st, fail);
    MR_TRY_GOTO(mr_feed_create(&t->feed, t->batch.rows_cap, cfg->data.max_len, t->batch.n_seq,
                               is_exact(t, opts) ? 1 : t->items->size),
                st, fail);
    if (!is_exact(t, opts)) {
        MR_TRY_GOTO(fix_exchange(t), st, fail);
        if (opts->optimizer && !opts->is_dry && mr_ahead_is_wanted(t))
            MR_TRY_GOTO(mr_ahead_make(&t->ahead, t, &t->batch, t->exchange_rows), st, fail);
    }
    MR_TRY_GOTO(mr_schedule_make(&t->sched, cfg), st, fail);
    MR_TRY_GOTO(make_training(t), st, fail);
    *out_p = t;
    return MR_OK;
fail:
    mr_trainer_free(&t);
    return st;
}

static void free_eval(mr_trainer *t)
{
    mr_run_free(&t->eval_run);
    mr_plan_free(&t->eval_plan);
    mr_graph_free(&t->eval_graph);
}

static bool is_eval_ready(const mr_trainer *t, int64_t rows_cap)
{
    return t->eval_graph && t->eval_graph->dims.rows_cap >= rows_cap;
}

mr_status mr_trainer_eval_exchange(mr_trainer *t, int64_t rows_cap, mr_sampler *s, mr_batch *b)
{
    if (!t->cfg->run.capture || t->items->size == 1 || is_eval_ready(t, rows_cap)) return MR_OK;
    return mr_feed_rows_of_pair(&t->eval_exchange_rows, t->world, t->items->size, t->table_rows, s,
                                b);
}

mr_status mr_trainer_eval_ready(mr_trainer *t, int64_t rows_cap)
{
    if (is_eval_ready(t, rows_cap)) return MR_OK;
    free_eval(t);
    mr_feed_free(&t->eval_feed);
    mr_fetch_free(&t->eval_fetch);
    mr_graph_dims dims = dims_for(t, rows_cap, t->cfg->train.eval_batch);
    dims.exchange_rows = t->eval_exchange_rows;
    MR_TRY(mr_graph_create(&t->eval_graph, &dims, &t->params, mr_dtype_bytes(t->dev->real), false));
    MR_TRY(mr_model_build(t->eval_graph, t->cfg, &t->sched, MR_PHASE_EVAL));
    MR_TRY(mr_plan_compile(&t->eval_plan, t->eval_graph, false, false, 0));
    MR_TRY(mr_feed_create(&t->eval_feed, rows_cap, t->cfg->data.max_len, 1, t->items->size));
    mr_feed_fix(&t->eval_feed, t->eval_exchange_rows);
    if (t->data->is_sharded && !t->opts.is_dry)
        MR_TRY(mr_fetch_create(&t->eval_fetch, t->cfg, t->data, t->world, t->dev, rows_cap,
                               t->cfg->data.max_len));
    return t->opts.is_dry ? MR_OK : mr_trainer_run(t, &t->eval_run, t->eval_plan);
}

mr_status mr_trainer_check_eval(mr_trainer *t)
{
    mr_graph *g = NULL;
    mr_graph_dims dims = dims_for(t, 1, t->world->size);
    mr_status st = mr_graph_create(&g, &dims, &t->params, mr_dtype_bytes(t->dev->real), false);
    if (st == MR_OK) st = mr_model_build(g, t->cfg, &t->sched, MR_PHASE_EVAL);
    mr_graph_free(&g);
    return st;
}

void mr_trainer_end_training(mr_trainer *t)
{
    for (int i = 0; i < MR_N_RECORDED; i++) {
        (void)t->dev->capture(t->dev, (mr_recorded)i, MR_CAPTURE_FORGET);
        for (int k = 0; k < MR_KEPT; k++) mr_comm_log_free(&t->log[i][k]);
    }
    free_eval(t); /* it works in the memory of train_run */
    mr_run_free(&t->train_run);
    mr_exact_free(&t->exact);
    mr_plan_free(&t->train_plan);
    mr_graph_free(&t->train_graph);
}

void mr_trainer_free(mr_trainer **t_p)
{
    mr_trainer *t = t_p ? *t_p : NULL;
    if (!t) return;
    /* Before the communicators: NCCL ends one only when nothing recorded holds its calls. */
    if (t->dev) mr_trainer_end_training(t);
    mr_params_free(&t->params);
    mr_feed_free(&t->feed);
    mr_feed_free(&t->eval_feed);
    mr_fetch_free(&t->fetch);
    mr_fetch_free(&t->eval_fetch);
    mr_batch_free(&t->batch);
    mr_ahead_free(&t->ahead);
    mr_sampler_free(&t->sampler);
    for (int i = 0; i < MR_N_SPLITS; i++) mr_sampler_free(&t->eval_sampler[i]);
    mr_schedule_free(&t->sched);
    if (t->owns_features) {
        t->dev->free(t->dev, t->feat.text.data);
        t->dev->free(t->dev, t->feat.visual.data);
        t->dev->free(t->dev, t->feat.frames.data);
    }
    if (t->report_dev) t->dev->free(t->dev, t->report_dev);
    if (t->report) t->dev->free_host(t->dev, t->report);
    free_device_comms(t);
    mr_device_close(&t->dev);
    if (t->items != t->world) mr_comm_destroy(&t->items);
    mr_comm_destroy(&t->replicas);
    MR_FREE(*t_p);
}
