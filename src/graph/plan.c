/* Compile a graph: reachability, order, who writes and who accumulates, lifetimes, gradient
 * buckets. Memory placement is in plan_memory.c, the listing in plan_print.c. Invariant: a plan
 * depends on the graph alone, so all ranks compile the same one. */
#include "graph/plan.h"

#include <string.h>

#include "base/mem.h"
#include "graph/plan_memory.h"
#include "kernels/family_unet.h"

/* Scratch marks of one compilation. */
typedef struct marks {
    bool *live, *depends, *reach;
    int *fwd_at, *bwd_at; /* step of a node's forward and backward, -1 = none */
} marks;

static bool cuts(const mr_node *n)
{
    return n->op->cut_grad || (!n->op->is_alias && !n->op->backward);
}

static void mark_live(const mr_graph *g, marks *m)
{
    for (int i = 0; i < g->n_losses; i++) m->live[g->loss[i].node] = true;
    for (int i = 0; i < g->n_outputs; i++) m->live[g->output[i].node] = true;
    for (int id = g->n_nodes - 1; id >= 0; id--) {
        const mr_node *n = &g->node[id];
        for (int s = 0; m->live[id] && s < n->n_in; s++)
            if (n->in[s] >= 0) m->live[n->in[s]] = true;
    }
}

/* needs_grad: a parameter is upstream and a loss is downstream, with nothing in between that cuts.
 */
static void mark_grads(const mr_graph *g, marks *m, mr_plan *p)
{
    for (int id = 0; id < g->n_nodes; id++) {
        const mr_node *n = &g->node[id];
        bool d = false;
        for (int s = 0; s < n->n_param; s++) d |= n->param[s] >= 0;
        for (int s = 0; s < n->n_in; s++) d |= n->in[s] >= 0 && m->depends[n->in[s]];
        m->depends[id] = d && !cuts(n);
    }
    for (int i = 0; i < g->n_losses; i++) m->reach[g->loss[i].node] = true;
    for (int id = g->n_nodes - 1; id >= 0; id--) {
        const mr_node *n = &g->node[id];
        if (!m->reach[id] || !m->depends[id]) continue;
        for (int s = 0; s < n->n_in; s++)
            if (n->in[s] >= 0) m->reach[n->in[s]] = true;
    }
    for (int id = 0; id < g->n_nodes; id++)
        p->needs_grad[id] = p->backward && m->reach[id] && m->depends[id];
}

static bool is_output(const mr_graph *g, int id)
{
    for (int i = 0; i < g->n_outputs; i++)
        if (g->output[i].node == id) return true;
    return false;
}

static bool is_taken(const mr_op *op, const mr_op *by, int slot)
{
    return (op->may_join && by->takes_joined >> slot & 1u) ||
           (op->forward_plus && by->adds >> slot & 1u);
}

/* The nodes whose forward is done by their only reader. */
static void choose_joined(const mr_graph *g, const marks *m, mr_plan *p)
{
    for (int id = 0; g->dims.whole_products && id < g->n_nodes; id++) {
        int readers = 0, reader = -1;
        bool takes = true;
        if (is_output(g, id)) continue;
        for (int to = id + 1; to < g->n_nodes; to++)
            for (int s = 0; m->live[to] && s < g->node[to].n_in; s++) {
                if (g->node[to].in[s] != id) continue;
                readers++;
                reader = to;
                takes &= is_taken(g->node[id].op, g->node[to].op, s);
            }
        p->is_joined[id] = readers == 1 && takes;
        if (p->is_joined[id] && g->node[id].op->forward_plus) p->grad_of[id] = reader;
    }
}

static void order_steps(const mr_graph *g, marks *m, mr_plan *p)
{
    for (int id = 0; id < g->n_nodes; id++) {
        const mr_op *op = g->node[id].op;
        m->fwd_at[id] = m->bwd_at[id] = -1;
        if (!m->live[id] || op->is_alias || (op->fused_loss && p->backward)) continue;
        m->fwd_at[id] = p->n_fwd;
        for (int s = 0; s < g->node[id].n_in; s++) /* in the same step */
            if (g->node[id].in[s] >= 0 && p->is_joined[g->node[id].in[s]])
                m->fwd_at[g->node[id].in[s]] = p->n_fwd;
        if (!p->is_joined[id]) p->fwd[p->n_fwd++] = id;
    }
    for (int id = g->n_nodes - 1; id >= 0; id--) {
        const mr_op *op = g->node[id].op;
        bool runs = p->needs_grad[id] || (p->backward && m->live[id] && op->fused_loss);
        if (!runs || op->is_alias || !op->backward) continue;
        m->bwd_at[id] = p->n_fwd + p->n_bwd;
        p->bwd[p->n_bwd++] = id;
    }
}

/* Do two nodes write the gradient of one parameter? */
static bool shares_param(const mr_node *a, const mr_node *b)
{
    for (int i = 0; i < a->n_param; i++)
        for (int k = 0; k < b->n_param; k++)
            if (a->param[i] >= 0 && a->param[i] == b->param[k]) return true;
    return false;
}

/* The nodes whose backward is begun in the step before. */
static void choose_begun(const mr_graph *g, mr_plan *p)
{
    for (int j = 1; g->dims.whole_products && j < p->n_bwd; j++) {
        const mr_node *a = &g->node[p->bwd[j - 1]], *b = &g->node[p->bwd[j]];
        int slot = -1, uses = 0;
        for (int s = 0; s < a->n_in; s++)
            if (a->in[s] == p->bwd[j]) {
                slot = s;
                uses++;
            }
        if (uses == 1 && a->op->begins >> slot & 1u && b->op->can_begin && !shares_param(a, b))
            p->begun_by[p->bwd[j]] = p->bwd[j - 1];
    }
}

/* The node that stands for the same gradient memory: the first slice of the same columns, or the
 * root. A joined input stands for itself: its reader writes nothing there. */
static int gradient_of(const mr_graph *g, const mr_plan *p, int id)
{
    const mr_node *n = &g->node[id], *o;
    if (!n->op->is_slice) return p->root[id];
    int first = n->in[0] + 1;
    for (o = &g->node[first]; first < id; first++, o++)
        if (o->op->is_slice && o->in[0] == n->in[0] && o->i[0] == n->i[0] &&
            mr_node_width(g, first) == mr_node_width(g, id))
            break;
    return first;
}

/* A node of which slices want a gradient is read through slices alone, and every column by one of
 * them: who writes first is known for each column, and none is left unwritten. */
static mr_status check_slices(const mr_graph *g, const mr_plan *p)
{
    int64_t covered[MR_MAX_NODES] = {0}, whole[MR_MAX_NODES] = {0};
    for (int id = 0; id < g->n_nodes; id++) {
        const mr_node *n = &g->node[id];
        for (int s = 0; s < n->n_in; s++)
            if (!n->op->is_slice && n->in[s] >= 0 && !g->node[n->in[s]].op->is_slice &&
                p->needs_grad[n->in[s]] && p->needs_grad[id])
                whole[p->root[n->in[s]]]++;
        if (!n->op->is_slice || !p->needs_grad[id] || gradient_of(g, p, id) != id) continue;
        for (int o = n->in[0] + 1; o < id; o++) {
            const mr_node *q = &g->node[o];
            if (!q->op->is_slice || q->in[0] != n->in[0] || !p->needs_grad[o]) continue;
            bool apart = q->i[0] + mr_node_width(g, o) <= n->i[0] ||
                         n->i[0] + mr_node_width(g, id) <= q->i[0];
            MR_CHECK(apart, MR_ERR_INTERNAL, "plan: slices %%%d and %%%d of %%%d overlap", o, id,
                     n->in[0]);
        }
        covered[p->root[id]] += mr_node_width(g, id);
    }
    for (int id = 0; id < g->n_nodes; id++)
        MR_CHECK(covered[id] == 0 || (!whole[id] && covered[id] == mr_node_width(g, id)),
                 MR_ERR_INTERNAL,
                 "plan: %lld of %lld columns of %%%d %s get a gradient through slices, and it has "
                 "%lld other readers",
                 (long long)covered[id], (long long)mr_node_width(g, id), id, g->node[id].label,
                 (long long)whole[id]);
    return MR_OK;
}

static void mark_accumulate(const mr_graph *g, mr_plan *p)
{
    bool written[MR_MAX_NODES] = {false}, pwritten[MR_MAX_PARAMS] = {false};
    for (int j = 0; j < p->n_bwd; j++) {
        const mr_node *n = &g->node[p->bwd[j]];
        for (int s = 0; s < n->n_in; s++) {
            if (n->in[s] < 0 || !p->needs_grad[n->in[s]]) continue;
            int to = gradient_of(g, p, n->in[s]);
            if (written[to]) p->acc_in[p->bwd[j]] |= 1u << s;
            written[to] = true;
        }
        for (int s = 0; s < n->n_param; s++) {
            if (n->param[s] < 0) continue;
            if (pwritten[n->param[s]]) p->acc_param[p->bwd[j]] |= 1u << s;
            pwritten[n->param[s]] = true;
        }
    }
    for (int i = 0; p->backward && i < g->params->n; i++)
        if (!pwritten[i]) p->zero[p->n_zero++] = i;
}

/* Has a node a value in memory of its own? */
static bool has_value(const mr_plan *p, int id)
{
    return !(p->is_joined[id] && p->g->node[id].op->forward_plus);
}

static void live_at(mr_slot *s, int step)
{
    if (s->first < 0 || step < s->first) s->first = step;
    if (step > s->last) s->last = step;
}

static bool is_loss(const mr_graph *g, int id)
{
    for (int i = 0; i < g->n_losses; i++)
        if (g->loss[i].node == id) return true;
    return false;
}

/* May the value of id be computed again in step again[id].first? Its inputs must be there anyway.
 */
static bool can_redo(const mr_graph *g, const mr_plan *p, int id)
{
    const mr_node *n = &g->node[id];
    const mr_slot *val = &p->val[id];
    if (!n->op->is_cheap || g->dims.whole_products || val->first < 0 ||
        val->last >= p->again[id].first)
        return false;
    for (int s = 0; s < n->n_in; s++)
        if (n->in[s] >= 0 && p->val[p->root[n->in[s]]].last < p->again[id].first) return false;
    return true;
}

/* The backward lives of values, collected in again[], become part of val[] or stay where forward
 * runs twice. In order of the nodes, so that inputs are decided before their readers. */
static void choose_redone(const mr_graph *g, mr_plan *p)
{
    const mr_slot none = {.offset = -1, .first = -1, .last = -1};
    for (int id = 0; id < g->n_nodes; id++) {
        mr_slot *again = &p->again[id];
        if (again->first < 0) continue;
        if (can_redo(g, p, id)) {
            if (g->node[id].scratch_bytes > 0) live_at(&p->scratch[id][1], again->first);
            continue;
        }
        live_at(&p->val[id], again->first);
        live_at(&p->val[id], again->last);
        *again = none;
    }
}

/* First and last step in which each value, gradient and saved buffer is used. */
static void lifetimes(const mr_graph *g, const marks *m, mr_plan *p)
{
    int end = p->n_fwd + p->n_bwd;
    for (int id = 0; id < g->n_nodes; id++) {
        const mr_node *n = &g->node[id];
        if (!m->live[id] || n->op->is_alias) continue;
        int f = m->fwd_at[id], b = m->bwd_at[id], begin = p->begun_by[id] >= 0 ? b - 1 : b;
        if (f >= 0 && has_value(p, id)) live_at(&p->val[id], f);
        if (b >= 0 && (n->op->bwd_out || f < 0)) live_at(&p->again[id], b);
        for (int s = 0; s < n->n_in; s++) {
            if (n->in[s] < 0) continue;
            int root = p->root[n->in[s]];
            if (f >= 0 && has_value(p, root)) live_at(&p->val[root], f);
            if (b >= 0 && (f < 0 || n->op->bwd_in & 1u << s)) live_at(&p->again[root], b);
            if (b >= 0 && p->needs_grad[n->in[s]]) {
                mr_slot *grad = &p->grad[p->grad_of[root]];
                live_at(grad, b);
                live_at(grad, begin);
                if (m->bwd_at[root] >= 0) live_at(grad, m->bwd_at[root]);
            }
        }
        for (int k = 0; k < n->n_saved; k++) {
            if (b < 0 && n->saved_for_bwd & 1u << k) continue;
            if (f >= 0) live_at(&p->saved[id][k], f);
            if (b >= 0) live_at(&p->saved[id][k], b);
        }
        if (n->scratch_bytes > 0 && f >= 0) live_at(&p->scratch[id][0], f);
        if (n->scratch_bytes > 0 && b >= 0) live_at(&p->scratch[id][1], b);
        if (n->scratch_bytes > 0 && b >= 0) live_at(&p->scratch[id][1], begin);
    }
    for (int i = 0; i < g->n_outputs; i++)
        if (!is_loss(g, p->root[g->output[i].node]))
            live_at(&p->val[p->root[g->output[i].node]], end);
    choose_redone(g, p);
    for (int i = 0; i < g->n_losses; i++)
        p->val[g->loss[i].node].first = -1; /* in the loss slots */
}

int64_t mr_plan_value_elements(const mr_plan *p, int id, int64_t rows)
{
    const mr_node *n = &p->g->node[id];
    return p->is_joined[id] ? mr_framed_rows(rows, n->dim[1]) * n->dim[2]
                            : rows * mr_node_inner(p->g, id);
}

/* Sizes, then places. */
static mr_status place(const mr_graph *g, mr_plan *p)
{
    mr_slot **list = NULL, fixed[2 * MR_MAX_PARAMS + 2];
    int n = 0, n_fixed = 0;
    MR_TRY(MR_ALLOC(&list, (int64_t)g->n_nodes * (5 + MR_MAX_SAVED), "plan buffers"));
    for (int id = 0; id < g->n_nodes; id++) {
        const mr_node *nd = &g->node[id];
        int64_t bytes = nd->dim[0] * mr_node_inner(g, id) * (int64_t)g->act_bytes;
        p->grad[id].bytes = bytes;
        p->val[id].bytes = mr_plan_value_elements(p, id, nd->dim[0]) * (int64_t)g->act_bytes;
        p->val[id].is_partial = p->grad[id].is_partial = nd->space >= MR_SPACE_TOK0;
        if (p->val[id].first >= 0) list[n++] = &p->val[id];
        if (p->grad[id].first >= 0) list[n++] = &p->grad[id];
        p->again[id].bytes = bytes;
        p->again[id].is_partial = p->val[id].is_partial;
        if (p->again[id].first >= 0) list[n++] = &p->again[id];
        for (int k = 0; k < nd->n_saved; k++) {
            const mr_saved_spec *sp = &nd->saved[k];
            mr_slot *s = &p->saved[id][k];
            s->bytes = mr_space_cap(g, sp->space) * sp->inner *
                       (sp->elem ? sp->elem : (int64_t)g->real_bytes);
            s->is_partial = sp->space >= MR_SPACE_TOK0;
            if (s->first >= 0) list[n++] = s;
        }
        for (int k = 0; k < 2; k++) {
            p->scratch[id][k].bytes = (int64_t)nd->scratch_bytes;
            if (p->scratch[id][k].first >= 0) list[n++] = &p->scratch[id][k];
        }
    }
    if (p->backward && !p->is_private && g->params->has_grad) n_fixed = mr_gradient_slots(p, fixed);
    mr_status st = mr_place_slots(list, n, fixed, n_fixed, p->is_private, &p->ws_bytes);
    p->ws_bytes -= p->grad_bytes;
    MR_FREE(list);
    return st;
}

/* Gradient buckets from the end of the dense buffer to its start, which is about the order in which
 * backward finishes them. */
static mr_status make_buckets(const mr_graph *g, mr_plan *p, int64_t bucket_elems)
{
    const mr_params *ps = g->params;
    int last[MR_MAX_PARAMS], fused = -1;
    memset(last, -1, sizeof last);
    for (int j = 0; j < p->n_bwd; j++) {
        const mr_node *n = &g->node[p->bwd[j]];
        if (n->op->fused_loss) fused = j;
        for (int s = 0; s < n->n_param; s++)
            if (n->param[s] >= 0) last[n->param[s]] = j;
    }
    mr_bucket b = {.hi = ps->n_dense + MR_LOSS_SLOTS, .after = fused};
    for (int i = ps->n - 1; i >= 0; i--) {
        const mr_param *q = &ps->p[i];
        if (q->flags & MR_PARAM_SHARDED) continue;
        if (last[i] > b.after) b.after = last[i];
        b.lo = q->offset;
        if (bucket_elems > 0 && b.hi - b.lo >= bucket_elems && b.lo > 0) {
            MR_CHECK(p->n_buckets < 255, MR_ERR_CONFIG,
                     "dist.bucket_mb: more than 255 gradient buckets; use a larger value");
            p->bucket[p->n_buckets++] = b;
            b = (mr_bucket){.hi = b.lo, .after = -1};
        }
    }
    b.lo = 0;
    p->bucket[p->n_buckets++] = b;
    return MR_OK;
}

static mr_status alloc_plan(mr_plan *p, marks *m, int n)
{
    MR_TRY(MR_ALLOC(&p->fwd, n, "plan"));
    MR_TRY(MR_ALLOC(&p->bwd, n, "plan"));
    MR_TRY(MR_ALLOC(&p->root, n, "plan"));
    MR_TRY(MR_ALLOC(&p->needs_grad, n, "plan"));
    MR_TRY(MR_ALLOC(&p->val, n, "plan"));
    MR_TRY(MR_ALLOC(&p->grad, n, "plan"));
    MR_TRY(MR_ALLOC(&p->again, n, "plan"));
    MR_TRY(MR_ALLOC(&p->saved, n, "plan"));
    MR_TRY(MR_ALLOC(&p->scratch, n, "plan"));
    MR_TRY(MR_ALLOC(&p->acc_in, n, "plan"));
    MR_TRY(MR_ALLOC(&p->acc_param, n, "plan"));
    MR_TRY(MR_ALLOC(&p->is_joined, n, "plan"));
    MR_TRY(MR_ALLOC(&p->grad_of, n, "plan"));
    MR_TRY(MR_ALLOC(&p->begun_by, n, "plan"));
    MR_TRY(MR_ALLOC(&m->live, n, "plan"));
    MR_TRY(MR_ALLOC(&m->depends, n, "plan"));
    MR_TRY(MR_ALLOC(&m->reach, n, "plan"));
    MR_TRY(MR_ALLOC(&m->fwd_at, n, "plan"));
    MR_TRY(MR_ALLOC(&m->bwd_at, n, "plan"));
    const mr_slot none = {.offset = -1, .first = -1, .last = -1};
    for (int i = 0; i < n; i++) {
        p->val[i] = p->grad[i] = p->again[i] = p->scratch[i][0] = p->scratch[i][1] = none;
        for (int k = 0; k < MR_MAX_SAVED; k++) p->saved[i][k] = none;
        p->begun_by[i] = -1;
    }
    return MR_OK;
}

mr_status mr_plan_compile(mr_plan **out_p, const mr_graph *g, bool backward, bool is_private,
                          int64_t bucket_elems)
{
    mr_plan *p = NULL;
    marks m = {0};
    MR_TRY(mr_graph_status(g));
    MR_CHECK(g->n_nodes > 0, MR_ERR_INTERNAL, "plan: the graph is empty");
    MR_TRY(MR_ALLOC(&p, 1, "plan"));
    mr_status st;
    MR_TRY_GOTO(alloc_plan(p, &m, g->n_nodes), st, done);
    p->g = g;
    p->backward = backward;
    p->is_private = is_private;
    for (int id = 0; id < g->n_nodes; id++)
        p->root[id] = p->grad_of[id] = g->node[id].op->is_alias ? p->root[g->node[id].in[0]] : id;
    mark_live(g, &m);
    mark_grads(g, &m, p);
    choose_joined(g, &m, p);
    order_steps(g, &m, p);
    choose_begun(g, p);
    MR_TRY_GOTO(check_slices(g, p), st, done);
    mark_accumulate(g, p);
    lifetimes(g, &m, p);
    MR_TRY_GOTO(place(g, p), st, done);
    if (backward) MR_TRY_GOTO(make_buckets(g, p, bucket_elems), st, done);
done:
    MR_FREE(m.live);
    MR_FREE(m.depends);
    MR_FREE(m.reach);
    MR_FREE(m.fwd_at);
    MR_FREE(m.bwd_at);
    if (st != MR_OK)
        mr_plan_free(&p);
    else
        *out_p = p;
    return st;
}

void mr_plan_free(mr_plan **p_p)
{
    mr_plan *p = p_p ? *p_p : NULL;
    if (!p) return;
    MR_FREE(p->fwd);
    MR_FREE(p->bwd);
    MR_FREE(p->root);
    MR_FREE(p->needs_grad);
    MR_FREE(p->val);
    MR_FREE(p->grad);
    MR_FREE(p->again);
    MR_FREE(p->saved);
    MR_FREE(p->scratch);
    MR_FREE(p->acc_in);
    MR_FREE(p->acc_param);
    MR_FREE(p->is_joined);
    MR_FREE(p->grad_of);
    MR_FREE(p->begun_by);
    MR_FREE(*p_p);
}
