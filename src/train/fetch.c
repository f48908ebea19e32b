/* Fetching feature rows: one row exchange for each set of items, then one movement for each
 * feature. What it is not: device code. Blocks of features stay in host memory on every device;
 * what a batch reads is brought together there and copied to the device, so the memory of a GPU
 * holds the rows of a batch only. Invariant: rows ascend by item, so those of one owner are
 * consecutive; which collectives are made depends on the configuration and the data set alone. */
#include "train/fetch.h"

#include <string.h>

#include "base/mem.h"
#include "dist/shard.h"
#include "model/model.h"

enum { FEATURES = MR_FEATURE_COUNT };

typedef struct item_set {
    mr_exchange *x;    /* NULL: no feature is read of these items */
    int32_t *list;     /* [cap] rows wanted, repeats included */
    int32_t *place;    /* [n_items] of an item among the fetched rows; others are stale */
    int32_t *last;     /* [rows_cap] places + 1 */
    int32_t *distinct; /* [rows_cap] of the distinct last items */
    int32_t *tok;      /* [rows_cap * L]; NULL for MR_ITEMS_LAST */
} item_set;

struct mr_fetch {
    const mr_dataset *d;
    mr_comm *world;
    mr_device *dev;
    int64_t rows_cap, L;
    item_set set[MR_ITEM_SETS];
    mr_item_set set_of[FEATURES];
    mr_feature host[FEATURES]; /* fetched rows; data NULL: not read */
    mr_features feat;          /* the same on the device */
    mr_feature_ids ids[FEATURES];
    char *give; /* rows for the others */
    int64_t give_bytes, bytes;
    int64_t *want_count, *give_count; /* [ranks] bytes */
};

static const mr_feature *feature_of(const mr_dataset *d, int i)
{
    const mr_feature *of[FEATURES] = {&d->visual, &d->frames, &d->text};
    return of[i];
}

bool mr_fetch_reads(const mr_config *cfg, const mr_dataset *d, int i, mr_item_set *set_p)
{
    bool is_mealrec = mr_model_is_mealrec(cfg);
    bool by_token = mr_model_backbone(cfg) == MR_BACKBONE_TEDREC; /* TedRec reads every text */
    const bool reads[FEATURES] = {is_mealrec && cfg->tcd.enabled, is_mealrec,
                                  mr_model_uses_text(cfg)};
    const mr_item_set set[FEATURES] = {MR_ITEMS_ALL, MR_ITEMS_LAST,
                                       by_token ? MR_ITEMS_ALL : MR_ITEMS_LAST};
    *set_p = set[i];
    return reads[i] && feature_of(d, i)->data;
}

int64_t mr_fetch_row_bytes(const mr_dataset *d, int i)
{
    const mr_feature *f = feature_of(d, i);
    return f->count * f->width * (int64_t)mr_dtype_bytes(f->dtype);
}

int64_t mr_fetch_item_bytes(const mr_config *cfg, const mr_dataset *d)
{
    int64_t bytes = 0;
    mr_item_set unused;
    for (int i = 0; i < FEATURES; i++)
        if (mr_fetch_reads(cfg, d, i, &unused)) bytes += mr_fetch_row_bytes(d, i);
    return bytes;
}

static int64_t cap_of(const mr_fetch *f, mr_item_set s)
{
    return s == MR_ITEMS_LAST ? f->rows_cap : f->rows_cap * f->L;
}

static mr_status make_set(mr_fetch *f, mr_item_set s)
{
    item_set *q = &f->set[s];
    int64_t cap = cap_of(f, s);
    if (q->x) return MR_OK;
    MR_TRY(mr_exchange_create(&q->x, cap, f->world->size));
    q->x->for_counts = MR_FOR_FEATURE_COUNTS;
    q->x->for_ids = MR_FOR_FEATURE_IDS;
    MR_TRY(MR_ALLOC(&q->list, cap, "items of a batch"));
    MR_TRY(MR_ALLOC(&q->place, f->d->n_items, "places of items"));
    MR_TRY(MR_ALLOC(&q->distinct, f->rows_cap, "places of items"));
    MR_TRY(MR_ALLOC(&q->last, f->rows_cap, "places of items"));
    return s == MR_ITEMS_ALL ? MR_ALLOC(&q->tok, cap, "places of items") : MR_OK;
}

/* Rows of feature i that are fetched, at most. */
static int64_t room_of(const mr_fetch *f, int i)
{
    int64_t cap = cap_of(f, f->set_of[i]);
    return cap < f->d->n_items ? cap : f->d->n_items;
}

static mr_status make_feature(mr_fetch *f, int i)
{
    mr_feature *on_device[FEATURES] = {&f->feat.visual, &f->feat.frames, &f->feat.text};
    int64_t cap = room_of(f, i), row = mr_fetch_row_bytes(f->d, i);
    f->host[i] = *feature_of(f->d, i);
    f->host[i].data = NULL;
    MR_TRY(make_set(f, f->set_of[i]));
    MR_TRY(mr_alloc(&f->host[i].data, cap, (size_t)row, "fetched features"));
    f->bytes += cap * row;
    *on_device[i] = f->host[i];
    if (f->dev->host_memory) return MR_OK;
    on_device[i]->data = NULL;
    return f->dev->alloc(f->dev, &on_device[i]->data, (size_t)(cap * row), "fetched features");
}

mr_status mr_fetch_create(mr_fetch **out_p, const mr_config *cfg, const mr_dataset *d,
                          mr_comm *world, mr_device *dev, int64_t rows_cap, int64_t L)
{
    mr_fetch *f = NULL;
    mr_status st;
    MR_TRY(MR_ALLOC(&f, 1, "features of batches"));
    f->d = d;
    f->world = world;
    f->dev = dev;
    f->rows_cap = rows_cap;
    f->L = L;
    MR_TRY_GOTO(MR_ALLOC(&f->want_count, world->size, "counts"), st, fail);
    MR_TRY_GOTO(MR_ALLOC(&f->give_count, world->size, "counts"), st, fail);
    for (int i = 0; i < FEATURES; i++)
        if (mr_fetch_reads(cfg, d, i, &f->set_of[i])) MR_TRY_GOTO(make_feature(f, i), st, fail);
    *out_p = f;
    return MR_OK;
fail:
    mr_fetch_free(&f);
    return st;
}

void mr_fetch_free(mr_fetch **f_p)
{
    mr_fetch *f = *f_p;
    if (!f) return;
    mr_feature *on_device[FEATURES] = {&f->feat.visual, &f->feat.frames, &f->feat.text};
    for (int i = 0; i < FEATURES; i++) {
        if (!f->dev->host_memory) f->dev->free(f->dev, on_device[i]->data);
        MR_FREE(f->host[i].data);
    }
    for (int s = 0; s < MR_ITEM_SETS; s++) {
        mr_exchange_free(&f->set[s].x);
        MR_FREE(f->set[s].list);
        MR_FREE(f->set[s].place);
        MR_FREE(f->set[s].last);
        MR_FREE(f->set[s].distinct);
        MR_FREE(f->set[s].tok);
    }
    MR_FREE(f->give);
    MR_FREE(f->want_count);
    MR_FREE(f->give_count);
    MR_FREE(*f_p);
}

static mr_status plan_set(mr_fetch *f, mr_item_set s, const mr_batch *b)
{
    item_set *q = &f->set[s];
    const int32_t *id = s == MR_ITEMS_LAST ? b->last : b->seq[0].tok_id;
    int64_t n = s == MR_ITEMS_LAST ? b->rows : b->seq[0].tokens;
    for (int64_t i = 0; i < n; i++) q->list[i] = id[i] - 1;
    MR_TRY(mr_exchange_plan(q->x, f->world, f->d->n_items, q->list, n));
    for (int64_t u = 0; u < q->x->n_unique; u++) q->place[q->x->unique_id[u]] = (int32_t)u;
    return MR_OK;
}

static mr_status make_room(mr_fetch *f, int64_t bytes)
{
    if (bytes <= f->give_bytes) return MR_OK;
    MR_FREE(f->give);
    f->bytes -= f->give_bytes;
    f->give_bytes = 0;
    MR_TRY(MR_ALLOC(&f->give, bytes + bytes / 4, "features to give"));
    f->give_bytes = bytes + bytes / 4;
    f->bytes += f->give_bytes;
    return MR_OK;
}

static mr_status move_feature(mr_fetch *f, int i)
{
    const mr_exchange *x = f->set[f->set_of[i]].x;
    const mr_feature *on_device[FEATURES] = {&f->feat.visual, &f->feat.frames, &f->feat.text};
    const char *own = feature_of(f->d, i)->data;
    int64_t row = mr_fetch_row_bytes(f->d, i);
    MR_TRY(make_room(f, x->n_give * row));
#pragma omp parallel for schedule(static)
    for (int64_t k = 0; k < x->n_give; k++)
        memcpy(f->give + k * row, own + x->give_row[k] * row, (size_t)row);
    for (int r = 0; r < f->world->size; r++) {
        f->want_count[r] = x->want[r] * row;
        f->give_count[r] = x->give[r] * row;
    }
    f->world->purpose = MR_FOR_FEATURES;
    MR_TRY(f->world->alltoallv(f->world, f->give, f->give_count, f->host[i].data, f->want_count,
                               MR_U8));
    if (f->dev->host_memory || x->n_unique == 0) return MR_OK;
    return f->dev->to_device(f->dev, on_device[i]->data, f->host[i].data,
                             (size_t)(x->n_unique * row));
}

mr_status mr_fetch_rows(mr_fetch *f, const mr_batch *b)
{
    MR_CHECK(b->rows <= f->rows_cap && b->L == f->L, MR_ERR_INTERNAL,
             "features of %lld rows of %lld items fetched with room for %lld of %lld",
             (long long)b->rows, (long long)b->L, (long long)f->rows_cap, (long long)f->L);
    for (int s = 0; s < MR_ITEM_SETS; s++)
        if (f->set[s].x) MR_TRY(plan_set(f, (mr_item_set)s, b));
    for (int i = 0; i < FEATURES; i++)
        if (f->host[i].data) MR_TRY(move_feature(f, i));
    return MR_OK;
}

/* out[n] = 1 + place of each item, 0 for PAD. */
static mr_status find(const item_set *q, const int32_t *id, int64_t n, int64_t n_items,
                      int32_t *out)
{
    for (int64_t i = 0; i < n; i++) {
        bool is_item = id[i] >= 1 && id[i] <= n_items;
        int32_t at = is_item ? q->place[id[i] - 1] : -1;
        MR_CHECK(!is_item || (at < q->x->n_unique && q->x->unique_id[at] == id[i] - 1),
                 MR_ERR_INTERNAL, "the features of item %d were not fetched", id[i]);
        out[i] = at + 1;
    }
    return MR_OK;
}

mr_status mr_fetch_places(mr_fetch *f, const mr_batch *b)
{
    for (int s = 0; s < MR_ITEM_SETS; s++) {
        item_set *q = &f->set[s];
        if (!q->x) continue;
        MR_TRY(find(q, b->last, b->rows, f->d->n_items, q->last));
        MR_TRY(find(q, b->last_id, b->n_last, f->d->n_items, q->distinct));
        if (q->tok) MR_TRY(find(q, b->seq[0].tok_id, b->seq[0].tokens, f->d->n_items, q->tok));
    }
    for (int i = 0; i < FEATURES; i++) {
        const item_set *q = &f->set[f->set_of[i]];
        if (f->host[i].data)
            f->ids[i] = (mr_feature_ids){
                .last = q->last, .distinct = q->distinct, .tok = q->tok, .n = room_of(f, i)};
    }
    return MR_OK;
}

void mr_fetch_attach(const mr_fetch *f, mr_run *r)
{
    r->feat = &f->feat;
    r->fetched = f->ids;
}

const mr_feature *mr_fetch_host(const mr_fetch *f, int i) { return &f->host[i]; }
const mr_feature_ids *mr_fetch_ids(const mr_fetch *f, int i) { return &f->ids[i]; }
int64_t mr_fetch_bytes(const mr_fetch *f) { return f->bytes; }
