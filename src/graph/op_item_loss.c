/* item_loss: mean cross-entropy of x [B,d] over the candidate rows 0..n_items of the item table
 * (paper eq. 15), the table being spread by rows over r->items. Scores are dot products, or cos(x,
 * E_i) / temperature. One fused pass: rows of all ranks are gathered, each rank works on its own
 * ids, dE stays where it is and dx comes back by a reduce-scatter. Cosine: x is normalised before
 * it is sent; the columns' inverse norms enter as scales, and both projections (norm_project) are
 * applied to the finished gradients, so a normalised table never exists (the table's side is in
 * op_softmax.c). Invariants: rows of the shard beyond n_items + 1 (CL4SRec's MASK) get no gradient;
 * the same number of collectives on all ranks, also on one without rows. */
#include "graph/op_softmax.h"
#include "graph/ops.h"

/* Sizes of one run, and the pieces of scratch. */
typedef struct item {
    int64_t d, B, v, lo, shard_rows; /* v: candidate ids of this rank, of shard_rows rows */
    bool is_cosine, is_shared;
    bool is_rounded; /* values are stored in bf16: the pass works on a copy of x in real */
    mr_rank_rows rows;
    int64_t counts[MR_MAX_RANKS]; /* rows.counts * d */
    char *x_real, *x_own, *x_all, *dx_all, *dx_own, *inv_x, *inv_e, *dot_e, *work;
    int32_t *target;
    double *ce;
} item;

static void carve(mr_carve *c, item *it, int64_t rows_cap, int64_t rows_all, int64_t v_max,
                  int size, const mr_graph *g)
{
    int64_t real = (int64_t)g->real_bytes;
    mr_softmax_way way = mr_softmax_way_of(g->dims.whole_products, g->dims.precision);
    int64_t own = rows_cap * it->d * real, all = rows_all * it->d * real;
    it->is_rounded = g->act_bytes != g->real_bytes;
    it->x_real = mr_carve_take(c, it->is_rounded ? own : 0);
    it->x_own = mr_carve_take(c, it->is_cosine ? own : 0);
    it->x_all = mr_carve_take(c, size > 1 ? all : 0);
    it->dx_all = mr_carve_take(c, all);
    it->dx_own = mr_carve_take(c, size > 1 ? own : 0);
    it->inv_x = mr_carve_take(c, rows_cap * real);
    it->inv_e = mr_carve_take(c, it->is_cosine ? v_max * real : 0);
    it->dot_e = mr_carve_take(c, it->is_cosine ? v_max * real : 0);
    it->target = mr_carve_take(c, rows_all * 4);
    it->ce = mr_carve_take(c, rows_all * (int64_t)sizeof(double));
    it->work = mr_carve_take(c, mr_softmax_work(rows_all, v_max, it->d, size, (size_t)real, way));
}

static mr_status set_up(item *it, mr_run *r, const mr_node *n)
{
    const mr_param *p = &r->params->p[n->param[0]];
    it->d = p->dim[1];
    it->B = r->count[MR_SPACE_ROWS];
    it->lo = p->row_lo;
    it->shard_rows = p->row_hi - p->row_lo;
    int64_t hi = p->row_hi < r->g->dims.n_items + 1 ? p->row_hi : r->g->dims.n_items + 1;
    it->v = hi > it->lo ? hi - it->lo : 0;
    it->is_cosine = n->i[0] != 0;
    MR_TRY(mr_rank_rows_get(r, r->items, r->group0, &it->rows));
    it->is_shared = it->rows.size > 1;
    mr_rank_rows_scaled(&it->rows, it->d, it->counts);
    mr_carve c = {r->ex.scratch, 0};
    carve(&c, it, n->i[1], n->i[2], n->i[3], it->rows.size, r->g);
    MR_CHECK(c.used <= (int64_t)n->scratch_bytes && it->rows.total <= n->i[2], MR_ERR_INTERNAL,
             "item_loss: compiled for %lld rows of %d ranks, got %lld rows of %d",
             (long long)n->i[2], r->g->dims.n_ranks, (long long)it->rows.total, it->rows.size);
    return MR_OK;
}

/* The gradient of x from that of its normalised rows. */
static void finish_dx(mr_run *r, const mr_node *n, const item *it, void *dx, const void *x)
{
    void *out = mr_grad(r, n->in[0]);
    int acc = mr_acc(r, n, 0);
    bool is_last = it->is_cosine && !it->is_rounded; /* the projection writes the gradient */
    if (it->is_cosine) {
        mr_k(r)->row_scale(dx, dx, it->inv_x, it->B, it->d, &r->ex);
        mr_k(r)->norm_project(is_last ? out : dx, dx, x, it->inv_x, NULL, it->B, it->d,
                              is_last ? acc : 0, &r->ex);
    }
    if (!is_last) mr_k(r)->axpy(out, dx, it->B * it->d, 1.0, acc, MR_ACT_REAL, &r->ex);
}

static mr_status pass(mr_run *r, const mr_node *n, bool with_grad)
{
    item it;
    MR_TRY(set_up(&it, r, n));
    const mr_exec *ex = &r->ex;
    const void *x = mr_val(r, n->in[0]), *table = mr_pval(r, n, 0);
    if (it.is_rounded) {
        mr_k(r)->axpy(it.x_real, x, it.B * it.d, 1.0, 0, MR_REAL_ACT, ex);
        x = it.x_real;
    }
    mr_dtype real = r->dev->real;
    const mr_graph_dims *dims = &r->g->dims;
    mr_softmax s = {.way = mr_softmax_way_of(dims->whole_products, dims->precision),
                    .x = x,
                    .table = table,
                    .target = r->in.target,
                    .n = it.rows.total,
                    .v = it.v,
                    .w = it.d,
                    .lo = it.lo,
                    .scale = 1.0,
                    .weight = mr_loss_weight(r, n),
                    .comm = it.is_shared ? r->items : NULL,
                    .v_max = n->i[3],
                    .ce = it.ce,
                    .work = it.work};
    if (it.is_cosine) {
        mr_k(r)->row_inv_norm(it.inv_x, x, it.B, it.d, ex);
        mr_k(r)->row_scale(it.x_own, x, it.inv_x, it.B, it.d, ex);
        s.x = it.x_own;
        s.is_cosine = true;
        s.inv = it.inv_e;
        s.dot = it.dot_e;
        s.scale = 1.0 / n->f[0];
    }
    if (it.is_shared) {
        r->items->purpose = MR_FOR_LOSS_ROWS;
        MR_TRY(r->items->allgatherv(r->items, s.x, it.x_all, it.counts, real));
        r->items->purpose = MR_FOR_LOSS_TARGETS;
        MR_TRY(r->items->allgatherv(r->items, r->in.target, it.target, it.rows.counts, MR_I32));
        s.x = it.x_all;
        s.target = it.target;
    }
    bool is_direct =
        !it.is_shared && !it.is_cosine && !it.is_rounded && mr_wants(r, n, 0) && !mr_acc(r, n, 0);
    if (with_grad) {
        s.dtable = mr_pgrad(r, n, 0);
        s.acc_table = mr_pacc(r, n, 0);
        s.dx = is_direct ? mr_grad(r, n->in[0]) : it.dx_all;
    }
    MR_TRY(mr_softmax_pass(r, &s));
    mr_k(r)->ce_sum(mr_val(r, mr_node_id(r, n)), it.ce + it.rows.first, it.B, 1.0, ex);
    if (!with_grad) return MR_OK;

    char *tail = (char *)s.dtable + it.v * it.d * (int64_t)r->g->real_bytes;
    if (!s.acc_table) mr_k(r)->zero(tail, (it.shard_rows - it.v) * it.d, ex);
    char *dx = it.dx_all;
    if (it.is_shared) {
        dx = it.dx_own;
        r->items->purpose = MR_FOR_LOSS_GRADS;
        MR_TRY(r->items->reduce_scatterv(r->items, it.dx_all, dx, it.counts, real));
    }
    if (!is_direct && mr_wants(r, n, 0)) finish_dx(r, n, &it, dx, x);
    return MR_OK;
}

static mr_status item_loss_forward(mr_run *r, const mr_node *n) { return pass(r, n, false); }
static mr_status item_loss_backward(mr_run *r, const mr_node *n) { return pass(r, n, true); }

const mr_op mr_op_item_loss = {.name = "item_loss",
                               .bwd_in = 1,
                               .fused_loss = true,
                               .forward = item_loss_forward,
                               .backward = item_loss_backward};

int mr_g_item_loss(mr_graph *g, int x, int table, bool cosine, double temperature)
{
    if (x < 0) return -1;
    if (table < 0) return mr_graph_fail(g, "item_loss: no item table");
    const mr_node *a = mr_node_at(g, x);
    const mr_param *p = &g->params->p[table];
    if (a->space != MR_SPACE_ROWS || p->ndim != 2 || mr_node_inner(g, x) != p->dim[1])
        return mr_graph_fail(g, "item_loss: rows of width %lld against table %s of width %lld",
                             (long long)mr_node_inner(g, x), p->name, (long long)p->dim[1]);
    if (p->dim[0] < g->dims.n_items + 1)
        return mr_graph_fail(g, "item_loss: table %s has %lld rows for %lld items and PAD", p->name,
                             (long long)p->dim[0], (long long)g->dims.n_items);
    if (cosine && !(temperature > 0.0))
        return mr_graph_fail(g, "item_loss: temperature %g must be positive", temperature);
    int size = g->dims.n_ranks > 0 ? g->dims.n_ranks : 1;
    bool is_sharded = (p->flags & MR_PARAM_SHARDED) && size > 1;
    mr_node n = mr_node_make(g, &mr_op_item_loss, MR_SPACE_FIXED, 1, 1, 1, 1, 1);
    n.in[n.n_in++] = x;
    n.param[n.n_param++] = table;
    n.f[0] = temperature;
    n.i[0] = cosine;
    n.i[1] = g->dims.rows_cap;
    n.i[2] = is_sharded ? g->dims.rows_global_cap : g->dims.rows_cap;
    n.i[3] = is_sharded ? (p->dim[0] + size - 1) / size : p->dim[0]; /* most rows of a rank */
    mr_carve c = {NULL, 0};
    item it = {.d = p->dim[1], .is_cosine = cosine};
    carve(&c, &it, n.i[1], n.i[2], n.i[3], size, g);
    n.scratch_bytes = (size_t)c.used;
    return mr_graph_add(g, &n);
}
