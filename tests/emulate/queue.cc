/* Streams of the emulated GPU. What is asked for waits in its stream until the host waits for it
 * (MR_EMULATE=when=late), or runs at once (early), or either (mixed). So a host that changes a
 * block too early, or reads one too early, gets other numbers than it expects.
 * Invariants: a stream is in order; streams are ordered by events only, and where they are not, the
 * one that nobody waits for stays behind. During a recording nothing runs. */
#include "streams.h"

#include <chrono>
#include <cstring>

namespace emulate
{
std::recursive_mutex lock;

namespace
{
std::set<cudaStream_t> streams;
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

} // namespace

bool is_stream(cudaStream_t s) { return streams.count(s) != 0; }

std::set<cudaStream_t> parts_of(const std::shared_ptr<recording> &r)
{
    std::set<cudaStream_t> out;
    for (cudaStream_t s : streams)
        if (s->in == r) out.insert(s);
    return out;
}

void hold(cudaStream_t s, bool is_held) { s->is_held = is_held; }

void check_held(cudaStream_t s)
{
    if (s->is_held)
        stop("something goes into a stream while a thread of NCCL puts a collective there; ask "
             "ncclCommGetAsyncError first");
}

cudaError_t push(cudaStream_t s, item i)
{
    if (!is_stream(s)) return note(cudaErrorInvalidResourceHandle);
    if (lost) return note(lost);
    check_held(s);
    s->items.push_back(std::move(i));
    go_on(s);
    return cudaSuccess;
}

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

cudaError_t enqueue(cudaStream_t s, op o)
{
    auto work = std::make_shared<const op>(std::move(o));
    if (!is_stream(s)) return note(cudaErrorInvalidResourceHandle);
    check_held(s);
    if (s->in) return record_op(s, work);
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
    op o = {kept->function, kept->kernel, [kept] {
                static int64_t n;
                if (++n == set().fail_launch) return lose(cudaErrorIllegalAddress);
                run_grid(*kept);
            }};
    (void)enqueue(s, std::move(o));
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
    if (is_paged && is_recording(s)) return note(forbidden_in_capture());
    op o = {names + kind, "copy", [=] {
                touch({dst, src});
                memcpy(dst, src, bytes);
            }};
    if (where_is(src, bytes) == HOST) {
        auto kept = std::make_shared<std::string>((const char *)src, bytes);
        o.run = [=] {
            touch({dst});
            memcpy(dst, kept->data(), bytes);
        };
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
    return enqueue(s, {&name, "filling", [=] {
                           touch({dst});
                           memset(dst, value, bytes);
                       }});
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
    if (s->in && s->in->origin == s) current = nullptr;
    drain(s, 0);
    streams.erase(s);
    delete s;
    return note(lost);
}

extern "C" cudaError_t cudaStreamSynchronize(cudaStream_t s)
{
    locked l(lock);
    if (!is_stream(s)) return note(cudaErrorInvalidResourceHandle);
    if (s->in) return note(forbidden_in_capture());
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
    if (is_stream(s)) check_held(s);
    if (record_event(e, s)) return cudaSuccess;
    i.done = e->done;
    i.record = ++e->records;
    return push(s, i);
}

/* With `external`, a piece of work of the recording that notes the time at every start. */
extern "C" cudaError_t cudaEventRecordWithFlags(cudaEvent_t e, cudaStream_t s, unsigned flags)
{
    static const char name = 0;
    locked l(lock);
    std::shared_ptr<double> at = e->at;
    if (lost) return note(lost);
    if (is_recording(s) != (flags == cudaEventRecordExternal)) return note(cudaErrorIllegalState);
    *at = -1;
    return enqueue(s, {&name, "an event", [=] {
                           *at = std::chrono::duration<double, std::milli>(
                                     std::chrono::steady_clock::now().time_since_epoch())
                                     .count();
                       }});
}

extern "C" cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to)
{
    locked l(lock);
    if (lost) return note(lost);
    if (!from || !to || *from->at < 0 || *to->at < 0) return note(cudaErrorInvalidValue);
    *ms = (float)(*to->at - *from->at);
    return cudaSuccess;
}

/* For the last record before this call; without one there is nothing to wait for. */
extern "C" cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned)
{
    locked l(lock);
    item i;
    cudaError_t said;
    if (!is_stream(s)) return note(cudaErrorInvalidResourceHandle);
    check_held(s);
    if (record_wait(s, e, &said)) return said;
    i.done = e->done;
    i.record = e->records;
    i.is_wait = true;
    return push(s, i);
}
