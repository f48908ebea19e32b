/* The pass of op_softmax.c with operands and logits in bf16, for GPUs: this rank's rows of the
 * table are rounded once, x for every chunk; logits are stored rounded, and what their gradient is
 * made of is written over them. Sums, statistics, the row factors, the targets' own part and both
 * gradients stay real.
 * What it is not: chunks of ids; a chunk is some rows (mr_softmax_chunk) and all ids of the rank.
 * Invariants: those of op_softmax.c; the table's copy is scratch and lives for one pass. */
#include "graph/op_softmax.h"
#include "kernels/shared/bf16.h"

/* Work memory. Pitches: mr_bf16_pitch of the width. */
typedef struct pieces {
    uint16_t *table, *x, *logits;
    char *coef;
    double *stats;
} pieces;

static pieces carve(mr_carve *c, int64_t rows, int64_t v_max, int64_t w, int size, int64_t real)
{
    pieces p;
    int64_t row = mr_bf16_pitch(w) * 2;
    p.table = mr_carve_take(c, mr_bf16_pitch(v_max) * row);
    p.x = mr_carve_take(c, mr_bf16_pitch(rows) * row);
    p.logits = mr_carve_take(c, rows * mr_bf16_pitch(v_max) * 2);
    p.coef = mr_carve_take(c, rows * real);
    p.stats = mr_carve_take(c, (size + 1) * rows * 3 * (int64_t)sizeof(double));
    return p;
}

int64_t mr_softmax_bf16_work(int64_t rows, int64_t v_max, int64_t w, int size, size_t real_bytes)
{
    mr_carve c = {NULL, 0};
    carve(&c, rows, v_max, w, size, (int64_t)real_bytes);
    return c.used;
}

/* Both gradients of m rows. Rows and columns of zeros behind the operands let the sums over widths
 * run to multiples of eight, which is what fast products want. */
static void gradients(mr_run *r, const mr_softmax *s, const pieces *p, int64_t at, int64_t m)
{
    const mr_exec *ex = &r->ex;
    int64_t w = s->w, v = s->v, real = (int64_t)r->g->real_bytes;
    int64_t pw = mr_bf16_pitch(w), pv = mr_bf16_pitch(v);
    const void *x = (const char *)s->x + at * w * real, *inv = s->is_cosine ? s->inv : NULL;
    void *dx = (char *)s->dx + at * w * real;
    double beta = at > 0 || s->acc_table ? 1.0 : 0.0;
    if (v == 0) {
        mr_k(r)->zero(dx, m * w, ex);
        return;
    }
    mr_k(r)->rows_to_bf16(p->x, NULL, x, p->coef, m, w, ex);
    mr_k(r)->gemm_bf16(s->dtable, 0, p->logits, p->x, v, w, m, 1, 0, pv, pw, w, 1.0, beta, ex);
    mr_k(r)->gemm_bf16(dx, 0, p->logits, p->table, m, w, pv, 0, 0, pv, pw, w, 1.0, 0.0, ex);
    mr_k(r)->ce_target(s->dtable, dx, s->table, x, s->target + at, inv, s->ce + at, p->coef, m, v,
                       w, s->lo, s->scale, s->weight, ex);
    if (s->is_cosine && at + m == s->n)
        mr_k(r)->norm_project(s->dtable, s->dtable, s->table, inv, s->acc_table ? s->dot : NULL, v,
                              w, 0, ex);
}

static mr_status chunk_pass(mr_run *r, const mr_softmax *s, const pieces *p, int64_t at, int64_t m)
{
    const mr_exec *ex = &r->ex;
    int64_t pw = mr_bf16_pitch(s->w), pv = mr_bf16_pitch(s->v);
    const void *x = (const char *)s->x + at * s->w * (int64_t)r->g->real_bytes;
    bool is_shared = s->comm && s->comm->size > 1;
    int size = is_shared ? s->comm->size : 1, rank = is_shared ? s->comm->rank : 0;
    double *all = p->stats, *mine = is_shared ? p->stats + 3 * m * size : all;
    mr_k(r)->rows_to_bf16(p->x, NULL, x, NULL, m, s->w, ex);
    mr_k(r)->gemm_bf16(p->logits, 1, p->x, p->table, m, s->v, pw, 0, 1, pw, pw, pv, 1.0, 0.0, ex);
    mr_k(r)->ce_rows_bf16(p->logits, mine, s->target + at, s->is_cosine ? s->inv : NULL, m, s->v,
                          s->lo, s->scale, mr_softmax_known_max(s), ex);
    if (is_shared) MR_TRY(mr_softmax_gather(s, mine, all, m));
    mr_k(r)->ce_combine(p->coef, s->ce + at, NULL, all, s->target + at, NULL, m, s->w, size, rank,
                        s->weight, ex);
    if (s->dtable) gradients(r, s, p, at, m);
    return MR_OK;
}

mr_status mr_softmax_bf16_pass(mr_run *r, const mr_softmax *s)
{
    mr_carve c = {s->work, 0};
    size_t real = r->g->real_bytes;
    int64_t rows = mr_softmax_chunk(s->v_max, s->w, real, s->way);
    MR_CHECK(!s->skip && !s->rank_rows, MR_ERR_INTERNAL, "a softmax in bf16 leaves no ids out");
    pieces p = carve(&c, rows < s->n ? rows : s->n, s->v_max, s->w, s->comm ? s->comm->size : 1,
                     (int64_t)real);
    if (s->dtable && s->n == 0 && !s->acc_table) mr_k(r)->zero(s->dtable, s->v * s->w, &r->ex);
    if (s->n == 0) return MR_OK;
    mr_k(r)->rows_to_bf16(p.table, s->is_cosine ? s->inv : NULL, s->table, NULL, s->v, s->w,
                          &r->ex);
    if (s->is_cosine && s->dtable && s->acc_table)
        mr_k(r)->row_dot(s->dot, s->table, s->dtable, s->v, s->w, &r->ex);
    for (int64_t at = 0; at < s->n; at += rows)
        MR_TRY(chunk_pass(r, s, &p, at, s->n - at < rows ? s->n - at : rows));
    return MR_OK;
}
