/* A communicator that fails on purpose: it hands every call to another one and reports the n-th as
 * failed, so that tests can walk through every error path of a caller.
 * What it is not: used outside tests.
 * Invariant: the failing call was carried out, hence ranks that do not fail are not left waiting.
 */
#include <time.h>

#include "base/mem.h"
#include "dist/comm_impl.h"

/* Shared by a fake communicator and all that were split from it. */
typedef struct countdown {
    int64_t made, fail_at;
    mr_fake_act act;
    int owners;
    volatile bool is_aborted, is_failed;
} countdown;

typedef struct fake {
    mr_comm *inner;
    bool owns_inner; /* a part made by split */
    countdown *count;
} fake;

static mr_status wrap(mr_comm *inner, bool owns_inner, countdown *count, mr_comm **out_p);

/* Before a call is passed on: true when it is not, with what it returns in *st_p. */
static bool instead(mr_comm *c, const char *call, mr_status *st_p)
{
    countdown *n = ((fake *)c->impl)->count;
    *st_p = n->is_aborted ? MR_RAISE(MR_ERR_COMM, "%s: the communicator was aborted", call) : MR_OK;
    if (n->is_aborted) return true;
    if (n->act == MR_FAKE_FAIL || n->made + 1 != n->fail_at) return false;
    if (n->act == MR_FAKE_LATE) n->is_failed = true;
    if (n->act == MR_FAKE_LATE) return false;
    n->made++;
    if (n->act == MR_FAKE_SKIP) return true;
    const struct timespec wait = {0, 1000000};
    while (!n->is_aborted) nanosleep(&wait, NULL);
    *st_p = MR_RAISE(MR_ERR_COMM, "%s was aborted", call);
    return true;
}

static mr_status after(mr_comm *c, mr_status st, const char *call)
{
    fake *f = c->impl;
    mr_comm_passed(c, f->inner);
    bool is_it = ++f->count->made == f->count->fail_at && f->count->act == MR_FAKE_FAIL;
    if (is_it && st == MR_OK)
        return MR_RAISE(MR_ERR_COMM, "%s fails on purpose (call %lld)", call,
                        (long long)f->count->made);
    return st;
}

#define INNER(c) mr_comm_pass((c), ((fake *)(c)->impl)->inner)

static mr_status fake_allreduce(mr_comm *c, void *buf, int64_t n, mr_dtype t, mr_reduce op)
{
    mr_status st;
    if (instead(c, "allreduce", &st)) return st;
    return after(c, INNER(c)->allreduce(INNER(c), buf, n, t, op), "allreduce");
}

static mr_status fake_iallreduce(mr_comm *c, void *buf, int64_t n, mr_dtype t)
{
    mr_status st;
    if (instead(c, "iallreduce", &st)) return st;
    return after(c, INNER(c)->iallreduce(INNER(c), buf, n, t), "iallreduce");
}

static mr_status fake_wait_all(mr_comm *c)
{
    mr_status st;
    if (instead(c, "wait_all", &st)) return st;
    return after(c, INNER(c)->wait_all(INNER(c)), "wait_all");
}

static mr_status fake_allgatherv(mr_comm *c, const void *send, void *recv, const int64_t *counts,
                                 mr_dtype t)
{
    mr_status st;
    if (instead(c, "allgatherv", &st)) return st;
    return after(c, INNER(c)->allgatherv(INNER(c), send, recv, counts, t), "allgatherv");
}

static mr_status fake_reduce_scatterv(mr_comm *c, const void *send, void *recv,
                                      const int64_t *counts, mr_dtype t)
{
    mr_status st;
    if (instead(c, "reduce_scatterv", &st)) return st;
    return after(c, INNER(c)->reduce_scatterv(INNER(c), send, recv, counts, t), "reduce_scatterv");
}

static mr_status fake_alltoallv(mr_comm *c, const void *send, const int64_t *send_counts,
                                void *recv, const int64_t *recv_counts, mr_dtype t)
{
    mr_status st;
    if (instead(c, "alltoallv", &st)) return st;
    return after(c, INNER(c)->alltoallv(INNER(c), send, send_counts, recv, recv_counts, t),
                 "alltoallv");
}

static mr_status fake_bcast(mr_comm *c, void *buf, int64_t n, mr_dtype t, int root)
{
    mr_status st;
    if (instead(c, "bcast", &st)) return st;
    return after(c, INNER(c)->bcast(INNER(c), buf, n, t, root), "bcast");
}

static mr_status fake_barrier(mr_comm *c)
{
    mr_status st;
    if (instead(c, "barrier", &st)) return st;
    return after(c, INNER(c)->barrier(INNER(c)), "barrier");
}

/* A part made by the inner communicator becomes a fake one with the same countdown. */
static mr_status wrap_part(mr_comm *c, mr_status st, mr_comm *part, const char *call,
                           mr_comm **out_p)
{
    st = after(c, st, call);
    if (st == MR_OK) st = wrap(part, true, ((fake *)c->impl)->count, out_p);
    if (st != MR_OK) mr_comm_destroy(&part);
    return st;
}

static mr_status fake_split(mr_comm *c, int color, mr_comm **out_p)
{
    mr_comm *part = NULL;
    mr_status st = INNER(c)->split(INNER(c), color, &part);
    return wrap_part(c, st, part, "split", out_p);
}

static mr_status fake_split_host(mr_comm *c, mr_comm **out_p)
{
    mr_comm *part = NULL;
    mr_status st = INNER(c)->split_host(INNER(c), &part);
    return wrap_part(c, st, part, "split_host", out_p);
}

static void fake_destroy(mr_comm *c)
{
    fake *f = c->impl;
    if (f->owns_inner) mr_comm_destroy(&f->inner);
    if (--f->count->owners == 0) MR_FREE(f->count);
    MR_FREE(f);
    MR_FREE(c);
}

static void fake_abort(mr_comm *c) { ((fake *)c->impl)->count->is_aborted = true; }

static mr_status fake_poll(mr_comm *c)
{
    MR_CHECK(!((fake *)c->impl)->count->is_failed, MR_ERR_COMM,
             "the communicator failed on purpose behind its caller's back");
    return MR_OK;
}

static mr_status wrap(mr_comm *inner, bool owns_inner, countdown *count, mr_comm **out_p)
{
    mr_comm *c = NULL;
    fake *f = NULL;
    MR_TRY(MR_ALLOC(&f, 1, "fake communicator"));
    mr_status st = MR_ALLOC(&c, 1, "communicator");
    if (st != MR_OK) {
        MR_FREE(f);
        return st;
    }
    count->owners++;
    *f = (fake){.inner = inner, .owns_inner = owns_inner, .count = count};
    *c = (mr_comm){.kind = "fake",
                   .rank = inner->rank,
                   .size = inner->size,
                   .stats = inner->stats,
                   .allreduce = fake_allreduce,
                   .iallreduce = fake_iallreduce,
                   .wait_all = fake_wait_all,
                   .allgatherv = fake_allgatherv,
                   .reduce_scatterv = fake_reduce_scatterv,
                   .alltoallv = fake_alltoallv,
                   .bcast = fake_bcast,
                   .barrier = fake_barrier,
                   .split = fake_split,
                   .split_host = fake_split_host,
                   .destroy = fake_destroy,
                   .abort = fake_abort,
                   .poll = fake_poll,
                   .impl = f};
    *out_p = c;
    return MR_OK;
}

mr_status mr_comm_fake(mr_comm *inner, int64_t fail_at, mr_comm **out_p)
{
    return mr_comm_fake_act(inner, fail_at, MR_FAKE_FAIL, out_p);
}

mr_status mr_comm_fake_act(mr_comm *inner, int64_t at, mr_fake_act act, mr_comm **out_p)
{
    countdown *count = NULL;
    MR_TRY(MR_ALLOC(&count, 1, "fake communicator"));
    count->fail_at = at;
    count->act = act;
    mr_status st = wrap(inner, false, count, out_p);
    if (st != MR_OK) MR_FREE(count);
    return st;
}
