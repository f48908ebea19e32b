/* Repeated k-core filtering of users and items.
 * The result does not depend on the order of removal: the k-core of a graph is unique. */
#include "base/mem.h"
#include "data/inter_log.h"

typedef struct core {
    int64_t *user_count, *item_count;
    bool *user_out, *item_out;
} core;

/* One sweep: mark what is below its limit and take its interactions away. Returns removals. */
static int64_t sweep(mr_sequences *q, core *c, int64_t k, int64_t user_min)
{
    int64_t removed = 0;
    for (int64_t i = 0; i < q->items; i++) {
        if (c->item_out[i] || c->item_count[i] >= k) continue;
        c->item_out[i] = true;
        removed++;
    }
    /* Users are counted over the items that are left. */
    for (int64_t u = 0; u < q->users; u++) {
        if (c->user_out[u]) continue;
        int64_t n = 0;
        for (int64_t j = q->offset[u]; j < q->offset[u + 1]; j++) n += !c->item_out[q->item[j]];
        c->user_count[u] = n;
        if (n >= user_min) continue;
        c->user_out[u] = true;
        removed++;
        for (int64_t j = q->offset[u]; j < q->offset[u + 1]; j++) c->item_count[q->item[j]]--;
    }
    return removed;
}

static mr_status compact(mr_sequences *q, const core *c)
{
    int32_t *new_item = NULL;
    MR_TRY(MR_ALLOC(&new_item, q->items, "new item numbers"));
    int64_t items = 0, users = 0, n = 0;
    for (int64_t i = 0; i < q->items; i++) {
        if (c->item_out[i]) continue;
        new_item[i] = (int32_t)items;
        q->item_id[items++] = q->item_id[i];
    }
    for (int64_t u = 0; u < q->users; u++) {
        int64_t lo = q->offset[u], hi = q->offset[u + 1]; /* read before offset[users] is written */
        if (c->user_out[u]) continue;
        q->user_id[users] = q->user_id[u];
        q->offset[users++] = n;
        for (int64_t j = lo; j < hi; j++)
            if (!c->item_out[q->item[j]]) q->item[n++] = new_item[q->item[j]];
    }
    q->offset[users] = n;
    q->users = users;
    q->items = items;
    q->n = n;
    MR_FREE(new_item);
    return MR_OK;
}

mr_status mr_sequences_k_core(mr_sequences *q, int64_t k, int64_t min_len, const char *path)
{
    core c = {0};
    mr_status st;
    int64_t user_min = k > min_len ? k : min_len;
    if (user_min < 1) user_min = 1;
    MR_TRY_GOTO(MR_ALLOC(&c.user_count, q->users, "user counts"), st, end);
    MR_TRY_GOTO(MR_ALLOC(&c.item_count, q->items, "item counts"), st, end);
    MR_TRY_GOTO(MR_ALLOC(&c.user_out, q->users, "removed users"), st, end);
    MR_TRY_GOTO(MR_ALLOC(&c.item_out, q->items, "removed items"), st, end);
    for (int64_t i = 0; i < q->n; i++) c.item_count[q->item[i]]++;
    while (sweep(q, &c, k > 1 ? k : 1, user_min) > 0) {}
    st = compact(q, &c);
    if (st == MR_OK && q->n == 0)
        st = MR_RAISE(
            MR_ERR_DATA,
            "%s: nothing is left after the %lld-core with at least %lld interactions a user; "
            "lower --k-core or --min-len",
            path, (long long)k, (long long)user_min);
end:
    MR_FREE(c.user_count);
    MR_FREE(c.item_count);
    MR_FREE(c.user_out);
    MR_FREE(c.item_out);
    return st;
}
