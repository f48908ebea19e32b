/* Attention core: softmax(q k^T / sqrt(d_head)) v with dropout on the probabilities, four modes
 * (see kernels/family_attention.h). Saves the probabilities. i[0] mode, i[1] heads, i[2] sequence
 * set, i[3] S; f[0] dropout. in: q, kv, kv_first; the first two may be slices. */
#include "base/mem.h"
#include "graph/ops.h"
#include "graph/run.h"

enum { IN_Q, IN_KV, IN_FIRST };

typedef struct att_args {
    mr_att_shape shape;
    mr_drop drop;
} att_args;

static bool is_ragged(int mode) { return mode == MR_ATT_CAUSAL || mode == MR_ATT_LAST; }

static att_args args_of(const mr_run *r, const mr_node *n)
{
    att_args a = {{.mode = (int)n->i[0],
                   .B = n->i[0] == MR_ATT_FULL ? r->count[n->space] : r->count[MR_SPACE_ROWS],
                   .S = n->i[3],
                   .heads = n->i[1],
                   .d = n->cols,
                   .out_w = mr_node_width(r->g, mr_node_id(r, n)),
                   .q_w = mr_node_width(r->g, n->in[IN_Q]),
                   .q_ld = mr_node_ld(r->g, n->in[IN_Q]),
                   .kv_w = mr_node_width(r->g, n->in[IN_KV]),
                   .kv_ld = mr_node_ld(r->g, n->in[IN_KV])},
                  {.p = n->f[0],
                   .purpose = mr_rand_purpose(n),
                   .rows = {r->in.rid, r->in.zero_pos},
                   .per_row = 1}};
    if (is_ragged(a.shape.mode)) {
        a.shape.start = r->in.seq[n->i[2]].start;
        a.shape.len = r->in.seq[n->i[2]].len;
        a.shape.N = r->count[mr_space_tok((int)n->i[2])];
    }
    return a;
}

static mr_status attention_forward(mr_run *r, const mr_node *n)
{
    att_args a = args_of(r, n);
    mr_k(r)->attention_fwd(mr_val(r, mr_node_id(r, n)), mr_saved(r, n, 0), mr_val(r, n->in[IN_Q]),
                           mr_val(r, n->in[IN_KV]), mr_val(r, n->in[IN_FIRST]), &a.shape, &a.drop,
                           &r->ex);
    return MR_OK;
}

static mr_status attention_backward(mr_run *r, const mr_node *n)
{
    att_args a = args_of(r, n);
    void *d[3];
    for (int s = 0; s < 3; s++) d[s] = mr_wants(r, n, s) ? mr_grad(r, n->in[s]) : NULL;
    mr_k(r)->attention_bwd(d[IN_Q], d[IN_KV], d[IN_FIRST], mr_grad(r, mr_node_id(r, n)),
                           mr_saved(r, n, 0), mr_val(r, n->in[IN_Q]), mr_val(r, n->in[IN_KV]),
                           mr_val(r, n->in[IN_FIRST]), &a.shape, mr_acc(r, n, IN_Q),
                           mr_acc(r, n, IN_KV), mr_acc(r, n, IN_FIRST), &a.drop, &r->ex);
    return MR_OK;
}

const mr_op mr_op_attention = {.name = "attention",
                               .bwd_in = 1u << IN_Q | 1u << IN_KV | 1u << IN_FIRST,
                               .takes_slice = 1u << IN_Q | 1u << IN_KV,
                               .forward = attention_forward,
                               .backward = attention_backward};

/* Most keys of a query, or -1 when the shapes do not fit the mode. */
static int64_t keys_of(const mr_graph *g, const mr_node *q, const mr_node *kv, const mr_node *first,
                       int mode, int seq)
{
    int64_t d = q->cols;
    if (kv->cols != 2 * d) return -1;
    if (is_ragged(mode)) {
        mr_space tok = mr_space_tok(seq);
        bool ok = kv->space == tok && kv->ndim == 2 && q->ndim == 2 && !first &&
                  q->space == (mode == MR_ATT_LAST ? MR_SPACE_ROWS : tok);
        return ok ? g->dims.L : -1;
    }
    bool is_last = mode == MR_ATT_FULL && kv->space == MR_SPACE_LAST;
    if (!(is_last || kv->space == MR_SPACE_ROWS) || q->space != kv->space || kv->ndim != 3)
        return -1;
    if (mode == MR_ATT_FULL)
        return q->ndim == 3 && q->dim[1] == kv->dim[1] && !first ? kv->dim[1] : -1;
    if (q->ndim != 2) return -1;
    if (first && (first->space != MR_SPACE_ROWS || first->ndim != 2 || first->cols != 2 * d ||
                  first->dim[1] != kv->dim[2]))
        return -1;
    return kv->dim[1] + (first ? 1 : 0);
}

int mr_g_attention(mr_graph *g, int q, int kv, int kv_first, int heads, int mode, int seq,
                   double dropout)
{
    if (q < 0 || kv < 0) return -1;
    const mr_node *a = mr_node_at(g, q);
    const mr_node *first = kv_first >= 0 ? mr_node_at(g, kv_first) : NULL;
    int64_t d = mr_node_cols(g, q), S;
    if (mode < MR_ATT_CAUSAL || mode > MR_ATT_ONE || seq < 0 || seq >= MR_MAX_SEQ)
        return mr_graph_fail(g, "attention: mode %d, sequence set %d", mode, seq);
    S = keys_of(g, a, mr_node_at(g, kv), first, mode, seq);
    if (S < 0) return mr_graph_fail(g, "attention: shapes do not fit the mode");
    if (S > MR_ATT_MAX_KEYS)
        return mr_graph_fail(g, "attention: %lld keys, at most %d; use a shorter history",
                             (long long)S, MR_ATT_MAX_KEYS);
    if (heads < 1 || d % heads)
        return mr_graph_fail(g, "attention: width %lld is not divisible by %d heads", (long long)d,
                             heads);
    if (!mr_drop_is_valid(dropout))
        return mr_graph_fail(g, "attention: dropout %g is outside [0, 1)", dropout);
    if (a->space == MR_SPACE_LAST && g->train && dropout > 0)
        return mr_graph_fail(g, "attention: dropout on an input without rows of the batch");
    mr_node n = mr_node_like(g, &mr_op_attention, a->space, a);
    mr_node_set_width(&n, mr_round_up(d, g->dims.row_unit), d);
    n.in[IN_Q] = q;
    n.in[IN_KV] = kv;
    n.in[IN_FIRST] = kv_first;
    n.n_in = 3;
    n.i[0] = mode;
    n.i[1] = heads;
    n.i[2] = seq;
    n.i[3] = S;
    n.f[0] = g->train ? dropout : 0.0;
    int64_t queries = mode == MR_ATT_FULL ? S : 1;
    n.saved[n.n_saved++] = (mr_saved_spec){a->space, queries * heads * S, 0};
    return mr_graph_add(g, &n);
}
