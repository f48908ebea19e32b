/* Chunked softmax cross-entropy over a table whose rows may be spread over ranks.
 * What it is not: an op. item_loss and ntxent prepare x, targets and scales and finish the gradients.
 * Invariants: three matrix products a chunk; one all-gather of [rows,3] doubles a chunk when the table
 * is shared; every rank makes the same number of collective calls whatever it holds. */
#include "graph/op_softmax.h"

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
    out->total = out->counts[0] = r->host->rows;
    if (out->size == 1) return MR_OK;
    MR_CHECK(out->size <= MR_MAX_RANKS && rank0 + out->size <= r->host->n_ranks, MR_ERR_INTERNAL,
             "ranks %d to %d share a softmax, but the batch is dealt to %d ranks (at most %d)", rank0,
             rank0 + out->size - 1, r->host->n_ranks, MR_MAX_RANKS);
    out->total = 0;
    for (int i = 0; i < out->size; i++) {
        if (i == comm->rank) out->first = out->total;
        out->counts[i] = r->host->rank_rows[rank0 + i];
        out->total += out->counts[i];
    }
    return MR_OK;
}

void mr_rank_rows_scaled(const mr_rank_rows *rows, int64_t width, int64_t *counts)
{
    for (int i = 0; i < rows->size; i++) counts[i] = rows->counts[i] * width;
}

int64_t mr_softmax_chunk(int64_t v_max, size_t real_bytes)
{
    int64_t c = MR_SOFTMAX_BYTES / ((v_max > 0 ? v_max : 1) * (int64_t)real_bytes);
    if (c > MR_SOFTMAX_ROWS) return MR_SOFTMAX_ROWS;
    return c >= 16 ? c / 16 * 16 : (c > 0 ? c : 1);
}

/* The pieces of work memory. */
typedef struct pieces {
    char *logits, *xs, *coef;
    double *stats;
} pieces;

static pieces carve(mr_carve *c, int64_t v_max, int64_t w, int size, int64_t real)
{
    int64_t rows = mr_softmax_chunk(v_max, (size_t)real);
    pieces p;
    p.logits = mr_carve_take(c, rows * v_max * real);
    p.xs = mr_carve_take(c, rows * w * real);
    p.coef = mr_carve_take(c, rows * real);
    p.stats = mr_carve_take(c, (size + 1) * rows * 3 * (int64_t)sizeof(double));
    return p;
}

int64_t mr_softmax_work(int64_t v_max, int64_t w, int size, size_t real_bytes)
{
    mr_carve c = {NULL, 0};
    carve(&c, v_max, w, size, (int64_t)real_bytes);
    return c.used;
}

/* This rank's statistics -> those of all ranks, in rank order. */
static mr_status gather_stats(const mr_softmax *s, const double *mine, double *all, int64_t m)
{
    int64_t counts[MR_MAX_RANKS];
    for (int i = 0; i < s->comm->size; i++) counts[i] = 3 * m;
    return s->comm->allgatherv(s->comm, mine, all, counts, MR_F64);
}

static mr_status chunk_pass(mr_run *r, const mr_softmax *s, const pieces *p, int64_t at, int64_t m)
{
    const mr_kernels *k = r->k;
    const mr_exec *ex = &r->ex;
    int64_t real = (int64_t)r->g->real_bytes, v = s->v, w = s->w;
    const char *x = (const char *)s->x + at * w * real;
    char *dx = s->dx ? (char *)s->dx + at * w * real : NULL;
    bool is_shared = s->comm && s->comm->size > 1;
    int size = is_shared ? s->comm->size : 1, rank = is_shared ? s->comm->rank : 0;
    double *all = p->stats, *mine = is_shared ? p->stats + 3 * m * size : all;
    if (v > 0) k->gemm(p->logits, x, s->table, m, v, w, 0, 1, w, w, v, 1.0, 0.0, ex);
    k->ce_rows(p->logits, mine, s->target + at, s->skip ? s->skip + at : NULL, s->col_scale, m, v,
               s->lo, s->scale, ex);
    if (is_shared) MR_TRY(gather_stats(s, mine, all, m));
    k->ce_combine(p->coef, s->ce + at, all, m, size, rank, s->weight, ex);
    if (!s->dtable) return MR_OK;
    if (v == 0) {
        k->zero(dx, m * w, ex);
        return MR_OK;
    }
    k->row_scale(p->xs, x, p->coef, m, w, ex);
    k->gemm(s->dtable, p->logits, p->xs, v, w, m, 1, 0, v, w, w, 1.0,
            at > 0 || s->acc_table ? 1.0 : 0.0, ex);
    k->gemm(dx, p->logits, s->table, m, w, v, 0, 0, v, w, w, 1.0, 0.0, ex);
    k->row_scale(dx, dx, p->coef, m, w, ex);
    k->ce_target(s->dtable, dx, s->table, x, s->target + at, s->col_scale, m, v, w, s->lo, s->scale,
                 s->weight, ex);
    return MR_OK;
}

mr_status mr_softmax_pass(mr_run *r, const mr_softmax *s)
{
    mr_carve c = {s->work, 0};
    pieces p = carve(&c, s->v_max, s->w, s->comm ? s->comm->size : 1, (int64_t)r->g->real_bytes);
    int64_t rows = mr_softmax_chunk(s->v_max, r->g->real_bytes);
    if (s->dtable && s->n == 0 && !s->acc_table) r->k->zero(s->dtable, s->v * s->w, &r->ex);
    for (int64_t at = 0; at < s->n; at += rows)
        MR_TRY(chunk_pass(r, s, &p, at, s->n - at < rows ? s->n - at : rows));
    return MR_OK;
}
