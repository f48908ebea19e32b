/* Small ops around the U-Net: context addition, resizing, concatenation, time embedding, SiLU.
 * Contracts of the mathematics are with the kernels in family_unet.h. */
#include "graph/norm_conv.h"
#include "graph/ops.h"
#include "graph/run.h"

/* ---- add_context: y[N,S,c] = x + v[N,c] on every frame ---- */
static mr_status add_context_forward(mr_run *r, const mr_node *n)
{
    mr_k(r)->frame_add(mr_val(r, mr_node_id(r, n)), mr_val(r, n->in[0]), mr_val(r, n->in[1]),
                       mr_n(r, n->in[0]), n->dim[1], n->dim[2], &r->ex);
    return MR_OK;
}

static mr_status add_context_backward(mr_run *r, const mr_node *n)
{
    void *dx = mr_wants(r, n, 0) ? mr_grad(r, n->in[0]) : NULL;
    void *dv = mr_wants(r, n, 1) ? mr_grad(r, n->in[1]) : NULL;
    mr_k(r)->conv3_bwd_add(NULL, dx, dv, mr_grad(r, mr_node_id(r, n)), mr_n(r, n->in[0]), n->dim[1],
                           n->dim[2], n->dim[2], 0, mr_acc(r, n, 0), mr_acc(r, n, 1), &r->ex);
    return MR_OK;
}

const mr_op mr_op_add_context = {
    .name = "add_context", .forward = add_context_forward, .backward = add_context_backward};

int mr_g_add_context(mr_graph *g, int x, int v)
{
    if (x < 0 || v < 0) return -1;
    const mr_node *a = mr_node_at(g, x), *b = mr_node_at(g, v);
    if (a->ndim != 3 || b->space != a->space || b->dim[0] != a->dim[0] ||
        mr_node_inner(g, v) != a->dim[2])
        return mr_graph_fail(g, "add_context: the context must be [N,%lld]", (long long)a->dim[2]);
    mr_node n = mr_node_like(g, &mr_op_add_context, a->space, a);
    n.in[n.n_in++] = x;
    n.in[n.n_in++] = v;
    return mr_graph_add(g, &n);
}

/* ---- upsample: nearest, source frame floor(i S / S2) ---- */
static mr_status upsample_forward(mr_run *r, const mr_node *n)
{
    mr_k(r)->upsample_fwd(mr_val(r, mr_node_id(r, n)), mr_val(r, n->in[0]), mr_n(r, n->in[0]),
                          mr_node_at(r->g, n->in[0])->dim[1], n->dim[1], n->dim[2], &r->ex);
    return MR_OK;
}

static mr_status upsample_backward(mr_run *r, const mr_node *n)
{
    mr_conv_begin next;
    if (mr_wants(r, n, 0))
        mr_k(r)->upsample_bwd(mr_grad(r, n->in[0]), mr_grad(r, mr_node_id(r, n)), mr_n(r, n->in[0]),
                              mr_node_at(r->g, n->in[0])->dim[1], n->dim[1], n->dim[2],
                              mr_acc(r, n, 0), mr_conv_next(r, n, 0, &next), &r->ex);
    return MR_OK;
}

const mr_op mr_op_upsample = {.name = "upsample",
                              .is_cheap = true,
                              .begins = 1,
                              .forward = upsample_forward,
                              .backward = upsample_backward};

int mr_g_upsample(mr_graph *g, int x, int64_t S2)
{
    if (x < 0) return -1;
    const mr_node *a = mr_node_at(g, x);
    if (a->ndim != 3) return mr_graph_fail(g, "upsample: needs [N,S,c]");
    mr_node n = mr_node_like(g, &mr_op_upsample, a->space, a);
    n.dim[1] = S2;
    n.in[n.n_in++] = x;
    return mr_graph_add(g, &n);
}

/* ---- concat along channels ---- */
static mr_status concat_forward(mr_run *r, const mr_node *n)
{
    mr_k(r)->concat_fwd(mr_val(r, mr_node_id(r, n)), mr_val(r, n->in[0]), mr_val(r, n->in[1]), NULL,
                        mr_n(r, n->in[0]) * n->dim[1], n->i[0], n->i[1], &r->ex);
    return MR_OK;
}

static mr_status concat_backward(mr_run *r, const mr_node *n)
{
    mr_conv_begin next;
    mr_k(r)->concat_bwd(mr_wants(r, n, 0) ? mr_grad(r, n->in[0]) : NULL,
                        mr_wants(r, n, 1) ? mr_grad(r, n->in[1]) : NULL,
                        mr_grad(r, mr_node_id(r, n)), mr_n(r, n->in[0]) * n->dim[1], n->i[0],
                        n->i[1], mr_acc(r, n, 0), mr_acc(r, n, 1), mr_conv_next(r, n, 0, &next),
                        &r->ex);
    return MR_OK;
}

const mr_op mr_op_concat = {.name = "concat",
                            .is_cheap = true,
                            .begins = 1,
                            .forward = concat_forward,
                            .backward = concat_backward};

int mr_g_concat(mr_graph *g, int a, int b)
{
    if (a < 0 || b < 0) return -1;
    const mr_node *p = mr_node_at(g, a), *q = mr_node_at(g, b);
    if (p->ndim != 3 || q->ndim != 3 || p->space != q->space || p->dim[0] != q->dim[0] ||
        p->dim[1] != q->dim[1])
        return mr_graph_fail(g, "concat: [N,%lld,..] and [N,%lld,..] differ in frames",
                             (long long)p->dim[1], (long long)q->dim[1]);
    mr_node n = mr_node_like(g, &mr_op_concat, p->space, p);
    mr_node_set_width(&n, p->dim[2] + q->dim[2], p->cols + q->cols);
    if (!mr_node_is_plain(g, &n)) return -1;
    n.in[n.n_in++] = a;
    n.in[n.n_in++] = b;
    n.i[0] = p->dim[2];
    n.i[1] = q->dim[2];
    return mr_graph_add(g, &n);
}

/* ---- time embedding: no gradient ---- */
static mr_status time_rows_forward(mr_run *r, const mr_node *n)
{
    int id = mr_node_id(r, n);
    mr_k(r)->time_embed(mr_val(r, id), r->in.rid, mr_n(r, id), n->dim[1], MR_RNG_T_TCD, r->t_max,
                        r->t_set, &r->ex);
    return MR_OK;
}

static mr_status time_all_forward(mr_run *r, const mr_node *n)
{
    mr_k(r)->time_embed(mr_val(r, mr_node_id(r, n)), NULL, n->dim[0], n->dim[1], 0, n->dim[0], NULL,
                        &r->ex);
    return MR_OK;
}

const mr_op mr_op_time_rows = {.name = "time_rows", .is_cheap = true, .forward = time_rows_forward};
const mr_op mr_op_time_all = {.name = "time_all", .forward = time_all_forward};

int mr_g_time_rows(mr_graph *g, int64_t C)
{
    if (C < 2 || C % 2)
        return mr_graph_fail(g, "time embedding: width %lld must be even", (long long)C);
    mr_node n = mr_node_make(g, &mr_op_time_rows, MR_SPACE_ROWS, 2, 0, C, 1, 1);
    return mr_node_is_plain(g, &n) ? mr_graph_add(g, &n) : -1;
}

int mr_g_time_all(mr_graph *g, int64_t C, int64_t T)
{
    if (C < 2 || C % 2)
        return mr_graph_fail(g, "time embedding: width %lld must be even", (long long)C);
    mr_node n = mr_node_make(g, &mr_op_time_all, MR_SPACE_FIXED, 2, T, C, 1, 1);
    return mr_node_is_plain(g, &n) ? mr_graph_add(g, &n) : -1;
}

/* ---- silu ---- */
static mr_status silu_forward(mr_run *r, const mr_node *n)
{
    int id = mr_node_id(r, n);
    mr_k(r)->silu_fwd(mr_val(r, id), mr_val(r, n->in[0]), mr_n(r, id) * mr_node_inner(r->g, id),
                      &r->ex);
    return MR_OK;
}

static mr_status silu_backward(mr_run *r, const mr_node *n)
{
    int id = mr_node_id(r, n);
    if (mr_wants(r, n, 0))
        mr_k(r)->silu_bwd(mr_grad(r, n->in[0]), mr_grad(r, id), mr_val(r, n->in[0]),
                          mr_n(r, id) * mr_node_inner(r->g, id), mr_acc(r, n, 0), &r->ex);
    return MR_OK;
}

const mr_op mr_op_silu = {.name = "silu",
                          .is_cheap = true,
                          .bwd_in = 1,
                          .forward = silu_forward,
                          .backward = silu_backward};

int mr_g_silu(mr_graph *g, int x)
{
    if (x < 0) return -1;
    const mr_node *a = mr_node_at(g, x);
    mr_node n = mr_node_like(g, &mr_op_silu, a->space, a);
    n.in[n.n_in++] = x;
    return mr_graph_add(g, &n);
}
