/* Collectives of emulated GPUs: ranks of one host exchange through shared memory, in the order of
 * their streams, when the host waits for them.
 * What it is not: NCCL's order of additions (here: the order of ranks), or fast. A communicator is
 * non-blocking: every call says ncclInProgress first, and until its caller has asked again nothing
 * may go into the stream. A rank that died, an abort, or MR_EMULATE=fail_collective=n is an
 * asynchronous error, after which nothing more happens. A call may be recorded once its ranks are
 * connected; all of them record it, and start what they recorded together. */
#include "core.h"

#include "nccl.h"

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

using namespace emulate;

namespace
{
enum { RANKS_MOST = 16, PIECE = 64 << 10, LETTER = 16 << 10, SPINS = 2000 };
enum kind { ALLREDUCE, BROADCAST, REDUCE, SEND, RECV };

struct request {
    kind what;
    const char *send;
    char *recv;
    size_t bytes;
    ncclDataType_t type;
    ncclRedOp_t op;
    int root; /* or the other rank */
};

/* What a rank says of the collective that it is in; all say the same. */
struct saying {
    int what, type, op, root;
    size_t bytes;
    int64_t recording; /* number of the recording that it was put into, 0: none */
};

struct letter {
    std::atomic<int> is_full;
    int64_t recording;
    char data[LETTER];
};

struct segment {
    std::atomic<int> here, arrived, generation, is_aborted;
    std::atomic<int> pid[RANKS_MOST];
    char place[RANKS_MOST][128]; /* host and GPU of a rank */
    saying said[RANKS_MOST];
    char piece[RANKS_MOST][PIECE];
    letter mail[RANKS_MOST][RANKS_MOST]; /* [from][to] */
};
} // namespace

struct ncclComm {
    segment *seg = nullptr;
    std::string name;
    int rank = 0, size = 0;
    std::atomic<int> error{ncclSuccess}, asked{0};
    cudaEvent_t last = nullptr; /* a communicator's calls follow each other, in whatever stream */
    std::atomic<cudaStream_t> busy{nullptr}; /* where a call goes that nobody asked about yet */
    std::shared_ptr<int> plans = std::make_shared<int>(0); /* held by what was recorded */
    bool is_connected = false;                             /* in rings, by the first collective */
    bool sent_to[RANKS_MOST] = {}, had_from[RANKS_MOST] = {};
};

namespace
{
struct pending {
    ncclComm *comm;
    cudaStream_t stream;
    request r;
};
thread_local int group_depth;
thread_local std::vector<pending> group;
ncclResult_t last_error = ncclSuccess;

size_t width(ncclDataType_t t)
{
    static const size_t w[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2};
    return w[t];
}

bool fail(ncclComm *c, ncclResult_t e)
{
    int none = ncclSuccess;
    c->error.compare_exchange_strong(none, e);
    return false;
}

/* Called over and over while nothing happens; false: nothing will. */
bool is_hopeful(ncclComm *c, int *spins)
{
    if (c->error) return false;
    if (c->seg->is_aborted) return fail(c, ncclRemoteError);
    sched_yield();
    if (++*spins % SPINS) return true;
    for (int r = 0; r < c->size; r++)
        if (kill(c->seg->pid[r], 0)) return fail(c, ncclRemoteError);
    usleep(200); /* the core is for the others */
    return true;
}

bool meet(ncclComm *c)
{
    segment *s = c->seg;
    int generation = s->generation, spins = 0;
    if (++s->arrived == c->size) {
        s->arrived = 0;
        s->generation++;
        return true;
    }
    while (s->generation == generation)
        if (!is_hopeful(c, &spins)) return false;
    return true;
}

template <class T> void combine(void *into, const void *from, size_t bytes, ncclRedOp_t op)
{
    T *a = (T *)into;
    const T *b = (const T *)from;
    for (size_t i = 0; i < bytes / sizeof(T); i++)
        a[i] = op == ncclSum   ? a[i] + b[i]
               : op == ncclMax ? (b[i] > a[i] ? b[i] : a[i])
                               : (b[i] < a[i] ? b[i] : a[i]);
}

void combine_as(ncclDataType_t t, void *into, const void *from, size_t bytes, ncclRedOp_t op)
{
    switch (t) {
    case ncclFloat32: return combine<float>(into, from, bytes, op);
    case ncclFloat64: return combine<double>(into, from, bytes, op);
    case ncclInt32: return combine<int32_t>(into, from, bytes, op);
    case ncclUint32: return combine<uint32_t>(into, from, bytes, op);
    case ncclInt64: return combine<int64_t>(into, from, bytes, op);
    case ncclUint8: return combine<uint8_t>(into, from, bytes, op);
    default: stop("NCCL: sums of type %d are not emulated", (int)t);
    }
}

/* Both have made the call as part of the same recording, or of none. */
void check_recording(int rank, int64_t mine, int other, int64_t theirs)
{
    if (mine == theirs) return;
    if (mine && theirs)
        stop("NCCL: rank %d starts a collective of its recording %ld, rank %d of its recording "
             "%ld; they have to start what they recorded together",
             rank, (long)mine, other, (long)theirs);
    stop("NCCL: rank %d has recorded a collective that rank %d has not", mine ? rank : other,
         mine ? other : rank);
}

/* Do all ranks make the same collective? */
bool agree(ncclComm *c, const request &r, int64_t recording)
{
    segment *s = c->seg;
    s->said[c->rank] = {r.what, r.type, r.op, r.root, r.bytes, recording};
    if (!meet(c)) return false;
    for (int i = 0; i < c->size; i++) {
        const saying &a = s->said[i], &b = s->said[c->rank];
        if (a.what != b.what || a.type != b.type || a.op != b.op || a.root != b.root ||
            a.bytes != b.bytes)
            stop("NCCL: rank %d makes collective %d of %zu bytes (root %d), rank %d makes %d of "
                 "%zu bytes (root %d)",
                 c->rank, b.what, b.bytes, b.root, i, a.what, a.bytes, a.root);
        check_recording(c->rank, b.recording, i, a.recording);
    }
    return meet(c);
}

bool run_collective(ncclComm *c, const request &r, int64_t recording)
{
    segment *s = c->seg;
    bool gives = r.what != BROADCAST || c->rank == r.root;
    bool takes = r.what != REDUCE || c->rank == r.root;
    std::vector<char> sum(PIECE);
    if (!agree(c, r, recording)) return false;
    for (size_t at = 0; at < r.bytes; at += PIECE) {
        size_t n = r.bytes - at < PIECE ? r.bytes - at : (size_t)PIECE;
        if (gives) memcpy(s->piece[c->rank], r.send + at, n);
        if (!meet(c)) return false;
        memcpy(sum.data(), s->piece[r.what == BROADCAST ? r.root : 0], n);
        for (int i = 1; r.what != BROADCAST && i < c->size; i++)
            combine_as(r.type, sum.data(), s->piece[i], n, r.op);
        if (takes) memcpy(r.recv + at, sum.data(), n);
        if (!meet(c)) return false;
    }
    return true;
}

/* Sends and receives of one group go on beside each other. */
bool run_letters(ncclComm *c, const std::vector<request> &all, int64_t recording)
{
    std::vector<size_t> at(all.size(), 0);
    size_t left = all.size();
    int spins = 0;
    while (left) {
        bool moved = false;
        for (size_t i = 0; i < all.size(); i++) {
            const request &r = all[i];
            if (at[i] == r.bytes) continue;
            letter &l =
                r.what == SEND ? c->seg->mail[c->rank][r.root] : c->seg->mail[r.root][c->rank];
            if (l.is_full == (r.what == SEND)) continue;
            size_t n = r.bytes - at[i] < LETTER ? r.bytes - at[i] : (size_t)LETTER;
            if (r.what == SEND) {
                memcpy(l.data, r.send + at[i], n);
                l.recording = recording;
            } else {
                check_recording(c->rank, recording, r.root, l.recording);
                memcpy(r.recv + at[i], l.data, n);
            }
            l.is_full = r.what == SEND;
            at[i] += n;
            left -= at[i] == r.bytes;
            moved = true;
        }
        if (!moved && !is_hopeful(c, &spins)) return false;
    }
    return true;
}

void run_group(ncclComm *c, const std::vector<request> &all, int64_t recording)
{
    static int64_t n;
    std::vector<request> letters;
    if (c->error) return;
    if (++n == set().fail_collective) {
        fail(c, ncclRemoteError);
        return;
    }
    for (const request &r : all) {
        touch({r.send, r.recv});
        if (r.what >= SEND)
            letters.push_back(r);
        else if (!run_collective(c, r, recording))
            return;
    }
    (void)run_letters(c, letters, recording);
}

/* Ranks are connected by the first call that needs it. In a recording it would allocate, and wait
 * for the others. */
void check_connected(ncclComm *c, const std::vector<request> &all, bool is_recorded)
{
    for (const request &r : all) {
        bool *known = r.what == SEND   ? &c->sent_to[r.root]
                      : r.what == RECV ? &c->had_from[r.root]
                                       : &c->is_connected;
        if (is_recorded && !*known)
            stop("NCCL: the first %s of a communicator is recorded; make one before",
                 r.what >= SEND ? "call between two ranks" : "collective");
        *known = true;
    }
}

/* By default NCCL meets the other ranks in a recording: to register buffers, and to connect ranks
 * for an algorithm that was not used before. */
void check_settings()
{
    for (const char *name : {"NCCL_GRAPH_REGISTER", "NCCL_RUNTIME_CONNECT"}) {
        const char *said = getenv(name);
        if (!said || strcmp(said, "0"))
            stop("NCCL: while a collective is recorded ranks wait for each other, as %s is not 0",
                 name);
    }
}

/* Into a recording; what is kept of it counts as the communicator's. */
cudaError_t record(ncclComm *c, cudaStream_t s, const void *name, const std::vector<request> &all)
{
    static int64_t n;
    int64_t recording = recording_of(s);
    auto plan = c->plans;
    check_settings();
    if (++n == set().fail_record) return forbidden_in_capture();
    op o = {name, "collective", [c, all, recording, plan] { run_group(c, all, recording); }};
    o.chain = c->last;
    return enqueue(s, std::move(o));
}

cudaError_t enqueue_now(ncclComm *c, cudaStream_t s, const void *name,
                        const std::vector<request> &all)
{
    cudaError_t e = cudaStreamWaitEvent(s, c->last, 0);
    if (!e) e = enqueue(s, {name, "collective", [c, all] { run_group(c, all, 0); }});
    return e ? e : cudaEventRecord(c->last, s);
}

/* A communicator ends when nothing recorded holds its calls. */
long held_plans(const ncclComm *c) { return c->plans.use_count() - 1; }

/* The calls of a group, which belong to one communicator and stream. */
ncclResult_t submit()
{
    std::vector<pending> calls;
    calls.swap(group);
    if (calls.empty()) return ncclSuccess;
    ncclComm *c = calls[0].comm;
    std::vector<request> all;
    for (const pending &p : calls) {
        if (p.comm != c || p.stream != calls[0].stream)
            stop("NCCL: a group with several communicators or streams is not emulated");
        all.push_back(p.r);
    }
    if (c->error) return last_error = (ncclResult_t)c->error.load();
    static const char name = 0;
    cudaStream_t s = calls[0].stream;
    bool is_recorded = recording_of(s) != 0;
    check_connected(c, all, is_recorded);
    cudaError_t e = is_recorded ? record(c, s, &name, all) : enqueue_now(c, s, &name, all);
    c->asked = 0;
    if (e) return last_error = ncclUnhandledCudaError;
    c->busy = s;
    hold(s, true);
    return ncclInProgress;
}

ncclResult_t call_nccl(ncclComm *c, cudaStream_t s, request r)
{
    locked l(lock);
    if (!c) return last_error = ncclInvalidArgument;
    bool has_peer = r.root >= 0 && r.root < c->size;
    if (!has_peer || (r.send && where_is(r.send, r.bytes) != DEVICE) ||
        (r.recv && where_is(r.recv, r.bytes) != DEVICE))
        return last_error = ncclInvalidArgument;
    group.push_back({c, s, r});
    return group_depth ? ncclSuccess : submit();
}

/* Everybody is there: whose GPU is whose? */
ncclResult_t look_around(const ncclComm *c)
{
    for (int i = 0; i < c->size; i++)
        if (i != c->rank && !strcmp(c->seg->place[i], c->seg->place[c->rank]))
            return ncclInvalidUsage; /* two ranks on one GPU */
    return ncclSuccess;
}
} // namespace

extern "C" ncclResult_t ncclGetVersion(int *version)
{
    *version = 22800;
    return ncclSuccess;
}

extern "C" ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    static int n;
    memset(id, 0, sizeof *id);
    snprintf(id->internal, sizeof id->internal, "/mealrec-emulated-%d-%d", (int)getpid(), n++);
    return ncclSuccess;
}

extern "C" ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int ranks, ncclUniqueId id,
                                               int rank, ncclConfig_t *config)
{
    locked l(lock);
    if (forbidden_in_capture()) return last_error = ncclUnhandledCudaError;
    if (ranks > RANKS_MOST || config->blocking) return last_error = ncclInvalidArgument;
    int f = shm_open(id.internal, O_CREAT | O_RDWR, 0600);
    if (f < 0 || ftruncate(f, sizeof(segment))) return last_error = ncclSystemError;
    void *p = mmap(nullptr, sizeof(segment), PROT_READ | PROT_WRITE, MAP_SHARED, f, 0);
    close(f);
    if (p == MAP_FAILED) return last_error = ncclSystemError;
    ncclComm *c = new ncclComm;
    const char *host = getenv("NCCL_HOSTID");
    c->seg = (segment *)p;
    c->name = id.internal;
    c->rank = rank;
    c->size = ranks;
    c->seg->pid[rank] = getpid();
    snprintf(c->seg->place[rank], sizeof c->seg->place[rank], "%.100s %d", host ? host : "",
             current_device());
    cudaEventCreateWithFlags(&c->last, cudaEventDisableTiming);
    c->seg->here++;
    *comm = c;
    return ncclInProgress;
}

/* Without the lock, as it is asked by other threads while a collective waits. */
extern "C" ncclResult_t ncclCommGetAsyncError(ncclComm_t c, ncclResult_t *e)
{
    if (!c) return ncclInvalidArgument;
    *e = (ncclResult_t)c->error.load();
    if (*e) return ncclSuccess;
    if (c->seg->here < c->size || c->asked++ < 2) {
        *e = ncclInProgress;
        sched_yield();
        return ncclSuccess;
    }
    if (cudaStream_t s = c->busy.exchange(nullptr)) hold(s, false);
    if (!c->name.empty()) {
        if (c->rank == 0) shm_unlink(c->name.c_str());
        c->name.clear();
        *e = look_around(c);
        if (*e) fail(c, *e);
    }
    return ncclSuccess;
}

/* What was asked for is done first. */
extern "C" ncclResult_t ncclCommFinalize(ncclComm_t c)
{
    locked l(lock);
    if (forbidden_in_capture()) return last_error = ncclUnhandledCudaError;
    if (held_plans(c))
        stop("NCCL: a communicator ends while graphs hold %ld of its collectives; it waits for "
             "ever, destroy them before",
             held_plans(c));
    (void)drain_all();
    c->asked = 0;
    return c->error ? (ncclResult_t)c->error.load() : ncclInProgress;
}

/* Streams may still hold calls of it, so it is kept. */
extern "C" ncclResult_t ncclCommDestroy(ncclComm_t) { return ncclSuccess; }

/* Ends what this rank waits in, and what the others wait for; then waits itself, without the lock,
 * until nothing recorded is left. */
extern "C" ncclResult_t ncclCommAbort(ncclComm_t c)
{
    fail(c, ncclRemoteError);
    c->seg->is_aborted = 1;
    if (c->rank == 0 && !c->name.empty()) shm_unlink(c->name.c_str());
    while (held_plans(c)) usleep(1000);
    return ncclSuccess;
}

extern "C" const char *ncclGetErrorString(ncclResult_t e)
{
    switch (e) {
    case ncclSuccess: return "no error";
    case ncclUnhandledCudaError: return "unhandled cuda error";
    case ncclSystemError: return "unhandled system error";
    case ncclInvalidArgument: return "invalid argument";
    case ncclInvalidUsage: return "invalid usage";
    case ncclRemoteError: return "remote process exited or there was a network error";
    case ncclInProgress: return "NCCL operation in progress";
    default: return "internal error";
    }
}

extern "C" const char *ncclGetLastError(ncclComm_t c)
{
    return ncclGetErrorString(c && c->error ? (ncclResult_t)c->error.load() : last_error);
}

extern "C" ncclResult_t ncclGroupStart(void)
{
    group_depth++;
    return ncclSuccess;
}

extern "C" ncclResult_t ncclGroupEnd(void)
{
    locked l(lock);
    return --group_depth ? ncclSuccess : submit();
}

extern "C" ncclResult_t ncclAllReduce(const void *send, void *recv, size_t n, ncclDataType_t t,
                                      ncclRedOp_t op, ncclComm_t c, cudaStream_t s)
{
    return call_nccl(c, s, {ALLREDUCE, (const char *)send, (char *)recv, n * width(t), t, op, 0});
}

extern "C" ncclResult_t ncclBroadcast(const void *send, void *recv, size_t n, ncclDataType_t t,
                                      int root, ncclComm_t c, cudaStream_t s)
{
    return call_nccl(c, s,
                     {BROADCAST, (const char *)send, (char *)recv, n * width(t), t, ncclSum, root});
}

extern "C" ncclResult_t ncclReduce(const void *send, void *recv, size_t n, ncclDataType_t t,
                                   ncclRedOp_t op, int root, ncclComm_t c, cudaStream_t s)
{
    if (c && c->rank != root) recv = nullptr; /* only the root's is looked at */
    return call_nccl(c, s, {REDUCE, (const char *)send, (char *)recv, n * width(t), t, op, root});
}

extern "C" ncclResult_t ncclSend(const void *send, size_t n, ncclDataType_t t, int peer,
                                 ncclComm_t c, cudaStream_t s)
{
    return call_nccl(c, s, {SEND, (const char *)send, nullptr, n * width(t), t, ncclSum, peer});
}

extern "C" ncclResult_t ncclRecv(void *recv, size_t n, ncclDataType_t t, int peer, ncclComm_t c,
                                 cudaStream_t s)
{
    return call_nccl(c, s, {RECV, nullptr, (char *)recv, n * width(t), t, ncclSum, peer});
}
