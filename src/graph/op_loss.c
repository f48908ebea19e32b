/* mse: mean over the global rows and the inner elements of (target - pred)^2. The softmax losses
 * are in op_item_loss.c and op_ntxent.c. */
#include "graph/ops.h"
#include "graph/run.h"

static mr_status mse_forward(mr_run *r, const mr_node *n)
{
    mr_k(r)->mse(mr_val(r, mr_node_id(r, n)), NULL, NULL, mr_val(r, n->in[0]), mr_val(r, n->in[1]),
                 mr_n(r, n->in[0]), mr_node_inner(r->g, n->in[0]), mr_node_count(r->g, n->in[0]), 0,
                 0, 0, &r->ex);
    return MR_OK;
}

static mr_status mse_backward(mr_run *r, const mr_node *n)
{
    void *dp = mr_wants(r, n, 0) ? mr_grad(r, n->in[0]) : NULL;
    void *dt = mr_wants(r, n, 1) ? mr_grad(r, n->in[1]) : NULL;
    mr_k(r)->mse(mr_val(r, mr_node_id(r, n)), dp, dt, mr_val(r, n->in[0]), mr_val(r, n->in[1]),
                 mr_n(r, n->in[0]), mr_node_inner(r->g, n->in[0]), mr_node_count(r->g, n->in[0]),
                 mr_loss_weight(r, n), mr_acc(r, n, 0), mr_acc(r, n, 1), &r->ex);
    return MR_OK;
}

const mr_op mr_op_mse = {.name = "mse",
                         .bwd_in = 3,
                         .fused_loss = true,
                         .forward = mse_forward,
                         .backward = mse_backward};

int mr_g_mse(mr_graph *g, int pred, int target, bool detach_target)
{
    if (pred < 0 || target < 0) return -1;
    if (detach_target) target = mr_g_detach(g, target);
    const mr_node *p = mr_node_at(g, pred), *t = mr_node_at(g, target);
    if (p->space != MR_SPACE_ROWS || t->space != MR_SPACE_ROWS ||
        mr_node_inner(g, pred) != mr_node_inner(g, target))
        return mr_graph_fail(g, "mse: prediction and target must be rows of equal size");
    mr_node n = mr_node_make(g, &mr_op_mse, MR_SPACE_FIXED, 1, 1, 1, 1, 1);
    n.in[n.n_in++] = pred;
    n.in[n.n_in++] = target;
    return mr_graph_add(g, &n);
}
