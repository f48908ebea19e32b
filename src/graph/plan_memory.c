/* Greedy placement by size: the largest buffer first, each at the lowest offset that is free during
 * its whole life. Also the brute-force check that no two live buffers overlap. */
#include "graph/plan_memory.h"

#include <stdlib.h>

#include "base/mem.h"

static int64_t padded(const mr_slot *s) { return (s->bytes + 63) / 64 * 64; }

static bool together(const mr_slot *a, const mr_slot *b)
{
    return a->first <= b->last && b->first <= a->last;
}

static int by_size(const void *a, const void *b)
{
    const mr_slot *x = *(mr_slot *const *)a, *y = *(mr_slot *const *)b;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? 1 : -1;
    return x->first != y->first ? (x->first < y->first ? -1 : 1) : x->last - y->last;
}

/* Lowest offset for s among the placed slots, which are sorted by offset. */
static int64_t lowest(const mr_slot *s, mr_slot *const *placed, int n)
{
    int64_t at = 0;
    for (int i = 0; i < n; i++) {
        if (!together(s, placed[i])) continue;
        if (placed[i]->offset - at >= padded(s)) break;
        int64_t end = placed[i]->offset + padded(placed[i]);
        if (end > at) at = end;
    }
    return at;
}

mr_status mr_place_slots(mr_slot **list, int n, bool is_private, int64_t *total_p)
{
    mr_slot **placed = NULL;
    int64_t total = 0;
    MR_TRY(MR_ALLOC(&placed, n, "plan placement"));
    qsort(list, (size_t)n, sizeof *list, by_size);
    for (int i = 0; i < n; i++) {
        mr_slot *s = list[i];
        s->offset = is_private ? total : lowest(s, placed, i);
        int k = i;
        while (k > 0 && placed[k - 1]->offset > s->offset) {
            placed[k] = placed[k - 1];
            k--;
        }
        placed[k] = s;
        if (s->offset + padded(s) > total) total = s->offset + padded(s);
    }
    MR_FREE(placed);
    *total_p = total;
    return MR_OK;
}

static mr_status check_pair(const mr_slot *a, const mr_slot *b, int na, int nb)
{
    bool apart = a->offset + a->bytes <= b->offset || b->offset + b->bytes <= a->offset;
    MR_CHECK(apart || !together(a, b), MR_ERR_INTERNAL,
             "plan: buffers of nodes %d and %d overlap while both are live", na, nb);
    return MR_OK;
}

mr_status mr_plan_verify(const mr_plan *p)
{
    int n_nodes = p->g->n_nodes, n = 0;
    const mr_slot **all = NULL;
    int *owner = NULL;
    mr_status st;
    MR_TRY_GOTO(MR_ALLOC(&all, (int64_t)n_nodes * (2 + MR_MAX_SAVED), "plan check"), st, done);
    MR_TRY_GOTO(MR_ALLOC(&owner, (int64_t)n_nodes * (2 + MR_MAX_SAVED), "plan check"), st, done);
    for (int id = 0; id < n_nodes; id++)
        for (int k = -2; k < MR_MAX_SAVED; k++) {
            const mr_slot *s = k == -2 ? &p->val[id] : k == -1 ? &p->grad[id] : &p->saved[id][k];
            if (s->first < 0) continue;
            owner[n] = id;
            all[n++] = s;
        }
    for (int i = 0; i < n; i++)
        for (int j = i + 1; j < n; j++)
            MR_TRY_GOTO(check_pair(all[i], all[j], owner[i], owner[j]), st, done);
done:
    MR_FREE(all);
    MR_FREE(owner);
    return st;
}
