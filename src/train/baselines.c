/* Popularity and first-order Markov chain: exact integer ranks. Definition in baselines.h, the same
 * as in tests/golden/oracles.py. */
#include "train/baselines.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

/* Times each item occurs in the training parts s_1..s_{n-2}; [n_items + 1]. */
static mr_status count_items(const mr_dataset *d, int64_t **out_p)
{
    int64_t *pop = NULL;
    MR_TRY(MR_ALLOC(&pop, d->n_items + 1, "item counts"));
    for (int64_t u = 0; u < d->n_users; u++)
        for (int64_t i = d->offset[u]; i < d->offset[u + 1] - 2; i++) pop[d->items[i]]++;
    *out_p = pop;
    return MR_OK;
}

static bool has_test(const mr_dataset *d, int64_t u)
{
    return d->offset[u + 1] - d->offset[u] >= 3;
}

/* 1 + items with a higher count + items with the same count and a lower id. */
static int64_t rank_by_count(const mr_dataset *d, const int64_t *count, int32_t target)
{
    int64_t r = 1;
    for (int32_t i = 1; i <= d->n_items; i++)
        r += count[i] > count[target] || (count[i] == count[target] && i < target);
    return r;
}

mr_status mr_rank_popularity(const mr_dataset *d, int32_t *rank)
{
    int64_t *pop = NULL, *by_item = NULL;
    mr_status st;
    MR_TRY_GOTO(count_items(d, &pop), st, done);
    MR_TRY_GOTO(MR_ALLOC(&by_item, d->n_items + 1, "ranks"), st, done); /* 0 = not yet known */
    for (int64_t u = 0; u < d->n_users; u++) {
        rank[u] = 0;
        if (!has_test(d, u)) continue;
        int32_t target = d->items[d->offset[u + 1] - 1];
        if (!by_item[target]) by_item[target] = rank_by_count(d, pop, target);
        rank[u] = (int32_t)by_item[target];
    }
done:
    MR_FREE(pop);
    MR_FREE(by_item);
    return st;
}

typedef struct transition {
    int32_t from, to;
} transition;

static int by_from(const void *a, const void *b)
{
    const transition *x = a, *y = b;
    if (x->from != y->from) return x->from < y->from ? -1 : 1;
    return (x->to > y->to) - (x->to < y->to);
}

/* Pairs (s_j, s_{j+1}), j = 1..n-3, sorted. */
static mr_status list_transitions(const mr_dataset *d, transition **out_p, int64_t *n_p)
{
    transition *t = NULL;
    int64_t n = 0;
    MR_TRY(MR_ALLOC(&t, d->n_inter + 1, "transitions"));
    for (int64_t u = 0; u < d->n_users; u++)
        for (int64_t i = d->offset[u]; i + 1 < d->offset[u + 1] - 2; i++)
            t[n++] = (transition){d->items[i], d->items[i + 1]};
    qsort(t, (size_t)n, sizeof *t, by_from);
    *out_p = t;
    *n_p = n;
    return MR_OK;
}

/* First transition from `item` or a higher one. */
static int64_t first_from(const transition *t, int64_t n, int32_t item)
{
    int64_t lo = 0, hi = n;
    while (lo < hi) {
        int64_t mid = (lo + hi) / 2;
        if (t[mid].from < item)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

mr_status mr_rank_markov(const mr_dataset *d, int32_t *rank)
{
    int64_t *pop = NULL, *score = NULL, n = 0, most = 0;
    transition *t = NULL;
    mr_status st;
    MR_TRY_GOTO(count_items(d, &pop), st, done);
    MR_TRY_GOTO(MR_ALLOC(&score, d->n_items + 1, "scores"), st, done);
    MR_TRY_GOTO(list_transitions(d, &t, &n), st, done);
    for (int32_t i = 1; i <= d->n_items; i++)
        if (pop[i] > most) most = pop[i];
    memcpy(score, pop, (size_t)(d->n_items + 1) * sizeof *score);
    for (int64_t u = 0; u < d->n_users; u++) {
        rank[u] = 0;
        if (!has_test(d, u)) continue;
        int64_t end = d->offset[u + 1];
        int32_t from = d->items[end - 2];
        int64_t first = first_from(t, n, from);
        for (int64_t k = first; k < n && t[k].from == from; k++) score[t[k].to] += 1 + most;
        rank[u] = (int32_t)rank_by_count(d, score, d->items[end - 1]);
        for (int64_t k = first; k < n && t[k].from == from; k++) score[t[k].to] = pop[t[k].to];
    }
done:
    MR_FREE(pop);
    MR_FREE(score);
    MR_FREE(t);
    return st;
}
