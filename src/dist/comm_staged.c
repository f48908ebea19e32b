/* A communicator for buffers in the memory of a device that the network does not read: every call
 * copies through host memory. The slow way; it needs nothing but MPI and lets ranks share a GPU.
 * Invariants: the inner communicator makes the same calls with the same counts, so its statistics
 * are those of both; host buffers are kept from call to call and only grow. */
#include "base/mem.h"
#include "dist/comm_impl.h"

typedef struct host_buffer {
    void *ptr;
    int64_t bytes;
} host_buffer;

typedef struct pending {
    void *device;
    host_buffer host;
    int64_t bytes;
} pending;

typedef struct staged {
    mr_comm *inner;
    bool owns_inner; /* a part made by split */
    mr_device *dev;
    host_buffer send, recv;
    int n_pending;
    pending pending[MR_COMM_PENDING];
} staged;

static mr_status room(host_buffer *b, int64_t bytes)
{
    if (bytes <= b->bytes) return MR_OK;
    MR_FREE(b->ptr);
    b->bytes = 0;
    MR_TRY(mr_alloc(&b->ptr, bytes, 1, "staging of device memory"));
    b->bytes = bytes;
    return MR_OK;
}

/* Device memory -> a host buffer. */
static mr_status fetch(staged *s, host_buffer *b, const void *device, int64_t bytes)
{
    MR_TRY(room(b, bytes));
    return bytes > 0 ? s->dev->to_host(s->dev, b->ptr, device, (size_t)bytes) : MR_OK;
}

static mr_status put(staged *s, void *device, const host_buffer *b, int64_t bytes)
{
    return bytes > 0 ? s->dev->to_device(s->dev, device, b->ptr, (size_t)bytes) : MR_OK;
}

static int64_t sum_bytes(const mr_comm *c, const int64_t *counts, mr_dtype t)
{
    int64_t n = 0;
    for (int i = 0; i < c->size; i++) n += counts[i];
    return n * (int64_t)mr_dtype_bytes(t);
}

static mr_status done(mr_comm *c, mr_status st)
{
    mr_comm_passed(c, ((staged *)c->impl)->inner);
    return st;
}

static mr_status staged_allreduce(mr_comm *c, void *buf, int64_t n, mr_dtype t, mr_reduce op)
{
    staged *s = c->impl;
    int64_t bytes = n * (int64_t)mr_dtype_bytes(t);
    MR_TRY(fetch(s, &s->recv, buf, bytes));
    MR_TRY(done(c, s->inner->allreduce(mr_comm_pass(c, s->inner), s->recv.ptr, n, t, op)));
    return put(s, buf, &s->recv, bytes);
}

static mr_status staged_wait_all(mr_comm *c)
{
    staged *s = c->impl;
    mr_status st = done(c, s->inner->wait_all(mr_comm_pass(c, s->inner)));
    for (int i = 0; st == MR_OK && i < s->n_pending; i++)
        st = put(s, s->pending[i].device, &s->pending[i].host, s->pending[i].bytes);
    s->n_pending = 0;
    return st;
}

static mr_status staged_iallreduce(mr_comm *c, void *buf, int64_t n, mr_dtype t)
{
    staged *s = c->impl;
    if (s->n_pending == MR_COMM_PENDING) MR_TRY(staged_wait_all(c));
    pending *p = &s->pending[s->n_pending];
    p->device = buf;
    p->bytes = n * (int64_t)mr_dtype_bytes(t);
    MR_TRY(fetch(s, &p->host, buf, p->bytes));
    s->n_pending++;
    return done(c, s->inner->iallreduce(mr_comm_pass(c, s->inner), p->host.ptr, n, t));
}

static mr_status staged_allgatherv(mr_comm *c, const void *send, void *recv, const int64_t *counts,
                                   mr_dtype t)
{
    staged *s = c->impl;
    int64_t own = counts[c->rank] * (int64_t)mr_dtype_bytes(t), all = sum_bytes(c, counts, t);
    MR_TRY(fetch(s, &s->send, send, own));
    MR_TRY(room(&s->recv, all));
    MR_TRY(done(
        c, s->inner->allgatherv(mr_comm_pass(c, s->inner), s->send.ptr, s->recv.ptr, counts, t)));
    return put(s, recv, &s->recv, all);
}

static mr_status staged_reduce_scatterv(mr_comm *c, const void *send, void *recv,
                                        const int64_t *counts, mr_dtype t)
{
    staged *s = c->impl;
    int64_t own = counts[c->rank] * (int64_t)mr_dtype_bytes(t);
    MR_TRY(fetch(s, &s->send, send, sum_bytes(c, counts, t)));
    MR_TRY(room(&s->recv, own));
    MR_TRY(done(c, s->inner->reduce_scatterv(mr_comm_pass(c, s->inner), s->send.ptr, s->recv.ptr,
                                             counts, t)));
    return put(s, recv, &s->recv, own);
}

static mr_status staged_alltoallv(mr_comm *c, const void *send, const int64_t *send_counts,
                                  void *recv, const int64_t *recv_counts, mr_dtype t)
{
    staged *s = c->impl;
    int64_t in = sum_bytes(c, recv_counts, t);
    MR_TRY(fetch(s, &s->send, send, sum_bytes(c, send_counts, t)));
    MR_TRY(room(&s->recv, in));
    MR_TRY(done(c, s->inner->alltoallv(mr_comm_pass(c, s->inner), s->send.ptr, send_counts,
                                       s->recv.ptr, recv_counts, t)));
    return put(s, recv, &s->recv, in);
}

static mr_status staged_bcast(mr_comm *c, void *buf, int64_t n, mr_dtype t, int root)
{
    staged *s = c->impl;
    int64_t bytes = n * (int64_t)mr_dtype_bytes(t);
    MR_TRY(fetch(s, &s->recv, buf, bytes));
    MR_TRY(done(c, s->inner->bcast(mr_comm_pass(c, s->inner), s->recv.ptr, n, t, root)));
    return put(s, buf, &s->recv, bytes);
}

static mr_status staged_barrier(mr_comm *c)
{
    staged *s = c->impl;
    return done(c, s->inner->barrier(mr_comm_pass(c, s->inner)));
}

static mr_status wrap_part(mr_comm *c, mr_status st, mr_comm *part, mr_comm **out_p)
{
    MR_TRY(done(c, st));
    st = mr_comm_staged(part, ((staged *)c->impl)->dev, out_p);
    if (st != MR_OK) {
        mr_comm_destroy(&part);
        return st;
    }
    ((staged *)(*out_p)->impl)->owns_inner = true;
    return MR_OK;
}

static mr_status staged_split(mr_comm *c, int color, mr_comm **out_p)
{
    mr_comm *inner = ((staged *)c->impl)->inner, *part = NULL;
    mr_status st = inner->split(inner, color, &part);
    return wrap_part(c, st, part, out_p);
}

static mr_status staged_split_host(mr_comm *c, mr_comm **out_p)
{
    mr_comm *inner = ((staged *)c->impl)->inner, *part = NULL;
    mr_status st = inner->split_host(inner, &part);
    return wrap_part(c, st, part, out_p);
}

static void staged_destroy(mr_comm *c)
{
    staged *s = c->impl;
    for (int i = 0; i < MR_COMM_PENDING; i++) MR_FREE(s->pending[i].host.ptr);
    MR_FREE(s->send.ptr);
    MR_FREE(s->recv.ptr);
    if (s->owns_inner) mr_comm_destroy(&s->inner);
    MR_FREE(c->impl);
    MR_FREE(c);
}

mr_status mr_comm_staged(mr_comm *inner, mr_device *dev, mr_comm **out_p)
{
    mr_comm *c = NULL;
    staged *s = NULL;
    MR_TRY(MR_ALLOC(&c, 1, "communicator"));
    mr_status st = MR_ALLOC(&s, 1, "staged communicator");
    if (st != MR_OK) {
        MR_FREE(c);
        return st;
    }
    s->inner = inner;
    s->dev = dev;
    *c = (mr_comm){.kind = "staged",
                   .rank = inner->rank,
                   .size = inner->size,
                   .stats = inner->stats,
                   .allreduce = staged_allreduce,
                   .iallreduce = staged_iallreduce,
                   .wait_all = staged_wait_all,
                   .allgatherv = staged_allgatherv,
                   .reduce_scatterv = staged_reduce_scatterv,
                   .alltoallv = staged_alltoallv,
                   .bcast = staged_bcast,
                   .barrier = staged_barrier,
                   .split = staged_split,
                   .split_host = staged_split_host,
                   .destroy = staged_destroy,
                   .impl = s};
    *out_p = c;
    return MR_OK;
}
