/* A communicator that notes every call in the ring (ring.h) and passes it on.
 * What it is not: a kind of its own; it calls itself what the inner one is.
 * Invariants: collectives have the same numbers on all ranks, so each call of the table is one
 * entry, whatever the inner one makes of it; the list of live ones is what the watchdog aborts. */
#include <pthread.h>

#include "base/mem.h"
#include "dist/comm_impl.h"
#include "dist/ring.h"
#include "dist/watchdog.h"

typedef struct traced traced;
struct traced {
    mr_comm *inner;
    bool owns_inner;
    mr_comm *self;
    traced *next;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static traced *alive;

#define INNER(c) mr_comm_pass((c), ((traced *)(c)->impl)->inner)

/* An error of the inner one is held until it is known what it means. */
static void before(mr_comm *c, mr_ring_kind kind, mr_dtype t, int64_t count)
{
    mr_ring_enter(kind, c->size, t, count);
    mr_errors_to_thread(true);
}

static mr_status after(mr_comm *c, mr_status st)
{
    mr_errors_to_thread(false);
    mr_ring_leave();
    mr_comm_passed(c, ((traced *)c->impl)->inner);
    int phase = mr_ring_mine()->phase; /* these have no other sign of life */
    if (phase == MR_AT_READ || phase == MR_AT_START || phase == MR_AT_WORK) mr_watch_beat(0);
    if (st == MR_ERR_COMM) st = mr_watch_explain(st);
    return st == MR_OK || st == MR_ERR_WATCHDOG ? st : MR_RAISE(st, "%s", mr_last_error());
}

static mr_status traced_allreduce(mr_comm *c, void *buf, int64_t n, mr_dtype t, mr_reduce op)
{
    before(c, MR_RING_ALLREDUCE, t, n);
    return after(c, INNER(c)->allreduce(INNER(c), buf, n, t, op));
}

static mr_status traced_iallreduce(mr_comm *c, void *buf, int64_t n, mr_dtype t)
{
    before(c, MR_RING_START, t, n);
    return after(c, INNER(c)->iallreduce(INNER(c), buf, n, t));
}

static mr_status traced_wait_all(mr_comm *c)
{
    before(c, MR_RING_WAIT, MR_U8, 0);
    return after(c, INNER(c)->wait_all(INNER(c)));
}

static mr_status traced_allgatherv(mr_comm *c, const void *send, void *recv, const int64_t *counts,
                                   mr_dtype t)
{
    int64_t n = 0;
    for (int r = 0; r < c->size; r++) n += counts[r];
    before(c, MR_RING_ALLGATHER, t, n);
    return after(c, INNER(c)->allgatherv(INNER(c), send, recv, counts, t));
}

static mr_status traced_reduce_scatterv(mr_comm *c, const void *send, void *recv,
                                        const int64_t *counts, mr_dtype t)
{
    int64_t n = 0;
    for (int r = 0; r < c->size; r++) n += counts[r];
    before(c, MR_RING_REDUCE_SCATTER, t, n);
    return after(c, INNER(c)->reduce_scatterv(INNER(c), send, recv, counts, t));
}

static mr_status traced_alltoallv(mr_comm *c, const void *send, const int64_t *send_counts,
                                  void *recv, const int64_t *recv_counts, mr_dtype t)
{
    before(c, MR_RING_ALLTOALL, t, 0);
    return after(c, INNER(c)->alltoallv(INNER(c), send, send_counts, recv, recv_counts, t));
}

static mr_status traced_bcast(mr_comm *c, void *buf, int64_t n, mr_dtype t, int root)
{
    before(c, MR_RING_BCAST, t, n);
    return after(c, INNER(c)->bcast(INNER(c), buf, n, t, root));
}

static mr_status traced_barrier(mr_comm *c)
{
    before(c, MR_RING_BARRIER, MR_U8, 0);
    return after(c, INNER(c)->barrier(INNER(c)));
}

static mr_status wrap(mr_comm *inner, bool owns_inner, mr_comm **out_p);

/* Ranks with another colour are in the same call, hence the size of the whole. */
static mr_status traced_split(mr_comm *c, int color, mr_comm **out_p)
{
    mr_comm *part = NULL;
    before(c, MR_RING_SPLIT, MR_U8, 0);
    MR_TRY(after(c, INNER(c)->split(INNER(c), color, &part)));
    mr_status st = wrap(part, true, out_p);
    if (st != MR_OK) mr_comm_destroy(&part);
    return st;
}

static mr_status traced_split_host(mr_comm *c, mr_comm **out_p)
{
    mr_comm *part = NULL;
    before(c, MR_RING_SPLIT, MR_U8, 0);
    MR_TRY(after(c, INNER(c)->split_host(INNER(c), &part)));
    mr_status st = wrap(part, true, out_p);
    if (st != MR_OK) mr_comm_destroy(&part);
    return st;
}

static void traced_abort(mr_comm *c)
{
    if (INNER(c)->abort) INNER(c)->abort(INNER(c));
}

static mr_status traced_poll(mr_comm *c)
{
    return INNER(c)->poll ? INNER(c)->poll(INNER(c)) : MR_OK;
}

static void traced_destroy(mr_comm *c)
{
    traced *t = c->impl;
    pthread_mutex_lock(&lock);
    for (traced **at = &alive; *at; at = &(*at)->next)
        if (*at == t) {
            *at = t->next;
            break;
        }
    pthread_mutex_unlock(&lock);
    if (t->owns_inner) mr_comm_destroy(&t->inner);
    MR_FREE(t);
    MR_FREE(c);
}

static mr_status wrap(mr_comm *inner, bool owns_inner, mr_comm **out_p)
{
    mr_comm *c = NULL;
    traced *t = NULL;
    MR_TRY(MR_ALLOC(&t, 1, "traced communicator"));
    mr_status st = MR_ALLOC(&c, 1, "communicator");
    if (st != MR_OK) {
        MR_FREE(t);
        return st;
    }
    *c = (mr_comm){.kind = inner->kind,
                   .rank = inner->rank,
                   .size = inner->size,
                   .stats = inner->stats,
                   .allreduce = traced_allreduce,
                   .iallreduce = traced_iallreduce,
                   .wait_all = traced_wait_all,
                   .allgatherv = traced_allgatherv,
                   .reduce_scatterv = traced_reduce_scatterv,
                   .alltoallv = traced_alltoallv,
                   .bcast = traced_bcast,
                   .barrier = traced_barrier,
                   .split = traced_split,
                   .split_host = traced_split_host,
                   .destroy = traced_destroy,
                   .abort = traced_abort,
                   .poll = traced_poll,
                   .impl = t};
    *t = (traced){.inner = inner, .owns_inner = owns_inner, .self = c};
    pthread_mutex_lock(&lock);
    t->next = alive;
    alive = t;
    pthread_mutex_unlock(&lock);
    *out_p = c;
    return MR_OK;
}

mr_status mr_comm_traced(mr_comm *inner, mr_comm **out_p) { return wrap(inner, true, out_p); }

void mr_comm_abort_all(void)
{
    pthread_mutex_lock(&lock);
    for (traced *t = alive; t; t = t->next) traced_abort(t->self);
    pthread_mutex_unlock(&lock);
}

mr_status mr_comm_poll_all(void)
{
    mr_status st = MR_OK;
    pthread_mutex_lock(&lock);
    for (traced *t = alive; t && st == MR_OK; t = t->next) st = traced_poll(t->self);
    pthread_mutex_unlock(&lock);
    return st;
}
