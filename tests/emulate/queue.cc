/* Streams of the emulated GPU. What is asked for waits in its stream until the host waits for it
 * (MR_EMULATE=when=late), or runs at once (early), or either (mixed). So a host that changes a
 * block too early, or reads one too early, gets other numbers than it expects.
 * Invariants: a stream is in order; streams are ordered by events only, and where they are not, the
 * one that nobody waits for stays behind. During a recording nothing runs. */
#include "core.h"

#include <cstring>
#include <deque>
#include <set>
#include <vector>

namespace emulate
{
struct item {
    std::shared_ptr<const op> work; /* or an event: */
    std::shared_ptr<uint64_t> done; /* the last record of it that happened */
    uint64_t record = 0;
    bool is_wait = false;
};
} // namespace emulate

struct CUstream_st {
    std::deque<emulate::item> items;
    bool is_capturing = false, is_spoilt = false;
    std::vector<std::shared_ptr<const emulate::op>> captured;
};
struct CUevent_st {
    std::shared_ptr<uint64_t> done = std::make_shared<uint64_t>(0);
    uint64_t records = 0;
};
struct CUgraph_st {
    std::vector<std::shared_ptr<const emulate::op>> ops;
};
struct CUgraphExec_st {
    std::vector<std::shared_ptr<const emulate::op>> ops;
};

namespace emulate
{
std::recursive_mutex lock;

namespace
{
std::set<cudaStream_t> streams;
cudaStream_t capturing; /* one at a time is enough for this program */
cudaError_t lost, last;

bool is_blocked(const item &i) { return i.is_wait && *i.done < i.record; }

void run_head(cudaStream_t s)
{
    item i = s->items.front();
    s->items.pop_front();
    if (i.work) {
        if (lost) return;
        open_memory();
        i.work->run();
        close_memory();
    } else if (!i.is_wait) {
        *i.done = i.record;
    }
}

/* One piece of work of another stream. */
bool run_other(cudaStream_t not_this)
{
    for (cudaStream_t s : streams)
        if (s != not_this && !s->items.empty() && !is_blocked(s->items.front())) {
            run_head(s);
            return true;
        }
    return false;
}

/* The stream until it has at most `rest` left; others only as far as it waits for them. */
void drain(cudaStream_t s, size_t rest)
{
    if (s->items.size() <= rest) return;
    open_memory();
    while (s->items.size() > rest) {
        if (!is_blocked(s->items.front()))
            run_head(s);
        else if (!run_other(s))
            stop("a stream waits for an event that nobody will record");
    }
    close_memory();
}

/* What may happen before the host waits. */
void go_on(cudaStream_t s)
{
    if (set().work == EARLY) drain(s, 0);
    if (set().work == MIXED && !draw(4)) drain(s, draw(s->items.size() + 1));
}

bool is_stream(cudaStream_t s) { return streams.count(s) != 0; }

cudaError_t push(cudaStream_t s, item i)
{
    if (!is_stream(s)) return note(cudaErrorInvalidResourceHandle);
    if (lost) return note(lost);
    s->items.push_back(std::move(i));
    go_on(s);
    return cudaSuccess;
}
} // namespace

cudaError_t note(cudaError_t e)
{
    if (e) last = e;
    return e;
}

void lose(cudaError_t e)
{
    if (!lost) lost = e;
}

cudaError_t refused() { return lost; }

/* A call that a recording does not allow spoils it. */
cudaError_t forbidden_in_capture()
{
    if (!capturing) return cudaSuccess;
    capturing->is_spoilt = true;
    return cudaErrorStreamCaptureUnsupported;
}

cudaError_t enqueue(cudaStream_t s, op o)
{
    auto work = std::make_shared<const op>(std::move(o));
    if (!is_stream(s)) return note(cudaErrorInvalidResourceHandle);
    if (s->is_capturing) {
        if (s->is_spoilt) return note(cudaErrorStreamCaptureInvalidated);
        s->captured.push_back(work);
        return cudaSuccess;
    }
    item i;
    i.work = work;
    return push(s, i);
}

cudaError_t drain_all()
{
    for (cudaStream_t s : streams) drain(s, 0);
    return lost;
}

void check_launch(const call &c);

void start(call c, cudaStream_t s)
{
    locked l(lock);
    check_launch(c);
    auto kept = std::make_shared<call>(std::move(c));
    (void)enqueue(s, {kept->function, kept->kernel, [kept] {
                          static int64_t n;
                          if (++n == set().fail_launch) return lose(cudaErrorIllegalAddress);
                          run_grid(*kept);
                      }});
}
} // namespace emulate

using namespace emulate;

extern "C" cudaError_t cudaGetLastError(void)
{
    locked l(lock);
    cudaError_t e = lost ? lost : last;
    last = cudaSuccess;
    return e;
}

namespace
{
/* Are both ends where `kind` says? */
bool is_possible(const void *dst, const void *src, size_t bytes, enum cudaMemcpyKind kind)
{
    bool to = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    bool from = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    where d = where_is(dst, bytes), s = where_is(src, bytes);
    return d != NOWHERE && s != NOWHERE && (d == DEVICE) == to && (s == DEVICE) == from;
}
} // namespace

/* Host memory that is not pinned: it is read at once, and when it is written the call waits. */
extern "C" cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes,
                                       enum cudaMemcpyKind kind, cudaStream_t s)
{
    static const char names[4] = {};
    locked l(lock);
    if (lost) return note(lost);
    if (!is_possible(dst, src, bytes, kind)) return note(cudaErrorInvalidValue);
    bool is_paged = where_is(dst, bytes) == HOST || where_is(src, bytes) == HOST;
    if (is_paged && is_stream(s) && s->is_capturing) return note(forbidden_in_capture());
    op o = {names + kind, "copy", [=] { memcpy(dst, src, bytes); }};
    if (where_is(src, bytes) == HOST) {
        auto kept = std::make_shared<std::string>((const char *)src, bytes);
        o.run = [=] { memcpy(dst, kept->data(), bytes); };
    }
    if (cudaError_t e = enqueue(s, std::move(o))) return e;
    if (where_is(dst, bytes) == HOST) drain(s, 0);
    return note(lost);
}

extern "C" cudaError_t cudaMemsetAsync(void *dst, int value, size_t bytes, cudaStream_t s)
{
    static const char name = 0;
    locked l(lock);
    if (lost) return note(lost);
    if (where_is(dst, bytes) != DEVICE) return note(cudaErrorInvalidValue);
    return enqueue(s, {&name, "filling", [=] { memset(dst, value, bytes); }});
}

extern "C" cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned)
{
    locked l(lock);
    if (lost) return note(lost);
    *s = new CUstream_st;
    streams.insert(*s);
    return cudaSuccess;
}

extern "C" cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    locked l(lock);
    if (!is_stream(s)) return note(cudaErrorInvalidResourceHandle);
    if (capturing == s) capturing = nullptr;
    drain(s, 0);
    streams.erase(s);
    delete s;
    return note(lost);
}

extern "C" cudaError_t cudaStreamSynchronize(cudaStream_t s)
{
    locked l(lock);
    if (!is_stream(s)) return note(cudaErrorInvalidResourceHandle);
    if (s->is_capturing) return note(forbidden_in_capture());
    drain(s, 0);
    return note(lost);
}

extern "C" cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned)
{
    locked l(lock);
    if (lost) return note(lost);
    *e = new CUevent_st;
    return cudaSuccess;
}

extern "C" cudaError_t cudaEventDestroy(cudaEvent_t e)
{
    delete e;
    return cudaSuccess;
}

extern "C" cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s)
{
    locked l(lock);
    item i;
    i.done = e->done;
    i.record = ++e->records;
    return push(s, i);
}

/* For the last record before this call; without one there is nothing to wait for. */
extern "C" cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned)
{
    locked l(lock);
    item i;
    i.done = e->done;
    i.record = e->records;
    i.is_wait = true;
    return push(s, i);
}

extern "C" cudaError_t cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode)
{
    locked l(lock);
    if (lost) return note(lost);
    if (!is_stream(s) || capturing) return note(cudaErrorIllegalState);
    capturing = s;
    s->is_capturing = true;
    s->is_spoilt = false;
    s->captured.clear();
    return cudaSuccess;
}

extern "C" cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *graph)
{
    locked l(lock);
    *graph = nullptr;
    if (!is_stream(s) || !s->is_capturing) return note(cudaErrorIllegalState);
    capturing = nullptr;
    s->is_capturing = false;
    if (s->is_spoilt) return note(cudaErrorStreamCaptureInvalidated);
    *graph = new CUgraph_st{std::move(s->captured)};
    s->captured.clear();
    return note(lost);
}

extern "C" cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph,
                                            unsigned long long)
{
    locked l(lock);
    if (!graph) return note(cudaErrorInvalidValue);
    *exec = new CUgraphExec_st{graph->ops};
    return note(lost);
}

/* New arguments for the same kernels in the same order. */
extern "C" cudaError_t cudaGraphExecUpdate(cudaGraphExec_t exec, cudaGraph_t graph,
                                           cudaGraphExecUpdateResultInfo *info)
{
    locked l(lock);
    if (!exec || !graph) return note(cudaErrorInvalidValue);
    *info = {};
    bool is_same = exec->ops.size() == graph->ops.size();
    if (!is_same) info->result = cudaGraphExecUpdateErrorTopologyChanged;
    for (size_t i = 0; is_same && i < exec->ops.size(); i++) {
        is_same = exec->ops[i]->function == graph->ops[i]->function;
        if (!is_same) info->result = cudaGraphExecUpdateErrorFunctionChanged;
    }
    if (!is_same) return note(cudaErrorGraphExecUpdateFailure);
    exec->ops = graph->ops;
    return note(lost);
}

extern "C" cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t s)
{
    locked l(lock);
    if (!exec) return note(cudaErrorInvalidValue);
    if (!is_stream(s)) return note(cudaErrorInvalidResourceHandle);
    if (s->is_capturing) return note(forbidden_in_capture());
    for (const auto &o : exec->ops) {
        item i;
        i.work = o;
        if (cudaError_t e = push(s, i)) return e;
    }
    return cudaSuccess;
}

extern "C" cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    delete graph;
    return cudaSuccess;
}

extern "C" cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    locked l(lock);
    delete exec;
    return cudaSuccess;
}
