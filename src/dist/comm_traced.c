/* A communicator that notes every call in the ring (ring.h) and passes it on.
 * What it is not: a kind of its own; it calls itself what the inner one is.
 * Invariants: collectives have the same numbers on all ranks, so each call of the table is one
 * entry, whatever the inner one makes of it; the list of live ones is what the watchdog aborts.
 * A log holds the same entries, and what the inner one counted for each. */
#include <pthread.h>
#include <string.h>

#include "base/mem.h"
#include "dist/comm_impl.h"
#include "dist/comm_log.h"
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

/* A call, and what it counts. */
typedef struct logged {
    mr_comm *c;
    mr_ring_kind kind;
    mr_dtype type;
    int64_t count;
    mr_purpose purpose;
    mr_count counted;
    char label[MR_RING_TEXT];
} logged;

struct mr_comm_log {
    logged *call; /* [cap] */
    int64_t n, cap;
};

static mr_comm_log *writing; /* NULL: no log is written */
static logged current;

static mr_status add_to_log(mr_comm_log *l, const logged *call)
{
    if (l->n == l->cap) {
        logged *more = NULL;
        MR_TRY(MR_ALLOC(&more, 2 * l->cap + 16, "log of collectives"));
        if (l->n) memcpy(more, l->call, (size_t)l->n * sizeof *more);
        MR_FREE(l->call);
        l->call = more;
        l->cap = 2 * l->cap + 16;
    }
    l->call[l->n++] = *call;
    return MR_OK;
}

/* An error of the inner one is held until it is known what it means. */
static void before(mr_comm *c, mr_ring_kind kind, mr_dtype t, int64_t count)
{
    mr_ring_enter(kind, c->size, t, count);
    mr_errors_to_thread(true);
    current = (logged){.c = c,
                       .kind = kind,
                       .type = t,
                       .count = count,
                       .purpose = c->purpose,
                       .counted = c->stats.made_for[c->purpose]};
    memcpy(current.label, mr_ring_mine()->label, sizeof current.label);
}

/* The call that was made last goes into the log. */
static mr_status write_log(const mr_comm *c)
{
    const mr_count *now = &c->stats.made_for[current.purpose];
    mr_count *n = &current.counted;
    *n = (mr_count){now->calls - n->calls, now->bytes_in - n->bytes_in,
                    now->bytes_out - n->bytes_out};
    return add_to_log(writing, &current);
}

static mr_status after(mr_comm *c, mr_status st)
{
    mr_errors_to_thread(false);
    mr_ring_leave();
    mr_comm_passed(c, ((traced *)c->impl)->inner);
    if (writing && st == MR_OK) st = write_log(c);
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

mr_status mr_comm_log_begin(mr_comm_log **out_p)
{
    MR_TRY(MR_ALLOC(out_p, 1, "log of collectives"));
    writing = *out_p;
    return MR_OK;
}

void mr_comm_log_end(void) { writing = NULL; }

void mr_comm_log_again(const mr_comm_log *log)
{
    for (int64_t i = 0; log && i < log->n; i++) {
        const logged *l = &log->call[i];
        mr_comm *inner = ((traced *)l->c->impl)->inner;
        mr_ring_at(l->label);
        mr_ring_enter(l->kind, l->c->size, l->type, l->count);
        mr_ring_leave();
        mr_account_again(inner, l->kind == MR_RING_START ? MR_COLL_ALLREDUCE : (mr_coll)l->kind,
                         l->purpose, &l->counted);
        l->c->stats = inner->stats;
    }
}

void mr_comm_log_free(mr_comm_log **log_p)
{
    if (!*log_p) return;
    if (writing == *log_p) writing = NULL;
    MR_FREE((*log_p)->call);
    MR_FREE(*log_p);
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
