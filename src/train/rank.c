/* Full ranking over a table spread by rows.
 * What it is not: metrics (metrics.h) or the walk over a split.
 * Invariants: every rank makes the same collective calls whatever rows or items it holds; memory is
 * O(rows_cap * (d + top_k)) plus one tile of scores, allocated once (lists of left-out items grow).
 */
#include "train/rank.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"

enum { TILE_ROWS = 256, TILE_ITEMS = 2048, MAX_RANKS = 4096 };

struct mr_ranker {
    mr_rank_spec s;
    int size, rank;
    int64_t real, lo, v; /* candidates lo .. lo+v-1 of this rank */
    const char *table;   /* row lo */
    mr_exec ex;
    /* device */
    char *x_own, *x, *inv_x, *inv_e, *scores, *target_score, *top_score, *top_in_score;
    int32_t *target_own, *target, *count, *len_own, *len, *top_id, *top_in_id;
    int64_t *skip_start;
    int32_t *skip_own, *skip_id;
    int64_t skip_own_cap, skip_cap;
    /* host */
    int32_t *h_count, *h_id;
    char *h_score;
    int64_t *h_start;
};

typedef struct buffer {
    void *at; /* address of a pointer to device memory */
    int64_t bytes;
} buffer;
enum { N_BUFFERS = 17 };

/* All device memory of fixed size. */
static void list_buffers(mr_ranker *r, buffer out[N_BUFFERS])
{
    int64_t n = r->s.rows_cap, d = r->s.d, k = r->s.top_k, real = r->real;
    const buffer all[N_BUFFERS] = {
        {&r->x_own, n * d * real},
        {&r->x, n * d * real},
        {&r->inv_x, n * real},
        {&r->inv_e, r->v * real},
        {&r->scores, (int64_t)TILE_ROWS * TILE_ITEMS * real},
        {&r->target_score, n * real},
        {&r->target_own, n * 4},
        {&r->target, n * 4},
        {&r->count, n * 4 + 8}, /* zeroed in whole reals */
        {&r->len_own, n * 4},
        {&r->len, n * 4},
        {&r->skip_start, (n + 1) * 8},
        {&r->top_score, n * k * real},
        {&r->top_id, n * k * 4},
        {&r->top_in_score, n * k * r->size * real},
        {&r->top_in_id, n * k * r->size * 4},
        {&r->ex.scratch, mr_score_scratch(d, real)},
    };
    memcpy(out, all, sizeof all);
}

static mr_status allocate(mr_ranker *r)
{
    int64_t n = r->s.rows_cap, k = r->s.top_k;
    buffer b[N_BUFFERS];
    list_buffers(r, b);
    for (int i = 0; i < N_BUFFERS; i++) {
        size_t bytes = (size_t)(b[i].bytes > 0 ? b[i].bytes : 1);
        MR_TRY(r->s.dev->alloc(r->s.dev, b[i].at, bytes, "ranking"));
    }
    r->ex.stream = r->s.dev->stream;
    r->ex.scratch_bytes = (size_t)mr_score_scratch(r->s.d, r->real);
    MR_TRY(MR_ALLOC(&r->h_count, n, "ranks"));
    MR_TRY(MR_ALLOC(&r->h_start, n + 1, "left-out items"));
    MR_TRY(MR_ALLOC(&r->h_id, n * k * r->size, "best items"));
    return MR_ALLOC(&r->h_score, n * k * r->size * r->real, "best items");
}

static void set_up(mr_ranker *r, const mr_rank_spec *spec)
{
    r->s = *spec;
    r->size = spec->comm ? spec->comm->size : 1;
    r->rank = spec->comm ? spec->comm->rank : 0;
    r->real = (int64_t)mr_dtype_bytes(spec->dev->real);
    int64_t hi = spec->row_hi < spec->n_items + 1 ? spec->row_hi : spec->n_items + 1;
    r->lo = spec->row_lo > 1 ? spec->row_lo : 1;
    r->v = hi > r->lo ? hi - r->lo : 0;
    r->table = (const char *)spec->table + (r->lo - spec->row_lo) * spec->d * r->real;
}

int64_t mr_ranker_bytes(const mr_rank_spec *spec)
{
    mr_ranker r = {0};
    buffer b[N_BUFFERS];
    int64_t sum = 0;
    set_up(&r, spec);
    list_buffers(&r, b);
    for (int i = 0; i < N_BUFFERS; i++) sum += b[i].bytes;
    return sum;
}

mr_status mr_ranker_create(mr_ranker **out_p, const mr_rank_spec *spec)
{
    mr_ranker *r = NULL;
    MR_CHECK(spec->d > 0 && spec->n_items > 0 && spec->rows_cap >= 0 && spec->top_k >= 0,
             MR_ERR_INTERNAL, "ranking: width %lld, %lld items, %lld rows, lists of %lld",
             (long long)spec->d, (long long)spec->n_items, (long long)spec->rows_cap,
             (long long)spec->top_k);
    MR_TRY(MR_ALLOC(&r, 1, "ranking"));
    set_up(r, spec);
    mr_status st = allocate(r);
    if (st != MR_OK) {
        mr_ranker_free(&r);
        return st;
    }
    *out_p = r;
    return MR_OK;
}

void mr_ranker_free(mr_ranker **r_p)
{
    mr_ranker *r = r_p ? *r_p : NULL;
    if (!r) return;
    buffer b[N_BUFFERS];
    list_buffers(r, b);
    for (int i = 0; i < N_BUFFERS; i++) r->s.dev->free(r->s.dev, *(void **)b[i].at);
    r->s.dev->free(r->s.dev, r->skip_own);
    r->s.dev->free(r->s.dev, r->skip_id);
    MR_FREE(r->h_count);
    MR_FREE(r->h_start);
    MR_FREE(r->h_id);
    MR_FREE(r->h_score);
    MR_FREE(*r_p);
}

void mr_ranker_refresh(mr_ranker *r)
{
    if (!r->s.is_cosine) return;
    r->s.dev->enter(r->s.dev);
    r->s.k->row_inv_norm(r->inv_e, r->table, r->v, r->s.d, &r->ex);
    r->s.dev->leave(r->s.dev);
}

/* *use_p = the parts of all ranks one after another: gathered into `all`, or `own` when alone. */
static mr_status share(mr_ranker *r, void *own, void *all, const int64_t *counts, int64_t width,
                       mr_dtype t, void *use_p)
{
    int64_t elems[MAX_RANKS];
    *(void **)use_p = own;
    if (r->size == 1) return MR_OK;
    for (int i = 0; i < r->size; i++) elems[i] = counts[i] * width;
    *(void **)use_p = all;
    r->s.dev->enter(r->s.dev);
    mr_status st = r->s.comm->allgatherv(r->s.comm, own, all, elems, t);
    r->s.dev->leave(r->s.dev);
    return st;
}

static mr_status grow(mr_ranker *r, int32_t **ptr, int64_t *cap, int64_t n)
{
    if (n <= *cap) return MR_OK;
    r->s.dev->free(r->s.dev, *ptr);
    *ptr = NULL;
    *cap = 0;
    MR_TRY(r->s.dev->alloc(r->s.dev, (void **)ptr, (size_t)(n * 4), "ranking"));
    *cap = n;
    return MR_OK;
}

/* One block in work: rows of all ranks. */
typedef struct block {
    int64_t n, own, first; /* all rows, this rank's, those before them */
    const char *x;
    const int32_t *target, *skip_id;
    bool has_skip;
} block;

/* Lists of left-out items of all ranks, as offsets and ids on the device. */
static mr_status share_skip(mr_ranker *r, const mr_rank_block *b, block *k)
{
    mr_device *dev = r->s.dev;
    int64_t own = 0, total = 0, per_rank[MAX_RANKS], row = 0;
    int32_t *len, *ids;
    k->has_skip = b->skip_start != NULL;
    if (!k->has_skip) return MR_OK;
    for (int64_t i = 0; i < k->own; i++)
        r->h_count[i] = (int32_t)(b->skip_start[i + 1] - b->skip_start[i]);
    own = b->skip_start[k->own] - b->skip_start[0];
    MR_TRY(dev->to_device(dev, r->len_own, r->h_count, (size_t)k->own * 4));
    MR_TRY(share(r, r->len_own, r->len, b->counts, 1, MR_I32, &len));
    MR_TRY(dev->to_host(dev, r->h_count, len, (size_t)k->n * 4));
    for (int p = 0; p < r->size; p++) {
        per_rank[p] = -total;
        for (int64_t i = 0; i < b->counts[p]; i++) {
            r->h_start[row] = total;
            total += r->h_count[row++];
        }
        per_rank[p] += total;
    }
    r->h_start[row] = total;
    MR_TRY(dev->to_device(dev, r->skip_start, r->h_start, (size_t)(k->n + 1) * 8));
    MR_TRY(grow(r, &r->skip_own, &r->skip_own_cap, own));
    MR_TRY(grow(r, &r->skip_id, &r->skip_cap, total));
    if (own > 0)
        MR_TRY(dev->to_device(dev, r->skip_own, b->skip_id + b->skip_start[0], (size_t)own * 4));
    MR_TRY(share(r, r->skip_own, r->skip_id, per_rank, 1, MR_I32, &ids));
    k->skip_id = ids;
    return MR_OK;
}

static mr_status share_rows(mr_ranker *r, const mr_rank_block *b, block *k)
{
    mr_device *dev = r->s.dev;
    for (int p = 0; p < r->size; p++) {
        if (p == r->rank) k->first = k->n;
        k->n += b->counts[p];
    }
    k->own = b->counts[r->rank];
    MR_CHECK(k->n <= r->s.rows_cap, MR_ERR_INTERNAL, "ranking: a block of %lld rows, at most %lld",
             (long long)k->n, (long long)r->s.rows_cap);
    dev->enter(dev);
    r->s.k->axpy(r->x_own, b->x, k->own * r->s.d, 1.0, 0, MR_REAL_ACT, &r->ex);
    if (r->s.is_cosine) {
        r->s.k->row_inv_norm(r->inv_x, r->x_own, k->own, r->s.d, &r->ex);
        r->s.k->row_scale(r->x_own, r->x_own, r->inv_x, k->own, r->s.d, &r->ex);
    }
    dev->leave(dev);
    MR_TRY(dev->to_device(dev, r->target_own, b->target, (size_t)k->own * 4));
    MR_TRY(share(r, r->x_own, r->x, b->counts, r->s.d, dev->real, &k->x));
    return share(r, r->target_own, r->target, b->counts, 1, MR_I32, &k->target);
}

/* Score of every target: from its owner, zero from everybody else, so the sum is exact. */
static mr_status target_scores(mr_ranker *r, const block *k)
{
    const void *inv = r->s.is_cosine ? r->inv_e : NULL;
    mr_status st = MR_OK;
    r->s.dev->enter(r->s.dev);
    r->s.k->score_target(r->target_score, k->x, r->table, inv, k->target, k->n, r->v, r->s.d, r->lo,
                         &r->ex);
    if (r->size > 1)
        st = r->s.comm->allreduce(r->s.comm, r->target_score, k->n, r->s.dev->real, MR_SUM);
    r->s.dev->leave(r->s.dev);
    return st;
}

/* One tile of scores: items c0 .. c0+m-1 of this rank's candidates against rows i0 .. i0+n-1. */
static void one_tile(mr_ranker *r, const block *k, int64_t i0, int64_t n, int64_t c0, int64_t m)
{
    const mr_kernels *kn = r->s.k;
    int64_t d = r->s.d, real = r->real, top = r->s.top_k, lo = r->lo + c0;
    const char *inv = r->s.is_cosine ? r->inv_e + c0 * real : NULL;
    kn->score_tile(r->scores, k->x + i0 * d * real, r->table + c0 * d * real, inv, n, m, d, &r->ex);
    if (k->has_skip)
        kn->score_skip(r->scores, r->skip_start + i0, k->skip_id, k->target + i0, n, m, lo, &r->ex);
    kn->rank_count(r->count + i0, r->scores, r->target_score + i0 * real, k->target + i0, n, m, lo,
                   &r->ex);
    if (top > 0)
        kn->topk_merge(r->top_id + i0 * top, r->top_score + i0 * top * real, r->scores, n, m, top,
                       lo, c0 == 0, &r->ex);
}

/* Counts of all items, and best lists, tile by tile where scores are needed for them. */
static mr_status all_tiles(mr_ranker *r, const block *k)
{
    mr_status st = MR_OK;
    r->s.dev->enter(r->s.dev);
    r->s.k->zero(r->count, (k->n * 4 + r->real - 1) / r->real, &r->ex);
    /* Nobody wants the scores; a CPU has them in its cache. */
    bool is_whole = r->s.dev->whole_products && !k->has_skip && r->s.top_k == 0;
    if (is_whole)
        r->s.k->score_count(r->count, k->x, r->table, r->s.is_cosine ? r->inv_e : NULL,
                            r->target_score, k->target, k->n, r->v, r->s.d, r->lo, &r->ex);
    for (int64_t i0 = 0; i0 < k->n && !is_whole; i0 += TILE_ROWS) {
        int64_t n = k->n - i0 < TILE_ROWS ? k->n - i0 : TILE_ROWS;
        for (int64_t c0 = 0; c0 < r->v || c0 == 0; c0 += TILE_ITEMS)
            one_tile(r, k, i0, n, c0, r->v - c0 < TILE_ITEMS ? r->v - c0 : TILE_ITEMS);
    }
    if (r->size > 1) st = r->s.comm->allreduce(r->s.comm, r->count, k->n, MR_I32, MR_SUM);
    r->s.dev->leave(r->s.dev);
    return st;
}

static double score_at(const mr_ranker *r, int64_t i)
{
    return r->real == 8 ? ((double *)r->h_score)[i] : (double)((float *)r->h_score)[i];
}

/* Merge the lists of all ranks; ids of a lower rank are lower, so it wins a tie. */
static void merge_row(const mr_ranker *r, int64_t row, int64_t own, int32_t *ids, double *scores)
{
    int64_t k = r->s.top_k;
    int32_t at[MAX_RANKS] = {0};
    for (int64_t q = 0; q < k; q++) {
        int best = -1;
        double s = -HUGE_VAL;
        for (int p = 0; p < r->size; p++) {
            int64_t i = ((int64_t)p * own + row) * k + at[p];
            if (at[p] >= k || r->h_id[i] < 0 || (best >= 0 && score_at(r, i) <= s)) continue;
            best = p;
            s = score_at(r, i);
        }
        if (ids) ids[q] = best < 0 ? -1 : r->h_id[((int64_t)best * own + row) * k + at[best]];
        if (scores) scores[q] = s;
        if (best >= 0) at[best]++;
    }
}

/* Every rank's lists of a row go to the row's rank. */
static mr_status best_lists(mr_ranker *r, const mr_rank_block *b, const block *k)
{
    mr_device *dev = r->s.dev;
    mr_comm *c = r->s.comm;
    int64_t top = r->s.top_k, give[MAX_RANKS], take[MAX_RANKS];
    const void *ids = r->top_id, *scores = r->top_score;
    if (top == 0) return MR_OK;
    if (r->size > 1) {
        for (int p = 0; p < r->size; p++) {
            give[p] = b->counts[p] * top;
            take[p] = k->own * top;
        }
        dev->enter(dev);
        mr_status st = c->alltoallv(c, ids, give, r->top_in_id, take, MR_I32);
        if (st == MR_OK) st = c->alltoallv(c, scores, give, r->top_in_score, take, dev->real);
        dev->leave(dev);
        MR_TRY(st);
        ids = r->top_in_id;
        scores = r->top_in_score;
    }
    int64_t n = k->own * top * r->size;
    MR_TRY(dev->to_host(dev, r->h_id, ids, (size_t)n * 4));
    MR_TRY(dev->to_host(dev, r->h_score, scores, (size_t)(n * r->real)));
    for (int64_t i = 0; i < k->own; i++)
        merge_row(r, i, k->own, b->top_id ? b->top_id + i * top : NULL,
                  b->top_score ? b->top_score + i * top : NULL);
    return MR_OK;
}

mr_status mr_ranker_run(mr_ranker *r, const mr_rank_block *b)
{
    block k = {0};
    MR_TRY(share_rows(r, b, &k));
    MR_TRY(share_skip(r, b, &k));
    MR_TRY(target_scores(r, &k));
    MR_TRY(all_tiles(r, &k));
    MR_TRY(best_lists(r, b, &k));
    MR_TRY(r->s.dev->to_host(r->s.dev, r->h_count, r->count, (size_t)k.n * 4));
    for (int64_t i = 0; i < k.own; i++)
        b->rank[i] = b->target[i] > 0 ? r->h_count[k.first + i] + 1 : 0;
    return MR_OK;
}
