/* ntxent: NT-Xent over the global batch (model.md §2, CL4SRec). Anchors are z = [z1 of all ranks ;
 * z2 of all ranks], N = 2 rows_global; logits are dot products / temperature; an anchor's target is
 * its other view and it is left out of its own softmax; the loss is the mean over the N anchors. A
 * rank takes its own anchors as rows and the gathered z as the table: the row side of the gradient
 * is its own, the table side is a partial sum for all rows and comes back by a reduce-scatter.
 * Where all ranks compute with as many rows (run.h), those of no batch are neither anchors nor
 * anybody's other view.
 * Invariant: two all-gathers and two reduce-scatters on every rank, also on one without rows. */
#include "graph/op_softmax.h"
#include "graph/ops.h"

typedef struct views {
    int64_t d, B, G; /* own rows, rows of all ranks */
    mr_rank_rows rows;
    int64_t counts[MR_MAX_RANKS];
    char *z, *dz, *x, *dx, *part, *work; /* z, dz [2G,d]; x, dx [2B,d]; part [B,d] */
    int32_t *target, *skip;              /* [2B] */
    double *ce;                          /* [2B] */
} views;

/* Its logits are few: they stay real in every precision. */
static mr_softmax_way way_of(const mr_graph *g)
{
    return mr_softmax_way_of(g->dims.whole_products, MR_FP32);
}

static void carve(mr_carve *c, views *v, int64_t rows_cap, int64_t rows_all, const mr_graph *g)
{
    int64_t real = (int64_t)g->real_bytes;
    v->z = mr_carve_take(c, 2 * rows_all * v->d * real);
    v->dz = mr_carve_take(c, 2 * rows_all * v->d * real);
    v->x = mr_carve_take(c, 2 * rows_cap * v->d * real);
    v->dx = mr_carve_take(c, 2 * rows_cap * v->d * real);
    v->part = mr_carve_take(c, rows_cap * v->d * real);
    v->target = mr_carve_take(c, 2 * rows_cap * 4);
    v->skip = mr_carve_take(c, 2 * rows_cap * 4);
    v->ce = mr_carve_take(c, 2 * rows_cap * (int64_t)sizeof(double));
    v->work = mr_carve_take(
        c, mr_softmax_work(2 * rows_cap, 2 * rows_all, v->d, 1, g->real_bytes, way_of(g)));
}

static mr_status set_up(views *v, mr_run *r, const mr_node *n)
{
    v->d = mr_node_inner(r->g, n->in[0]);
    v->B = r->count[MR_SPACE_ROWS];
    MR_TRY(mr_rank_rows_get(r, r->world, 0, &v->rows));
    v->G = v->rows.total;
    mr_rank_rows_scaled(&v->rows, v->d, v->counts);
    mr_carve c = {r->ex.scratch, 0};
    carve(&c, v, n->i[0], n->i[1], r->g);
    MR_CHECK(v->G <= n->i[1], MR_ERR_INTERNAL, "ntxent: compiled for %lld rows, got %lld",
             (long long)n->i[1], (long long)v->G);
    return MR_OK;
}

/* z = both views of all ranks, x = both views of this one. */
static mr_status gather(views *v, mr_run *r, const mr_node *n)
{
    int64_t half = v->G * v->d * (int64_t)r->g->real_bytes;
    int64_t own = v->B * v->d * (int64_t)r->g->real_bytes;
    for (int s = 0; s < 2; s++) {
        const void *zs = mr_val(r, n->in[s]);
        mr_k(r)->axpy(v->x + s * own, zs, v->B * v->d, 1.0, 0, MR_REAL_ACT, &r->ex);
        if (v->rows.size > 1) {
            r->world->purpose = MR_FOR_VIEWS;
            MR_TRY(r->world->allgatherv(r->world, v->x + s * own, v->z + s * half, v->counts,
                                        r->dev->real));
        } else {
            mr_k(r)->axpy(v->z + s * half, zs, v->B * v->d, 1.0, 0, MR_REAL_ACT, &r->ex);
        }
    }
    mr_k(r)->pair_ids(v->target, v->skip, v->B, v->rows.first, v->G, &r->ex);
    return MR_OK;
}

/* The gradients are given; the loss is counted where they were made. */
static mr_status pass_given(mr_run *r, const mr_node *n)
{
    int64_t elements = r->count[MR_SPACE_ROWS] * mr_node_inner(r->g, n->in[0]);
    mr_k(r)->zero(mr_val(r, mr_node_id(r, n)), 1, &r->ex);
    for (int i = 0; i < 2; i++)
        if (mr_wants(r, n, i))
            mr_k(r)->axpy(mr_grad(r, n->in[i]), r->view_grad[i], elements, 1.0, mr_acc(r, n, i),
                          MR_ACT_REAL, &r->ex);
    return MR_OK;
}

static mr_status pass(mr_run *r, const mr_node *n, bool with_grad)
{
    views v;
    if (with_grad && r->view_grad[0]) return pass_given(r, n);
    MR_TRY(set_up(&v, r, n));
    MR_TRY(gather(&v, r, n));
    mr_softmax s = {.way = way_of(r->g),
                    .x = v.x,
                    .table = v.z,
                    .target = v.target,
                    .skip = v.skip,
                    .rank_rows = r->most ? r->in.rank_rows : NULL,
                    .rows_of_rank = v.B,
                    .n_ranks = v.rows.size,
                    .n = 2 * v.B,
                    .v = 2 * v.G,
                    .w = v.d,
                    .scale = 1.0 / n->f[0],
                    .weight = 0.5 * mr_loss_weight(r, n),
                    .v_max = 2 * n->i[1],
                    .ce = v.ce,
                    .work = v.work};
    if (with_grad) {
        s.dtable = v.dz;
        s.dx = v.dx;
    }
    MR_TRY(mr_softmax_pass(r, &s));
    mr_k(r)->ce_sum(mr_val(r, mr_node_id(r, n)), v.ce, 2 * v.B, 0.5, &r->ex);
    if (!with_grad) return MR_OK;
    int64_t half = v.G * v.d * (int64_t)r->g->real_bytes;
    int64_t own = v.B * v.d * (int64_t)r->g->real_bytes;
    for (int i = 0; i < 2; i++) {
        const char *part = v.dz + i * half;
        if (v.rows.size > 1) {
            r->world->purpose = MR_FOR_VIEW_GRADS;
            MR_TRY(r->world->reduce_scatterv(r->world, part, v.part, v.counts, r->dev->real));
            part = v.part;
        }
        if (!mr_wants(r, n, i)) continue;
        void *out = mr_grad(r, n->in[i]);
        mr_k(r)->axpy(out, part, v.B * v.d, 1.0, mr_acc(r, n, i), MR_ACT_REAL, &r->ex);
        mr_k(r)->axpy(out, v.dx + i * own, v.B * v.d, 1.0, 1, MR_ACT_REAL, &r->ex);
    }
    return MR_OK;
}

static mr_status ntxent_forward(mr_run *r, const mr_node *n) { return pass(r, n, false); }
static mr_status ntxent_backward(mr_run *r, const mr_node *n) { return pass(r, n, true); }

const mr_op mr_op_ntxent = {.name = "ntxent",
                            .bwd_in = 3,
                            .fused_loss = true,
                            .forward = ntxent_forward,
                            .backward = ntxent_backward};

int mr_g_ntxent(mr_graph *g, int z1, int z2, double temperature)
{
    if (z1 < 0 || z2 < 0) return -1;
    const mr_node *a = mr_node_at(g, z1), *b = mr_node_at(g, z2);
    int64_t d = mr_node_inner(g, z1);
    if (a->space != MR_SPACE_ROWS || b->space != MR_SPACE_ROWS || mr_node_inner(g, z2) != d)
        return mr_graph_fail(g, "ntxent: the two views must be rows of equal width");
    if (!(temperature > 0.0))
        return mr_graph_fail(g, "ntxent: temperature %g must be positive", temperature);
    mr_node n = mr_node_make(g, &mr_op_ntxent, MR_SPACE_FIXED, 1, 1, 1, 1, 1);
    n.in[n.n_in++] = z1;
    n.in[n.n_in++] = z2;
    n.f[0] = temperature;
    n.i[0] = g->dims.rows_cap;
    n.i[1] = g->dims.rows_global_cap > n.i[0] ? g->dims.rows_global_cap : n.i[0];
    mr_carve c = {NULL, 0};
    views v = {.d = d};
    carve(&c, &v, n.i[0], n.i[1], g);
    n.scratch_bytes = (size_t)c.used;
    return mr_graph_add(g, &n);
}
