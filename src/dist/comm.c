/* What all communicators have in common: destruction, agreement on a status, byte accounting.
 * What it is not: any communication of its own; that goes through the table. Knows no MPI.
 * Invariant: the accounting depends on arguments and rank alone, never on what a library did. */
#include "dist/comm.h"

#include "base/mem.h"
#include "dist/comm_impl.h"

void mr_comm_destroy(mr_comm **c_p)
{
    if (!*c_p) return;
    (*c_p)->destroy(*c_p);
    *c_p = NULL;
}

/* The smallest key wins: errors before STOPPED before OK, lower ranks first. */
#define KEY_BASE 1000

mr_status mr_comm_agree(mr_comm *c, mr_status mine)
{
    const int64_t none = INT64_MAX;
    int64_t order = mine == MR_STOPPED ? (int64_t)c->size + c->rank : c->rank;
    int64_t key = mine == MR_OK ? none : order * KEY_BASE + (int64_t)mine;
    mr_status st = c->allreduce(c, &key, 1, MR_I64, MR_MIN);
    if (st != MR_OK) return mine != MR_OK ? mine : st;
    if (key == none) {
        mr_errors_release(false);
        return MR_OK;
    }
    mr_errors_release(key / KEY_BASE % c->size == c->rank);
    return (mr_status)(key % KEY_BASE);
}

mr_status mr_comm_gather(mr_comm *c, const void *mine, int64_t bytes, void *all_p)
{
    void *all = NULL;
    int64_t *counts = NULL;
    mr_status st = mr_alloc(&all, c->size * bytes, 1, "gathered texts");
    if (st == MR_OK) st = MR_ALLOC(&counts, c->size, "gathered texts");
    st = mr_comm_agree(c, st); /* before the others wait for a rank without memory */
    for (int r = 0; st == MR_OK && r < c->size; r++) counts[r] = bytes;
    if (st == MR_OK) st = c->allgatherv(c, mine, all, counts, MR_U8);
    MR_FREE(counts);
    if (st == MR_OK)
        *(void **)all_p = all;
    else
        MR_FREE(all);
    return st;
}

mr_status mr_comm_check_reducible(mr_dtype t)
{
    switch (t) {
    case MR_F32:
    case MR_F64:
    case MR_I32:
    case MR_I64:
    case MR_U32: return MR_OK;
    case MR_F16:
    case MR_BF16:
    case MR_U8: break;
    }
    return MR_RAISE(MR_ERR_COMM,
                    "a reduction over ranks of element type %d is not supported; "
                    "convert to float32 first",
                    (int)t);
}

mr_status mr_comm_check_counts(const mr_comm *c, const int64_t *counts, const char *what)
{
    for (int r = 0; r < c->size; r++)
        MR_CHECK(counts[r] >= 0, MR_ERR_INTERNAL, "%s: count %lld for rank %d is negative", what,
                 (long long)counts[r], r);
    return MR_OK;
}

static int64_t sum(const mr_comm *c, const int64_t *counts)
{
    int64_t n = 0;
    for (int r = 0; r < c->size; r++) n += counts[r];
    return n;
}

static void account(mr_comm *c, mr_coll k, int64_t in, int64_t out, mr_dtype t)
{
    mr_count *f = &c->stats.made_for[c->purpose];
    in *= (int64_t)mr_dtype_bytes(t);
    out *= (int64_t)mr_dtype_bytes(t);
    c->stats.calls[k]++;
    c->stats.bytes_in[k] += in;
    c->stats.bytes_out[k] += out;
    f->calls++;
    f->bytes_in += in;
    f->bytes_out += out;
    c->purpose = MR_FOR_OTHER;
}

void mr_account_allreduce(mr_comm *c, int64_t n, mr_dtype t)
{
    int64_t bytes = 2 * (c->size - 1) * n * (int64_t)mr_dtype_bytes(t) / c->size;
    account(c, MR_COLL_ALLREDUCE, bytes, bytes, MR_U8);
}

void mr_account_allgatherv(mr_comm *c, const int64_t *counts, mr_dtype t)
{
    int64_t own = counts[c->rank];
    account(c, MR_COLL_ALLGATHER, sum(c, counts) - own, (c->size - 1) * own, t);
}

void mr_account_reduce_scatterv(mr_comm *c, const int64_t *counts, mr_dtype t)
{
    int64_t own = counts[c->rank];
    account(c, MR_COLL_REDUCE_SCATTER, (c->size - 1) * own, sum(c, counts) - own, t);
}

void mr_account_alltoallv(mr_comm *c, const int64_t *send_counts, const int64_t *recv_counts,
                          mr_dtype t)
{
    account(c, MR_COLL_ALLTOALL, sum(c, recv_counts) - recv_counts[c->rank],
            sum(c, send_counts) - send_counts[c->rank], t);
}

void mr_account_bcast(mr_comm *c, int64_t n, mr_dtype t, int root)
{
    int last = (root + c->size - 1) % c->size;
    account(c, MR_COLL_BCAST, c->rank == root ? 0 : n, c->rank == last ? 0 : n, t);
}

void mr_account_barrier(mr_comm *c) { account(c, MR_COLL_BARRIER, 0, 0, MR_U8); }

void mr_account_again(mr_comm *c, mr_coll k, mr_purpose p, const mr_count *n)
{
    mr_count *f = &c->stats.made_for[p];
    if (n->calls == 0) return;
    c->stats.calls[k] += n->calls;
    c->stats.bytes_in[k] += n->bytes_in;
    c->stats.bytes_out[k] += n->bytes_out;
    f->calls += n->calls;
    f->bytes_in += n->bytes_in;
    f->bytes_out += n->bytes_out;
}

const char *mr_coll_name(mr_coll k)
{
    static const char *const names[MR_COLL_COUNT] = {"allreduce", "allgather", "reduce_scatter",
                                                     "alltoall",  "bcast",     "barrier"};
    return (unsigned)k < MR_COLL_COUNT ? names[k] : "unknown";
}

const mr_purpose_line *mr_purpose_at(mr_purpose p)
{
    static const mr_purpose_line lines[MR_FOR_COUNT] = {
#define MR_PURPOSE(id, kind, among, when, what, received)                                          \
    {#id, #among, when, what, received, MR_COLL_##kind},
#include "dist/purposes.def"
#undef MR_PURPOSE
    };
    return &lines[(unsigned)p < MR_FOR_COUNT ? p : MR_FOR_OTHER];
}

void mr_comm_stats_since(mr_comm_stats *out, const mr_comm_stats *now, const mr_comm_stats *before)
{
    for (int k = 0; k < MR_COLL_COUNT; k++) {
        out->calls[k] = now->calls[k] - before->calls[k];
        out->bytes_in[k] = now->bytes_in[k] - before->bytes_in[k];
        out->bytes_out[k] = now->bytes_out[k] - before->bytes_out[k];
    }
    for (int p = 0; p < MR_FOR_COUNT; p++) {
        const mr_count *a = &before->made_for[p], *b = &now->made_for[p];
        out->made_for[p] =
            (mr_count){b->calls - a->calls, b->bytes_in - a->bytes_in, b->bytes_out - a->bytes_out};
    }
}

void mr_comm_stats_total(const mr_comm_stats *s, int64_t *bytes_in, int64_t *bytes_out)
{
    *bytes_in = *bytes_out = 0;
    for (int k = 0; k < MR_COLL_COUNT; k++) {
        *bytes_in += s->bytes_in[k];
        *bytes_out += s->bytes_out[k];
    }
}
