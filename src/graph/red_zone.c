/* Red zones: filling and checking. Invariant: only a private plan has them, where mr_place_slots
 * leaves MR_RED_ZONE bytes behind every buffer; the unused rows of a buffer count as zone too. */
#include "graph/red_zone.h"

#include <stdio.h>

#include "base/mem.h"
#include "graph/plan_memory.h"

#define POISON 0xFF

mr_status mr_red_zones_fill(mr_run *r)
{
    return r->dev->fill(r->dev, r->ws, POISON, (size_t)r->plan->ws_bytes);
}

static const char *const kinds[] = {"value", "gradient", "value computed again", "forward scratch",
                                    "backward scratch"};
enum { N_KINDS = 5 };

/* Buffer k of node id: one of `kinds`, or saved buffer k - N_KINDS. *used = bytes of this batch. */
static const mr_slot *buffer(const mr_run *r, int id, int k, int64_t *used)
{
    const mr_plan *p = r->plan;
    const mr_node *n = &r->g->node[id];
    int64_t real = (int64_t)r->g->real_bytes, act = (int64_t)r->g->act_bytes;
    *used = mr_n(r, id) * mr_node_inner(r->g, id) * act;
    switch (k) {
    case 0: *used = mr_plan_value_elements(p, id, mr_n(r, id)) * act; return &p->val[id];
    case 1: return &p->grad[id];
    case 2: return &p->again[id];
    case 3:
    case 4: *used = (int64_t)n->scratch_bytes; return &p->scratch[id][k - 3];
    default: break;
    }
    const mr_saved_spec *sp = &n->saved[k - N_KINDS];
    int64_t rows = sp->space == MR_SPACE_FIXED ? 1 : r->count[sp->space];
    *used = rows * sp->inner * (sp->elem ? sp->elem : real);
    return &p->saved[id][k - N_KINDS];
}

static mr_status report(const mr_run *r, int step, int id, int owner, int k, int64_t past)
{
    char what[48];
    const mr_node *n = &r->g->node[id], *o = &r->g->node[owner];
    if (k < N_KINDS)
        snprintf(what, sizeof what, "%s", kinds[k]);
    else
        snprintf(what, sizeof what, "saved buffer %d", k - N_KINDS);
    return MR_RAISE(MR_ERR_INTERNAL,
                    "%s of %%%d %s (op %s) wrote %lld byte(s) past the end of the %s of %%%d %s",
                    step < r->plan->n_fwd ? "forward" : "backward", id, n->label, n->op->name,
                    (long long)past, what, owner, o->label);
}

/* Bytes from `used` on that are not poison any more: up to the last such one; 0 = none. */
static int64_t spoiled(const unsigned char *zone, int64_t bytes)
{
    while (bytes > 0 && zone[bytes - 1] == POISON) bytes--;
    return bytes;
}

mr_status mr_red_zones_check(mr_run *r, int step, int id)
{
    mr_status st = r->dev->sync(r->dev);
    unsigned char *copy = NULL;
    const char *ws = r->ws;
    if (st == MR_OK && !r->dev->host_memory) {
        st = MR_ALLOC(&copy, r->plan->ws_bytes, "copy of the workspace");
        if (st == MR_OK) st = r->dev->to_host(r->dev, copy, r->ws, (size_t)r->plan->ws_bytes);
        ws = (const char *)copy;
    }
    for (int o = 0; o < r->g->n_nodes && st == MR_OK; o++)
        for (int k = 0; k < N_KINDS + r->g->node[o].n_saved && st == MR_OK; k++) {
            int64_t used = 0;
            const mr_slot *s = buffer(r, o, k, &used);
            if (s->first < 0 || s->first > step || s->last < step) continue;
            int64_t end = (s->bytes + 63) / 64 * 64 + MR_RED_ZONE;
            int64_t past = spoiled((const unsigned char *)ws + s->offset + used, end - used);
            if (past > 0) st = report(r, step, id, o, k, past);
        }
    MR_FREE(copy);
    return st;
}
