/* Ownership of a data set, its row lists and its checks.
 * What it is not: files. Invariant: mr_dataset_check passed before a data set leaves a reader. */
#include "data/dataset.h"

#include <string.h>
#include <xxhash.h>

#include "base/mem.h"
#include "data/check.h"
#include "data/half.h"
#include "data/ids.h"

void mr_dataset_free(mr_dataset *d)
{
    MR_FREE(d->offset);
    MR_FREE(d->items);
    MR_FREE(d->visual.data);
    MR_FREE(d->frames.data);
    MR_FREE(d->text.data);
    MR_FREE(d->user_ids);
    MR_FREE(d->item_ids);
    memset(d, 0, sizeof *d);
}

void mr_feature_block(int64_t n, int rank, int size, int64_t *lo, int64_t *hi)
{
    int64_t block = (n + size - 1) / size;
    *lo = rank * block < n ? rank * block : n;
    *hi = *lo + block < n ? *lo + block : n;
}

void mr_feature_rows(const mr_dataset *d, int64_t *lo, int64_t *hi)
{
    *lo = d->is_sharded ? d->feature_lo : 0;
    *hi = d->is_sharded ? d->feature_hi : d->n_items;
}

mr_status mr_dataset_spread(mr_dataset *d, int rank, int size)
{
    mr_feature *f[3] = {&d->visual, &d->frames, &d->text};
    void *part[3] = {NULL};
    int64_t lo, hi;
    mr_feature_block(d->n_items, rank, size, &lo, &hi);
    for (int i = 0; i < 3; i++) {
        if (!f[i]->data) continue;
        int64_t row = f[i]->count * f[i]->width * (int64_t)mr_dtype_bytes(f[i]->dtype);
        mr_status st = mr_alloc(&part[i], hi > lo ? hi - lo : 1, (size_t)row, "own features");
        if (st == MR_OK) {
            memcpy(part[i], (char *)f[i]->data + lo * row, (size_t)((hi - lo) * row));
            continue;
        }
        while (i > 0) MR_FREE(part[--i]);
        return st;
    }
    for (int i = 0; i < 3; i++) {
        MR_FREE(f[i]->data);
        f[i]->data = part[i];
    }
    d->is_sharded = true;
    d->feature_lo = lo;
    d->feature_hi = hi;
    return MR_OK;
}

/* Rows that user u gives to a split: targets first..first+count-1 as indices into items. */
static int64_t user_rows(const mr_dataset *d, int64_t u, mr_split split, int64_t *first)
{
    int64_t n = d->offset[u + 1] - d->offset[u];
    *first = d->offset[u + 1];
    if (split == MR_SPLIT_NEXT) return n > 0;
    if (n < 3) return 0;
    switch (split) {
    case MR_SPLIT_TRAIN: *first = d->offset[u] + 1; return n - 3;
    case MR_SPLIT_VALID: *first = d->offset[u + 1] - 2; return 1;
    case MR_SPLIT_TEST: *first = d->offset[u + 1] - 1; return 1;
    case MR_SPLIT_NEXT: break;
    }
    return 0;
}

mr_status mr_rows_make(mr_rows *out, const mr_dataset *d, mr_split split)
{
    mr_rows r = {0};
    int64_t first;
    mr_status st;
    for (int64_t u = 0; u < d->n_users; u++) r.n += user_rows(d, u, split, &first);
    MR_TRY_GOTO(MR_ALLOC(&r.user, r.n, "users of rows"), st, err);
    MR_TRY_GOTO(MR_ALLOC(&r.target, r.n, "targets of rows"), st, err);
    int64_t i = 0;
    for (int64_t u = 0; u < d->n_users; u++) {
        int64_t count = user_rows(d, u, split, &first);
        for (int64_t j = 0; j < count; j++, i++) {
            r.user[i] = (int32_t)u;
            r.target[i] = (int32_t)(first + j);
        }
    }
    *out = r;
    return MR_OK;
err:
    mr_rows_free(&r);
    return st;
}

void mr_rows_free(mr_rows *r)
{
    MR_FREE(r->user);
    MR_FREE(r->target);
    r->n = 0;
}

void mr_dataset_parts(const mr_dataset *d, mr_part parts[MR_PART_COUNT])
{
    const mr_feature *v = &d->visual, *f = &d->frames, *t = &d->text;
    mr_part p[MR_PART_COUNT] = {
        {"offset", MR_I64, 1, {d->n_users + 1, 1, 1}, d->offset},
        {"items", MR_I32, 1, {d->n_inter, 1, 1}, d->items},
        {"visual", v->dtype, v->data ? 2 : 0, {d->n_items, v->width, 1}, v->data},
        {"frames", f->dtype, f->data ? 3 : 0, {d->n_items, f->count, f->width}, f->data},
        {"text", t->dtype, t->data ? 2 : 0, {d->n_items, t->width, 1}, t->data},
        {"user_ids", MR_U8, 2, {d->n_users, d->user_id_bytes, 1}, d->user_ids},
        {"item_ids", MR_U8, 2, {d->n_items, d->item_id_bytes, 1}, d->item_ids},
    };
    memcpy(parts, p, sizeof p);
}

int64_t mr_part_bytes(const mr_part *p)
{
    int64_t n = p->rank ? (int64_t)mr_dtype_bytes(p->dtype) : 0;
    for (int i = 0; i < p->rank; i++) n *= p->dims[i];
    return n;
}

uint64_t mr_dataset_sums(const mr_dataset *d, uint64_t sums[MR_PART_COUNT])
{
    mr_part p[MR_PART_COUNT];
    mr_dataset_parts(d, p);
    for (int i = 0; i < MR_PART_COUNT; i++)
        sums[i] = p[i].rank ? XXH3_64bits(p[i].data, (size_t)mr_part_bytes(&p[i])) : 0;
    return XXH3_64bits(sums, sizeof(uint64_t) * MR_PART_COUNT);
}

int64_t mr_count_not_finite(const void *values, mr_dtype t, int64_t n)
{
    int64_t bad = 0;
    if (t == MR_F16) {
        const uint16_t *x = values;
        for (int64_t i = 0; i < n; i++) bad += !mr_half_is_finite(x[i]);
    } else if (t == MR_F32) {
        const uint32_t *x = values; /* bits: the test does not depend on compiler flags */
        for (int64_t i = 0; i < n; i++) bad += (x[i] & 0x7F800000u) == 0x7F800000u;
    }
    return bad;
}

mr_status mr_check_finite(int64_t bad, const char *name, const char *where)
{
    MR_CHECK(bad == 0, MR_ERR_DATA, "%s: %lld values of %s are NaN or infinite", where,
             (long long)bad, name);
    return MR_OK;
}

static mr_status check_values(const mr_feature *f, int64_t n_items, const char *name,
                              const char *where)
{
    if (!f->data) return MR_OK;
    return mr_check_finite(mr_count_not_finite(f->data, f->dtype, n_items * f->count * f->width),
                           name, where);
}

static mr_status check_feature(const mr_feature *f, bool is_frames, const char *name,
                               const char *where)
{
    if (!f->data) return MR_OK;
    MR_CHECK(f->dtype == MR_F16 || f->dtype == MR_F32, MR_ERR_DATA,
             "%s: %s must be float16 or float32", where, name);
    MR_CHECK(f->width >= 1 && f->width <= MR_MAX_WIDTH, MR_ERR_DATA,
             "%s: %s is %lld wide; 1 to %lld is accepted", where, name, (long long)f->width,
             (long long)MR_MAX_WIDTH);
    if (is_frames)
        MR_CHECK(f->count >= 2 && f->count <= MR_MAX_FRAMES, MR_ERR_DATA,
                 "%s: %lld frames per item; the diffusion over frames needs 2 to %lld (give a "
                 "single frame as the visual feature instead)",
                 where, (long long)f->count, (long long)MR_MAX_FRAMES);
    else
        MR_CHECK(f->count == 1, MR_ERR_DATA, "%s: %s must be one vector per item", where, name);
    return MR_OK;
}

/* Every row non-empty, zero after its end, strictly ascending. */
static mr_status check_ids(const char *table, int64_t n, int64_t w, const char *name,
                           const char *where)
{
    MR_CHECK(table && w >= 1 && w <= MR_ID_MAX, MR_ERR_DATA,
             "%s: %s are %lld bytes wide; 1 to %d is accepted", where, name, (long long)w,
             MR_ID_MAX);
    for (int64_t i = 0; i < n; i++) {
        const char *s = table + i * w, *end = memchr(s, 0, (size_t)w);
        int64_t len = end ? end - s : w;
        MR_CHECK(len > 0, MR_ERR_DATA, "%s: %s: row %lld is empty", where, name, (long long)i);
        for (int64_t j = len; j < w; j++)
            MR_CHECK(s[j] == 0, MR_ERR_DATA, "%s: %s: row %lld is not padded with zeros", where,
                     name, (long long)i);
    }
    bool numeric = mr_ids_numeric(table, n, w);
    char a[MR_ID_MAX + 1], b[MR_ID_MAX + 1];
    for (int64_t i = 1; i < n; i++) {
        memcpy(a, table + (i - 1) * w, (size_t)w);
        memcpy(b, table + i * w, (size_t)w);
        a[w] = b[w] = 0;
        MR_CHECK(mr_id_compare(a, b, numeric) < 0, MR_ERR_DATA,
                 "%s: %s: rows %lld and %lld (%s, %s) are not in ascending order", where, name,
                 (long long)(i - 1), (long long)i, a, b);
    }
    return MR_OK;
}

mr_status mr_dataset_check_form(const mr_dataset *d, const char *where)
{
    MR_CHECK(d->n_users >= 1 && d->n_users <= MR_MAX_USERS && d->n_items >= 1 &&
                 d->n_items <= MR_MAX_ITEMS && d->n_inter >= 1 && d->n_inter <= MR_MAX_INTER,
             MR_ERR_DATA, "%s: %lld users, %lld items, %lld interactions are outside the limits",
             where, (long long)d->n_users, (long long)d->n_items, (long long)d->n_inter);
    MR_CHECK(d->offset[0] == 0 && d->offset[d->n_users] == d->n_inter, MR_ERR_DATA,
             "%s: offsets run from %lld to %lld; 0 to %lld was expected", where,
             (long long)d->offset[0], (long long)d->offset[d->n_users], (long long)d->n_inter);
    for (int64_t u = 0; u < d->n_users; u++)
        MR_CHECK(d->offset[u] <= d->offset[u + 1], MR_ERR_DATA,
                 "%s: offset of user %lld (%lld) is above the next one (%lld)", where, (long long)u,
                 (long long)d->offset[u], (long long)d->offset[u + 1]);
    for (int64_t i = 0; i < d->n_inter; i++)
        MR_CHECK(d->items[i] >= 1 && d->items[i] <= d->n_items, MR_ERR_DATA,
                 "%s: interaction %lld names item %d; 1 to %lld is accepted", where, (long long)i,
                 d->items[i], (long long)d->n_items);
    MR_TRY(check_feature(&d->visual, false, "visual", where));
    MR_TRY(check_feature(&d->frames, true, "frames", where));
    MR_TRY(check_feature(&d->text, false, "text", where));
    MR_CHECK(!d->visual.data || !d->frames.data || d->visual.width == d->frames.width, MR_ERR_DATA,
             "%s: visual is %lld wide but frames are %lld wide; they must be equal", where,
             (long long)d->visual.width, (long long)d->frames.width);
    MR_TRY(check_ids(d->user_ids, d->n_users, d->user_id_bytes, "user_ids", where));
    return check_ids(d->item_ids, d->n_items, d->item_id_bytes, "item_ids", where);
}

mr_status mr_dataset_check(const mr_dataset *d, const char *where)
{
    MR_TRY(mr_dataset_check_form(d, where));
    MR_TRY(check_values(&d->visual, d->n_items, "visual", where));
    MR_TRY(check_values(&d->frames, d->n_items, "frames", where));
    return check_values(&d->text, d->n_items, "text", where);
}
