/* Greedy placement by size: the largest buffer first, each at the lowest offset that is free during
 * its whole life; buffers that are seldom full come last, so that they lie where memory is their
 * own and their unused ends cost no pages. Also the brute-force check that no two live buffers
 * overlap. */
#include "graph/plan_memory.h"

#include <stdlib.h>

#include "base/mem.h"

#define WALL 64

static int64_t padded(const mr_slot *s) { return (s->bytes + 63) / 64 * 64; }

static bool together(const mr_slot *a, const mr_slot *b)
{
    return a->first <= b->last && b->first <= a->last;
}

static int by_size(const void *a, const void *b)
{
    const mr_slot *x = *(mr_slot *const *)a, *y = *(mr_slot *const *)b;
    if (x->is_partial != y->is_partial) return x->is_partial ? 1 : -1;
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

/* Step of the backward pass that first writes parameter i, or the first one when none does. */
static int first_write(const mr_plan *p, int i)
{
    for (int j = 0; j < p->n_bwd; j++) {
        const mr_node *n = &p->g->node[p->bwd[j]];
        for (int s = 0; s < n->n_param; s++)
            if (n->param[s] == i) {
                for (int z = 0; z < p->n_zero; z++)
                    if (p->zero[z] == i) return p->n_fwd;
                return p->n_fwd + j - (p->begun_by[p->bwd[j]] >= 0);
            }
    }
    return p->n_fwd;
}

int mr_gradient_slots(mr_plan *p, mr_slot *fixed)
{
    const mr_params *ps = p->g->params;
    int64_t real = (int64_t)ps->real_bytes, at = 0, end = ps->n_total * real;
    int n = 0, last = p->n_fwd + p->n_bwd;
    for (int sharded = 0; sharded < 2; sharded++)
        for (int i = 0; i < ps->n; i++) {
            const mr_param *q = &ps->p[i];
            int64_t lo = q->offset * real;
            if (!!(q->flags & MR_PARAM_SHARDED) != sharded) continue;
            if (lo > at)
                fixed[n++] =
                    (mr_slot){.offset = at / 64 * 64, .bytes = lo - at / 64 * 64, .last = last};
            fixed[n++] = (mr_slot){
                .offset = lo, .bytes = q->count * real, .first = first_write(p, i), .last = last};
            at = lo + q->count * real;
        }
    p->grad_bytes = (end + 63) / 64 * 64;
    at = at / 64 * 64;
    fixed[n++] = (mr_slot){.offset = at, .bytes = p->grad_bytes + WALL - at, .last = last};
    return n;
}

mr_status mr_place_slots(mr_slot **list, int n, mr_slot *fixed, int n_fixed, bool is_private,
                         int64_t *total_p)
{
    mr_slot **placed = NULL;
    int64_t total = 0;
    MR_TRY(MR_ALLOC(&placed, n + n_fixed, "plan placement"));
    for (int i = 0; i < n_fixed; i++) {
        placed[i] = &fixed[i];
        if (fixed[i].offset + padded(&fixed[i]) > total)
            total = fixed[i].offset + padded(&fixed[i]);
    }
    qsort(list, (size_t)n, sizeof *list, by_size);
    for (int i = 0; i < n; i++) {
        mr_slot *s = list[i];
        int k = i + n_fixed;
        s->offset = is_private ? total : lowest(s, placed, k);
        while (k > 0 && placed[k - 1]->offset > s->offset) {
            placed[k] = placed[k - 1];
            k--;
        }
        placed[k] = s;
        int64_t end = s->offset + padded(s) + (is_private ? MR_RED_ZONE : 0);
        if (end > total) total = end;
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

/* The gradients' own places count as buffers of node -1. */
mr_status mr_plan_verify(const mr_plan *p)
{
    int n_nodes = p->g->n_nodes, n = 0, n_fixed = 0;
    mr_slot fixed[2 * MR_MAX_PARAMS + 2];
    const mr_slot **all = NULL;
    int *owner = NULL;
    int64_t most = (int64_t)n_nodes * (5 + MR_MAX_SAVED);
    mr_status st;
    if (p->grad_bytes) {
        mr_plan copy = *p;
        n_fixed = mr_gradient_slots(&copy, fixed);
    }
    MR_TRY_GOTO(MR_ALLOC(&all, most, "plan check"), st, done);
    MR_TRY_GOTO(MR_ALLOC(&owner, most, "plan check"), st, done);
    for (int id = 0; id < n_nodes; id++)
        for (int k = -5; k < MR_MAX_SAVED; k++) {
            const mr_slot *s = k == -5   ? &p->again[id]
                               : k < -2  ? &p->scratch[id][k + 4]
                               : k == -2 ? &p->val[id]
                               : k == -1 ? &p->grad[id]
                                         : &p->saved[id][k];
            if (s->first < 0) continue;
            owner[n] = id;
            all[n++] = s;
        }
    for (int i = 0; i < n; i++) {
        for (int j = i + 1; j < n; j++)
            MR_TRY_GOTO(check_pair(all[i], all[j], owner[i], owner[j]), st, done);
        for (int j = 0; j < n_fixed; j++)
            MR_TRY_GOTO(check_pair(all[i], &fixed[j], owner[i], -1), st, done);
    }
done:
    MR_FREE(all);
    MR_FREE(owner);
    return st;
}
