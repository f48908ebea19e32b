/* The statistics block of a data set: Table 1 of the paper and the number of training rows. */
#include <stdio.h>

#include "data/check.h"

static void stats_add(mr_stats *s, int64_t n)
{
    s->inter += n;
    if (s->min_len < 0 || n < s->min_len) s->min_len = n;
    if (n > s->max_len) s->max_len = n;
    if (n >= 3) {
        s->train_rows += n - 3;
        s->eval_users++;
    }
}

static void stats_end(mr_stats *s)
{
    if (s->users == 0 || s->items == 0) {
        s->min_len = 0;
        return;
    }
    s->mean_len = (double)s->inter / (double)s->users;
    s->sparsity = 1.0 - (double)s->inter / ((double)s->users * (double)s->items);
}

mr_stats mr_stats_of(const int64_t *length, int64_t users, int64_t items)
{
    mr_stats s = {.users = users, .items = items, .min_len = -1};
    for (int64_t u = 0; u < users; u++) stats_add(&s, length[u]);
    stats_end(&s);
    return s;
}

mr_stats mr_dataset_stats(const mr_dataset *d)
{
    mr_stats s = {.users = d->n_users, .items = d->n_items, .min_len = -1};
    for (int64_t u = 0; u < d->n_users; u++) stats_add(&s, d->offset[u + 1] - d->offset[u]);
    stats_end(&s);
    return s;
}

static void line_int(FILE *f, const char *name, const int64_t *v, int n)
{
    fprintf(f, "%-22s", name);
    for (int i = 0; i < n; i++) fprintf(f, " %14lld", (long long)v[i]);
    fputc('\n', f);
}

void mr_stats_print(FILE *f, const mr_stats *s, const char *const *heads, int n)
{
    const mr_stats *a = &s[0], *b = n > 1 ? &s[1] : a;
    fprintf(f, "%-22s", "");
    for (int i = 0; i < n; i++) fprintf(f, " %14s", heads[i]);
    fputc('\n', f);
    line_int(f, "users", (int64_t[]){a->users, b->users}, n);
    line_int(f, "items", (int64_t[]){a->items, b->items}, n);
    line_int(f, "interactions", (int64_t[]){a->inter, b->inter}, n);
    fprintf(f, "%-22s", "average length");
    for (int i = 0; i < n; i++) fprintf(f, " %14.2f", s[i].mean_len);
    fprintf(f, "\n%-22s", "sparsity");
    for (int i = 0; i < n; i++) fprintf(f, " %13.4f%%", 100.0 * s[i].sparsity);
    fputc('\n', f);
    line_int(f, "shortest history", (int64_t[]){a->min_len, b->min_len}, n);
    line_int(f, "longest history", (int64_t[]){a->max_len, b->max_len}, n);
    line_int(f, "training rows", (int64_t[]){a->train_rows, b->train_rows}, n);
    line_int(f, "evaluated users", (int64_t[]){a->eval_users, b->eval_users}, n);
}
