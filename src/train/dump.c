/* dump-step: parameters and gradients gathered from their owners, activations from all ranks,
 * inputs and draws recomputed on rank 0 (every rank holds the interactions, and fetches the
 * features of the batch where they are spread). Invariant: all ranks take part in every gather;
 * only rank 0 writes. */
#include "train/dump.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "data/half.h"
#include "io/safetensors.h"
#include "kernels/shared/draw.h"

#define MAX_ENTRIES 1024

typedef struct entry {
    char name[MR_ST_NAME];
    mr_dtype dtype;
    int ndim;
    int64_t dim[MR_ST_DIMS];
    void *data; /* owned; NULL on ranks other than 0 */
} entry;

typedef struct dump {
    mr_trainer *t;
    mr_batch all; /* the whole global batch, made on every rank */
    mr_sampler *one;
    mr_fetch *fetch; /* features of `all` where they are spread, else NULL */
    int32_t *order;  /* [rows] rows of `all` by ascending global row */
    int n;
    entry e[MAX_ENTRIES];
} dump;

static size_t entry_bytes(const entry *e)
{
    size_t n = mr_dtype_bytes(e->dtype);
    for (int i = 0; i < e->ndim; i++) n *= (size_t)e->dim[i];
    return n;
}

/* New entry with zeroed data. */
static mr_status add(dump *d, const char *name, mr_dtype dtype, int ndim, int64_t d0, int64_t d1,
                     int64_t d2, void *data_p)
{
    MR_CHECK(d->n < MAX_ENTRIES, MR_ERR_INTERNAL, "dump: more than %d tensors", MAX_ENTRIES);
    entry *e = &d->e[d->n];
    memset(e, 0, sizeof *e);
    snprintf(e->name, sizeof e->name, "%s", name);
    e->dtype = dtype;
    e->ndim = ndim;
    e->dim[0] = d0;
    e->dim[1] = d1;
    e->dim[2] = d2;
    MR_TRY(mr_alloc(&e->data, (int64_t)entry_bytes(e), 1, name));
    d->n++;
    *(void **)data_p = e->data;
    return MR_OK;
}

static void put(mr_dtype t, void *dst, int64_t i, double v)
{
    if (t == MR_F64)
        ((double *)dst)[i] = v;
    else
        ((float *)dst)[i] = (float)v;
}

/* Row (counted from 1) of a feature: of the last item of a row of `all`, or of position l of its
 * history; 0 at PAD. */
static int32_t feature_row(const dump *d, int which, bool history, int64_t row, int64_t l)
{
    const mr_seq *q = &d->all.seq[0];
    if (history && l >= q->len[row]) return 0;
    if (!d->fetch) return history ? q->ids[row * d->all.L + l] : d->all.last[row];
    const mr_feature_ids *ids = mr_fetch_ids(d->fetch, which);
    return history ? ids->tok[q->start[row] + l] : ids->last[row];
}

static double feature_at(const mr_feature *f, int32_t at, int64_t e)
{
    int64_t i = (int64_t)(at - 1) * f->count * f->width + e;
    return f->dtype == MR_F16 ? (double)mr_half_to_float(((const uint16_t *)f->data)[i])
                              : (double)((const float *)f->data)[i];
}

/* ---- inputs ---- */
static mr_status sorted_rows(dump *d)
{
    int64_t n = d->all.rows;
    MR_TRY(MR_ALLOC(&d->order, n, "row order"));
    /* Insertion sort: a dump has few rows, and this keeps the comparison in sight. */
    for (int64_t i = 0; i < n; i++) {
        int64_t k = i;
        while (k > 0 && d->all.rid[d->order[k - 1]] > d->all.rid[i]) {
            d->order[k] = d->order[k - 1];
            k--;
        }
        d->order[k] = (int32_t)i;
    }
    return MR_OK;
}

static mr_status add_sequence(dump *d, int s, const char *ids_name, const char *len_name)
{
    int64_t B = d->all.rows, L = d->all.L, *ids, *len;
    MR_TRY(add(d, ids_name, MR_I64, 2, B, L, 1, &ids));
    MR_TRY(add(d, len_name, MR_I64, 1, B, 1, 1, &len));
    for (int64_t i = 0; i < B; i++) {
        const mr_seq *q = &d->all.seq[s];
        int64_t row = d->order[i];
        len[i] = q->len[row];
        for (int64_t l = 0; l < L; l++) ids[i * L + l] = q->ids[row * L + l];
    }
    return MR_OK;
}

/* Features of the last item, or of every history position (zero at PAD). */
static mr_status add_feature(dump *d, const char *name, int which, bool history)
{
    const mr_dataset *data = d->t->data;
    const mr_feature *of[] = {&data->visual, &data->frames, &data->text};
    const mr_feature *f = d->fetch ? mr_fetch_host(d->fetch, which) : of[which];
    int64_t B = d->all.rows, L = d->all.L, w = f->count * f->width;
    mr_dtype real = d->t->dev->real;
    void *out;
    if (history)
        MR_TRY(add(d, name, real, 3, B, L, w, &out));
    else if (f->count > 1)
        MR_TRY(add(d, name, real, 3, B, f->count, f->width, &out));
    else
        MR_TRY(add(d, name, real, 2, B, w, 1, &out));
    int64_t per = history ? L : 1;
    for (int64_t i = 0; i < B; i++)
        for (int64_t l = 0; l < per; l++) {
            int64_t row = d->order[i];
            int32_t at = feature_row(d, which, history, row, l);
            for (int64_t e = 0; at > 0 && e < w; e++)
                put(real, out, (i * per + l) * w + e, feature_at(f, at, e));
        }
    return MR_OK;
}

static mr_status add_inputs(dump *d)
{
    const mr_config *c = d->t->cfg;
    const mr_dataset *data = d->t->data;
    int64_t B = d->all.rows, *target;
    MR_TRY(add_sequence(d, 0, "input.history", "input.length"));
    MR_TRY(add(d, "input.target", MR_I64, 1, B, 1, 1, &target));
    for (int64_t i = 0; i < B; i++) target[i] = d->all.target[d->order[i]];
    if (mr_model_backbone(c) == MR_BACKBONE_CL4SREC) {
        MR_TRY(add_sequence(d, 1, "draw.view1", "draw.view1_length"));
        MR_TRY(add_sequence(d, 2, "draw.view2", "draw.view2_length"));
    }
    if (mr_model_backbone(c) == MR_BACKBONE_TEDREC)
        MR_TRY(add_feature(d, "input.text_history", MR_FEATURE_TEXT, true));
    if (!mr_model_is_mealrec(c)) return MR_OK;
    MR_TRY(add_feature(d, "input.text", MR_FEATURE_TEXT, false));
    if (data->frames.data) MR_TRY(add_feature(d, "input.frames", MR_FEATURE_FRAMES, false));
    if (c->tcd.enabled) MR_TRY(add_feature(d, "input.visual", MR_FEATURE_VISUAL, true));
    return MR_OK;
}

/* ---- draws of the diffusion processes, by the same functions as the kernels ---- */
static mr_status add_draws(dump *d, const char *suffix, uint32_t t_purpose, uint32_t eps_purpose,
                           int64_t d1, int64_t d2)
{
    const mr_trainer *t = d->t;
    uint64_t seed = (uint64_t)t->cfg->run.seed;
    int64_t B = d->all.rows, *steps;
    char name[64];
    void *eps;
    snprintf(name, sizeof name, "draw.t_%s", suffix);
    MR_TRY(add(d, name, MR_I64, 1, B, 1, 1, &steps));
    snprintf(name, sizeof name, "draw.eps_%s", suffix);
    MR_TRY(add(d, name, t->dev->real, d2 > 1 ? 3 : 2, B, d1, d2, &eps));
    for (int64_t i = 0; i < B; i++) {
        uint32_t rid = d->all.rid[d->order[i]];
        steps[i] =
            mr_draw_t(seed, t_purpose, d->all.step, rid, t->sched.T, &t->cfg->diffusion.t_set);
        for (int64_t e = 0; e < d1 * d2; e++)
            put(t->dev->real, eps, i * d1 * d2 + e,
                mr_draw_normal(seed, eps_purpose, d->all.step, rid, e));
    }
    return MR_OK;
}

/* ---- parameters, gradients, activations: gathered ---- */
static mr_status add_named(dump *d, int i, mr_which which, const char *prefix)
{
    mr_trainer *t = d->t;
    mr_named nm;
    char name[96];
    void *full, *mine = NULL;
    mr_named_at(&t->params, i, &nm);
    snprintf(name, sizeof name, "%s.%s", prefix, nm.name);
    MR_TRY(add(d, name, t->dev->real, nm.ndim, nm.dim[0], nm.dim[1], nm.dim[2], &full));
    if (!(t->params.p[nm.param].flags & MR_PARAM_SHARDED) || t->items->size == 1)
        return mr_named_get(&t->params, i, which, full);
    int64_t inner = nm.dim[1] * nm.dim[2] * nm.dim[3], counts[1024];
    MR_CHECK(t->items->size <= 1024, MR_ERR_CONFIG, "dump-step works on at most 1024 ranks");
    for (int r = 0; r < t->items->size; r++) {
        int64_t lo, hi;
        mr_shard_rows(nm.dim[0], r, t->items->size, &lo, &hi);
        counts[r] = (hi - lo) * inner;
    }
    MR_TRY(mr_alloc(&mine, (nm.row_hi - nm.row_lo) * inner, t->params.real_bytes, "rows"));
    mr_status st = mr_named_get(&t->params, i, which, mine);
    if (st == MR_OK) st = t->items->allgatherv(t->items, mine, full, counts, t->dev->real);
    MR_FREE(mine);
    return st;
}

/* Rows of all ranks (rank order) with their global row numbers -> ascending order. */
static mr_status add_activation(dump *d, const char *output, const char *name)
{
    mr_trainer *t = d->t;
    int id = mr_graph_find_output(t->train_graph, output);
    if (id < 0) return MR_OK;
    const mr_node *n = mr_node_at(t->train_graph, id);
    int64_t inner = mr_node_count(t->train_graph, id), B = d->all.rows, counts[1024], rows[1024];
    size_t real = t->params.real_bytes;
    void *mine = NULL, *all = NULL;
    uint32_t *rid = NULL;
    char *out;
    mr_status st;
    for (int r = 0; r < t->world->size; r++) {
        rows[r] = t->batch.rank_rows[r];
        counts[r] = rows[r] * inner;
    }
    int64_t dim[3] = {B, n->dim[1], n->dim[2]};
    dim[n->ndim - 1] = n->cols;
    MR_TRY(add(d, name, t->dev->real, n->ndim, dim[0], dim[1], dim[2], &out));
    MR_TRY_GOTO(mr_alloc(&mine, t->batch.rows * inner, real, "activation"), st, done);
    MR_TRY_GOTO(mr_alloc(&all, B * inner, real, "activation"), st, done);
    MR_TRY_GOTO(MR_ALLOC(&rid, B, "row numbers"), st, done);
    MR_TRY_GOTO(mr_run_output(t->train_run, output, mine), st, done);
    MR_TRY_GOTO(t->world->allgatherv(t->world, mine, all, counts, t->dev->real), st, done);
    MR_TRY_GOTO(t->world->allgatherv(t->world, t->batch.rid, rid, rows, MR_U32), st, done);
    for (int64_t i = 0; i < B; i++)
        for (int64_t k = 0; k < B; k++)
            if (rid[k] == d->all.rid[d->order[i]])
                memcpy(out + (size_t)(i * inner) * real, (char *)all + (size_t)(k * inner) * real,
                       (size_t)inner * real);
done:
    MR_FREE(mine);
    MR_FREE(all);
    MR_FREE(rid);
    return st;
}

static mr_status add_losses(dump *d)
{
    mr_trainer *t = d->t;
    void *p;
    MR_TRY(add(d, "loss.total", t->dev->real, 0, 1, 1, 1, &p));
    put(t->dev->real, p, 0, mr_trainer_total_loss(t));
    for (int i = 0; i < t->train_graph->n_losses; i++) {
        char name[32];
        snprintf(name, sizeof name, "loss.%s", t->train_graph->loss[i].name);
        MR_TRY(add(d, name, t->dev->real, 0, 1, 1, 1, &p));
        put(t->dev->real, p, 0, t->losses[i]);
    }
    return MR_OK;
}

static mr_status collect(dump *d)
{
    mr_trainer *t = d->t;
    const mr_config *c = t->cfg;
    for (int i = 0; i < mr_named_count(&t->params); i++) {
        MR_TRY(add_named(d, i, MR_VALUE, "param"));
        MR_TRY(add_named(d, i, MR_GRAD, "grad"));
    }
    MR_TRY(add_inputs(d));
    if (mr_model_is_mealrec(c) && c->tcd.enabled)
        MR_TRY(add_draws(d, "tcd", MR_RNG_T_TCD, MR_RNG_EPS_TCD, t->data->frames.count,
                         t->data->frames.width));
    if (mr_model_is_mealrec(c) && c->npd.enabled)
        MR_TRY(add_draws(d, "npd", MR_RNG_T_NPD, MR_RNG_EPS_NPD, c->model.hidden, 1));
    const char *const acts[][2] = {
        {"x0", "act.x0"}, {"z0", "act.z0"}, {"zhat", "act.zhat"}, {"xhat", "act.xhat"}};
    for (int i = 0; i < 4; i++) MR_TRY(add_activation(d, acts[i][0], acts[i][1]));
    return add_losses(d);
}

static mr_status write_file(dump *d, const char *path)
{
    mr_st_writer *w = NULL;
    mr_status st;
    char *abar = NULL, *json = NULL;
    size_t room = 32 * (size_t)(d->t->sched.T + 2), at = 1;
    MR_TRY(MR_ALLOC(&abar, (int64_t)room, "schedule"));
    abar[0] = '[';
    for (int64_t t = 0; t <= d->t->sched.T; t++)
        at += (size_t)snprintf(abar + at, room - at, "%s%.17g", t ? ", " : "", d->t->sched.abar[t]);
    snprintf(abar + at, room - at, "]");
    json = mr_config_json(d->t->cfg);
    st = json ? MR_OK : MR_RAISE(MR_ERR_MEMORY, "dump: no memory for the configuration");
    if (st != MR_OK) goto done;
    MR_TRY_GOTO(mr_st_create(&w, AT_FDCWD, ".", path), st, done);
    for (int i = 0; i < d->n; i++)
        MR_TRY_GOTO(mr_st_declare(w, d->e[i].name, d->e[i].dtype, d->e[i].ndim, d->e[i].dim), st,
                    done);
    MR_TRY_GOTO(mr_st_set_metadata(w, "config", json), st, done);
    MR_TRY_GOTO(mr_st_set_metadata(w, "schedule_abar", abar), st, done);
    for (int i = 0; i < d->n; i++)
        MR_TRY_GOTO(mr_st_write(w, d->e[i].data, entry_bytes(&d->e[i])), st, done);
    MR_TRY_GOTO(mr_st_finish(&w, NULL, NULL), st, done);
done:
    if (w) mr_st_cancel(&w);
    free(json);
    MR_FREE(abar);
    return st;
}

/* The global batch as one rank would see it. */
static mr_status whole_batch(dump *d)
{
    const mr_trainer *t = d->t;
    const mr_config *c = t->cfg;
    bool views = mr_model_backbone(c) == MR_BACKBONE_CL4SREC;
    mr_sampler_spec spec = {.data = t->data,
                            .split = MR_SPLIT_TRAIN,
                            .batch = c->train.batch,
                            .max_len = c->data.max_len,
                            .virtual_shards = (int)c->dist.virtual_shards,
                            .rank = 0,
                            .n_ranks = 1,
                            .seed = (uint64_t)c->run.seed,
                            .augment = views ? c : NULL};
    MR_TRY(mr_sampler_make(&d->one, &spec));
    MR_TRY(mr_batch_alloc(&d->all, mr_sampler_rows_cap(d->one), c->data.max_len, views ? 3 : 1, 1));
    mr_sampler_get(d->one, 0, 0, (uint32_t)t->step, &d->all);
    if (t->data->is_sharded) {
        MR_TRY(mr_fetch_create(&d->fetch, c, t->data, t->world, t->dev, d->all.rows_cap,
                               c->data.max_len));
        MR_TRY(mr_fetch_rows(d->fetch, &d->all));
        MR_TRY(mr_fetch_places(d->fetch, &d->all));
    }
    return sorted_rows(d);
}

/* Training goes on on this batch with these draws: loss.total of steps 1, 2, ... Adam counts on. */
static mr_status add_curve(dump *d, int64_t steps)
{
    mr_trainer *t = d->t;
    double sum, bad;
    void *curve;
    MR_TRY(add(d, "curve.total", t->dev->real, 1, steps, 1, 1, &curve));
    put(t->dev->real, curve, 0, mr_trainer_total_loss(t));
    for (int64_t i = 1; i < steps; i++) {
        MR_TRY(mr_trainer_update(t));
        t->step++;
        MR_TRY(mr_trainer_set_batch(t, t->train_run, &t->feed, &t->batch));
        MR_TRY(mr_trainer_gradients(t));
        MR_TRY(mr_trainer_report(t, &sum, &bad));
        put(t->dev->real, curve, i, mr_trainer_total_loss(t));
    }
    return MR_OK;
}

mr_status mr_dump_step(mr_trainer *t, int64_t steps, const char *path)
{
    dump *d = NULL;
    mr_status st;
    double sum, bad;
    MR_TRY(MR_ALLOC(&d, 1, "dump"));
    d->t = t;
    MR_TRY_GOTO(whole_batch(d), st, done);
    MR_TRY_GOTO(mr_trainer_load(t, t->train_run, 0, 0), st, done);
    MR_TRY_GOTO(mr_trainer_gradients(t), st, done);
    MR_TRY_GOTO(mr_trainer_report(t, &sum, &bad), st, done);
    MR_TRY_GOTO(collect(d), st, done);
    if (steps > 1) MR_TRY_GOTO(add_curve(d, steps), st, done);
    st = mr_comm_agree(t->world, t->world->rank == 0 ? write_file(d, path) : MR_OK);
done:
    for (int i = 0; i < d->n; i++) MR_FREE(d->e[i].data);
    MR_FREE(d->order);
    mr_fetch_free(&d->fetch);
    mr_batch_free(&d->all);
    mr_sampler_free(&d->one);
    MR_FREE(d);
    return st;
}
