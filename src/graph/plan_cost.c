/* Costs of the ops of a plan, one line of arithmetic each, from shapes.
 * What it is not: exact about caches. Bytes count every operand once: what an op has to move when
 * nothing of it is in cache. Invariant: an op that is missing in flops_of has no products; its cost
 * is its bytes. */
#include "graph/plan_cost.h"

#include <string.h>

#include "kernels/kernels.h"

typedef struct view {
    const mr_graph *g;
    const mr_plan *p;
    const mr_node *n;
    const mr_step_size *s;
    int id;
    bool forward;
} view;

static double rows_of(const view *v, int id)
{
    const mr_node *n = &v->g->node[id];
    return n->space == MR_SPACE_FIXED ? (double)n->dim[0] : v->s->rows[n->space];
}

static double elements(const view *v, int id)
{
    return rows_of(v, id) * (double)mr_node_inner(v->g, id);
}

static double param_elements(const view *v, int slot)
{
    const int64_t *d = v->g->params->p[v->n->param[slot]].dim;
    return (double)d[0] * (double)d[1] * (double)d[2] * (double)d[3];
}

/* y [n,o] = x [n,i] w^T: forward one product, backward one for w and one for x if wanted. */
static double dense(const view *v)
{
    double outputs = elements(v, v->id);
    double inputs = param_elements(v, 0) / (double)v->g->params->p[v->n->param[0]].dim[0];
    if (v->forward) return 2 * outputs * inputs;
    return 2 * outputs * inputs * (v->p->needs_grad[v->n->in[0]] ? 2 : 1);
}

/* The same with square blocks: o = i = width of a block. */
static double blocks(const view *v)
{
    double weights = 0;
    for (int s = 1; s < v->n->n_param; s++) weights += param_elements(v, s);
    double one = 2 * rows_of(v, v->id) * weights;
    return v->forward ? one : one * (v->p->needs_grad[v->n->in[0]] ? 2 : 1);
}

/* Pairs of query and key times 4 d forward (scores, mix), twice that backward. */
static double attention(const view *v)
{
    const mr_node *n = v->n;
    double B = v->s->rows[MR_SPACE_ROWS], S = (double)n->i[3], pairs;
    double tokens = v->s->rows[mr_space_tok((int)n->i[2])], length = B > 0 ? tokens / B : 0;
    switch (n->i[0]) {
    case MR_ATT_CAUSAL: pairs = tokens * (length + 1) / 2; break;
    case MR_ATT_LAST: pairs = tokens; break;
    case MR_ATT_FULL: pairs = rows_of(v, v->id) * S * S; break;
    default: pairs = B * (S + (n->in[2] >= 0)); break;
    }
    return pairs * (double)mr_node_width(v->g, v->id) * (v->forward ? 4 : 8);
}

/* Experts on the tokens, gates, and the table of PAD positions. */
static double experts(const view *v)
{
    const int64_t *w = v->g->params->p[v->n->param[0]].dim;
    double N = v->s->rows[MR_SPACE_TOK0], B = v->s->rows[MR_SPACE_ROWS], L = (double)v->g->dims.L;
    double E = (double)w[0], d = (double)w[1], dh = (double)w[2];
    double gates = 2 * N * E * dh * (v->n->i[0] ? 2 : 1), large = 2 * N * E * d * dh;
    double table = 2 * E * L * d * dh;
    if (!v->forward && v->g->dims.whole_products) large *= 2; /* y is made again */
    return gates + large + (v->forward ? table : 2 * table + 2 * B * L * E * d);
}

/* Three products over rows x candidates (two of them backward, but both are one pass). */
static double item_loss(const view *v)
{
    const mr_param *p = &v->g->params->p[v->n->param[0]];
    double own = (double)((p->dim[0] + v->s->group - 1) / v->s->group);
    return (v->forward ? 2 : 6) * v->s->group_rows * own * (double)p->dim[1];
}

static double contrast(const view *v)
{
    double pairs = 4 * v->s->rows[MR_SPACE_ROWS] * v->s->world_rows;
    return (v->forward ? 2 : 6) * pairs * (double)mr_node_inner(v->g, v->n->in[0]);
}

/* Two circular convolutions of length L at every position. */
static double convolutions(const view *v)
{
    return (v->forward ? 4 : 8) * elements(v, v->id) * (double)v->g->dims.L;
}

static const struct {
    const char *op;
    double (*flops)(const view *v);
    bool is_product;
} flops_of[] = {
    {"linear", dense, true},         {"blocks", blocks, true},           {"conv3", dense, true},
    {"moe", experts, true},          {"item_loss", item_loss, true},     {"ntxent", contrast, true},
    {"attention", attention, false}, {"freq_fuse", convolutions, false},
};

/* Operands: forward inputs and output; backward dy, the values it reads, and every wanted dx. */
static double bytes_of(const view *v)
{
    double n = elements(v, v->id);
    for (int i = 0; i < v->n->n_in; i++) {
        int id = v->n->in[i];
        if (id < 0) continue;
        if (v->forward || v->n->op->bwd_in & 1u << i) n += elements(v, id);
        bool is_own = v->p->grad_of[v->p->root[id]] == v->p->root[id];
        if (!v->forward && v->p->needs_grad[id] && is_own)
            n += elements(v, id) * (v->p->acc_in[v->id] >> i & 1 ? 2 : 1);
    }
    return n * (double)v->g->act_bytes;
}

mr_cost mr_plan_node_cost(const mr_plan *p, int id, bool forward, const mr_step_size *s)
{
    view v = {.g = p->g, .p = p, .n = &p->g->node[id], .s = s, .id = id, .forward = forward};
    mr_cost c = {0, 0, 0};
    bool is_product = false;
    for (size_t i = 0; i < sizeof flops_of / sizeof *flops_of; i++) {
        if (strcmp(flops_of[i].op, v.n->op->name)) continue;
        c.flops = flops_of[i].flops(&v);
        is_product = flops_of[i].is_product;
    }
    if (is_product)
        c.products = c.flops;
    else
        c.bytes = bytes_of(&v);
    return c;
}

mr_cost mr_plan_cost(const mr_plan *p, bool forward, const mr_step_size *s)
{
    mr_cost sum = {0, 0, 0};
    for (int i = 0; i < (forward ? p->n_fwd : p->n_bwd); i++) {
        mr_cost c = mr_plan_node_cost(p, forward ? p->fwd[i] : p->bwd[i], forward, s);
        sum.flops += c.flops;
        sum.products += c.products;
        sum.bytes += c.bytes;
    }
    return sum;
}

double mr_plan_update_bytes(const mr_plan *p, int group)
{
    const mr_params *ps = p->g->params;
    double n = (double)ps->n_dense;
    for (int i = 0; i < ps->n; i++) {
        const int64_t *d = ps->p[i].dim;
        if (ps->p[i].flags & MR_PARAM_SHARDED)
            n += (double)((d[0] + group - 1) / group) * (double)d[1];
    }
    bool is_rounded = p->g->act_bytes != p->g->real_bytes; /* and written once more in bf16 */
    return 8.0 * n * (double)p->g->real_bytes + (is_rounded ? 2.0 * (double)ps->n_dense : 0.0);
}
