/* freq_fuse: TedRec's frequency fusion (model.md §2) in its real form. The product of two ortho
 * real FFTs is a circular convolution with 1/sqrt(L), and the filter acts as the time-domain kernel
 * irfft(filter): for L = 10 ten multiply-adds an output beat any FFT, and nothing complex exists.
 * a, u [B,L,d] take part at all positions, PAD included; only valid positions are produced and
 * differentiated, h [N,d]. */
#include "graph/op_softmax.h"
#include "graph/ops.h"

enum { P_FILTER, P_GP_W, P_GP_B, P_GF_W, P_GF_B };

typedef struct fuse {
    int64_t B, L, d;
    const void *a, *u, *wp, *bp, *wf, *bf;
    void *k;
    char *sums; /* [(L+2)d+2] in scratch, behind the kernels' own part */
} fuse;

static fuse fuse_of(mr_run *r, const mr_node *n)
{
    fuse f = {.B = r->count[MR_SPACE_ROWS], .L = r->g->dims.L, .d = mr_node_width(r->g, n->in[0])};
    f.a = mr_val(r, n->in[0]);
    f.u = mr_val(r, n->in[1]);
    f.wp = mr_pval(r, n, P_GP_W);
    f.bp = mr_pval(r, n, P_GP_B);
    f.wf = mr_pval(r, n, P_GF_W);
    f.bf = mr_pval(r, n, P_GF_B);
    f.k = mr_saved(r, n, 0);
    f.sums = (char *)r->ex.scratch + mr_fuse_scratch(f.B, f.L, f.d) * (int64_t)r->g->real_bytes;
    return f;
}

static mr_status freq_fuse_forward(mr_run *r, const mr_node *n)
{
    fuse f = fuse_of(r, n);
    mr_k(r)->fuse_filter_fwd(f.k, mr_pval(r, n, P_FILTER), f.L, f.d, &r->ex);
    mr_k(r)->fuse_fwd(mr_val(r, mr_node_id(r, n)), f.a, f.u, f.k, f.wp, f.bp, f.wf, f.bf,
                      r->in.seq[0].start, f.B, mr_n(r, mr_node_id(r, n)), f.L, f.d, &r->ex);
    return MR_OK;
}

static mr_status freq_fuse_backward(mr_run *r, const mr_node *n)
{
    fuse f = fuse_of(r, n);
    void *da = mr_wants(r, n, 0) ? mr_grad(r, n->in[0]) : NULL;
    void *du = mr_wants(r, n, 1) ? mr_grad(r, n->in[1]) : NULL;
    mr_k(r)->fuse_bwd(da, du, f.sums, mr_grad(r, mr_node_id(r, n)), f.a, f.u, f.k, f.wp, f.bp, f.wf,
                      f.bf, r->in.seq[0].start, f.B, f.L, f.d, mr_acc(r, n, 0), mr_acc(r, n, 1),
                      &r->ex);
    static const int slot[] = {P_FILTER, P_GP_W, P_GF_W, P_GP_B, P_GF_B};
    unsigned acc = 0;
    for (int i = 0; i < 5; i++) acc |= mr_pacc(r, n, slot[i]) ? 1u << i : 0;
    mr_k(r)->fuse_params_bwd(mr_pgrad(r, n, P_FILTER), mr_pgrad(r, n, P_GP_W),
                             mr_pgrad(r, n, P_GF_W), mr_pgrad(r, n, P_GP_B), mr_pgrad(r, n, P_GF_B),
                             f.sums, f.L, f.d, acc, &r->ex);
    return MR_OK;
}

const mr_op mr_op_freq_fuse = {
    .name = "freq_fuse", .bwd_in = 3, .forward = freq_fuse_forward, .backward = freq_fuse_backward};

int mr_g_freq_fuse(mr_graph *g, int a, int u, int filter, int gate_p_w, int gate_p_b, int gate_f_w,
                   int gate_f_b)
{
    if (a < 0 || u < 0) return -1;
    if (filter < 0 || gate_p_w < 0 || gate_p_b < 0 || gate_f_w < 0 || gate_f_b < 0)
        return mr_graph_fail(g, "freq_fuse: a parameter is absent");
    const mr_node *x = mr_node_at(g, a), *y = mr_node_at(g, u);
    int64_t L = g->dims.L, d = mr_node_width(g, a);
    const mr_param *f = &g->params->p[filter];
    if (x->space != MR_SPACE_ROWS || y->space != MR_SPACE_ROWS || mr_node_inner(g, a) != L * d ||
        mr_node_inner(g, u) != L * d)
        return mr_graph_fail(g, "freq_fuse: both inputs must be [B,%lld,%lld]", (long long)L,
                             (long long)d);
    if (f->ndim != 3 || f->dim[0] != L / 2 + 1 || f->dim[1] != d || f->dim[2] != 2)
        return mr_graph_fail(g, "freq_fuse: filter %s must be [%lld,%lld,2]", f->name,
                             (long long)(L / 2 + 1), (long long)d);
    mr_node n = mr_node_make(g, &mr_op_freq_fuse, MR_SPACE_TOK0, 2, 0, x->cols, 1, 1);
    n.in[n.n_in++] = a;
    n.in[n.n_in++] = u;
    const int params[] = {filter, gate_p_w, gate_p_b, gate_f_w, gate_f_b};
    for (int i = 0; i < 5; i++) n.param[n.n_param++] = params[i];
    n.saved[n.n_saved++] = (mr_saved_spec){.space = MR_SPACE_FIXED, .inner = L * d};
    int64_t reals = mr_fuse_scratch(g->dims.rows_cap, L, d) + (L + 2) * d + 16;
    n.scratch_bytes = (size_t)reals * g->real_bytes;
    return mr_graph_add(g, &n);
}
