/* blocks: y [N,w] = x [N,w] times a block-diagonal matrix, plus b [w]. Blocks of one size c are one
 * parameter [k c, c], a set: one batched product instead of k. Block j of set s reads and makes
 * columns first[s] + j step[s] and the c - 1 after it.
 * Invariant: every column belongs to one block. i[0] number of sets, then first and step of each.
 */
#include "graph/ops.h"
#include "graph/run.h"

enum { P_B, P_SETS };

/* One set in a run; at: bytes of its first column. */
typedef struct block_set {
    int64_t n, w, c, count, step, at;
} block_set;

static block_set set_of(const mr_run *r, const mr_node *n, int s)
{
    int64_t c = r->params->p[n->param[P_SETS + s]].dim[1];
    return (block_set){.n = mr_n(r, n->in[0]),
                       .w = n->dim[1],
                       .c = c,
                       .count = r->params->p[n->param[P_SETS + s]].dim[0] / c,
                       .step = n->i[2 + 2 * s],
                       .at = n->i[1 + 2 * s] * (int64_t)r->g->act_bytes};
}

static mr_status blocks_forward(mr_run *r, const mr_node *n)
{
    char *y = mr_val(r, mr_node_id(r, n)), *x = mr_val(r, n->in[0]);
    for (int s = 0; s < n->i[0]; s++) {
        block_set q = set_of(r, n, s);
        mr_gemm_batch batch = {q.count, q.step, q.step, q.c * q.c};
        mr_k(r)->gemm_batch(y + q.at, x + q.at, mr_pmat(r, n, P_SETS + s), &batch, q.n, q.c, q.c, 0,
                            1, q.w, q.c, q.w, 1.0, 0.0, MR_ACT_ACT, &r->ex);
    }
    mr_k(r)->bias_act_fwd(y, NULL, mr_pval(r, n, P_B), mr_n(r, n->in[0]), n->dim[1], MR_ACT_NONE,
                          &r->ex);
    return MR_OK;
}

static mr_status blocks_backward(mr_run *r, const mr_node *n)
{
    char *dy = mr_grad(r, mr_node_id(r, n)), *x = mr_val(r, n->in[0]);
    for (int s = 0; s < n->i[0]; s++) {
        block_set q = set_of(r, n, s);
        mr_gemm_batch batch = {q.count, q.c * q.c, q.step, q.step};
        mr_k(r)->gemm_batch(mr_pgrad(r, n, P_SETS + s), dy + q.at, x + q.at, &batch, q.c, q.c, q.n,
                            1, 0, q.w, q.w, q.c, 1.0, mr_pacc(r, n, P_SETS + s), MR_REAL_ACT,
                            &r->ex);
    }
    mr_k(r)->col_sum(mr_pgrad(r, n, P_B), dy, mr_n(r, n->in[0]), n->dim[1], mr_pacc(r, n, P_B),
                     &r->ex);
    for (int s = 0; s < n->i[0] && mr_wants(r, n, 0); s++) {
        block_set q = set_of(r, n, s);
        char *dx = mr_grad(r, n->in[0]);
        mr_gemm_batch batch = {q.count, q.step, q.step, q.c * q.c};
        mr_k(r)->gemm_batch(dx + q.at, dy + q.at, mr_pmat(r, n, P_SETS + s), &batch, q.n, q.c, q.c,
                            0, 0, q.w, q.c, q.w, 1.0, mr_acc(r, n, 0), MR_ACT_ACT, &r->ex);
    }
    return MR_OK;
}

const mr_op mr_op_blocks = {
    .name = "blocks", .bwd_in = 1, .forward = blocks_forward, .backward = blocks_backward};

/* Is every one of w columns in one block? */
static bool covers(const mr_graph *g, int64_t w, int n_sets, const mr_block_set *set)
{
    for (int64_t j = 0; j < w; j++) {
        int owners = 0;
        for (int s = 0; s < n_sets; s++) {
            const int64_t *dim = g->params->p[set[s].w].dim;
            for (int64_t b = 0; b < dim[0] / dim[1]; b++) {
                int64_t first = set[s].first + b * set[s].step;
                if (first < 0 || first + dim[1] > w) return false;
                owners += j >= first && j < first + dim[1];
            }
        }
        if (owners != 1) return false;
    }
    return true;
}

int mr_g_blocks(mr_graph *g, int x, int b, int n_sets, const mr_block_set *set)
{
    if (x < 0) return -1;
    const mr_node *a = mr_node_at(g, x);
    if (b < 0 || n_sets < 1 || n_sets > 3)
        return mr_graph_fail(g, "blocks: a bias and 1 to 3 sets are needed, not %d", n_sets);
    for (int s = 0; s < n_sets; s++) {
        if (set[s].w < 0) return mr_graph_fail(g, "blocks: no weight");
        const mr_param *p = &g->params->p[set[s].w];
        if (p->ndim != 2 || p->dim[0] % p->dim[1])
            return mr_graph_fail(g, "blocks: %s [%lld,%lld] is not square blocks", p->name,
                                 (long long)p->dim[0], (long long)p->dim[1]);
    }
    if (a->ndim != 2 || g->params->p[b].dim[0] != a->dim[1] || !covers(g, a->dim[1], n_sets, set))
        return mr_graph_fail(g, "blocks: bias and blocks do not fit [N,%lld] column by column",
                             (long long)mr_node_inner(g, x));
    mr_node n = mr_node_make(g, &mr_op_blocks, a->space, 2, a->dim[0], a->dim[1], 1, 1);
    n.in[n.n_in++] = x;
    n.i[0] = n_sets;
    n.param[n.n_param++] = b;
    for (int s = 0; s < n_sets; s++) {
        n.param[n.n_param++] = set[s].w;
        n.i[1 + 2 * s] = set[s].first;
        n.i[2 + 2 * s] = set[s].step;
    }
    return mr_graph_add(g, &n);
}
