/* Basic ops: aliases (detach, reshape), add, leaf, the probe loss, and the linear layer. */
#include <math.h>

#include "graph/ops.h"
#include "graph/run.h"

/* ---- aliases: no work at run time ---- */
const mr_op mr_op_detach = {.name = "detach", .is_alias = true, .cut_grad = true};
const mr_op mr_op_reshape = {.name = "reshape", .is_alias = true};
const mr_op mr_op_slice = {.name = "slice", .is_alias = true, .is_slice = true};

int mr_g_detach(mr_graph *g, int x)
{
    if (x < 0) return -1;
    const mr_node *a = mr_node_at(g, x);
    mr_node n = mr_node_like(g, &mr_op_detach, a->space, a);
    n.in[n.n_in++] = x;
    return mr_graph_add(g, &n);
}

int mr_g_reshape(mr_graph *g, int x, int ndim, int64_t d1, int64_t d2, int64_t d3)
{
    if (x < 0) return -1;
    const mr_node *a = mr_node_at(g, x);
    mr_node n = mr_node_make(g, &mr_op_reshape, a->space, ndim, a->dim[0], d1, d2, d3);
    bool is_same_row = n.cols == a->cols || !(mr_node_is_padded(a) || mr_node_is_padded(&n));
    if (n.dim[1] * n.dim[2] * n.dim[3] != mr_node_inner(g, x) || !is_same_row)
        return mr_graph_fail(g, "reshape: %lld elements a row into %lld",
                             (long long)mr_node_inner(g, x),
                             (long long)(n.dim[1] * n.dim[2] * n.dim[3]));
    n.in[n.n_in++] = x;
    return mr_graph_add(g, &n);
}

int mr_g_slice(mr_graph *g, int x, int64_t at, int64_t width)
{
    if (x < 0) return -1;
    const mr_node *a = mr_node_at(g, x);
    if (a->ndim < 2 || a->op->is_alias || at < 0 || width < 1 || at + width > a->cols)
        return mr_graph_fail(g, "slice: columns %lld to %lld of [..,%lld]", (long long)at,
                             (long long)(at + width - 1), (long long)a->cols);
    int64_t end = at + width < a->cols ? at + width : mr_node_width(g, x);
    mr_node n = mr_node_like(g, &mr_op_slice, a->space, a);
    mr_node_set_width(&n, end - at, width);
    n.in[n.n_in++] = x;
    n.i[0] = at;
    return mr_graph_add(g, &n);
}

/* ---- add: y = a + b ---- */
static mr_status add_forward(mr_run *r, const mr_node *n)
{
    int64_t m = mr_n(r, mr_node_id(r, n)) * mr_node_inner(r->g, mr_node_id(r, n));
    void *y = mr_val(r, mr_node_id(r, n));
    mr_k(r)->axpy(y, mr_val(r, n->in[0]), m, 1.0, 0, MR_ACT_ACT, &r->ex);
    mr_k(r)->axpy(y, mr_val(r, n->in[1]), m, 1.0, 1, MR_ACT_ACT, &r->ex);
    return MR_OK;
}

static mr_status add_backward(mr_run *r, const mr_node *n)
{
    int id = mr_node_id(r, n);
    int64_t m = mr_n(r, id) * mr_node_inner(r->g, id);
    for (int s = 0; s < 2; s++)
        if (mr_wants(r, n, s))
            mr_k(r)->axpy(mr_grad(r, n->in[s]), mr_grad(r, id), m, 1.0, mr_acc(r, n, s), MR_ACT_ACT,
                          &r->ex);
    return MR_OK;
}

const mr_op mr_op_add = {.name = "add", .forward = add_forward, .backward = add_backward};

int mr_g_add(mr_graph *g, int a, int b)
{
    if (a < 0 || b < 0) return -1;
    const mr_node *p = mr_node_at(g, a), *q = mr_node_at(g, b);
    if (p->space != q->space || mr_node_inner(g, a) != mr_node_inner(g, b))
        return mr_graph_fail(g, "add: shapes differ");
    mr_node n = mr_node_like(g, &mr_op_add, p->space, p);
    n.in[n.n_in++] = a;
    n.in[n.n_in++] = b;
    return mr_graph_add(g, &n);
}

/* ---- add_param: y[B, inner] = x + p[inner] ---- */
static mr_status add_param_forward(mr_run *r, const mr_node *n)
{
    int id = mr_node_id(r, n);
    int64_t w = mr_node_inner(r->g, id);
    const mr_node *joined = mr_joined(r, n, 0);
    mr_addend plus = {mr_pval(r, n, 0), NULL};
    if (joined) return mr_forward_plus(r, n, joined, &plus);
    mr_k(r)->concat_fwd(mr_val(r, id), mr_val(r, n->in[0]), NULL, mr_pval(r, n, 0), mr_n(r, id), w,
                        0, &r->ex);
    return MR_OK;
}

static mr_status add_param_backward(mr_run *r, const mr_node *n)
{
    int id = mr_node_id(r, n);
    int64_t w = mr_node_inner(r->g, id);
    void *dx = mr_wants(r, n, 0) && !mr_joined(r, n, 0) ? mr_grad(r, n->in[0]) : NULL;
    mr_k(r)->add_row_bwd(dx, mr_pgrad(r, n, 0), mr_grad(r, id), mr_n(r, id), w, 0, w,
                         mr_acc(r, n, 0), mr_pacc(r, n, 0), &r->ex);
    return MR_OK;
}

const mr_op mr_op_add_param = {
    .name = "add_param", .adds = 1, .forward = add_param_forward, .backward = add_param_backward};

int mr_g_add_param(mr_graph *g, int x, int param)
{
    if (x < 0) return -1;
    const mr_node *a = mr_node_at(g, x);
    const mr_param *p = &g->params->p[param];
    if (p->dim[0] * p->dim[1] * p->dim[2] * p->dim[3] != mr_node_inner(g, x))
        return mr_graph_fail(g, "add_param: %s does not fit a row", p->name);
    mr_node n = mr_node_like(g, &mr_op_add_param, a->space, a);
    n.in[n.n_in++] = x;
    n.param[n.n_param++] = param;
    return mr_graph_add(g, &n);
}

/* ---- leaf: the first rows of a parameter ---- */
static mr_status leaf_forward(mr_run *r, const mr_node *n)
{
    int id = mr_node_id(r, n);
    mr_k(r)->axpy(mr_val(r, id), mr_pval(r, n, 0), mr_n(r, id) * mr_node_inner(r->g, id), 1.0, 0,
                  MR_ACT_REAL, &r->ex);
    return MR_OK;
}

static mr_status leaf_backward(mr_run *r, const mr_node *n)
{
    int id = mr_node_id(r, n);
    const mr_param *p = &r->params->p[n->param[0]];
    int64_t m = mr_n(r, id) * mr_node_inner(r->g, id);
    char *dp = mr_pgrad(r, n, 0);
    if (!mr_pacc(r, n, 0)) /* rows beyond the batch get no gradient */
        mr_k(r)->axpy(dp, mr_pval(r, n, 0), p->count, 0.0, 0, MR_REAL_REAL, &r->ex);
    mr_k(r)->axpy(dp, mr_grad(r, id), m, 1.0, 1, MR_REAL_ACT, &r->ex);
    return MR_OK;
}

const mr_op mr_op_leaf = {.name = "leaf", .forward = leaf_forward, .backward = leaf_backward};

int mr_g_leaf(mr_graph *g, int param, mr_space space)
{
    if (param < 0) return mr_graph_fail(g, "leaf: no such parameter");
    const mr_param *p = &g->params->p[param];
    mr_node n =
        mr_node_make(g, &mr_op_leaf, space, p->ndim, p->dim[0], p->dim[1], p->dim[2], p->dim[3]);
    mr_node_set_width(&n, p->dim[p->ndim - 1], p->own[p->ndim - 1]);
    if (n.dim[0] > p->dim[0]) return mr_graph_fail(g, "leaf: %s has too few rows", p->name);
    n.param[n.n_param++] = param;
    return mr_graph_add(g, &n);
}

/* ---- probe: a loss with a different, known gradient at every element ---- */
static mr_status probe_forward(mr_run *r, const mr_node *n)
{
    const mr_node *x = mr_node_at(r->g, n->in[0]);
    int64_t elements = mr_n_rows(r, n->in[0]) * mr_node_inner(r->g, n->in[0]);
    mr_k(r)->probe_fwd(mr_val(r, mr_node_id(r, n)), mr_val(r, n->in[0]), elements, x->cols,
                       x->dim[x->ndim - 1], &r->ex);
    return MR_OK;
}

static mr_status probe_backward(mr_run *r, const mr_node *n)
{
    int64_t inner = mr_node_inner(r->g, n->in[0]), m = mr_n_rows(r, n->in[0]) * inner;
    int64_t behind = mr_n(r, n->in[0]) * inner - m; /* rows behind the batch's */
    if (!mr_wants(r, n, 0)) return MR_OK;
    char *dx = mr_grad(r, n->in[0]);
    const mr_node *x = mr_node_at(r->g, n->in[0]);
    mr_k(r)->probe_bwd(dx, m, x->cols, x->dim[x->ndim - 1], mr_loss_weight(r, n), mr_acc(r, n, 0),
                       &r->ex);
    if (behind == 0 || mr_acc(r, n, 0)) return MR_OK;
    size_t of = r->g->act_bytes;
    return r->dev->fill(r->dev, dx + (size_t)m * of, 0, (size_t)behind * of);
}

const mr_op mr_op_probe = {.name = "probe", .forward = probe_forward, .backward = probe_backward};

int mr_g_probe(mr_graph *g, int x)
{
    if (x < 0) return -1;
    mr_node n = mr_node_make(g, &mr_op_probe, MR_SPACE_FIXED, 1, 1, 1, 1, 1);
    n.in[n.n_in++] = x;
    return mr_graph_add(g, &n);
}

/* ---- linear: y = act(act_in(x) w^T + b), x [n,i], w [o,i], y [n,o] ----
 * The pre-activation is saved when there is an activation; backward reuses dy's memory for its
 * gradient, which nobody reads afterwards. act_in(x) lives in scratch, in backward again, where it
 * comes with its derivative: between a wide layer and the next one only one of the two is kept.
 * i[0] act, i[1] act_in. */
typedef struct linear_size {
    int64_t n, in, out;
} linear_size;

static linear_size linear_sizes(const mr_run *r, const mr_node *n)
{
    linear_size s;
    int id = mr_node_id(r, n);
    s.out = mr_node_width(r->g, id);
    s.in = mr_node_width(r->g, n->in[0]);
    s.n = mr_n(r, id) * (mr_node_inner(r->g, id) / s.out);
    if (n->ndim == 1) s.n = 1;
    return s;
}

/* The pre-activation, in the last saved buffer. */
static void *linear_pre(const mr_run *r, const mr_node *n)
{
    return mr_saved(r, n, n->n_saved - 1);
}

/* What the matrix is applied to: x, or act_in(x). */
static const void *linear_input(mr_run *r, const mr_node *n, const linear_size *s)
{
    const void *x = mr_val(r, n->in[0]);
    if (n->i[1] == MR_ACT_NONE) return x;
    mr_k(r)->act_fwd(r->ex.scratch, x, s->n * s->in, (int)n->i[1], &r->ex);
    return r->ex.scratch;
}

static mr_status linear_forward(mr_run *r, const mr_node *n)
{
    linear_size s = linear_sizes(r, n);
    int act = (int)n->i[0];
    mr_k(r)->linear_fwd(mr_val(r, mr_node_id(r, n)), act != MR_ACT_NONE ? linear_pre(r, n) : NULL,
                        linear_input(r, n, &s), mr_pmat(r, n, 0), mr_pmat(r, n, 1), s.n, s.out,
                        s.in, act, &r->ex);
    return MR_OK;
}

/* da[n,i] (+)= dy w, the gradient of what the matrix is applied to. */
static void linear_bwd_input(mr_run *r, const mr_node *n, const linear_size *s, void *da, int acc)
{
    mr_k(r)->gemm(da, mr_grad(r, mr_node_id(r, n)), mr_pmat(r, n, 0), s->n, s->in, s->out, 0, 0,
                  s->out, s->in, s->in, 1.0, acc, MR_ACT_ACT, &r->ex);
}

static mr_status linear_backward(mr_run *r, const mr_node *n)
{
    linear_size s = linear_sizes(r, n);
    const mr_exec *ex = &r->ex;
    int act_in = (int)n->i[1], acc = mr_acc(r, n, 0);
    void *dy = mr_grad(r, mr_node_id(r, n)), *dx = mr_wants(r, n, 0) ? mr_grad(r, n->in[0]) : NULL;
    const void *input;
    bool is_joined = act_in != MR_ACT_NONE && dx && !acc; /* act_in(x) comes with dx */
    if (n->i[0] != MR_ACT_NONE)
        mr_k(r)->act_bwd(dy, NULL, dy, linear_pre(r, n), s.n, s.out, (int)n->i[0], ex);
    if (is_joined) {
        linear_bwd_input(r, n, &s, dx, 0);
        mr_k(r)->act_bwd(dx, ex->scratch, dx, mr_val(r, n->in[0]), s.n, s.in, act_in, ex);
        input = ex->scratch;
    } else {
        input = linear_input(r, n, &s);
    }
    mr_k(r)->linear_bwd_w(mr_pgrad(r, n, 0), mr_pgrad(r, n, 1), dy, input, s.n, s.out, s.in,
                          mr_pacc(r, n, 0), mr_pacc(r, n, 1), ex);
    if (is_joined || !dx) return MR_OK;
    if (act_in == MR_ACT_NONE) {
        linear_bwd_input(r, n, &s, dx, acc);
        return MR_OK;
    }
    linear_bwd_input(r, n, &s, ex->scratch, 0);
    mr_k(r)->act_bwd(ex->scratch, NULL, ex->scratch, mr_val(r, n->in[0]), s.n, s.in, act_in, ex);
    mr_k(r)->axpy(dx, ex->scratch, s.n * s.in, 1.0, 1, MR_ACT_ACT, ex);
    return MR_OK;
}

const mr_op mr_op_linear = {
    .name = "linear", .bwd_in = 1, .forward = linear_forward, .backward = linear_backward};

static int add_linear(mr_graph *g, int x, int w, int b, int act_in, int act)
{
    if (x < 0) return -1;
    if (w < 0) return mr_graph_fail(g, "linear: no weight");
    const mr_node *a = mr_node_at(g, x);
    const mr_param *pw = &g->params->p[w];
    if (pw->dim[1] * pw->dim[2] * pw->dim[3] != mr_node_width(g, x))
        return mr_graph_fail(g, "linear: %s takes %lld inputs, got %lld", pw->name,
                             (long long)pw->dim[1], (long long)mr_node_width(g, x));
    mr_node n = mr_node_like(g, &mr_op_linear, a->space, a);
    mr_node_set_width(&n, pw->dim[0], pw->own[0]);
    n.in[n.n_in++] = x;
    n.param[0] = w;
    n.param[1] = b;
    n.n_param = 2;
    n.i[0] = act;
    n.i[1] = act_in;
    if (act_in != MR_ACT_NONE)
        n.scratch_bytes = (size_t)(a->dim[0] * mr_node_inner(g, x)) * g->act_bytes;
    if (act != MR_ACT_NONE)
        n.saved[n.n_saved++] =
            (mr_saved_spec){a->space,
                            a->space == MR_SPACE_FIXED ? n.dim[0] * n.dim[1] * n.dim[2] * n.dim[3]
                                                       : n.dim[1] * n.dim[2] * n.dim[3],
                            (int)g->act_bytes};
    return mr_graph_add(g, &n);
}

int mr_g_linear(mr_graph *g, int x, int w, int b, int act)
{
    return add_linear(g, x, w, b, MR_ACT_NONE, act);
}

int mr_g_act_linear(mr_graph *g, int x, int act_in, int w, int b)
{
    return add_linear(g, x, w, b, act_in, MR_ACT_NONE);
}
