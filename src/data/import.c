/* Import in one pass: log -> sequences -> k-core -> features -> data set.
 * Invariants: original ids ascending become users 0.. and items 1.. after filtering (model.md
 * §11.11); nothing is returned unless every part succeeded. */
#include "data/import.h"

#include <string.h>

#include "base/mem.h"
#include "data/ids.h"
#include "data/import_features.h"
#include "data/inter_log.h"

static mr_status check_spec(const mr_import_spec *s)
{
    MR_CHECK(s->interactions, MR_ERR_USAGE, "import needs --interactions FILE");
    MR_CHECK(!s->titles == !s->glove, MR_ERR_USAGE,
             "--titles and --glove belong together: give both or neither");
    MR_CHECK(!s->text || !s->glove, MR_ERR_USAGE,
             "--text and --titles with --glove both make the text feature; give one of them");
    MR_CHECK(!s->feature_ids || s->visual || s->frames || s->text, MR_ERR_USAGE,
             "--feature-ids names the rows of --visual, --frames or --text; none of them is given");
    MR_CHECK(s->k_core >= 0 && s->min_len >= 0, MR_ERR_USAGE,
             "--k-core and --min-len must not be negative");
    MR_CHECK(s->feature_dtype == MR_IMPORT_DTYPE_KEEP || s->feature_dtype == MR_F16 ||
                 s->feature_dtype == MR_F32,
             MR_ERR_USAGE, "--feature-dtype is f16 or f32");
    return MR_OK;
}

static mr_stats stats_of(const mr_sequences *q, int64_t *length)
{
    for (int64_t u = 0; u < q->users; u++) length[u] = q->offset[u + 1] - q->offset[u];
    return mr_stats_of(length, q->users, q->items);
}

static mr_status check_usable(const mr_stats *s, const char *path)
{
    MR_CHECK(s->users >= 2, MR_ERR_DATA, "%s has %lld user after filtering; at least 2 are needed",
             path, (long long)s->users);
    MR_CHECK(s->items >= 2, MR_ERR_DATA, "%s has %lld item after filtering; at least 2 are needed",
             path, (long long)s->items);
    MR_CHECK(s->train_rows >= 1, MR_ERR_DATA,
             "%s: no user has 4 interactions after filtering, so there is nothing to train on (the "
             "longest "
             "history has %lld)",
             path, (long long)s->max_len);
    return MR_OK;
}

/* Zero-padded table of the original ids numbers[0..n-1]. */
static mr_status copy_ids(char **table, int64_t *width, const mr_id_table *t,
                          const int32_t *numbers, int64_t n)
{
    int64_t w = 1;
    for (int64_t i = 0; i < n; i++) {
        int64_t len = (int64_t)strlen(mr_id_text(t, numbers[i]));
        if (len > w) w = len;
    }
    MR_TRY(MR_ALLOC(table, n * w, "original ids"));
    for (int64_t i = 0; i < n; i++) {
        const char *s = mr_id_text(t, numbers[i]);
        memcpy(*table + i * w, s, strlen(s));
    }
    *width = w;
    return MR_OK;
}

static void set_name(mr_dataset *d, const mr_import_spec *s)
{
    const char *name = s->name, *slash;
    if (!name) {
        slash = strrchr(s->interactions, '/');
        name = slash ? slash + 1 : s->interactions;
        if (strcmp(name, "-") == 0) name = "stdin";
    }
    size_t len = s->name ? strlen(name) : strcspn(name, ".");
    if (len == 0) len = strlen(name);
    if (len > sizeof d->name - 1) len = sizeof d->name - 1;
    memcpy(d->name, name, len);
}

static mr_status fill_interactions(mr_dataset *d, const mr_inter_log *log, const mr_sequences *q)
{
    d->n_users = q->users;
    d->n_items = q->items;
    d->n_inter = q->n;
    MR_TRY(MR_ALLOC(&d->offset, q->users + 1, "offsets"));
    MR_TRY(MR_ALLOC(&d->items, q->n, "interactions"));
    memcpy(d->offset, q->offset, sizeof *d->offset * (size_t)(q->users + 1));
    for (int64_t i = 0; i < q->n; i++) d->items[i] = q->item[i] + 1;
    MR_TRY(copy_ids(&d->user_ids, &d->user_id_bytes, &log->users, q->user_id, q->users));
    return copy_ids(&d->item_ids, &d->item_id_bytes, &log->items, q->item_id, q->items);
}

static mr_status glove_text(mr_dataset *d, const mr_import_spec *s, mr_import_report *rep,
                            const mr_inter_log *log, const mr_sequences *kept)
{
    const char **ids = NULL;
    float *x = NULL;
    int64_t width;
    mr_row_map same = {.items = kept->items};
    mr_status st;
    MR_TRY_GOTO(MR_ALLOC(&ids, kept->items, "ids"), st, end);
    MR_TRY_GOTO(MR_ALLOC(&same.row, kept->items, "rows"), st, end);
    for (int64_t i = 0; i < kept->items; i++) {
        ids[i] = mr_id_text(&log->items, kept->item_id[i]);
        same.row[i] = (int32_t)i;
    }
    MR_TRY_GOTO(mr_titles_glove(&x, &width, &rep->titles, ids, kept->items, s->titles, s->glove),
                st, end);
    rep->used_glove = true;
    st = mr_feature_take(&d->text, &same, x, width, s->feature_dtype);
end:
    MR_FREE(ids);
    MR_FREE(x);
    mr_row_map_free(&same);
    return st;
}

static mr_status fill_features(mr_dataset *d, const mr_import_spec *s, mr_import_report *rep,
                               const mr_inter_log *log, const mr_sequences *all,
                               const mr_sequences *kept)
{
    mr_row_map m = {0};
    mr_status st = MR_OK;
    if (s->visual || s->frames || s->text)
        MR_TRY_GOTO(mr_row_map_make(&m, log, all, kept, s->feature_ids), st, end);
    rep->unused_rows = m.unused;
    if (s->visual)
        MR_TRY_GOTO(mr_feature_read(&d->visual, &m, s->visual, 2, s->feature_dtype), st, end);
    if (s->frames)
        MR_TRY_GOTO(mr_feature_read(&d->frames, &m, s->frames, 3, s->feature_dtype), st, end);
    if (s->text) MR_TRY_GOTO(mr_feature_read(&d->text, &m, s->text, 2, s->feature_dtype), st, end);
    if (s->frames && !s->visual) {
        rep->visual_is_frame_mean = true;
        MR_TRY_GOTO(mr_feature_mean(&d->visual, &d->frames, d->n_items), st, end);
    }
    if (s->glove) st = glove_text(d, s, rep, log, kept);
end:
    mr_row_map_free(&m);
    return st;
}

/* `all` keeps only the items' order from before the filter. */
static mr_status sort_and_filter(mr_sequences *kept, mr_sequences *all, mr_import_report *rep,
                                 const mr_inter_log *log, const mr_import_spec *s)
{
    MR_TRY(mr_log_sort(kept, log));
    const char *path = strcmp(s->interactions, "-") ? s->interactions : "standard input";
    int64_t *length = NULL;
    MR_TRY(MR_ALLOC(&length, kept->users, "lengths"));
    rep->before = stats_of(kept, length);
    all->items = kept->items;
    mr_status st = MR_ALLOC(&all->item_id, kept->items, "items before filtering");
    if (st == MR_OK) {
        memcpy(all->item_id, kept->item_id, sizeof *all->item_id * (size_t)kept->items);
        if (s->k_core > 1 || s->min_len > 1)
            st = mr_sequences_k_core(kept, s->k_core, s->min_len, path);
    }
    if (st == MR_OK) {
        rep->after = stats_of(kept, length);
        st = check_usable(&rep->after, path);
    }
    MR_FREE(length);
    return st;
}

mr_status mr_import(mr_dataset *out, mr_import_report *report, const mr_import_spec *spec)
{
    mr_inter_log log = {0};
    mr_sequences all = {0}, kept = {0};
    mr_dataset d = {0};
    mr_import_report rep = {0};
    uint64_t sums[MR_PART_COUNT];
    mr_status st;
    MR_TRY(check_spec(spec));
    MR_TRY_GOTO(mr_log_read(&log, spec->interactions), st, end);
    MR_TRY_GOTO(sort_and_filter(&kept, &all, &rep, &log, spec), st, end);
    set_name(&d, spec);
    MR_TRY_GOTO(fill_interactions(&d, &log, &kept), st, end);
    MR_TRY_GOTO(fill_features(&d, spec, &rep, &log, &all, &kept), st, end);
    MR_TRY_GOTO(mr_dataset_check(&d, spec->interactions), st, end);
    d.checksum = mr_dataset_sums(&d, sums);
end:
    mr_log_free(&log);
    mr_sequences_free(&all);
    mr_sequences_free(&kept);
    if (st != MR_OK) {
        mr_dataset_free(&d);
        return st;
    }
    *out = d;
    *report = rep;
    return MR_OK;
}
