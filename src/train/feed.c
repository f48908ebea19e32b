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
