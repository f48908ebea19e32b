/* Recording of work as a graph: pieces of work with what each comes after, from the order of
 * streams and from events. A stream takes part once it waits for an event of the recording.
 * What it is not: CUDA's rules in full; what this program does not do is refused. Invariants:
 * during a recording nothing of it runs; when a graph starts, pieces that no order binds run in an
 * order that MR_EMULATE=when=... chooses: those of the stream that began it first (late), last
 * (early), or by chance (mixed). */
#include "streams.h"

#include <csignal>
#include <cstdio>
#include <ctime>

#include <unistd.h>

namespace emulate
{
std::shared_ptr<recording> current;

namespace
{
int64_t recordings;

cudaError_t spoil(cudaError_t e)
{
    if (current) current->is_spoilt = true;
    return note(e);
}

/* Everything that comes before `from`, and itself. */
std::vector<bool> all_before(const std::vector<node> &nodes, const std::set<size_t> &from)
{
    std::vector<bool> is_in(nodes.size(), false);
    for (size_t i : from) is_in[i] = true;
    for (size_t i = nodes.size(); i-- > 0;)
        if (is_in[i])
            for (size_t k : nodes[i].after) is_in[k] = true;
    return is_in;
}

/* A stream that took part and was not waited for. */
bool is_unjoined(const recording &r, const std::set<cudaStream_t> &parts)
{
    std::vector<bool> is_in = all_before(r.nodes, r.origin->front);
    for (cudaStream_t s : parts)
        for (size_t i : s->front)
            if (!is_in[i]) return true;
    return false;
}

/* NCCL wants one order of the collectives of all communicators of a GPU. */
void check_collectives(const std::vector<node> &nodes)
{
    const node *before = nullptr;
    for (size_t i = 0; i < nodes.size(); i++) {
        const node &n = nodes[i];
        if (!n.work->chain) continue;
        if (before && !all_before(nodes, {i})[(size_t)(before - nodes.data())])
            stop("NCCL: two collectives of a recording may run in any order, so that kernels of "
                 "two communicators wait for each other");
        before = &n;
    }
}

/* The next piece of work among those that may run. */
size_t choose(const std::vector<node> &nodes, const std::vector<size_t> &ready)
{
    bool first_aside = set().work == EARLY;
    if (set().work == MIXED) return draw(ready.size());
    for (size_t k = 0; k < ready.size(); k++)
        if (nodes[ready[k]].is_aside == first_aside) return k;
    return 0;
}

std::vector<size_t> order_of(const std::vector<node> &nodes)
{
    std::vector<size_t> out;
    std::vector<bool> is_done(nodes.size(), false);
    while (out.size() < nodes.size()) {
        std::vector<size_t> ready;
        for (size_t i = 0; i < nodes.size(); i++) {
            bool may = !is_done[i];
            for (size_t k : nodes[i].after) may = may && is_done[k];
            if (may) ready.push_back(i);
        }
        size_t i = ready[choose(nodes, ready)];
        is_done[i] = true;
        out.push_back(i);
    }
    return out;
}

/* A communicator's calls follow each other, also those in a graph and those that are in none. */
cudaError_t push_in_turn(cudaStream_t s, const std::shared_ptr<const op> &work)
{
    item i;
    i.work = work;
    if (!work->chain) return push(s, i);
    cudaError_t e = cudaStreamWaitEvent(s, work->chain, 0);
    if (!e) e = push(s, i);
    return e ? e : cudaEventRecord(work->chain, s);
}

/* MR_EMULATE=fail_again=n: the end of this GPU, or a signal; says when. */
void fail_here()
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    fprintf(stderr, "emulated GPU: fails at %ld.%03ld\n", (long)now.tv_sec, now.tv_nsec / 1000000);
    if (set().signal)
        (void)kill(getpid(), set().signal);
    else
        lose(cudaErrorIllegalAddress);
}

/* Is this the start of a graph that fails? Then half of it has run when it does. */
bool is_failing(cudaGraphExec_t exec)
{
    static int64_t n;
    bool is_again = exec->has_started;
    exec->has_started = true;
    return is_again && ++n == set().fail_again;
}
} // namespace

bool is_recording(cudaStream_t s) { return is_stream(s) && s->in; }
int64_t recording_of(cudaStream_t s) { return is_recording(s) ? s->in->number : 0; }

/* A call that a recording does not allow spoils it. */
cudaError_t forbidden_in_capture()
{
    if (!current) return cudaSuccess;
    current->is_spoilt = true;
    return cudaErrorStreamCaptureUnsupported;
}

cudaError_t record_op(cudaStream_t s, std::shared_ptr<const op> work)
{
    recording &r = *s->in;
    if (r.is_spoilt) return note(cudaErrorStreamCaptureInvalidated);
    node n = {work, s->front, s != r.origin};
    for (size_t i = r.nodes.size(); work->chain && i-- > 0;)
        if (r.nodes[i].work->chain == work->chain) {
            n.after.insert(i);
            break;
        }
    r.nodes.push_back(n);
    s->front = {r.nodes.size() - 1};
    return cudaSuccess;
}

bool record_event(cudaEvent_t e, cudaStream_t s)
{
    e->in = nullptr;
    if (!is_recording(s)) return false;
    e->in = s->in;
    e->front = s->front;
    return true;
}

bool record_wait(cudaStream_t s, cudaEvent_t v, cudaError_t *e)
{
    *e = cudaSuccess;
    if (!v->in && !is_recording(s)) return false;
    if (!v->in) { /* of work outside */
        *e = spoil(cudaErrorStreamCaptureIsolation);
    } else if (v->in != current) {
        *e = note(cudaErrorCapturedEvent);
    } else if (s->in) {
        s->front.insert(v->front.begin(), v->front.end());
    } else {
        s->in = v->in;
        s->front = v->front;
    }
    return true;
}

void leave_recording(cudaStream_t s)
{
    s->in = nullptr;
    s->front.clear();
}
} // namespace emulate

using namespace emulate;

extern "C" cudaError_t cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode mode)
{
    locked l(lock);
    if (cudaError_t e = refused()) return note(e);
    if (!is_stream(s) || current) return note(cudaErrorIllegalState);
    if (mode != cudaStreamCaptureModeThreadLocal)
        stop("a recording in the mode %d: threads of NCCL could not do what they have to",
             (int)mode);
    current = std::make_shared<recording>();
    current->origin = s;
    current->number = ++recordings;
    s->in = current;
    s->front.clear();
    return cudaSuccess;
}

extern "C" cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *graph)
{
    locked l(lock);
    *graph = nullptr;
    if (!is_recording(s)) return note(cudaErrorIllegalState);
    if (s->in->origin != s) return spoil(cudaErrorStreamCaptureUnmatched);
    check_held(s);
    std::shared_ptr<recording> r = std::move(current);
    current = nullptr;
    std::set<cudaStream_t> parts = parts_of(r);
    bool is_bad = is_unjoined(*r, parts);
    for (cudaStream_t p : parts) leave_recording(p);
    std::unique_ptr<CUgraph_st> made(new CUgraph_st{std::move(r->nodes)}); /* events keep r */
    if (r->is_spoilt) return note(cudaErrorStreamCaptureInvalidated);
    if (is_bad) return note(cudaErrorStreamCaptureUnjoined);
    check_collectives(made->nodes);
    *graph = made.release();
    return note(refused());
}

extern "C" cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph,
                                            unsigned long long)
{
    locked l(lock);
    if (!graph) return note(cudaErrorInvalidValue);
    *exec = new CUgraphExec_st{graph->nodes};
    return note(refused());
}

/* New arguments for the same kernels in the same order. */
extern "C" cudaError_t cudaGraphExecUpdate(cudaGraphExec_t exec, cudaGraph_t graph,
                                           cudaGraphExecUpdateResultInfo *info)
{
    locked l(lock);
    if (!exec || !graph) return note(cudaErrorInvalidValue);
    *info = {};
    bool is_same = exec->nodes.size() == graph->nodes.size();
    if (!is_same) info->result = cudaGraphExecUpdateErrorTopologyChanged;
    for (size_t i = 0; is_same && i < exec->nodes.size(); i++) {
        const node &a = exec->nodes[i], &b = graph->nodes[i];
        is_same = a.after == b.after && !(b.work->chain && set().keeps_collectives);
        if (!is_same) info->result = cudaGraphExecUpdateErrorTopologyChanged;
        if (!is_same || a.work->function == b.work->function) continue;
        is_same = false;
        info->result = cudaGraphExecUpdateErrorFunctionChanged;
    }
    if (!is_same) return note(cudaErrorGraphExecUpdateFailure);
    exec->nodes = graph->nodes;
    exec->has_started = false;
    return note(refused());
}

extern "C" cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t s)
{
    locked l(lock);
    if (!exec) return note(cudaErrorInvalidValue);
    if (!is_stream(s)) return note(cudaErrorInvalidResourceHandle);
    if (is_recording(s)) return note(forbidden_in_capture());
    static const char name = 0;
    bool fails = is_failing(exec);
    size_t left = exec->nodes.size(), middle = left / 2;
    for (size_t i : order_of(exec->nodes)) {
        if (fails && left-- == middle)
            if (cudaError_t e = enqueue(s, {&name, "a failure", fail_here})) return e;
        if (cudaError_t e = push_in_turn(s, exec->nodes[i].work)) return e;
    }
    return cudaSuccess;
}

extern "C" cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    locked l(lock);
    delete graph;
    return cudaSuccess;
}

extern "C" cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    locked l(lock);
    delete exec;
    return cudaSuccess;
}
