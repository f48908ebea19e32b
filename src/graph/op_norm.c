/* Layer normalisation with residual and dropouts: y = drop_out(LN(drop_in(x) + residual)).
 * Saves mean and 1/deviation of every row; masks and the sum are recomputed in backward.
 * f[0] eps, f[1] drop_in, f[2] drop_out. in: x, residual. param: gamma, beta. */
#include "graph/ops.h"
#include "graph/run.h"

typedef struct norm_args {
    int64_t n, w, cols;
    mr_drop in, out;
} norm_args;

static norm_args args_of(const mr_run *r, const mr_node *n)
{
    norm_args a;
    int id = mr_node_id(r, n);
    a.w = mr_node_width(r->g, id);
    a.cols = n->cols;
    int64_t per_row = mr_node_inner(r->g, id) / a.w;
    a.n = n->ndim == 1 ? 1 : mr_n(r, id) * per_row;
    a.in = a.out = (mr_drop){.p = n->f[1], .purpose = mr_rand_purpose(n), .per_row = per_row};
    a.out.p = n->f[2];
    a.out.purpose |= MR_DROP_SECOND;
    if (n->f[1] > 0 || n->f[2] > 0) a.in.rows = a.out.rows = mr_rand_rows(r, n->space);
    return a;
}

static mr_status norm_forward(mr_run *r, const mr_node *n)
{
    norm_args a = args_of(r, n);
    mr_k(r)->layer_norm_fwd(mr_val(r, mr_node_id(r, n)), mr_saved(r, n, 0), mr_saved(r, n, 1),
                            mr_val(r, n->in[0]), mr_val(r, n->in[1]), mr_pval(r, n, 0),
                            mr_pval(r, n, 1), a.n, a.w, a.cols, n->f[0], &a.in, &a.out, &r->ex);
    return MR_OK;
}

static mr_status norm_backward(mr_run *r, const mr_node *n)
{
    norm_args a = args_of(r, n);
    mr_k(r)->layer_norm_bwd(mr_wants(r, n, 0) ? mr_grad(r, n->in[0]) : NULL,
                            mr_wants(r, n, 1) ? mr_grad(r, n->in[1]) : NULL, mr_pgrad(r, n, 0),
                            mr_pgrad(r, n, 1), mr_grad(r, mr_node_id(r, n)), mr_val(r, n->in[0]),
                            mr_val(r, n->in[1]), mr_pval(r, n, 0), mr_saved(r, n, 0),
                            mr_saved(r, n, 1), a.n, a.w, a.cols, mr_acc(r, n, 0), mr_acc(r, n, 1),
                            mr_pacc(r, n, 0), mr_pacc(r, n, 1), &a.in, &a.out, &r->ex);
    return MR_OK;
}

const mr_op mr_op_layer_norm = {
    .name = "layer_norm", .bwd_in = 3, .forward = norm_forward, .backward = norm_backward};

/* Vector parameter of this width, or absent. */
static bool fits(const mr_graph *g, int param, int64_t w)
{
    return param < 0 || (g->params->p[param].ndim == 1 && g->params->p[param].dim[0] == w);
}

int mr_g_layer_norm(mr_graph *g, int x, int residual, int gamma, int beta, double eps,
                    double drop_in, double drop_out)
{
    if (x < 0) return -1;
    const mr_node *a = mr_node_at(g, x);
    int64_t w = mr_node_width(g, x);
    if (residual >= 0 &&
        (mr_node_at(g, residual)->space != a->space ||
         mr_node_inner(g, residual) != mr_node_inner(g, x) || mr_node_cols(g, residual) != a->cols))
        return mr_graph_fail(g, "layer_norm: residual and input have different shapes");
    if (!fits(g, gamma, w) || !fits(g, beta, w))
        return mr_graph_fail(g, "layer_norm: weight or bias is not [%lld]", (long long)w);
    if (!mr_drop_is_valid(drop_in) || !mr_drop_is_valid(drop_out))
        return mr_graph_fail(g, "layer_norm: dropout %g or %g is outside [0, 1)", drop_in,
                             drop_out);
    mr_node n = mr_node_like(g, &mr_op_layer_norm, a->space, a);
    n.in[0] = x;
    n.in[1] = residual;
    n.n_in = 2;
    n.param[0] = gamma;
    n.param[1] = beta;
    n.n_param = 2;
    n.f[0] = eps;
    n.f[1] = g->train ? drop_in : 0.0;
    n.f[2] = g->train ? drop_out : 0.0;
    bool has_rows = a->space != MR_SPACE_FIXED && a->space != MR_SPACE_LAST;
    if (!has_rows && (n.f[1] > 0 || n.f[2] > 0))
        return mr_graph_fail(g, "layer_norm: dropout on an input without rows of the batch");
    int64_t per_row = a->ndim == 1 ? 1 : mr_node_inner(g, x) / w;
    if (a->space == MR_SPACE_FIXED && a->ndim > 1) per_row *= a->dim[0];
    for (int k = 0; k < 2; k++) n.saved[n.n_saved++] = (mr_saved_spec){a->space, per_row, 0};
    n.scratch_bytes = (size_t)MR_NORM_SCRATCH(w) * g->real_bytes * (g->dims.whole_products ? 2 : 1);
    return mr_graph_add(g, &n);
}
