/* moe: TedRec's mixture-of-experts text adaptor (model.md §2), text x [N,dh] of packed tokens ->
 * u [B,L,d]:
 *   y_j = W_j (dropout_j(x) - b_j[l])
 *   g   = x Wg, in training + eps (softplus(x Wn) + 0.01)
 *   u   = sum_j softmax_j(g) y_j
 * At a PAD position x = 0, so y_j is the row-independent -W_j b_j[l]: the table t[j,l] = W_j b_j[l]
 * is computed once a step and only tokens go through the large products. Memory: y [N,E,d] without
 * t is saved on a CPU. To compute it again is a third large product where backward has only one
 * (there is no gradient into the frozen text): half as much again of a CPU's time for it. On a GPU
 * (whole_products), whose memory is dearer, backward makes it again. Dropped x and everything else
 * of that size lives for one chunk only. A chunk is some rows with all their tokens, and one expert
 * at a time; with whole_products it is some tokens of all rows, and all experts in one product:
 * then nothing that is launched depends on which row a token is of. Invariants: the draws depend on
 * (rid, position, expert, column) alone, also for the gate noise of PAD positions; chunks change
 * nothing but the grouping of the sums in the gradients of weights. */
#include "graph/op_softmax.h"
#include "graph/ops.h"
#include "kernels/shared/dropout.h"

enum { IN_TEXT };
enum { P_W, P_BIAS, P_GATE, P_NOISE };
enum { S_P, S_T, S_FACTOR, S_Y };
enum { CHUNK_TOKENS = 1024, CHUNK_TOKENS_WHOLE = 4096 };

typedef struct moe {
    int E, group;                   /* group: experts of one product of dropped x */
    int64_t B, L, d, dh, real, act; /* bytes of an mr_real, an mr_act */
    int64_t chunk, tokens;          /* rows taken at once, and tokens of them, at most */
    int64_t piece;                  /* tokens in one product, at most */
    bool use_noise;
    double drop;
    uint32_t purpose;
    bool is_again;                     /* y is scratch, and backward makes it again */
    char *xd, *z, *clean, *noisy, *dt; /* scratch */
    char *p, *t, *factor, *y;
} moe;

/* Rows b0 .. b0+nb-1 and their tokens n0 .. n0+n-1, with those behind all rows. */
typedef struct part {
    int64_t b0, nb, n0, n;
    const char *x;
    const int32_t *start;
} part;

/* Tokens at .. at+n-1 of a part: one product. */
typedef struct piece {
    int64_t at, n;
    const char *x;
    mr_rows_of rows;
    const int32_t *tok_row;
} piece;

static void carve(mr_carve *c, moe *m)
{
    m->xd = mr_carve_take(c, m->group * m->piece * m->dh * m->act);
    m->z = mr_carve_take(c, m->piece * m->E * m->d * m->act);
    m->clean = mr_carve_take(c, m->tokens * m->E * m->real);
    m->noisy = mr_carve_take(c, m->tokens * m->E * m->real);
    m->dt = mr_carve_take(c, m->E * m->L * m->d * m->real);
    m->y = mr_carve_take(c, m->is_again ? m->tokens * m->E * m->d * m->act : 0);
}

/* Rows and tokens of a chunk, and experts at a time. */
static void choose_sizes(moe *m, const mr_graph *g)
{
    m->chunk = m->L < CHUNK_TOKENS ? CHUNK_TOKENS / m->L : 1;
    m->piece = m->tokens = m->chunk * m->L;
    m->group = 1;
    if (!g->dims.whole_products) return;
    int64_t all = g->dims.rows_cap * m->L;
    m->chunk = g->dims.rows_cap;
    m->tokens = mr_space_cap(g, MR_SPACE_TOK0);
    m->piece = all < CHUNK_TOKENS_WHOLE ? all : CHUNK_TOKENS_WHOLE;
    m->group = m->E;
    m->is_again = true;
}

static moe moe_of(mr_run *r, const mr_node *n)
{
    const mr_param *w = &r->params->p[n->param[P_W]];
    moe m = {.E = (int)w->dim[0],
             .B = r->count[MR_SPACE_ROWS],
             .L = r->g->dims.L,
             .d = w->dim[1],
             .dh = w->dim[2],
             .real = (int64_t)r->g->real_bytes,
             .act = (int64_t)r->g->act_bytes,
             .use_noise = n->i[0] != 0,
             .drop = n->f[0],
             .purpose = mr_rand_purpose(n)};
    choose_sizes(&m, r->g);
    mr_carve c = {r->ex.scratch, 0};
    carve(&c, &m);
    m.p = mr_saved(r, n, S_P);
    m.t = mr_saved(r, n, S_T);
    m.factor = mr_saved(r, n, S_FACTOR);
    if (!m.is_again) m.y = mr_saved(r, n, S_Y); /* NULL without backward */
    return m;
}

/* First token of row b, which may be one behind those of the batch: these have one token each. */
static int64_t first_token(const mr_run *r, int64_t b)
{
    int64_t rows = r->host->rows, behind = b > rows ? b - rows : 0;
    return r->host->seq[0].start[b - behind] + behind;
}

static part part_at(const moe *m, mr_run *r, const mr_node *n, int64_t b0)
{
    part q = {.b0 = b0, .nb = m->B - b0 < m->chunk ? m->B - b0 : m->chunk};
    q.n0 = first_token(r, b0);
    int64_t end = r->g->dims.whole_products ? r->count[MR_SPACE_TOK0] : first_token(r, b0 + q.nb);
    q.n = end - q.n0;
    q.x = (const char *)mr_val(r, n->in[IN_TEXT]) + q.n0 * m->dh * m->act;
    q.start = r->in.seq[0].start + b0;
    return q;
}

static piece piece_at(const moe *m, const mr_run *r, const part *q, int64_t at)
{
    piece t = {.at = at, .n = q->n - at < m->piece ? q->n - at : m->piece};
    int64_t first = q->n0 + at;
    t.x = q->x + at * m->dh * m->act;
    t.rows = mr_rand_rows(r, MR_SPACE_TOK0);
    t.rows.rid += first;
    t.rows.pos += first;
    t.tok_row = r->in.seq[0].tok_row + first;
    return t;
}

/* Experts of one product: with dropout each has its own x. */
static int group_of(const moe *m) { return m->drop > 0.0 ? m->group : m->E; }

/* xd = x of a piece, dropped for the group of experts that begins with j. */
static void drop_group(const moe *m, mr_run *r, const piece *t, int j)
{
    if (m->drop > 0.0)
        mr_k(r)->moe_drop(m->xd, t->x, t->rows, t->n, m->dh, j, m->group, m->E, m->drop, m->purpose,
                          &r->ex);
}

/* y of these experts and a piece, from xd. */
static void group_products(const moe *m, mr_run *r, const mr_node *n, const piece *t, int j,
                           char *y)
{
    const mr_exec *ex = &r->ex;
    int64_t dh = m->dh, d = m->d, E = m->E;
    mr_gemm_batch batch = {m->group, d, t->n * dh, d * dh};
    const char *w = (const char *)mr_pmat(r, n, P_W) + j * d * dh * m->act;
    if (m->drop > 0.0)
        mr_k(r)->gemm_batch(y + j * d * m->act, m->xd, w, &batch, t->n, d, dh, 0, 1, dh, dh, E * d,
                            1.0, 0.0, MR_ACT_ACT, ex);
    else
        mr_k(r)->gemm(y, t->x, w, t->n, E * d, dh, 0, 1, dh, dh, E * d, 1.0, 0.0, MR_ACT_ACT, ex);
}

static void forward_part(const moe *m, mr_run *r, const mr_node *n, const part *q)
{
    const mr_exec *ex = &r->ex;
    int64_t real = m->real, act = m->act, dh = m->dh, d = m->d, E = m->E;
    char *p = m->p + q->b0 * m->L * E * act, *factor = m->factor + q->n0 * E * real;
    char *y = m->y ? m->y + q->n0 * E * d * act : m->z;
    mr_k(r)->gemm(m->clean, q->x, mr_pmat(r, n, P_GATE), q->n, E, dh, 0, 1, dh, dh, E, 1.0, 0.0,
                  MR_REAL_ACT, ex);
    if (m->use_noise)
        mr_k(r)->gemm(m->noisy, q->x, mr_pmat(r, n, P_NOISE), q->n, E, dh, 0, 1, dh, dh, E, 1.0,
                      0.0, MR_REAL_ACT, ex);
    mr_k(r)->moe_gate_fwd(p, factor, m->clean, m->noisy, q->start, r->in.rid + q->b0, q->nb, m->L,
                          m->E, m->use_noise, m->purpose, ex);
    for (int64_t at = 0; at < q->n; at += m->piece) {
        piece t = piece_at(m, r, q, at);
        for (int j = 0; j < m->E; j += group_of(m)) {
            drop_group(m, r, &t, j);
            group_products(m, r, n, &t, j, y + at * E * d * act);
        }
    }
    mr_k(r)->moe_mix_fwd((char *)mr_val(r, mr_node_id(r, n)) + q->b0 * m->L * d * act, y, p, m->t,
                         q->start, q->nb, m->L, m->E, d, ex);
}

static mr_status moe_forward(mr_run *r, const mr_node *n)
{
    moe m = moe_of(r, n);
    mr_gemm_batch table = {m.E, m.L * m.d, m.L * m.dh, m.d * m.dh};
    mr_k(r)->gemm_batch(m.t, mr_pmat(r, n, P_BIAS), mr_pmat(r, n, P_W), &table, m.L, m.d, m.dh, 0,
                        1, m.dh, m.dh, m.d, 1.0, 0.0, MR_ACT_ACT, &r->ex);
    for (int64_t b0 = 0; b0 < m.B; b0 += m.chunk) {
        part q = part_at(&m, r, n, b0);
        forward_part(&m, r, n, &q);
    }
    return MR_OK;
}

/* Through the table: dt[j,l] = -sum_b p_j du, then b and W. Writes (or adds to) dW and dbias. */
static void backward_table(const moe *m, mr_run *r, const mr_node *n, const char *du)
{
    const mr_exec *ex = &r->ex;
    int64_t L = m->L, d = m->d, dh = m->dh, E = m->E;
    mr_gemm_batch positions = {L, d, E, d}, bias = {E, L * dh, L * d, d * dh};
    mr_gemm_batch weight = {E, d * dh, L * d, L * dh};
    if (m->B == 0)
        mr_k(r)->zero(m->dt, E * L * d, ex);
    else
        mr_k(r)->gemm_batch(m->dt, m->p, du, &positions, E, d, m->B, 1, 0, L * E, L * d, L * d,
                            -1.0, 0.0, MR_ACT_ACT, ex);
    mr_k(r)->gemm_batch(mr_pgrad(r, n, P_BIAS), m->dt, mr_pmat(r, n, P_W), &bias, L, dh, d, 0, 0, d,
                        dh, dh, 1.0, mr_pacc(r, n, P_BIAS), MR_REAL_ACT, ex);
    mr_k(r)->gemm_batch(mr_pgrad(r, n, P_W), m->dt, mr_pmat(r, n, P_BIAS), &weight, d, dh, L, 1, 0,
                        d, dh, dh, 1.0, mr_pacc(r, n, P_W), MR_REAL_ACT, ex);
}

/* dW (+)= dy^T dropped x of a piece; y of it, if it is to be made again. p, du: of all rows. */
static void experts_backward(const moe *m, mr_run *r, const mr_node *n, const piece *t,
                             const char *du, char *y)
{
    const mr_exec *ex = &r->ex;
    int64_t dh = m->dh, d = m->d;
    char *dw = mr_pgrad(r, n, P_W);
    int group = group_of(m);
    for (int j = 0; j < m->E; j += group) {
        mr_gemm_batch batch = {group, d * dh, d, t->n * dh};
        mr_k(r)->moe_weigh(m->z, du, m->p, t->tok_row, t->rows.pos, t->n, m->L, m->E, j, group, d,
                           ex);
        drop_group(m, r, t, j);
        if (m->is_again) group_products(m, r, n, t, j, y);
        if (m->drop > 0.0)
            mr_k(r)->gemm_batch(dw + j * d * dh * m->real, m->z, m->xd, &batch, d, dh, t->n, 1, 0,
                                group * d, dh, dh, 1.0, 1.0, MR_REAL_ACT, ex);
        else
            mr_k(r)->gemm(dw, m->z, t->x, m->E * d, dh, t->n, 1, 0, m->E * d, dh, dh, 1.0, 1.0,
                          MR_REAL_ACT, ex);
    }
}

/* is_first: the first chunk with tokens, which may be the first to write the gates' gradients. */
static void backward_part(const moe *m, mr_run *r, const mr_node *n, const part *q, const char *du,
                          bool is_first)
{
    const mr_exec *ex = &r->ex;
    int64_t real = m->real, act = m->act, dh = m->dh, d = m->d, E = m->E;
    const char *p = m->p + q->b0 * m->L * E * act, *of_rows = du + q->b0 * m->L * d * act;
    double gate = is_first ? mr_pacc(r, n, P_GATE) : 1.0;
    double noise = is_first ? mr_pacc(r, n, P_NOISE) : 1.0;
    char *y = m->y + q->n0 * E * d * act;
    for (int64_t at = 0; at < q->n; at += m->piece) {
        piece t = piece_at(m, r, q, at);
        experts_backward(m, r, n, &t, du, y + at * E * d * act);
    }
    mr_k(r)->moe_gate_bwd(m->clean, m->use_noise ? m->noisy : NULL, of_rows, y, p, m->t,
                          m->factor + q->n0 * E * real, q->start, q->nb, q->n, m->L, m->E, d, ex);
    mr_k(r)->gemm(mr_pgrad(r, n, P_GATE), m->clean, q->x, E, dh, q->n, 1, 0, E, dh, dh, 1.0, gate,
                  MR_REAL_ACT, ex);
    if (m->use_noise)
        mr_k(r)->gemm(mr_pgrad(r, n, P_NOISE), m->noisy, q->x, E, dh, q->n, 1, 0, E, dh, dh, 1.0,
                      noise, MR_REAL_ACT, ex);
}

static mr_status moe_backward(mr_run *r, const mr_node *n)
{
    moe m = moe_of(r, n);
    const char *du = mr_grad(r, mr_node_id(r, n));
    MR_CHECK(!mr_wants(r, n, IN_TEXT), MR_ERR_INTERNAL,
             "moe passes no gradient into its text, which is frozen; detach it");
    backward_table(&m, r, n, du);
    bool any = false;
    for (int64_t b0 = 0; b0 < m.B; b0 += m.chunk) {
        part q = part_at(&m, r, n, b0);
        if (q.n == 0) continue;
        backward_part(&m, r, n, &q, du, !any);
        any = true;
    }
    int64_t gates = m.E * m.dh;
    if (!any && !mr_pacc(r, n, P_GATE)) mr_k(r)->zero(mr_pgrad(r, n, P_GATE), gates, &r->ex);
    if ((!any || !m.use_noise) && !mr_pacc(r, n, P_NOISE))
        mr_k(r)->zero(mr_pgrad(r, n, P_NOISE), gates, &r->ex);
    return MR_OK;
}

const mr_op mr_op_moe = {
    .name = "moe", .bwd_in = 1, .forward = moe_forward, .backward = moe_backward};

/* Shapes of the four parameters. */
static bool shapes_fit(const mr_graph *g, int w, int bias, int gate, int noise, int64_t dh)
{
    const mr_param *p = g->params->p;
    int64_t E = p[w].dim[0];
    return p[w].ndim == 3 && p[w].dim[2] == dh && p[bias].ndim == 3 && p[bias].dim[0] == E &&
           p[bias].dim[1] == g->dims.L && p[bias].dim[2] == dh && p[gate].dim[0] == E &&
           p[gate].dim[1] == dh && p[noise].dim[0] == E && p[noise].dim[1] == dh;
}

int mr_g_moe(mr_graph *g, int text, int w, int bias, int gate, int noise, double dropout)
{
    if (text < 0) return -1;
    if (w < 0 || bias < 0 || gate < 0 || noise < 0)
        return mr_graph_fail(g, "moe: a parameter is absent");
    const mr_node *x = mr_node_at(g, text);
    int64_t dh = mr_node_inner(g, text), L = g->dims.L;
    if (x->space != MR_SPACE_TOK0 || !shapes_fit(g, w, bias, gate, noise, dh))
        return mr_graph_fail(g, "moe: text tokens of width %lld do not fit %s and its parameters",
                             (long long)dh, g->params->p[w].name);
    moe m = {.E = (int)g->params->p[w].dim[0],
             .L = L,
             .d = g->params->p[w].dim[1],
             .dh = dh,
             .real = (int64_t)g->real_bytes,
             .act = (int64_t)g->act_bytes};
    choose_sizes(&m, g);
    if (m.E > MR_MOE_MAX_EXPERTS)
        return mr_graph_fail(g, "moe: %d experts, at most %d", m.E, MR_MOE_MAX_EXPERTS);
    if (!mr_drop_is_valid(dropout))
        return mr_graph_fail(g, "moe: dropout %g is not in [0, 1)", dropout);
    mr_node n = mr_node_make(g, &mr_op_moe, MR_SPACE_ROWS, 3, 0, L, g->params->p[w].own[1], 1);
    n.in[n.n_in++] = text;
    n.param[P_W] = w;
    n.param[P_BIAS] = bias;
    n.param[P_GATE] = gate;
    n.param[P_NOISE] = noise;
    n.n_param = 4;
    n.i[0] = g->train;
    n.f[0] = g->train ? dropout : 0.0;
    n.saved[S_P] = (mr_saved_spec){MR_SPACE_ROWS, L * m.E, (int)m.act};
    n.saved[S_T] = (mr_saved_spec){MR_SPACE_FIXED, m.E * L * m.d, (int)m.act};
    n.saved[S_FACTOR] = (mr_saved_spec){.space = MR_SPACE_TOK0, .inner = m.E};
    n.n_saved = m.is_again ? S_Y : S_Y + 1;
    if (!m.is_again) n.saved[S_Y] = (mr_saved_spec){MR_SPACE_TOK0, m.E * m.d, (int)m.act};
    n.saved_for_bwd = m.is_again ? 0 : 1u << S_Y;
    mr_carve c = {NULL, 0};
    carve(&c, &m);
    n.scratch_bytes = (size_t)c.used;
    return mr_graph_add(g, &n);
}
