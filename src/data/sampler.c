/* The order of rows: which rows make up global batch i of an epoch, and which of them are ours.
 * What it is not: communication; every rank computes the same order by itself.
 * Invariants, with S virtual shards and P ranks:
 * - users (ascending) are dealt whole to the shard that has the fewest rows of this split so far,
 *   the lowest one on ties; rank r owns shards [r S / P, (r + 1) S / P);
 * - row k of a shard with n rows has the place (k + 1/2) / n in the epoch, ties by shard, so every
 *   batch takes from all shards evenly; this order of (shard, k) is the same in every epoch;
 * - an epoch permutes the rows inside each shard, by random numbers of (seed, epoch, shard) alone;
 *   evaluation keeps users ascending;
 * - hence a global batch is the same set of rows for every P. */
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "data/augment.h"
#include "data/batch.h"

typedef struct place {
    int32_t shard, k; /* the k-th row of a shard */
} place;

typedef struct own_row {
    uint32_t rid;
    int32_t user, target; /* target: index into dataset.items */
} own_row;

struct mr_sampler {
    mr_sampler_spec spec;
    mr_augment augment;
    int64_t n, batches, rows_cap, rows_most;
    place *order;     /* [n] the global order of an epoch */
    int32_t *rank_of; /* [S] owner of a shard */
    int32_t shard_lo, shard_hi;
    int64_t *start;    /* [shard_hi - shard_lo + 1] first row of own shards in own, shuffled */
    own_row *own;      /* rows of own shards, shard after shard, canonical order inside */
    int32_t *shuffled; /* [own rows] numbers in own, in the order of `epoch` */
    int64_t epoch;     /* that `shuffled` holds; -1 none yet */
};

/* A binary heap of shards: the smallest (num / den, shard) on top. */
typedef struct heap_node {
    uint64_t num, den; /* below 2^32 */
    int32_t shard;
} heap_node;

static bool before(const heap_node *a, const heap_node *b)
{
    uint64_t l = a->num * b->den, r = b->num * a->den;
    return l != r ? l < r : a->shard < b->shard;
}

static void sift_down(heap_node *heap, int n, int i)
{
    for (int child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && before(&heap[child + 1], &heap[child])) child++;
        if (!before(&heap[child], &heap[i])) return;
        heap_node t = heap[i];
        heap[i] = heap[child];
        heap[child] = t;
    }
}

/* shard_of[n] for every row; count[S] rows of every shard. */
static void deal_users(const mr_rows *rows, int S, heap_node *heap, int32_t *shard_of,
                       int64_t *count)
{
    for (int v = 0; v < S; v++) heap[v] = (heap_node){.num = 0, .den = 1, .shard = v};
    for (int64_t i = 0, end; i < rows->n; i = end) {
        for (end = i; end < rows->n && rows->user[end] == rows->user[i]; end++)
            shard_of[end] = heap[0].shard;
        count[heap[0].shard] += end - i;
        heap[0].num += (uint64_t)(end - i);
        sift_down(heap, S, 0);
    }
}

/* Merge the shards by place (2 k + 1) / (2 n_v). */
static void interleave(const int64_t *count, int S, heap_node *heap, place *order)
{
    int live = 0;
    for (int v = 0; v < S; v++)
        if (count[v]) heap[live++] = (heap_node){.num = 1, .den = (uint64_t)count[v], .shard = v};
    for (int i = live / 2 - 1; i >= 0; i--) sift_down(heap, live, i);
    for (int64_t at = 0; live; at++) {
        heap_node *top = &heap[0];
        order[at] = (place){.shard = top->shard, .k = (int32_t)(top->num / 2)};
        top->num += 2;
        if (top->num > 2 * top->den) heap[0] = heap[--live];
        sift_down(heap, live, 0);
    }
}

static mr_status keep_own(mr_sampler *s, const mr_rows *rows, const int32_t *shard_of,
                          const int64_t *count)
{
    int n_own = s->shard_hi - s->shard_lo;
    MR_TRY(MR_ALLOC(&s->start, n_own + 1, "rows of own shards"));
    for (int v = 0; v < n_own; v++) s->start[v + 1] = s->start[v] + count[s->shard_lo + v];
    MR_TRY(MR_ALLOC(&s->own, s->start[n_own], "rows of own shards"));
    MR_TRY(MR_ALLOC(&s->shuffled, s->start[n_own], "order of own shards"));
    int64_t *next = NULL;
    MR_TRY(MR_ALLOC(&next, n_own, "rows of own shards"));
    memcpy(next, s->start, (size_t)n_own * sizeof *next);
    for (int64_t i = 0; i < rows->n; i++) {
        int v = shard_of[i] - s->shard_lo;
        if (v < 0 || v >= n_own) continue;
        bool train = s->spec.split == MR_SPLIT_TRAIN;
        s->own[next[v]++] = (own_row){.rid = train ? (uint32_t)i : (uint32_t)rows->user[i],
                                      .user = rows->user[i],
                                      .target = rows->target[i]};
    }
    MR_FREE(next);
    return MR_OK;
}

static mr_status find_rows_cap(mr_sampler *s)
{
    int64_t *in_batch = NULL; /* of every rank */
    MR_TRY(MR_ALLOC(&in_batch, s->spec.n_ranks, "rows of ranks"));
    for (int64_t at = 0; at < s->n; at++) {
        if (at % s->spec.batch == 0)
            memset(in_batch, 0, (size_t)s->spec.n_ranks * sizeof *in_batch);
        int rank = s->rank_of[s->order[at].shard];
        int64_t n = ++in_batch[rank];
        if (n > s->rows_most) s->rows_most = n;
        if (rank == s->spec.rank && n > s->rows_cap) s->rows_cap = n;
    }
    MR_FREE(in_batch);
    return MR_OK;
}

static mr_status build(mr_sampler *s, const mr_rows *rows)
{
    int S = s->spec.virtual_shards, P = s->spec.n_ranks;
    int32_t *shard_of = NULL;
    int64_t *count = NULL;
    heap_node *heap = NULL;
    mr_status st;
    MR_TRY_GOTO(MR_ALLOC(&s->rank_of, S, "owners of shards"), st, done);
    MR_TRY_GOTO(MR_ALLOC(&s->order, s->n, "order of rows"), st, done);
    MR_TRY_GOTO(MR_ALLOC(&shard_of, s->n, "shards of rows"), st, done);
    MR_TRY_GOTO(MR_ALLOC(&count, S, "rows of shards"), st, done);
    MR_TRY_GOTO(MR_ALLOC(&heap, S, "heap of shards"), st, done);
    for (int64_t r = 0; r < P; r++)
        for (int64_t v = r * S / P; v < (r + 1) * S / P; v++) s->rank_of[v] = (int32_t)r;
    s->shard_lo = (int32_t)((int64_t)s->spec.rank * S / P);
    s->shard_hi = (int32_t)(((int64_t)s->spec.rank + 1) * S / P);
    deal_users(rows, S, heap, shard_of, count);
    interleave(count, S, heap, s->order);
    MR_TRY_GOTO(keep_own(s, rows, shard_of, count), st, done);
    MR_TRY_GOTO(find_rows_cap(s), st, done);
done:
    MR_FREE(shard_of);
    MR_FREE(count);
    MR_FREE(heap);
    return st;
}

static mr_status check_spec(const mr_sampler_spec *p)
{
    MR_CHECK(p->batch >= 1, MR_ERR_CONFIG, "a batch of %lld rows; it must be at least 1",
             (long long)p->batch);
    MR_CHECK(p->max_len >= 1, MR_ERR_CONFIG, "data.max_len is %lld; it must be at least 1",
             (long long)p->max_len);
    MR_CHECK(p->n_ranks >= 1 && p->rank >= 0 && p->rank < p->n_ranks, MR_ERR_INTERNAL,
             "sampler of rank %d of %d", p->rank, p->n_ranks);
    MR_CHECK(p->virtual_shards >= p->n_ranks, MR_ERR_CONFIG,
             "%d ranks but only %d virtual shards, so ranks would have no rows (%d to %d, were "
             "they filled in order); raise dist.virtual_shards or start fewer ranks",
             p->n_ranks, p->virtual_shards, p->virtual_shards, p->n_ranks - 1);
    return MR_OK;
}

mr_status mr_sampler_make(mr_sampler **out_p, const mr_sampler_spec *spec)
{
    static const char *const split_name[] = {"training", "validation", "test", "recommendation"};
    mr_sampler *s = NULL;
    mr_rows rows = {0};
    mr_status st;
    MR_TRY(check_spec(spec));
    MR_TRY_GOTO(mr_rows_make(&rows, spec->data, spec->split), st, done);
    if (rows.n < 1 || rows.n >= INT32_MAX) {
        st = MR_RAISE(MR_ERR_DATA,
                      "data set %s has %lld %s rows; it needs at least 1 (users with enough "
                      "interactions) and fewer than 2^31",
                      spec->data->name, (long long)rows.n, split_name[spec->split]);
        goto done;
    }
    MR_TRY_GOTO(MR_ALLOC(&s, 1, "sampler"), st, done);
    s->spec = *spec;
    s->n = rows.n;
    s->epoch = -1;
    s->batches = (s->n + spec->batch - 1) / spec->batch;
    if (spec->augment)
        s->augment = (mr_augment){.seed = spec->seed,
                                  .crop = spec->augment->cl4srec.crop,
                                  .mask = spec->augment->cl4srec.mask,
                                  .reorder = spec->augment->cl4srec.reorder,
                                  .mask_id = (int32_t)spec->data->n_items + 1};
    MR_TRY_GOTO(build(s, &rows), st, done);
    *out_p = s;
    s = NULL;
done:
    mr_rows_free(&rows);
    mr_sampler_free(&s);
    return st;
}

void mr_sampler_free(mr_sampler **s_p)
{
    mr_sampler *s = *s_p;
    if (!s) return;
    MR_FREE(s->order);
    MR_FREE(s->rank_of);
    MR_FREE(s->start);
    MR_FREE(s->own);
    MR_FREE(s->shuffled);
    MR_FREE(*s_p);
}

int64_t mr_sampler_rows(const mr_sampler *s) { return s->n; }
int64_t mr_sampler_batches(const mr_sampler *s) { return s->batches; }
int64_t mr_sampler_rows_cap(const mr_sampler *s) { return s->rows_cap; }
int64_t mr_sampler_rows_most(const mr_sampler *s) { return s->rows_most; }

/* Fisher-Yates on rows [0, n) of one shard. Always from the canonical order, so that any epoch can
 * be entered at once after a restart. */
static void shuffle(int32_t *row, int64_t n, uint64_t seed, uint32_t epoch, uint32_t shard)
{
    mr_u32x4 words = {{0, 0, 0, 0}};
    for (int64_t i = n - 1, used = 0; i > 0; i--, used++) {
        if (used % 4 == 0)
            words = mr_philox(seed, MR_RNG_SHUFFLE, epoch, shard, (uint32_t)(used / 4));
        int64_t j = mr_below(words.v[used % 4], (uint32_t)(i + 1));
        int32_t t = row[i];
        row[i] = row[j];
        row[j] = t;
    }
}

static void enter_epoch(mr_sampler *s, int64_t epoch)
{
    bool train = s->spec.split == MR_SPLIT_TRAIN;
    if (!train) epoch = 0;
    if (s->epoch == epoch) return;
    s->epoch = epoch;
    for (int32_t v = s->shard_lo; v < s->shard_hi; v++) {
        int64_t lo = s->start[v - s->shard_lo], hi = s->start[v - s->shard_lo + 1];
        for (int64_t i = lo; i < hi; i++) s->shuffled[i] = (int32_t)i;
        if (train) shuffle(s->shuffled + lo, hi - lo, s->spec.seed, (uint32_t)epoch, (uint32_t)v);
    }
}

/* Items of the history of a row: the last max_len before the target. */
static int32_t length_of(const mr_sampler *s, const own_row *row)
{
    int64_t n = row->target - s->spec.data->offset[row->user];
    return (int32_t)(n < s->spec.max_len ? n : s->spec.max_len);
}

/* The row at this place of the order, in the epoch that was entered. */
static const own_row *row_at(const mr_sampler *s, place p)
{
    return &s->own[s->shuffled[s->start[p.shard - s->shard_lo] + p.k]];
}

int64_t mr_sampler_tokens_most(mr_sampler *s, int64_t epoch, int64_t rows)
{
    int64_t most = 0, tokens = 0;
    enter_epoch(s, epoch);
    for (int64_t at = 0; at < s->n; at++) {
        place p = s->order[at];
        if (at % s->spec.batch == 0) tokens = rows;
        /* a row that is there has its tokens instead of the one */
        if (p.shard >= s->shard_lo && p.shard < s->shard_hi)
            tokens += length_of(s, row_at(s, p)) - 1;
        most = tokens > most ? tokens : most;
    }
    return most;
}

/* Row r of the batch: ids (zero after the end), user, target and, with augmentation, the views. */
static void fill_row(const mr_sampler *s, const own_row *row, int64_t r, mr_batch *b)
{
    const mr_dataset *d = s->spec.data;
    int64_t L = b->L;
    int32_t n = length_of(s, row);
    int64_t first = row->target - n;
    b->rid[r] = row->rid;
    b->user[r] = row->user;
    b->target[r] = s->spec.split == MR_SPLIT_NEXT ? 0 : d->items[row->target];
    for (int q = 0; q < b->n_seq; q++)
        memset(b->seq[q].ids + r * L, 0, (size_t)L * sizeof(int32_t));
    memcpy(b->seq[0].ids + r * L, d->items + first, (size_t)n * sizeof(int32_t));
    b->seq[0].len[r] = n;
    if (!s->spec.augment || b->n_seq < MR_MAX_SEQ) return;
    int32_t *view[2] = {b->seq[1].ids + r * L, b->seq[2].ids + r * L}, len[2];
    mr_augment_views(&s->augment, d->items + first, n, b->step, row->rid, view, len);
    for (int v = 0; v < 2; v++) {
        if (len[v] < n) memset(view[v] + len[v], 0, (size_t)(n - len[v]) * sizeof(int32_t));
        b->seq[v + 1].len[r] = len[v];
    }
}

/* The rows of shards [first, end), which are own ones. */
static void get_shards(mr_sampler *s, int64_t epoch, int64_t i, uint32_t step, int32_t first,
                       int32_t end, mr_batch *b)
{
    int64_t lo = i * s->spec.batch, hi = lo + s->spec.batch;
    if (hi > s->n) hi = s->n;
    enter_epoch(s, epoch);
    b->step = step;
    b->rows = 0;
    b->rows_global = hi - lo;
    memset(b->rank_rows, 0, (size_t)b->n_ranks * sizeof *b->rank_rows);
    for (int64_t at = lo; at < hi; at++) {
        place p = s->order[at];
        b->rank_rows[s->rank_of[p.shard]]++;
        if (p.shard < first || p.shard >= end) continue;
        fill_row(s, row_at(s, p), b->rows++, b);
    }
    mr_batch_pack(b);
}

void mr_sampler_get(mr_sampler *s, int64_t epoch, int64_t i, uint32_t step, mr_batch *b)
{
    get_shards(s, epoch, i, step, s->shard_lo, s->shard_hi, b);
}

int mr_sampler_shards(const mr_sampler *s) { return s->shard_hi - s->shard_lo; }

int mr_sampler_shards_most(const mr_sampler *s)
{
    return (s->spec.virtual_shards + s->spec.n_ranks - 1) / s->spec.n_ranks;
}

void mr_sampler_get_shard(mr_sampler *s, int64_t epoch, int64_t i, uint32_t step, int k,
                          mr_batch *b)
{
    int32_t first = s->shard_lo + k;
    get_shards(s, epoch, i, step, first, first < s->shard_hi ? first + 1 : first, b);
}
