/* Row exchanges of a batch, one per sequence set. */
#include "train/feed.h"

#include <string.h>

#include "base/mem.h"

mr_status mr_feed_create(mr_feed *f, int64_t rows_cap, int64_t L, int n_seq, int n_ranks)
{
    memset(f, 0, sizeof *f);
    f->n_seq = n_seq;
    MR_TRY(MR_ALLOC(&f->list, rows_cap * L + 1, "exchange list"));
    for (int s = 0; s < n_seq; s++)
        MR_TRY(mr_exchange_create(&f->xch[s], rows_cap * L + 1, n_ranks));
    return MR_OK;
}

void mr_feed_free(mr_feed *f)
{
    for (int s = 0; s < MR_MAX_SEQ; s++) mr_exchange_free(&f->xch[s]);
    MR_FREE(f->list);
}

mr_status mr_feed_plan(mr_feed *f, mr_comm *items, int64_t table_rows, const mr_batch *b)
{
    for (int s = 0; s < b->n_seq; s++) {
        const mr_seq *q = &b->seq[s];
        /* The last entry is PAD, which TedRec reads at padded positions. */
        memcpy(f->list, q->tok_id, (size_t)q->tokens * sizeof *f->list);
        f->list[q->tokens] = 0;
        MR_TRY(mr_exchange_plan(f->xch[s], items, table_rows, f->list, q->tokens + 1));
    }
    return MR_OK;
}

mr_status mr_feed_agree(mr_feed *f, mr_comm *world, const mr_batch *b, int64_t *places)
{
    enum { WORDS = sizeof(mr_counts) / sizeof(int64_t) };
    mr_counts most;
    mr_run_counts(&most, b, f->xch);
    most.places = *places;
    world->purpose = MR_FOR_LARGEST;
    MR_TRY(world->allreduce(world, &most, WORDS, MR_I64, MR_MAX));
    f->most = most;
    *places = most.places;
    return MR_OK;
}

/* The most distinct ids of one owner in a sequence set, PAD included. stamp [table_rows] tells
 * which ids were seen with this mark. */
static int64_t most_of_owner(const mr_seq *q, int64_t block, int64_t *count, int group,
                             int32_t *stamp, int32_t mark)
{
    int64_t most = 0;
    memset(count, 0, (size_t)group * sizeof *count);
    for (int64_t i = 0; i <= q->tokens; i++) {
        int32_t id = i < q->tokens ? q->tok_id[i] : 0;
        if (stamp[id] == mark) continue;
        stamp[id] = mark;
        int64_t n = ++count[id / block];
        most = n > most ? n : most;
    }
    return most;
}

mr_status mr_feed_rows_of_pair(int64_t *out, mr_comm *world, int group, int64_t table_rows,
                               mr_sampler *s, mr_batch *b)
{
    enum { BATCHES = 8, ROUND = 32 };
    int64_t block = (table_rows + group - 1) / group, *count = NULL, most = 1;
    int32_t *stamp = NULL, mark = 0;
    mr_status st = MR_ALLOC(&stamp, table_rows, "ids of a batch");
    if (st == MR_OK) st = MR_ALLOC(&count, group, "rows of owners");
    for (int64_t i = 0; st == MR_OK && i < BATCHES && i < mr_sampler_batches(s); i++) {
        mr_sampler_get(s, 0, i, (uint32_t)i, b);
        for (int q = 0; q < b->n_seq; q++) {
            int64_t n = most_of_owner(&b->seq[q], block, count, group, stamp, ++mark);
            most = n > most ? n : most;
        }
    }
    MR_FREE(stamp);
    MR_FREE(count);
    MR_TRY(mr_comm_agree(world, st));
    MR_TRY(world->allreduce(world, &most, 1, MR_I64, MR_MAX));
    most = (most + (most + 3) / 4 + ROUND - 1) / ROUND * ROUND;
    *out = most < block ? most : block;
    return MR_OK;
}

void mr_feed_fix(mr_feed *f, int64_t rows_of_pair)
{
    for (int s = 0; s < f->n_seq; s++) f->xch[s]->fixed = rows_of_pair;
}

int64_t mr_feed_misfits(const mr_feed *f)
{
    int64_t n = 0;
    for (int s = 0; s < f->n_seq; s++) n += f->xch[s]->n_misfit;
    return n;
}
