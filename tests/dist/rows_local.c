/* Until src/data/dataset.c makes the canonical rows. */
#include "base/mem.h"
#include "data/dataset.h"

__attribute__((weak)) mr_status mr_rows_make(mr_rows *out, const mr_dataset *d, mr_split split)
{
    mr_rows r = {0};
    MR_TRY(MR_ALLOC(&r.user, d->n_inter, "rows"));
    mr_status st = MR_ALLOC(&r.target, d->n_inter, "rows");
    if (st != MR_OK) {
        MR_FREE(r.user);
        return st;
    }
    for (int32_t u = 0; u < d->n_users; u++) {
        int64_t lo = d->offset[u], n = d->offset[u + 1] - lo;
        if (n < 3) continue;
        int64_t from = split == MR_SPLIT_TRAIN ? 2 : split == MR_SPLIT_VALID ? n - 1 : n;
        int64_t to = split == MR_SPLIT_TRAIN ? n - 2 : from;
        for (int64_t j = from; j <= to; j++) {
            r.user[r.n] = u;
            r.target[r.n++] = (int32_t)(lo + j - 1);
        }
    }
    *out = r;
    return MR_OK;
}

__attribute__((weak)) void mr_rows_free(mr_rows *r)
{
    MR_FREE(r->user);
    MR_FREE(r->target);
    r->n = 0;
}
