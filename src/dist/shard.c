/* The row exchange of a batch: sort the ids, tell their owners, and prepare both sums of the way
 * back (tokens into distinct rows, rows of all ranks into the table), each in a fixed order. What
 * it is not: the movement of the rows (graph/op_embed.c) or the choice of the number of shards.
 * Invariant: everything is a function of the lists of all ranks; sorts are stable, so the positions
 * of one id ascend and the askers of one local row come in rank order. */
#include "dist/shard.h"

#include <string.h>

#include "base/mem.h"

enum { DIGIT_BITS = 11, DIGITS = 1 << DIGIT_BITS };

/* pos[n] = the positions of key[n] (>= 0) in ascending order of key, equal keys in order of
 * position. Least significant digit first; tmp[n] is scratch. */
static void sort_positions(const int32_t *key, int64_t n, int32_t *pos, int32_t *tmp)
{
    int32_t highest = 0, *from = pos, *to = tmp;
    for (int64_t i = 0; i < n; i++) {
        pos[i] = (int32_t)i;
        if (key[i] > highest) highest = key[i];
    }
    for (int shift = 0; shift < 31 && highest >> shift; shift += DIGIT_BITS) {
        int32_t next[DIGITS + 1] = {0};
        for (int64_t i = 0; i < n; i++) next[((key[i] >> shift) & (DIGITS - 1)) + 1]++;
        for (int d = 0; d < DIGITS; d++) next[d + 1] += next[d];
        for (int64_t i = 0; i < n; i++)
            to[next[(key[from[i]] >> shift) & (DIGITS - 1)]++] = from[i];
        int32_t *t = from;
        from = to;
        to = t;
    }
    if (from != pos) memcpy(pos, from, (size_t)n * sizeof *pos);
}

/* From sorted positions: distinct[] the keys, start[] the first position of each; returns their
 * number. */
static int64_t find_runs(const int32_t *key, const int32_t *pos, int64_t n, int32_t *distinct,
                         int32_t *start)
{
    int64_t runs = 0;
    for (int64_t i = 0; i < n; i++) {
        if (i > 0 && key[pos[i]] == key[pos[i - 1]]) continue;
        distinct[runs] = key[pos[i]];
        start[runs++] = (int32_t)i;
    }
    start[runs] = (int32_t)n;
    return runs;
}

static mr_status alloc_all(mr_exchange *x)
{
    MR_TRY(MR_ALLOC(&x->unique_id, x->cap, "row exchange"));
    MR_TRY(MR_ALLOC(&x->inv, x->cap, "row exchange"));
    MR_TRY(MR_ALLOC(&x->csr_start, x->cap + 1, "row exchange"));
    MR_TRY(MR_ALLOC(&x->csr_pos, x->cap, "row exchange"));
    MR_TRY(MR_ALLOC(&x->sort_cap, x->cap, "row exchange"));
    MR_TRY(MR_ALLOC(&x->slot, x->cap, "row exchange"));
    MR_TRY(MR_ALLOC(&x->want, x->size, "row exchange"));
    MR_TRY(MR_ALLOC(&x->give, x->size, "row exchange"));
    return MR_OK;
}

mr_status mr_exchange_create(mr_exchange **out_p, int64_t cap, int size)
{
    mr_exchange *x = NULL;
    MR_CHECK(cap >= 0 && cap < INT32_MAX && size >= 1, MR_ERR_INTERNAL,
             "row exchange of %lld ids between %d ranks", (long long)cap, size);
    MR_TRY(MR_ALLOC(&x, 1, "row exchange"));
    x->cap = cap;
    x->size = size;
    x->for_counts = MR_FOR_ROW_COUNTS;
    x->for_ids = MR_FOR_ROW_IDS;
    mr_status st = alloc_all(x);
    if (st != MR_OK) {
        mr_exchange_free(&x);
        return st;
    }
    *out_p = x;
    return MR_OK;
}

static void free_give(mr_exchange *x)
{
    MR_FREE(x->give_row);
    MR_FREE(x->own_row);
    MR_FREE(x->own_start);
    MR_FREE(x->own_pos);
    MR_FREE(x->sort_give);
    x->give_cap = 0;
}

void mr_exchange_free(mr_exchange **x_p)
{
    mr_exchange *x = *x_p;
    if (!x) return;
    free_give(x);
    MR_FREE(x->unique_id);
    MR_FREE(x->inv);
    MR_FREE(x->csr_start);
    MR_FREE(x->csr_pos);
    MR_FREE(x->sort_cap);
    MR_FREE(x->slot);
    MR_FREE(x->want);
    MR_FREE(x->give);
    MR_FREE(*x_p);
}

/* How many rows the others will ask for is known only now; room grows by a quarter more than that.
 */
static mr_status make_room(mr_exchange *x, int64_t n)
{
    if (n <= x->give_cap) return MR_OK;
    int64_t cap = n + n / 4;
    MR_CHECK(n < INT32_MAX - 1, MR_ERR_INTERNAL, "a row exchange gives %lld rows at once",
             (long long)n);
    if (cap > INT32_MAX - 1) cap = INT32_MAX - 1;
    free_give(x);
    MR_TRY(MR_ALLOC(&x->give_row, cap, "rows to give"));
    MR_TRY(MR_ALLOC(&x->own_row, cap, "rows to give"));
    MR_TRY(MR_ALLOC(&x->own_start, cap + 1, "rows to give"));
    MR_TRY(MR_ALLOC(&x->own_pos, cap, "rows to give"));
    MR_TRY(MR_ALLOC(&x->sort_give, cap, "rows to give"));
    x->give_cap = cap;
    return MR_OK;
}

/* What this rank wants: distinct ids, where each is used, and how many of each owner. */
static void index_list(mr_exchange *x, const int32_t *ids, int64_t n, int64_t block)
{
    sort_positions(ids, n, x->csr_pos, x->sort_cap);
    x->n_unique = find_runs(ids, x->csr_pos, n, x->unique_id, x->csr_start);
    x->n = n;
    memset(x->want, 0, (size_t)x->size * sizeof *x->want);
    for (int64_t u = 0; u < x->n_unique; u++) {
        for (int32_t k = x->csr_start[u]; k < x->csr_start[u + 1]; k++)
            x->inv[x->csr_pos[k]] = (int32_t)u;
        x->want[x->unique_id[u] / block]++;
    }
}

/* Exchange want for give. A rank whose list does not fit into fixed rows sends complements to all,
 * so everybody knows without another collective. */
static mr_status exchange_counts(mr_exchange *x, mr_comm *comm, int64_t *one)
{
    bool fits = x->fixed > 0;
    for (int r = 0; r < x->size; r++) {
        one[r] = 1;
        fits = fits && x->want[r] <= x->fixed;
    }
    for (int r = 0; r < x->size && !fits; r++) x->want[r] = ~x->want[r];
    comm->purpose = x->for_counts;
    mr_status st = comm->alltoallv(comm, x->want, one, x->give, one, MR_I64);
    x->is_fixed = x->fixed > 0;
    for (int r = 0; r < x->size; r++) {
        if (!fits) x->want[r] = ~x->want[r];
        if (st != MR_OK || x->give[r] >= 0) continue;
        x->give[r] = ~x->give[r];
        x->is_fixed = false;
    }
    x->n_misfit += x->fixed > 0 && !x->is_fixed;
    return st;
}

/* Ids wanted from us, by asking rank, into give_row. */
static mr_status ask_owners(mr_exchange *x, mr_comm *comm)
{
    x->is_fixed = false;
    if (comm->size == 1) {
        x->give[0] = x->n_give = x->n_unique;
        MR_TRY(make_room(x, x->n_give));
        if (x->n_give) memcpy(x->give_row, x->unique_id, (size_t)x->n_give * sizeof *x->give_row);
        return MR_OK;
    }
    int64_t *one = NULL;
    MR_TRY(MR_ALLOC(&one, comm->size, "row exchange"));
    mr_status st = exchange_counts(x, comm, one);
    MR_FREE(one);
    MR_TRY(st);
    x->n_give = 0;
    for (int r = 0; r < comm->size; r++) x->n_give += x->give[r];
    int64_t all = x->is_fixed ? x->size * x->fixed : 0;
    MR_TRY(make_room(x, x->n_give > all ? x->n_give : all));
    comm->purpose = x->for_ids;
    return comm->alltoallv(comm, x->unique_id, x->want, x->give_row, x->give, MR_I32);
}

/* From places one after another to places with room for `fixed` rows of every rank. */
static void lay_out(mr_exchange *x)
{
    int32_t C = (int32_t)x->fixed, *to = x->sort_give;
    for (int64_t r = 0, u = 0; r < x->size; r++)
        for (int64_t k = 0; k < x->want[r]; k++) x->slot[u++] = (int32_t)(r * C + k);
    for (int64_t i = 0; i < x->n; i++) x->inv[i] = x->slot[x->inv[i]];
    for (int64_t r = 0, p = 0; r < x->size; r++)
        for (int64_t k = 0; k < x->give[r]; k++) to[p++] = (int32_t)(r * C + k);
    for (int64_t i = 0; i < x->n_give; i++) x->own_pos[i] = to[x->own_pos[i]];
    int64_t p = x->n_give; /* from the end: no place lies before where its row comes from */
    for (int64_t r = x->size - 1; r >= 0; r--) {
        p -= x->give[r];
        memmove(x->give_row + r * C, x->give_row + p, (size_t)x->give[r] * sizeof *x->give_row);
        memset(x->give_row + r * C + x->give[r], 0, (size_t)(C - x->give[r]) * sizeof *x->give_row);
    }
}

int64_t mr_exchange_wants(const mr_exchange *x, int r)
{
    return x->is_fixed ? x->fixed : x->want[r];
}
int64_t mr_exchange_gives(const mr_exchange *x, int r)
{
    return x->is_fixed ? x->fixed : x->give[r];
}

static mr_status plan(mr_exchange *x, mr_comm *comm, int64_t n_rows, const int32_t *ids, int64_t n)
{
    int64_t block = (n_rows + comm->size - 1) / comm->size, lo = comm->rank * block;
    int64_t hi = lo + block < n_rows ? lo + block : n_rows;
    MR_CHECK(comm->size == x->size && n >= 0 && n <= x->cap, MR_ERR_INTERNAL,
             "row exchange made for %lld ids and %d ranks got %lld ids and %d ranks",
             (long long)x->cap, x->size, (long long)n, comm->size);
    for (int64_t i = 0; i < n; i++)
        MR_CHECK(ids[i] >= 0 && ids[i] < n_rows, MR_ERR_INTERNAL,
                 "row exchange: id %d at position %lld is outside 0..%lld", ids[i], (long long)i,
                 (long long)n_rows - 1);
    index_list(x, ids, n, block);
    MR_TRY(ask_owners(x, comm));
    for (int64_t i = 0; i < x->n_give; i++) {
        MR_CHECK(x->give_row[i] >= lo && x->give_row[i] < hi, MR_ERR_COMM,
                 "row exchange: rank %d was asked for row %d but owns %lld..%lld; the ranks "
                 "disagree on the size of the table",
                 comm->rank, x->give_row[i], (long long)lo, (long long)hi - 1);
        x->give_row[i] -= (int32_t)lo;
    }
    if (!x->give_cap) MR_TRY(make_room(x, 1)); /* own_start[0] exists always */
    sort_positions(x->give_row, x->n_give, x->own_pos, x->sort_give);
    x->n_own = find_runs(x->give_row, x->own_pos, x->n_give, x->own_row, x->own_start);
    if (x->is_fixed) lay_out(x);
    x->n_slots = x->is_fixed ? x->size * x->fixed : x->n_unique;
    x->n_send = x->is_fixed ? x->size * x->fixed : x->n_give;
    return MR_OK;
}

mr_status mr_exchange_plan(mr_exchange *x, mr_comm *comm, int64_t n_rows, const int32_t *ids,
                           int64_t n)
{
    mr_status st = plan(x, comm, n_rows, ids, n);
    if (st != MR_OK) x->n = x->n_unique = x->n_give = x->n_own = x->n_slots = x->n_send = 0;
    return st;
}
