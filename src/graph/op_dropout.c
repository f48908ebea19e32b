/* Dropout as an op of its own: y = m * x with inverted scaling. The mask is recomputed in backward.
 */
#include "graph/ops.h"
#include "graph/run.h"

static mr_drop drop_of(const mr_run *r, const mr_node *n)
{
    return (mr_drop){.p = n->f[0],
                     .purpose = mr_rand_purpose(n),
                     .rows = mr_rand_rows(r, n->space),
                     .per_row = 1};
}

static mr_status dropout_forward(mr_run *r, const mr_node *n)
{
    int id = mr_node_id(r, n);
    mr_drop d = drop_of(r, n);
    mr_k(r)->dropout(mr_val(r, id), mr_val(r, n->in[0]), mr_n(r, id), mr_node_inner(r->g, id), 0,
                     &d, &r->ex);
    return MR_OK;
}

static mr_status dropout_backward(mr_run *r, const mr_node *n)
{
    int id = mr_node_id(r, n);
    mr_drop d = drop_of(r, n);
    if (mr_wants(r, n, 0))
        mr_k(r)->dropout(mr_grad(r, n->in[0]), mr_grad(r, id), mr_n(r, id), mr_node_inner(r->g, id),
                         mr_acc(r, n, 0), &d, &r->ex);
    return MR_OK;
}

const mr_op mr_op_dropout = {
    .name = "dropout", .forward = dropout_forward, .backward = dropout_backward};

int mr_g_dropout(mr_graph *g, int x, double p)
{
    if (x < 0) return -1;
    if (!mr_drop_is_valid(p)) return mr_graph_fail(g, "dropout: p = %g is outside [0, 1)", p);
    if (!g->train || mr_drop_threshold(p) == 0) return x;
    const mr_node *a = mr_node_at(g, x);
    if (a->space == MR_SPACE_FIXED || a->space == MR_SPACE_LAST)
        return mr_graph_fail(g, "dropout: the input has no rows of the batch");
    mr_node n = mr_node_like(g, &mr_op_dropout, a->space, a);
    n.in[n.n_in++] = x;
    n.f[0] = p;
    return mr_graph_add(g, &n);
}
