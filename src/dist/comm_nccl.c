/* A communicator for device memory over NCCL: collectives are put into the device's stream and
 * return at once; overlapped sums run in a stream of their own.
 * What it is not: a way to start ranks; it is made from an MPI communicator of the same ranks,
 * which also carries its barrier and splits. Invariants: every rank makes the same calls in the
 * same order; the communicator is non-blocking, so a lost peer shows as an asynchronous error here
 * and never as a hang in a library call. */
#include "base/mem.h"
#include "dist/comm_impl.h"
#include "dist/comm_nccl.h"

#include <time.h>

#include <nccl.h>

enum { START_SECONDS = 120 };

typedef struct nccl {
    mr_comm *host; /* MPI, the same ranks; borrowed unless owns_host */
    bool owns_host;
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

/* Wait until the communicator has taken the last call; a lost peer or a bad network is found here.
 */
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
    mr_account_allreduce(c, n, t);
    return settle(c, "allreduce",
                  ncclAllReduce(buf, buf, (size_t)n, type_of[t], ops[op], s->comm, s->stream));
}

/* The side stream starts when the stream has made the numbers, and goes on beside it. */
static mr_status nccl_iallreduce(mr_comm *c, void *buf, int64_t n, mr_dtype t)
{
    nccl *s = c->impl;
    CUDA_TRY(cudaEventRecord(s->mark, s->stream), "an event");
    CUDA_TRY(cudaStreamWaitEvent(s->side, s->mark, 0), "waiting for an event");
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
    st = mr_comm_nccl(part, s->dev, s->stream, out_p);
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

/* From the watchdog's thread. Later calls find no communicator, which NCCL refuses. */
static void nccl_abort(mr_comm *c)
{
    nccl *s = c->impl;
    ncclComm_t comm = __atomic_exchange_n(&s->comm, NULL, __ATOMIC_ACQ_REL);
    if (comm) (void)ncclCommAbort(comm);
}

/* What went wrong in a stream while nobody asked. */
static mr_status nccl_poll(mr_comm *c)
{
    nccl *s = c->impl;
    ncclComm_t comm = __atomic_load_n(&s->comm, __ATOMIC_ACQUIRE);
    ncclResult_t e = ncclSuccess;
    if (!comm || ncclCommGetAsyncError(comm, &e) != ncclSuccess || taken(e)) return MR_OK;
    return nccl_failed(c, s, e, "a collective");
}

/* In order when nothing went wrong; aborted otherwise, which frees it without its peers. */
static void nccl_destroy(mr_comm *c)
{
    nccl *s = c->impl;
    ncclResult_t e = ncclSuccess;
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

static mr_status start(mr_comm *c)
{
    nccl *s = c->impl;
    ncclUniqueId id = {0};
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    MR_TRY(same_version(s->host));
    ncclResult_t e = c->rank == 0 ? ncclGetUniqueId(&id) : ncclSuccess;
    MR_TRY(mr_comm_agree(s->host, e == ncclSuccess ? MR_OK : nccl_failed(c, s, e, "starting")));
    MR_TRY(s->host->bcast(s->host, &id, (int64_t)sizeof id, MR_U8, 0));
    CUDA_TRY(cudaStreamCreateWithFlags(&s->side, cudaStreamNonBlocking), "making a stream");
    CUDA_TRY(cudaEventCreateWithFlags(&s->mark, cudaEventDisableTiming), "making an event");
    e = ncclCommInitRankConfig(&s->comm, c->size, id, c->rank, &config);
    return mr_comm_agree(s->host, settle(c, "starting", e));
}

mr_status mr_comm_nccl(mr_comm *host, mr_device *dev, void *stream, mr_comm **out_p)
{
    mr_comm *c = NULL;
    nccl *s = NULL;
    MR_TRY(MR_ALLOC(&c, 1, "communicator"));
    mr_status st = MR_ALLOC(&s, 1, "NCCL communicator");
    if (st != MR_OK) {
        MR_FREE(c);
        return st;
    }
    *s = (nccl){.host = host, .dev = dev, .stream = stream};
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
