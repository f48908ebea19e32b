/* Graph construction: append-only nodes with sticky errors. Shapes are checked by the op builders.
 */
#include "graph/graph.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"

mr_status mr_graph_create(mr_graph **out_p, const mr_graph_dims *dims, mr_params *params,
                          size_t real_bytes, bool train)
{
    mr_graph *g = NULL;
    MR_TRY(MR_ALLOC(&g, 1, "graph"));
    mr_status st = MR_ALLOC(&g->node, MR_MAX_NODES, "graph nodes");
    if (st != MR_OK) {
        MR_FREE(g);
        return st;
    }
    g->dims = *dims;
    g->params = params;
    params->row_unit = dims->row_unit;
    g->real_bytes = real_bytes;
    g->act_bytes = dims->act_bytes ? dims->act_bytes : real_bytes;
    g->train = train;
    *out_p = g;
    return MR_OK;
}

void mr_graph_free(mr_graph **g_p)
{
    if (!g_p || !*g_p) return;
    MR_FREE((*g_p)->node);
    MR_FREE(*g_p);
}

mr_status mr_graph_status(const mr_graph *g) { return g->status; }

void mr_graph_scope(mr_graph *g, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(g->scope, sizeof g->scope, fmt, ap);
    va_end(ap);
}

int64_t mr_space_cap(const mr_graph *g, mr_space s)
{
    switch (s) {
    case MR_SPACE_ROWS:
    case MR_SPACE_LAST: return g->dims.rows_cap;
    case MR_SPACE_TOK0:
    case MR_SPACE_TOK1:
    case MR_SPACE_TOK2:
        return g->dims.tokens_cap ? g->dims.tokens_cap : g->dims.rows_cap * g->dims.L;
    case MR_SPACE_FIXED:
    case MR_N_SPACES: break;
    }
    return 1;
}

mr_node mr_node_make(const mr_graph *g, const mr_op *op, mr_space space, int ndim, int64_t d0,
                     int64_t d1, int64_t d2, int64_t d3)
{
    mr_node n = {.op = op, .space = space, .ndim = ndim};
    n.dim[0] = space == MR_SPACE_FIXED ? d0 : mr_space_cap(g, space);
    n.dim[1] = ndim > 1 ? d1 : 1;
    n.dim[2] = ndim > 2 ? d2 : 1;
    n.dim[3] = ndim > 3 ? d3 : 1;
    n.cols = n.dim[ndim - 1];
    if (ndim > 1) n.dim[ndim - 1] = mr_round_up(n.cols, g->dims.row_unit);
    for (int i = 0; i < MR_MAX_IN; i++) n.in[i] = -1;
    for (int i = 0; i < MR_MAX_NODE_PARAMS; i++) n.param[i] = -1;
    return n;
}

void mr_node_set_width(mr_node *n, int64_t dim, int64_t cols)
{
    n->dim[n->ndim - 1] = dim;
    n->cols = cols;
}

mr_node mr_node_like(const mr_graph *g, const mr_op *op, mr_space space, const mr_node *a)
{
    mr_node n = mr_node_make(g, op, space, a->ndim, a->dim[0], a->dim[1], a->dim[2], a->dim[3]);
    mr_node_set_width(&n, a->dim[a->ndim - 1], a->cols);
    return n;
}

int mr_graph_fail(mr_graph *g, const char *fmt, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (g->status == MR_OK)
        g->status =
            MR_RAISE(MR_ERR_CONFIG, "model graph, %s: %s", g->scope[0] ? g->scope : "top", text);
    return -1;
}

bool mr_node_is_plain(mr_graph *g, const mr_node *n)
{
    if (!mr_node_is_padded(n)) return true;
    mr_graph_fail(g, "%s: %lld channels, which must be a multiple of %lld here", n->op->name,
                  (long long)n->cols, (long long)g->dims.row_unit);
    return false;
}

int mr_graph_add(mr_graph *g, const mr_node *n)
{
    if (g->status != MR_OK) return -1;
    if (g->n_nodes == MR_MAX_NODES)
        return mr_graph_fail(g,
                             "more than %d nodes; lower diffusion.steps (or what diffusion.t_set "
                             "holds) or the number of layers",
                             MR_MAX_NODES);
    mr_node *t = &g->node[g->n_nodes];
    *t = *n;
    for (int i = 0; i < 4; i++)
        if (t->dim[i] < 1)
            return mr_graph_fail(g, "%s: dimension %d is %lld", n->op->name, i,
                                 (long long)t->dim[i]);
    for (int i = 0; i < n->n_in; i++) {
        if (n->in[i] >= g->n_nodes) return mr_graph_fail(g, "%s: input %d unknown", n->op->name, i);
        if (n->in[i] >= 0 && g->node[n->in[i]].op->is_slice && !(n->op->takes_slice >> i & 1))
            return mr_graph_fail(g, "%s: input %d is a slice, whose rows are not contiguous",
                                 n->op->name, i);
    }
    t->number = g->next_number++;
    snprintf(t->label, sizeof t->label, "%s%s%s", g->scope, g->scope[0] ? "." : "", n->op->name);
    return g->n_nodes++;
}

void mr_graph_set_number(mr_graph *g, int number) { g->next_number = number; }

void mr_graph_loss(mr_graph *g, int node, double weight, const char *name)
{
    if (g->status != MR_OK || node < 0) return;
    if (g->n_losses == MR_MAX_LOSSES) {
        mr_graph_fail(g, "more than %d losses", MR_MAX_LOSSES);
        return;
    }
    mr_loss_term *t = &g->loss[g->n_losses++];
    t->node = node;
    t->weight = weight;
    snprintf(t->name, sizeof t->name, "%s", name);
}

void mr_graph_output(mr_graph *g, int node, const char *name)
{
    if (g->status != MR_OK || node < 0) return;
    if (g->node[node].op->is_slice) {
        mr_graph_fail(g, "output %s is a slice, whose rows are not contiguous", name);
        return;
    }
    if (g->n_outputs == MR_MAX_OUTPUTS) {
        mr_graph_fail(g, "more than %d outputs", MR_MAX_OUTPUTS);
        return;
    }
    snprintf(g->output[g->n_outputs].name, sizeof g->output[0].name, "%s", name);
    g->output[g->n_outputs++].node = node;
}

int mr_graph_find_output(const mr_graph *g, const char *name)
{
    for (int i = 0; i < g->n_outputs; i++)
        if (!strcmp(g->output[i].name, name)) return g->output[i].node;
    return -1;
}

const mr_node *mr_node_at(const mr_graph *g, int id) { return &g->node[id]; }

int64_t mr_node_inner(const mr_graph *g, int id)
{
    const mr_node *n = &g->node[id];
    return n->dim[1] * n->dim[2] * n->dim[3];
}

int64_t mr_node_width(const mr_graph *g, int id)
{
    const mr_node *n = &g->node[id];
    return n->dim[n->ndim - 1];
}

int64_t mr_node_cols(const mr_graph *g, int id) { return g->node[id].cols; }

int64_t mr_node_count(const mr_graph *g, int id)
{
    return mr_node_inner(g, id) / mr_node_width(g, id) * mr_node_cols(g, id);
}

int64_t mr_node_ld(const mr_graph *g, int id)
{
    const mr_node *n = &g->node[id];
    return mr_node_width(g, n->op->is_slice ? n->in[0] : id);
}
