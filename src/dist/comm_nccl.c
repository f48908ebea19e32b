/* A communicator for device memory over NCCL: collectives are put into the device's stream and
 * return at once; overlapped sums run in a stream of their own.
 * What it is not: a way to start ranks; it is made from an MPI communicator of the same ranks,
 * which also carries its barrier and splits. Invariants: every rank makes the same calls in the
 * same order, and records the same of them (mr_device.capture); collectives of all communicators
 * follow each other on the GPU; the communicator is non-blocking, so a lost peer shows as an
 * asynchronous error here and never as a hang in a library call. */
#include "base/clock.h"
#include "base/mem.h"
#include "dist/comm_impl.h"
#include "dist/comm_nccl.h"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include <nccl.h>

enum { START_SECONDS = 120 };
#define ABORT_SECONDS 0.2 /* and then its thread goes on alone */

typedef struct nccl {
    mr_comm *host; /* MPI, the same ranks; borrowed unless owns_host */
    bool owns_host;
    mr_nccl_use use;
    mr_device *dev;
    cudaStream_t stream, side; /* the device's own; that of overlapped sums */
    cudaEvent_t mark;          /* orders the two streams */
    ncclComm_t comm;
    int pending;
} nccl;

static mr_status cuda_failed(cudaError_t e, const char *what)
{
    return MR_RAISE(MR_ERR_DEVICE, "GPU: %s failed: %s", what, cudaGetErrorString(e));
}

#define CUDA_TRY(call, what)                                                                       \
    do {                                                                                           \
        cudaError_t cuda_e_ = (call);                                                              \
        if (cuda_e_ != cudaSuccess) return cuda_failed(cuda_e_, (what));                           \
    } while (0)

static mr_status nccl_failed(const mr_comm *c, const nccl *s, ncclResult_t e, const char *what)
{
    return MR_RAISE(MR_ERR_COMM, "NCCL: %s failed on rank %d of %d: %s (%s)", what, c->rank,
                    c->size, ncclGetErrorString(e), s->comm ? ncclGetLastError(s->comm) : "");
}

/* Where this process made its last collective, in which recording (0: in none). */
static struct {
    cudaStream_t stream;
    int64_t recording;
} last;

/* NCCL's manual ("Using multiple NCCL communicators concurrently") wants the collectives of all
 * communicators of a GPU in one order, the same on all ranks, else kernels that wait for each other
 * may not all fit: a collective follows the one before it, whatever their streams. What was there
 * before a recording is in order with it, since sums have been waited for by then. */
static mr_status take_turn(const nccl *s, cudaStream_t on)
{
    cudaStream_t before = last.stream;
    bool is_after = before == on || (on == s->side && before == s->stream); /* iallreduce */
    bool follows = before && !is_after && last.recording == s->dev->recording;
    last.stream = on;
    last.recording = s->dev->recording;
    if (!follows) return MR_OK;
    CUDA_TRY(cudaEventRecord(s->mark, before), "an event");
    CUDA_TRY(cudaStreamWaitEvent(on, s->mark, 0), "waiting for an event");
    return MR_OK;
}

/* Wait until the communicator has taken the last call; a lost peer or a bad network is found here.
 * Not before that may anything else go into the stream, also during a recording: a thread of NCCL
 * puts the call there. It waits for no other rank then, as the ranks are connected and NCCL
 * registers no buffers (start). */
static mr_status settle(const mr_comm *c, const char *what, ncclResult_t e)
{
    nccl *s = c->impl;
    time_t limit = time(NULL) + START_SECONDS;
    while (e == ncclInProgress && time(NULL) < limit) {
        ncclResult_t asked = ncclCommGetAsyncError(s->comm, &e);
        if (asked != ncclSuccess) e = asked;
    }
    if (e == ncclSuccess) return MR_OK;
    if (e == ncclInProgress)
        return MR_RAISE(MR_ERR_COMM, "NCCL: %s is not finished after %d s on rank %d of %d", what,
                        START_SECONDS, c->rank, c->size);
    return nccl_failed(c, s, e, what);
}

static const ncclDataType_t type_of[] = {
    [MR_F32] = ncclFloat32,   [MR_F64] = ncclFloat64, [MR_F16] = ncclFloat16,
    [MR_BF16] = ncclBfloat16, [MR_I32] = ncclInt32,   [MR_I64] = ncclInt64,
    [MR_U8] = ncclUint8,      [MR_U32] = ncclUint32};

/* A call that was taken: done, or still under way in a non-blocking communicator. */
static bool taken(ncclResult_t e) { return e == ncclSuccess || e == ncclInProgress; }

static char *at(const void *base, int64_t elements, mr_dtype t)
{
    return (char *)base + elements * (int64_t)mr_dtype_bytes(t);
}

static mr_status nccl_allreduce(mr_comm *c, void *buf, int64_t n, mr_dtype t, mr_reduce op)
{
    static const ncclRedOp_t ops[] = {[MR_SUM] = ncclSum, [MR_MAX] = ncclMax, [MR_MIN] = ncclMin};
    nccl *s = c->impl;
    MR_TRY(take_turn(s, s->stream));
    mr_account_allreduce(c, n, t);
    return settle(c, "allreduce",
                  ncclAllReduce(buf, buf, (size_t)n, type_of[t], ops[op], s->comm, s->stream));
}

/* The side stream starts when the stream has made the numbers, and goes on beside it. The two
 * events also take it into a recording and end it there. */
static mr_status nccl_iallreduce(mr_comm *c, void *buf, int64_t n, mr_dtype t)
{
    nccl *s = c->impl;
    CUDA_TRY(cudaEventRecord(s->mark, s->stream), "an event");
    CUDA_TRY(cudaStreamWaitEvent(s->side, s->mark, 0), "waiting for an event");
    MR_TRY(take_turn(s, s->side));
    mr_account_allreduce(c, n, t);
    s->pending++;
    return settle(c, "allreduce",
                  ncclAllReduce(buf, buf, (size_t)n, type_of[t], ncclSum, s->comm, s->side));
}

static mr_status nccl_wait_all(mr_comm *c)
{
    nccl *s = c->impl;
    if (!s->pending) return MR_OK;
    s->pending = 0;
    CUDA_TRY(cudaEventRecord(s->mark, s->side), "an event");
    CUDA_TRY(cudaStreamWaitEvent(s->stream, s->mark, 0), "waiting for an event");
    return MR_OK;
}

static mr_status nccl_allgatherv(mr_comm *c, const void *send, void *recv, const int64_t *counts,
                                 mr_dtype t)
{
    nccl *s = c->impl;
    MR_TRY(take_turn(s, s->stream));
    ncclResult_t e = ncclGroupStart();
    int64_t first = 0;
    for (int r = 0; r < c->size; r++) {
        if (taken(e) && counts[r] > 0)
            e = ncclBroadcast(r == c->rank ? send : at(recv, first, t), at(recv, first, t),
                              (size_t)counts[r], type_of[t], r, s->comm, s->stream);
        first += counts[r];
    }
    ncclResult_t end = ncclGroupEnd();
    mr_account_allgatherv(c, counts, t);
    return settle(c, "allgather", taken(e) ? end : e);
}

static mr_status nccl_reduce_scatterv(mr_comm *c, const void *send, void *recv,
                                      const int64_t *counts, mr_dtype t)
{
    nccl *s = c->impl;
    MR_TRY(take_turn(s, s->stream));
    ncclResult_t e = ncclGroupStart();
    int64_t first = 0;
    for (int r = 0; r < c->size; r++) {
        if (taken(e) && counts[r] > 0)
            e = ncclReduce(at(send, first, t), recv, (size_t)counts[r], type_of[t], ncclSum, r,
                           s->comm, s->stream);
        first += counts[r];
    }
    ncclResult_t end = ncclGroupEnd();
    mr_account_reduce_scatterv(c, counts, t);
    return settle(c, "reduce-scatter", taken(e) ? end : e);
}

static mr_status nccl_alltoallv(mr_comm *c, const void *send, const int64_t *send_counts,
                                void *recv, const int64_t *recv_counts, mr_dtype t)
{
    nccl *s = c->impl;
    MR_TRY(take_turn(s, s->stream));
    ncclResult_t e = ncclGroupStart();
    int64_t out = 0, in = 0;
    for (int r = 0; r < c->size; r++) {
        if (taken(e) && send_counts[r] > 0)
            e = ncclSend(at(send, out, t), (size_t)send_counts[r], type_of[t], r, s->comm,
                         s->stream);
        if (taken(e) && recv_counts[r] > 0)
            e = ncclRecv(at(recv, in, t), (size_t)recv_counts[r], type_of[t], r, s->comm,
                         s->stream);
        out += send_counts[r];
        in += recv_counts[r];
    }
    ncclResult_t end = ncclGroupEnd();
    mr_account_alltoallv(c, send_counts, recv_counts, t);
    return settle(c, "alltoall", taken(e) ? end : e);
}

static mr_status nccl_bcast(mr_comm *c, void *buf, int64_t n, mr_dtype t, int root)
{
    nccl *s = c->impl;
    MR_TRY(take_turn(s, s->stream));
    mr_account_bcast(c, n, t, root);
    return settle(c, "broadcast",
                  ncclBroadcast(buf, buf, (size_t)n, type_of[t], root, s->comm, s->stream));
}

static mr_status nccl_barrier(mr_comm *c)
{
    nccl *s = c->impl;
    MR_TRY(s->dev->sync(s->dev));
    mr_account_barrier(c);
    return s->host->barrier(s->host);
}

static mr_status wrap_part(mr_comm *c, mr_status st, mr_comm *part, mr_comm **out_p)
{
    nccl *s = c->impl;
    MR_TRY(st);
    st = mr_comm_nccl(part, s->dev, s->stream, s->use, out_p);
    if (st != MR_OK) {
        mr_comm_destroy(&part);
        return st;
    }
    ((nccl *)(*out_p)->impl)->owns_host = true;
    return MR_OK;
}

static mr_status nccl_split(mr_comm *c, int color, mr_comm **out_p)
{
    mr_comm *host = ((nccl *)c->impl)->host, *part = NULL;
    mr_status st = host->split(host, color, &part);
    return wrap_part(c, st, part, out_p);
}

static mr_status nccl_split_host(mr_comm *c, mr_comm **out_p)
{
    mr_comm *host = ((nccl *)c->impl)->host, *part = NULL;
    mr_status st = host->split_host(host, &part);
    return wrap_part(c, st, part, out_p);
}

typedef struct ending {
    ncclComm_t comm;
    int is_done; /* or left: the second of two threads to say so frees it */
} ending;

static void *abort_it(void *arg)
{
    ending *a = arg;
    (void)ncclCommAbort(a->comm);
    if (__atomic_exchange_n(&a->is_done, 1, __ATOMIC_ACQ_REL)) MR_FREE(a);
    return NULL;
}

/* From the watchdog's thread. Later calls find no communicator, which NCCL refuses. NCCL tells
 * kernels to end, then waits until nothing recorded holds a call of the communicator; who has to
 * forget that may itself wait for ever, so after a while a thread is left with it. */
static void nccl_abort(mr_comm *c)
{
    nccl *s = c->impl;
    const struct timespec tick = {0, 10000000};
    pthread_t thread;
    ending *a = NULL;
    ncclComm_t comm = __atomic_exchange_n(&s->comm, NULL, __ATOMIC_ACQ_REL);
    if (!comm || MR_ALLOC(&a, 1, "end of a communicator") != MR_OK) return;
    a->comm = comm;
    if (pthread_create(&thread, NULL, abort_it, a) != 0) {
        MR_FREE(a);
        return;
    }
    (void)pthread_detach(thread);
    double limit = mr_seconds() + ABORT_SECONDS;
    while (!__atomic_load_n(&a->is_done, __ATOMIC_ACQUIRE) && mr_seconds() < limit)
        nanosleep(&tick, NULL);
    if (__atomic_exchange_n(&a->is_done, 1, __ATOMIC_ACQ_REL)) MR_FREE(a);
}

/* What went wrong in a stream while nobody asked. */
static mr_status nccl_poll(mr_comm *c)
{
    nccl *s = c->impl;
    ncclComm_t comm = __atomic_load_n(&s->comm, __ATOMIC_ACQUIRE);
    ncclResult_t e = ncclSuccess;
    MR_CHECK(comm, MR_ERR_COMM, "NCCL: the communicator of rank %d of %d was ended", c->rank,
             c->size);
    if (ncclCommGetAsyncError(comm, &e) != ncclSuccess || taken(e)) return MR_OK;
    return nccl_failed(c, s, e, "a collective");
}

/* In order when nothing went wrong; aborted otherwise, which frees it without its peers. */
static void nccl_destroy(mr_comm *c)
{
    nccl *s = c->impl;
    ncclResult_t e = ncclSuccess;
    if (last.stream == s->side || last.stream == s->stream) last.stream = NULL;
    if (s->side) (void)cudaStreamSynchronize(s->side);
    if (s->comm) {
        if (ncclCommGetAsyncError(s->comm, &e) != ncclSuccess || e != ncclSuccess ||
            settle(c, "ending", ncclCommFinalize(s->comm)) != MR_OK)
            (void)ncclCommAbort(s->comm);
        else
            (void)ncclCommDestroy(s->comm);
    }
    if (s->mark) (void)cudaEventDestroy(s->mark);
    if (s->side) (void)cudaStreamDestroy(s->side);
    if (s->owns_host) mr_comm_destroy(&s->host);
    MR_FREE(c->impl);
    MR_FREE(c);
}

/* All ranks have the same version, or all say which they have. */
static mr_status same_version(mr_comm *host)
{
    int version = 0;
    int32_t v[2];
    MR_CHECK(ncclGetVersion(&version) == ncclSuccess, MR_ERR_COMM, "NCCL does not start");
    v[0] = version;
    v[1] = -version;
    MR_TRY(host->allreduce(host, v, 2, MR_I32, MR_MAX));
    MR_CHECK(
        v[0] == -v[1], MR_ERR_COMM,
        "the ranks have different versions of NCCL, from %d to %d, here %d; give all nodes the "
        "same one",
        -v[1], v[0], version);
    return MR_OK;
}

/* NCCL's settings, unless the environment has others. Buffers are not registered when a collective
 * is recorded: every step is recorded anew, and ranks wait for each other to register. Rings and
 * trees are connected at the start and not by the first call, which might be a recorded one. */
static void choose_settings(void)
{
    (void)setenv("NCCL_GRAPH_REGISTER", "0", 0);
    (void)setenv("NCCL_RUNTIME_CONNECT", "0", 0);
}

/* Each kind of call once, counted nowhere: a rank that had no rows for another one so far may have
 * some in a recording. ones [size]: 1. */
static mr_status call_each(mr_comm *c, char *p, const int64_t *ones)
{
    nccl *s = c->impl;
    char *q = p + c->size;
    MR_TRY(s->dev->fill(s->dev, p, 0, 2 * (size_t)c->size));
    MR_TRY(nccl_allreduce(c, p, 1, MR_U8, MR_MAX));
    MR_TRY(nccl_iallreduce(c, p, 1, MR_U8));
    MR_TRY(nccl_wait_all(c));
    MR_TRY(nccl_allgatherv(c, p, q, ones, MR_U8));
    MR_TRY(nccl_reduce_scatterv(c, p, q, ones, MR_U8));
    MR_TRY(nccl_bcast(c, p, 1, MR_U8, 0));
    if (s->use == MR_NCCL_RECORDED_ROWS) MR_TRY(nccl_alltoallv(c, p, ones, q, ones, MR_U8));
    MR_TRY(s->dev->sync(s->dev));
    c->stats = (mr_comm_stats){0};
    return MR_OK;
}

static mr_status connect_all(mr_comm *c)
{
    nccl *s = c->impl;
    void *p = NULL;
    int64_t *ones = NULL;
    mr_status st = MR_ALLOC(&ones, c->size, "connections of ranks");
    if (st == MR_OK) st = s->dev->alloc(s->dev, &p, 2 * (size_t)c->size, "connections of ranks");
    st = mr_comm_agree(s->host, st);
    for (int r = 0; st == MR_OK && r < c->size; r++) ones[r] = 1;
    if (st == MR_OK) st = call_each(c, p, ones);
    if (p) s->dev->free(s->dev, p);
    MR_FREE(ones);
    return st;
}

static mr_status start(mr_comm *c)
{
    nccl *s = c->impl;
    ncclUniqueId id = {0};
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    if (s->use != MR_NCCL_EAGER) choose_settings();
    MR_TRY(same_version(s->host));
    ncclResult_t e = c->rank == 0 ? ncclGetUniqueId(&id) : ncclSuccess;
    MR_TRY(mr_comm_agree(s->host, e == ncclSuccess ? MR_OK : nccl_failed(c, s, e, "starting")));
    MR_TRY(s->host->bcast(s->host, &id, (int64_t)sizeof id, MR_U8, 0));
    CUDA_TRY(cudaStreamCreateWithFlags(&s->side, cudaStreamNonBlocking), "making a stream");
    CUDA_TRY(cudaEventCreateWithFlags(&s->mark, cudaEventDisableTiming), "making an event");
    e = ncclCommInitRankConfig(&s->comm, c->size, id, c->rank, &config);
    MR_TRY(mr_comm_agree(s->host, settle(c, "starting", e)));
    return s->use != MR_NCCL_EAGER ? mr_comm_agree(s->host, connect_all(c)) : MR_OK;
}

mr_status mr_comm_nccl(mr_comm *host, mr_device *dev, void *stream, mr_nccl_use use,
                       mr_comm **out_p)
{
    mr_comm *c = NULL;
    nccl *s = NULL;
    MR_TRY(MR_ALLOC(&c, 1, "communicator"));
    mr_status st = MR_ALLOC(&s, 1, "NCCL communicator");
    if (st != MR_OK) {
        MR_FREE(c);
        return st;
    }
    *s = (nccl){.host = host, .dev = dev, .stream = stream, .use = use};
    *c = (mr_comm){.kind = "nccl",
                   .rank = host->rank,
                   .size = host->size,
                   .allreduce = nccl_allreduce,
                   .iallreduce = nccl_iallreduce,
                   .wait_all = nccl_wait_all,
                   .allgatherv = nccl_allgatherv,
                   .reduce_scatterv = nccl_reduce_scatterv,
                   .alltoallv = nccl_alltoallv,
                   .bcast = nccl_bcast,
                   .barrier = nccl_barrier,
                   .split = nccl_split,
                   .split_host = nccl_split_host,
                   .destroy = nccl_destroy,
                   .abort = nccl_abort,
                   .poll = nccl_poll,
                   .impl = s};
    st = start(c);
    if (st != MR_OK) {
        nccl_destroy(c);
        return st;
    }
    *out_p = c;
    return MR_OK;
}
