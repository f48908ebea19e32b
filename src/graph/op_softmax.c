/* Chunked softmax cross-entropy over a table whose rows may be spread over ranks.
 * What it is not: an op. item_loss and ntxent prepare x, targets and scales and finish the
 * gradients. Invariants: three matrix products a chunk; one all-gather of [rows,3] doubles a chunk
 * when the table is shared; every rank makes the same number of collective calls whatever it holds.
 */
#include "graph/op_softmax.h"

#include <math.h>

#include "kernels/shared/bf16.h"

void *mr_carve_take(mr_carve *c, int64_t bytes)
{
    char *p = c->base ? c->base + c->used : NULL;
    c->used += (bytes + 63) / 64 * 64;
    return p;
}

mr_status mr_rank_rows_get(const mr_run *r, const mr_comm *comm, int rank0, mr_rank_rows *out)
{
    out->size = comm ? comm->size : 1;
    out->first = 0;
    out->total = out->counts[0] = r->count[MR_SPACE_ROWS];
    if (out->size == 1) return MR_OK;
    MR_CHECK(out->size <= MR_MAX_RANKS && rank0 + out->size <= r->host->n_ranks, MR_ERR_INTERNAL,
             "ranks %d to %d share a softmax, but the batch is dealt to %d ranks (at most %d)",
             rank0, rank0 + out->size - 1, r->host->n_ranks, MR_MAX_RANKS);
    out->total = 0;
    for (int i = 0; i < out->size; i++) {
        if (i == comm->rank) out->first = out->total;
        out->counts[i] = r->most ? r->count[MR_SPACE_ROWS] : r->host->rank_rows[rank0 + i];
        out->total += out->counts[i];
    }
    return MR_OK;
}

void mr_rank_rows_scaled(const mr_rank_rows *rows, int64_t width, int64_t *counts)
{
    for (int i = 0; i < rows->size; i++) counts[i] = rows->counts[i] * width;
}

enum { TILE = 128 }; /* rows that a product in bf16 does at once */

mr_softmax_way mr_softmax_way_of(bool whole_products, mr_precision precision)
{
    if (precision == MR_BF16_PRODUCTS) return MR_SOFTMAX_BF16;
    return whole_products ? MR_SOFTMAX_WHOLE : MR_SOFTMAX_PIECES;
}

/* Every chunk adds to the whole gradient of the table. Where that is large a GPU rather has logits
 * of as many bytes as the table with its gradient and moments, whatever the number of ids. */
int64_t mr_softmax_chunk(int64_t v_max, int64_t w, size_t real_bytes, mr_softmax_way way)
{
    int64_t v = v_max > 0 ? v_max : 1, row = v * (int64_t)real_bytes, most = MR_SOFTMAX_BYTES;
    int64_t table = 4 * v * w * (int64_t)real_bytes;
    if (way == MR_SOFTMAX_WHOLE) most = MR_SOFTMAX_WHOLE_BYTES;
    if (way == MR_SOFTMAX_BF16) {
        most = MR_SOFTMAX_BF16_BYTES;
        row = mr_bf16_pitch(v) * 2;
    }
    if (way != MR_SOFTMAX_PIECES && table > most) most = table;
    int64_t c = most / row;
    if (way == MR_SOFTMAX_BF16 && c >= TILE) return c / TILE * TILE;
    if (way == MR_SOFTMAX_PIECES && c > MR_SOFTMAX_ROWS) return MR_SOFTMAX_ROWS;
    return c >= 16 ? c / 16 * 16 : (c > 0 ? c : 1);
}

/* The pieces of work memory. */
typedef struct pieces {
    char *logits, *xs, *coef;
    double *stats;
} pieces;

static pieces carve(mr_carve *c, int64_t rows, int64_t v_max, int64_t w, int size, int64_t real)
{
    pieces p;
    p.logits = mr_carve_take(c, rows * v_max * real);
    p.xs = mr_carve_take(c, rows * w * real);
    p.coef = mr_carve_take(c, rows * real);
    p.stats = mr_carve_take(c, (size + 1) * rows * 3 * (int64_t)sizeof(double));
    return p;
}

int64_t mr_softmax_work(int64_t n, int64_t v_max, int64_t w, int size, size_t real_bytes,
                        mr_softmax_way way)
{
    mr_carve c = {NULL, 0};
    int64_t rows = mr_softmax_chunk(v_max, w, real_bytes, way);
    if (rows > n) rows = n;
    if (way == MR_SOFTMAX_BF16) return mr_softmax_bf16_work(rows, v_max, w, size, real_bytes);
    carve(&c, rows, v_max, w, size, (int64_t)real_bytes);
    return c.used;
}

mr_status mr_softmax_gather(const mr_softmax *s, const double *mine, double *all, int64_t m)
{
    int64_t counts[MR_MAX_RANKS];
    for (int i = 0; i < s->comm->size; i++) counts[i] = 3 * m;
    s->comm->purpose = MR_FOR_LOSS_PARTIALS;
    return s->comm->allgatherv(s->comm, mine, all, counts, MR_F64);
}

/* Ids of one matrix product. */
static int64_t block_of(const mr_softmax *s)
{
    return s->way != MR_SOFTMAX_PIECES && s->v > 0 ? s->v : MR_SOFTMAX_BLOCK;
}

/* Pointers of one block of ids c0 .. c0+m-1. */
typedef struct ids {
    int64_t c0, m;
    const char *table;
    char *dtable, *inv, *dot, *logits;
} ids;

static ids ids_at(const mr_run *r, const mr_softmax *s, const pieces *p, int64_t c0)
{
    int64_t real = (int64_t)r->g->real_bytes, left = s->v - c0, most = block_of(s);
    ids k = {.c0 = c0, .m = left < most ? left : most};
    k.table = (const char *)s->table + c0 * s->w * real;
    k.dtable = s->dtable ? (char *)s->dtable + c0 * s->w * real : NULL;
    k.inv = s->is_cosine ? (char *)s->inv + c0 * real : NULL;
    k.dot = s->is_cosine ? (char *)s->dot + c0 * real : NULL;
    k.logits = p->logits + c0 * real;
    return k;
}

/* Logits of m rows. The first chunk also takes the norms, while the rows of the table are in cache.
 */
static void raw_logits(mr_run *r, const mr_softmax *s, const pieces *p, const char *x, int64_t m,
                       bool is_first)
{
    for (int64_t c0 = 0; c0 < s->v; c0 += block_of(s)) {
        ids b = ids_at(r, s, p, c0);
        if (is_first && s->is_cosine) mr_k(r)->row_inv_norm(b.inv, b.table, b.m, s->w, &r->ex);
        if (is_first && s->is_cosine && s->dtable && s->acc_table)
            mr_k(r)->row_dot(b.dot, b.table, b.dtable, b.m, s->w, &r->ex);
        mr_k(r)->gemm(b.logits, x, b.table, m, b.m, s->w, 0, 1, s->w, s->w, s->v, 1.0, 0.0,
                      MR_REAL_REAL, &r->ex);
    }
}

/* After the products: the targets' part, and in the last chunk the projection of cosine scores.
 * dx, with its factors coef, is NULL unless the block is all ids. */
static void finish_table(mr_run *r, const mr_softmax *s, const ids *b, char *dx, const char *coef,
                         int64_t at, int64_t m)
{
    const char *x = (const char *)s->x + at * s->w * (int64_t)r->g->real_bytes;
    mr_k(r)->ce_target(b->dtable, dx, b->table, x, s->target + at, b->inv, NULL, coef, m, b->m,
                       s->w, s->lo + b->c0, s->scale, s->weight, &r->ex);
    if (s->is_cosine && at + m == s->n)
        mr_k(r)->norm_project(b->dtable, b->dtable, b->table, b->inv, s->acc_table ? b->dot : NULL,
                              b->m, s->w, 0, &r->ex);
}

/* Both gradients of m rows. */
static void gradients(mr_run *r, const mr_softmax *s, const pieces *p, int64_t at, int64_t m)
{
    const mr_exec *ex = &r->ex;
    int64_t w = s->w, real = (int64_t)r->g->real_bytes;
    const char *x = (const char *)s->x + at * w * real;
    char *dx = (char *)s->dx + at * w * real;
    double beta = at > 0 || s->acc_table ? 1.0 : 0.0;
    bool is_one = s->v > 0 && s->v <= block_of(s);
    for (int64_t c0 = 0; c0 < s->v; c0 += block_of(s)) {
        ids b = ids_at(r, s, p, c0);
        mr_k(r)->gemm(b.dtable, b.logits, p->xs, b.m, w, m, 1, 0, s->v, w, w, 1.0, beta,
                      MR_REAL_REAL, ex);
        mr_k(r)->gemm(dx, b.logits, b.table, m, w, b.m, 0, 0, s->v, w, w, 1.0, c0 > 0 ? 1.0 : 0.0,
                      MR_REAL_REAL, ex);
        if (!is_one) finish_table(r, s, &b, NULL, NULL, at, m);
    }
    if (s->v == 0) mr_k(r)->zero(dx, m * w, ex);
    if (is_one) {
        ids b = ids_at(r, s, p, 0);
        finish_table(r, s, &b, dx, p->coef, at, m);
        return;
    }
    mr_k(r)->ce_target(NULL, dx, s->table, x, s->target + at, s->is_cosine ? s->inv : NULL, NULL,
                       p->coef, m, s->v, w, s->lo, s->scale, s->weight, ex);
}

/* Cosines are at most 1, so the scale stands in for the largest score and nobody looks for it;
 * INFINITY where exponentials could vanish that far below it. */
double mr_softmax_known_max(const mr_softmax *s)
{
    return s->is_cosine && s->scale <= MR_SOFTMAX_KNOWN_MAX ? s->scale : INFINITY;
}

/* Far below every logit, yet finite: exponentials vanish in the sum. */
#define FAR_BELOW (-1e30)

/* x into the logits of ids that are rows of no batch. */
static void leave_out(mr_run *r, const mr_softmax *s, const pieces *p, int64_t m, double x)
{
    if (s->rank_rows)
        mr_k(r)->leave_out(p->logits, s->rank_rows, m, s->v, s->rows_of_rank, s->n_ranks, x,
                           &r->ex);
}

static mr_status chunk_pass(mr_run *r, const mr_softmax *s, const pieces *p, int64_t at, int64_t m)
{
    const char *x = (const char *)s->x + at * s->w * (int64_t)r->g->real_bytes;
    bool is_shared = s->comm && s->comm->size > 1;
    int size = is_shared ? s->comm->size : 1, rank = is_shared ? s->comm->rank : 0;
    double *all = p->stats, *mine = is_shared ? p->stats + 3 * m * size : all;
    raw_logits(r, s, p, x, m, at == 0);
    leave_out(r, s, p, m, FAR_BELOW);
    mr_k(r)->ce_rows(p->logits, mine, s->target + at, s->skip ? s->skip + at : NULL,
                     s->is_cosine ? s->inv : NULL, m, s->v, s->lo, s->scale,
                     mr_softmax_known_max(s), &r->ex);
    leave_out(r, s, p, m, 0);
    if (is_shared) MR_TRY(mr_softmax_gather(s, mine, all, m));
    mr_k(r)->ce_combine(p->coef, s->ce + at, s->dtable ? p->xs : NULL, all, s->target + at, x, m,
                        s->w, size, rank, s->weight, &r->ex);
    if (s->dtable) gradients(r, s, p, at, m);
    return MR_OK;
}

mr_status mr_softmax_pass(mr_run *r, const mr_softmax *s)
{
    if (s->way == MR_SOFTMAX_BF16) return mr_softmax_bf16_pass(r, s);
    mr_carve c = {s->work, 0};
    size_t real = r->g->real_bytes;
    int64_t rows = mr_softmax_chunk(s->v_max, s->w, real, s->way);
    pieces p = carve(&c, rows < s->n ? rows : s->n, s->v_max, s->w, s->comm ? s->comm->size : 1,
                     (int64_t)real);
    if (s->dtable && s->n == 0 && !s->acc_table) mr_k(r)->zero(s->dtable, s->v * s->w, &r->ex);
    for (int64_t at = 0; at < s->n; at += rows)
        MR_TRY(chunk_pass(r, s, &p, at, s->n - at < rows ? s->n - at : rows));
    return MR_OK;
}
