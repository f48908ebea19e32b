/* conv3: convolution over the frame axis with kernel 3 and zero padding 1, plus bias, residual and
 * a context vector on every frame. x [N,S,ci] -> y [N,S',co], S' = ceil(S / stride); w [co,3,ci].
 * Backward: dx, dw, and in one more pass over dy the gradients of everything added.
 * What it is not: a general convolution. Nothing is unfolded. */
#include "graph/norm_conv.h"
#include "graph/ops.h"
#include "graph/run.h"

enum { IN_X, IN_RESIDUAL, IN_CONTEXT };
enum { P_W, P_B };

/* `rows` samples of a node. */
static mr_conv conv_of(const mr_graph *g, const mr_node *n, int64_t rows)
{
    const mr_node *x = mr_node_at(g, n->in[IN_X]);
    return (mr_conv){.n = rows,
                     .S = x->dim[1],
                     .So = n->dim[1],
                     .ci = x->dim[2],
                     .co = n->dim[2],
                     .stride = (int)n->i[0],
                     .ctx_ld = n->in[IN_CONTEXT] >= 0 ? mr_node_ld(g, n->in[IN_CONTEXT]) : 0};
}

static mr_status conv3_forward(mr_run *r, const mr_node *n)
{
    mr_conv cv = conv_of(r->g, n, mr_n(r, n->in[IN_X]));
    const mr_node *norm = mr_joined(r, n, IN_X);
    if (norm) {
        mr_gn_forward f = mr_gn_forward_of(r, norm);
        mr_k(r)->group_norm_conv3_fwd(
            mr_val(r, mr_node_id(r, n)), mr_val(r, n->in[IN_X]), f.mean, f.rstd, f.x, f.gamma,
            f.beta, f.film, &f.gn, mr_pmat(r, n, P_W), mr_pval(r, n, P_B),
            mr_val(r, n->in[IN_RESIDUAL]), mr_val(r, n->in[IN_CONTEXT]), &cv, &r->ex);
        return MR_OK;
    }
    mr_k(r)->conv3_fwd(mr_val(r, mr_node_id(r, n)), mr_val(r, n->in[IN_X]), mr_pmat(r, n, P_W),
                       mr_pval(r, n, P_B), mr_val(r, n->in[IN_RESIDUAL]),
                       mr_val(r, n->in[IN_CONTEXT]), &cv, &r->ex);
    return MR_OK;
}

/* Sizes and accumulate bits of backward. x before residual: they may be the same node, and the acc
 * bits count in slot order. */
static mr_conv backward_of(const mr_run *r, const mr_node *n, mr_conv_acc *acc)
{
    mr_conv cv = conv_of(r->g, n, mr_n(r, n->in[IN_X]));
    cv.x_framed = mr_joined(r, n, IN_X) != NULL;
    cv.is_begun = mr_is_begun(r, n);
    *acc = (mr_conv_acc){mr_acc(r, n, IN_X), mr_pacc(r, n, P_W), mr_pacc(r, n, P_B),
                         mr_acc(r, n, IN_RESIDUAL), mr_acc(r, n, IN_CONTEXT)};
    return cv;
}

static void *wanted_grad(const mr_run *r, const mr_node *n, int slot)
{
    return mr_wants(r, n, slot) ? mr_grad(r, n->in[slot]) : NULL;
}

/* Where the step before leaves dy unfolded: behind the partial sums. */
static void *unfolded_of(const mr_run *r, const mr_node *n, const mr_conv *cv)
{
    return (char *)mr_backward_scratch(r, n) + mr_conv_sums(cv) * (int64_t)r->g->real_bytes;
}

const mr_conv_begin *mr_conv_next(const mr_run *r, const mr_node *n, int slot, mr_conv_begin *space)
{
    const mr_node *conv = mr_begins(r, n, slot);
    if (!conv) return NULL;
    mr_conv_begin *q = space;
    q->cv = backward_of(r, conv, &q->acc);
    if (conv->in[IN_RESIDUAL] == conv->in[IN_X]) q->acc.res = q->acc.x;
    q->unfolded = unfolded_of(r, conv, &q->cv);
    q->dbias = mr_pgrad(r, conv, P_B);
    q->dres = wanted_grad(r, conv, IN_RESIDUAL);
    q->dctx = wanted_grad(r, conv, IN_CONTEXT);
    q->scratch = mr_backward_scratch(r, conv);
    return q;
}

static mr_status conv3_backward(mr_run *r, const mr_node *n)
{
    mr_conv_acc acc;
    mr_conv cv = backward_of(r, n, &acc);
    bool is_begun = cv.is_begun;
    mr_k(r)->conv3_bwd(wanted_grad(r, n, IN_X), mr_pgrad(r, n, P_W),
                       is_begun ? NULL : mr_pgrad(r, n, P_B), wanted_grad(r, n, IN_RESIDUAL),
                       is_begun ? NULL : wanted_grad(r, n, IN_CONTEXT),
                       is_begun ? unfolded_of(r, n, &cv) : mr_grad(r, mr_node_id(r, n)),
                       mr_val(r, n->in[IN_X]), mr_pmat(r, n, P_W), &cv, &acc, &r->ex);
    return MR_OK;
}

const mr_op mr_op_conv3 = {.name = "conv3",
                           .bwd_in = 1u << IN_X,
                           .takes_slice = 1u << IN_CONTEXT,
                           .takes_joined = 1u << IN_X,
                           .can_begin = true,
                           .forward = conv3_forward,
                           .backward = conv3_backward};

int mr_g_conv3(mr_graph *g, int x, int w, int b, int stride, int residual, int context)
{
    if (x < 0) return -1;
    if (w < 0) return mr_graph_fail(g, "conv3: no weight");
    const mr_node *a = mr_node_at(g, x);
    const mr_param *pw = &g->params->p[w];
    if (a->ndim != 3 || pw->ndim != 3 || pw->dim[1] != 3 || pw->dim[2] != a->dim[2])
        return mr_graph_fail(g, "conv3: weight %s [%lld,%lld,%lld] must be [out,3,%lld]", pw->name,
                             (long long)pw->dim[0], (long long)pw->dim[1], (long long)pw->dim[2],
                             (long long)a->dim[2]);
    if (stride != 1 && stride != 2) return mr_graph_fail(g, "conv3: stride %d; use 1 or 2", stride);
    if (b >= 0 && g->params->p[b].dim[0] != pw->dim[0])
        return mr_graph_fail(g, "conv3: bias %s has %lld elements, the weight %lld outputs",
                             g->params->p[b].name, (long long)g->params->p[b].dim[0],
                             (long long)pw->dim[0]);
    int64_t So = (a->dim[1] + stride - 1) / stride;
    mr_node n = mr_node_make(g, &mr_op_conv3, a->space, 3, a->dim[0], So, pw->dim[0], 1);
    mr_node_set_width(&n, pw->dim[0], pw->own[0]);
    if (residual >= 0) {
        const mr_node *q = mr_node_at(g, residual);
        if (q->space != n.space || q->dim[0] != n.dim[0] ||
            mr_node_inner(g, residual) != So * pw->dim[0])
            return mr_graph_fail(g, "conv3: the residual must be [N,%lld,%lld]", (long long)So,
                                 (long long)pw->dim[0]);
    }
    if (context >= 0) {
        const mr_node *q = mr_node_at(g, context);
        if (q->space != n.space || q->dim[0] != n.dim[0] || mr_node_inner(g, context) != pw->dim[0])
            return mr_graph_fail(g, "conv3: the context must be [N,%lld]", (long long)pw->dim[0]);
    }
    n.in[IN_X] = x;
    n.in[IN_RESIDUAL] = residual;
    n.in[IN_CONTEXT] = context;
    n.n_in = 3;
    n.param[P_W] = w;
    n.param[P_B] = b;
    n.n_param = 2;
    n.i[0] = stride;
    mr_conv cv = conv_of(g, &n, n.dim[0]);
    n.scratch_bytes =
        (size_t)mr_conv_scratch(&cv, g->dims.whole_products, g->real_bytes, g->act_bytes);
    return mr_graph_add(g, &n);
}
