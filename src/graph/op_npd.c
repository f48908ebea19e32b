/* The condition of NPD: tokens with type embeddings, one row of a table added to all rows, pooling.
 * Invariant: the type table is shared by condition_tokens (rows 1..) and add_row (row 0), so
 * whoever writes its gradient first also writes zeros into the rows that it does not use. */
#include "graph/ops.h"
#include "graph/run.h"

static void *at(const mr_run *r, void *base, int64_t element)
{
    return (char *)base + element * (int64_t)r->g->real_bytes;
}

/* dx[n, w] (+)= g (NULL: not wanted), and the gradient of the table's rows from `row` on, which
 * were added to every row of x. */
static void rows_grad(mr_run *r, const mr_node *n, void *dx, const void *g, int64_t row, int64_t w)
{
    const mr_param *p = &r->params->p[n->param[0]];
    mr_k(r)->add_row_bwd(dx, mr_pgrad(r, n, 0), g, mr_n(r, n->in[0]), w, row * p->dim[1], p->count,
                         mr_acc(r, n, 0), mr_pacc(r, n, 0), &r->ex);
}

/* ---- condition_tokens: [frames ; text] + type[1..K+1] ---- */
static mr_status condition_tokens_forward(mr_run *r, const mr_node *n)
{
    int64_t d = n->dim[2], K = n->dim[1] - 1;
    mr_k(r)->concat_fwd(mr_val(r, mr_node_id(r, n)), mr_val(r, n->in[0]), mr_val(r, n->in[1]),
                        at(r, mr_pval(r, n, 0), d), mr_n(r, n->in[0]), K * d, d, &r->ex);
    return MR_OK;
}

static mr_status condition_tokens_backward(mr_run *r, const mr_node *n)
{
    int64_t d = n->dim[2], K = n->dim[1] - 1, rows = mr_n(r, n->in[0]);
    const void *dy = mr_grad(r, mr_node_id(r, n));
    void *df = mr_wants(r, n, 0) ? mr_grad(r, n->in[0]) : NULL;
    void *dt = mr_wants(r, n, 1) ? mr_grad(r, n->in[1]) : NULL;
    if (df || dt)
        mr_k(r)->concat_bwd(df, dt, dy, rows, K * d, d, mr_acc(r, n, 0), mr_acc(r, n, 1), NULL,
                            &r->ex);
    rows_grad(r, n, NULL, dy, 1, (K + 1) * d);
    return MR_OK;
}

const mr_op mr_op_condition_tokens = {.name = "condition_tokens",
                                      .forward = condition_tokens_forward,
                                      .backward = condition_tokens_backward};

int mr_g_condition_tokens(mr_graph *g, int frames, int text, int type)
{
    if (frames < 0 || text < 0) return -1;
    if (type < 0) return mr_graph_fail(g, "condition_tokens: no type embedding");
    const mr_node *f = mr_node_at(g, frames), *t = mr_node_at(g, text);
    const mr_param *p = &g->params->p[type];
    if (f->ndim != 3 || t->space != f->space || t->dim[0] != f->dim[0] ||
        mr_node_inner(g, text) != f->dim[2])
        return mr_graph_fail(g, "condition_tokens: frames [N,K,d] and text [N,d] are needed");
    if (p->dim[0] < f->dim[1] + 2 || p->dim[1] != f->dim[2])
        return mr_graph_fail(g, "condition_tokens: %s must be [%lld,%lld]", p->name,
                             (long long)(f->dim[1] + 2), (long long)f->dim[2]);
    mr_node n = mr_node_like(g, &mr_op_condition_tokens, f->space, f);
    n.dim[1]++;
    n.in[n.n_in++] = frames;
    n.in[n.n_in++] = text;
    n.param[n.n_param++] = type;
    return mr_graph_add(g, &n);
}

/* ---- add_row: x[N,d] + param[row] ---- */
static mr_status add_row_forward(mr_run *r, const mr_node *n)
{
    int64_t d = n->dim[1];
    mr_k(r)->concat_fwd(mr_val(r, mr_node_id(r, n)), mr_val(r, n->in[0]), NULL,
                        at(r, mr_pval(r, n, 0), n->i[0] * d), mr_n(r, n->in[0]), d, 0, &r->ex);
    return MR_OK;
}

static mr_status add_row_backward(mr_run *r, const mr_node *n)
{
    void *dx = mr_wants(r, n, 0) ? mr_grad(r, n->in[0]) : NULL;
    rows_grad(r, n, dx, mr_grad(r, mr_node_id(r, n)), n->i[0], n->dim[1]);
    return MR_OK;
}

const mr_op mr_op_add_row = {
    .name = "add_row", .forward = add_row_forward, .backward = add_row_backward};

int mr_g_add_row(mr_graph *g, int x, int param, int64_t row)
{
    if (x < 0) return -1;
    if (param < 0) return mr_graph_fail(g, "add_row: no parameter");
    const mr_node *a = mr_node_at(g, x);
    const mr_param *p = &g->params->p[param];
    if (a->ndim != 2 || p->dim[1] != a->dim[1] || row < 0 || row >= p->dim[0])
        return mr_graph_fail(g, "add_row: row %lld of %s [%lld,%lld] does not fit [N,%lld]",
                             (long long)row, p->name, (long long)p->dim[0], (long long)p->dim[1],
                             (long long)a->dim[1]);
    mr_node n = mr_node_like(g, &mr_op_add_row, a->space, a);
    n.in[n.n_in++] = x;
    n.param[n.n_param++] = param;
    n.i[0] = row;
    return mr_graph_add(g, &n);
}

/* ---- pool_concat: [x0 ; mean of frames ; text] ---- */
static mr_status pool_concat_forward(mr_run *r, const mr_node *n)
{
    const mr_node *f = mr_node_at(r->g, n->in[1]);
    mr_k(r)->pool_concat_fwd(mr_val(r, mr_node_id(r, n)), mr_val(r, n->in[0]), mr_val(r, n->in[1]),
                             mr_val(r, n->in[2]), mr_n(r, n->in[0]), f->dim[1], f->cols, f->dim[2],
                             n->dim[1], &r->ex);
    return MR_OK;
}

static mr_status pool_concat_backward(mr_run *r, const mr_node *n)
{
    const mr_node *f = mr_node_at(r->g, n->in[1]);
    void *d[3];
    for (int s = 0; s < 3; s++) d[s] = mr_wants(r, n, s) ? mr_grad(r, n->in[s]) : NULL;
    mr_k(r)->pool_concat_bwd(d[0], d[1], d[2], mr_grad(r, mr_node_id(r, n)), mr_n(r, n->in[0]),
                             f->dim[1], f->cols, f->dim[2], n->dim[1], mr_acc(r, n, 0),
                             mr_acc(r, n, 1), mr_acc(r, n, 2), &r->ex);
    return MR_OK;
}

const mr_op mr_op_pool_concat = {
    .name = "pool_concat", .forward = pool_concat_forward, .backward = pool_concat_backward};

int mr_g_pool_concat(mr_graph *g, int x0, int frames, int text)
{
    if (x0 < 0 || frames < 0 || text < 0) return -1;
    const mr_node *a = mr_node_at(g, x0), *f = mr_node_at(g, frames), *t = mr_node_at(g, text);
    int64_t d = a->dim[1];
    if (a->ndim != 2 || f->ndim != 3 || f->dim[2] != d || t->dim[1] != d || t->ndim != 2 ||
        f->space != a->space || t->space != a->space || f->dim[0] != a->dim[0] ||
        t->dim[0] != a->dim[0])
        return mr_graph_fail(g, "pool_concat: x0 [N,%lld], frames [N,K,%lld], text [N,%lld] differ",
                             (long long)d, (long long)f->dim[2], (long long)t->dim[1]);
    mr_node n = mr_node_make(g, &mr_op_pool_concat, a->space, 2, a->dim[0], 3 * a->cols, 1, 1);
    n.in[n.n_in++] = x0;
    n.in[n.n_in++] = frames;
    n.in[n.n_in++] = text;
    return mr_graph_add(g, &n);
}
