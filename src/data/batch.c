/* Batches: allocation once, packing every step.
 * What it is not: the choice of rows (sampler.c).
 * Invariant: packed tokens are the valid ones only, row after row, position after position. */
#include "data/batch.h"

#include <string.h>

#include "base/mem.h"

static mr_status seq_alloc(mr_seq *s, int64_t rows, int64_t L)
{
    MR_TRY(MR_ALLOC(&s->ids, rows * L, "batch ids"));
    MR_TRY(MR_ALLOC(&s->len, rows, "batch lengths"));
    MR_TRY(MR_ALLOC(&s->start, rows + 1, "batch row starts"));
    MR_TRY(MR_ALLOC(&s->tok_id, rows * L, "batch tokens"));
    MR_TRY(MR_ALLOC(&s->tok_pos, rows * L, "batch tokens"));
    MR_TRY(MR_ALLOC(&s->tok_row, rows * L, "batch tokens"));
    MR_TRY(MR_ALLOC(&s->tok_rid, rows * L, "batch tokens"));
    return MR_OK;
}

static mr_status alloc_all(mr_batch *b)
{
    MR_TRY(MR_ALLOC(&b->rank_rows, b->n_ranks, "batch rows of each rank"));
    MR_TRY(MR_ALLOC(&b->rid, b->rows_cap, "batch row numbers"));
    MR_TRY(MR_ALLOC(&b->zero_pos, b->rows_cap, "batch row positions"));
    MR_TRY(MR_ALLOC(&b->user, b->rows_cap, "batch users"));
    MR_TRY(MR_ALLOC(&b->target, b->rows_cap, "batch targets"));
    MR_TRY(MR_ALLOC(&b->last, b->rows_cap, "batch last items"));
    MR_TRY(MR_ALLOC(&b->last_id, b->rows_cap, "batch last items"));
    MR_TRY(MR_ALLOC(&b->last_slot, b->rows_cap, "batch last items"));
    MR_TRY(MR_ALLOC(&b->last_start, b->rows_cap + 1, "batch last items"));
    MR_TRY(MR_ALLOC(&b->last_row, b->rows_cap, "batch last items"));
    for (b->hash_cap = 1; b->hash_cap < 2 * b->rows_cap + 1;) b->hash_cap *= 2;
    MR_TRY(MR_ALLOC(&b->last_hash, b->hash_cap, "batch last items"));
    for (int q = 0; q < b->n_seq; q++) MR_TRY(seq_alloc(&b->seq[q], b->rows_cap, b->L));
    return MR_OK;
}

mr_status mr_batch_alloc(mr_batch *b, int64_t rows_cap, int64_t L, int n_seq, int n_ranks)
{
    MR_CHECK(
        rows_cap >= 0 && L >= 1 && rows_cap <= INT32_MAX / L, MR_ERR_CONFIG,
        "a batch of %lld rows of %lld items on one rank is too large for 32 bit token numbers; "
        "use a smaller train.batch or more ranks",
        (long long)rows_cap, (long long)L);
    MR_CHECK((n_seq == 1 || n_seq == MR_MAX_SEQ) && n_ranks >= 1, MR_ERR_INTERNAL,
             "batch with %d sequence sets for %d ranks", n_seq, n_ranks);
    mr_batch made = {.rows_cap = rows_cap, .L = L, .n_seq = n_seq, .n_ranks = n_ranks};
    mr_status st = alloc_all(&made);
    if (st != MR_OK) {
        mr_batch_free(&made);
        return st;
    }
    *b = made;
    return MR_OK;
}

void mr_batch_free(mr_batch *b)
{
    MR_FREE(b->rank_rows);
    MR_FREE(b->rid);
    MR_FREE(b->zero_pos);
    MR_FREE(b->user);
    MR_FREE(b->target);
    MR_FREE(b->last);
    MR_FREE(b->last_id);
    MR_FREE(b->last_slot);
    MR_FREE(b->last_start);
    MR_FREE(b->last_row);
    MR_FREE(b->last_hash);
    for (int q = 0; q < MR_MAX_SEQ; q++) {
        mr_seq *s = &b->seq[q];
        MR_FREE(s->ids);
        MR_FREE(s->len);
        MR_FREE(s->start);
        MR_FREE(s->tok_id);
        MR_FREE(s->tok_pos);
        MR_FREE(s->tok_row);
        MR_FREE(s->tok_rid);
    }
    *b = (mr_batch){0};
}

/* Slot of an item, a new one when it was not met before. */
static int32_t slot_of(mr_batch *b, int32_t id)
{
    uint64_t mask = (uint64_t)b->hash_cap - 1;
    for (uint64_t at = (uint32_t)id * UINT64_C(0x9E3779B97F4A7C15) >> 32 & mask;;
         at = (at + 1) & mask) {
        int32_t slot = b->last_hash[at];
        if (slot >= 0 && b->last_id[slot] == id) return slot;
        if (slot >= 0) continue;
        b->last_hash[at] = (int32_t)b->n_last;
        b->last_id[b->n_last] = id;
        return (int32_t)b->n_last++;
    }
}

void mr_batch_distinct(mr_batch *b)
{
    int32_t *start = b->last_start;
    b->n_last = 0;
    memset(b->last_hash, 0xFF, (size_t)b->hash_cap * sizeof *b->last_hash); /* -1: free */
    memset(start, 0, (size_t)(b->rows + 1) * sizeof *start);
    for (int64_t r = 0; r < b->rows; r++) {
        b->last_slot[r] = slot_of(b, b->last[r]);
        start[b->last_slot[r] + 1]++;
    }
    for (int64_t u = 0; u < b->n_last; u++) start[u + 1] += start[u];
    for (int64_t r = 0; r < b->rows; r++) b->last_row[start[b->last_slot[r]]++] = (int32_t)r;
    for (int64_t u = b->n_last; u > 0; u--) start[u] = start[u - 1]; /* they were moved on */
    start[0] = 0;
}

void mr_batch_pack(mr_batch *b)
{
    for (int q = 0; q < b->n_seq; q++) {
        mr_seq *s = &b->seq[q];
        int32_t at = 0;
        for (int64_t r = 0; r < b->rows; r++) {
            s->start[r] = at;
            for (int32_t p = 0; p < s->len[r]; p++, at++) {
                s->tok_id[at] = s->ids[r * b->L + p];
                s->tok_pos[at] = p;
                s->tok_row[at] = (int32_t)r;
                s->tok_rid[at] = b->rid[r];
            }
        }
        s->start[b->rows] = at;
        s->tokens = at;
    }
    for (int64_t r = 0; r < b->rows; r++)
        b->last[r] = b->seq[0].ids[r * b->L + b->seq[0].len[r] - 1];
    mr_batch_distinct(b);
}
