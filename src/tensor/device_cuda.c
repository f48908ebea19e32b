/* A CUDA GPU as a device: memory of the CUDA runtime, one stream, one cuBLAS handle.
 * What it is not: kernels; those are in kernels/cuda.
 * Invariants: everything happens in order on one stream; to_device and to_host return when the copy
 * is done, so host memory may be reused at once; send returns before. A kernel cannot return an
 * error: what went wrong in one is reported by the next copy or sync. */
#include <stdio.h>

#include "base/mem.h"
#include "tensor/cuda_queue.h"
#include "tensor/device.h"

#include <nvtx3/nvToolsExt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MIN_CHIP = 80 };

/* After these the process can do nothing more with the GPU. */
static bool is_lost(cudaError_t e)
{
    switch (e) {
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorECCUncorrectable:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorContained:
    case cudaErrorDevicesUnavailable:
    case cudaErrorContextIsDestroyed:
    case cudaErrorUnknown: return true;
    default: return false;
    }
}

static char own_id[128] = "the GPU"; /* one GPU a process */

static mr_status cuda_failed(cudaError_t e, const char *what)
{
    char text[256];
    snprintf(text, sizeof text, "%s (%s)", cudaGetErrorString(e), cudaGetErrorName(e));
    return mr_device_failed(own_id, what, text, is_lost(e));
}

#define CUDA_TRY(call, what)                                                                       \
    do {                                                                                           \
        cudaError_t cuda_e_ = (call);                                                              \
        if (cuda_e_ != cudaSuccess) return cuda_failed(cuda_e_, (what));                           \
    } while (0)

static mr_status cuda_sync(mr_device *d)
{
    const mr_cuda_queue *q = d->impl;
    d->counts.waits++;
    CUDA_TRY(cudaGetLastError(), "starting a kernel");
    CUDA_TRY(cudaStreamSynchronize(q->stream), "a kernel or copy");
    if (q->blas_status != CUBLAS_STATUS_SUCCESS)
        return mr_device_failed(own_id, "a matrix product", cublasGetStatusString(q->blas_status),
                                false);
    return MR_OK;
}

/* CUDA does not say how large an allocation was when it goes. */
static mr_status hold(mr_device *d, const void *p, size_t bytes)
{
    mr_cuda_queue *q = d->impl;
    int64_t i = 0;
    while (i < q->held_cap && q->held[i].at) i++;
    if (i == q->held_cap) {
        void *more = NULL;
        MR_TRY(mr_alloc(&more, 2 * i + 64, sizeof *q->held, "list of GPU memory"));
        if (i) memcpy(more, q->held, (size_t)i * sizeof *q->held);
        MR_FREE(q->held);
        q->held = more;
        q->held_cap = 2 * i + 64;
    }
    q->held[i].at = p;
    q->held[i].bytes = (int64_t)bytes;
    d->counts.bytes += (int64_t)bytes;
    if (d->counts.bytes > d->counts.most_bytes) d->counts.most_bytes = d->counts.bytes;
    return MR_OK;
}

static void let_go(mr_device *d, const void *p)
{
    mr_cuda_queue *q = d->impl;
    for (int64_t i = 0; i < q->held_cap; i++)
        if (q->held[i].at == p) {
            d->counts.bytes -= q->held[i].bytes;
            q->held[i].at = NULL;
            return;
        }
}

static mr_status cuda_alloc(mr_device *d, void **out_p, size_t bytes, const char *what)
{
    void *p = NULL;
    d->counts.allocs++;
    cudaError_t e = cudaMalloc(&p, bytes ? bytes : 1);
    if (e == cudaErrorMemoryAllocation) {
        size_t free_bytes = 0, total = 0;
        (void)cudaGetLastError(); /* not sticky: forget it */
        (void)cudaMemGetInfo(&free_bytes, &total);
        return MR_RAISE(MR_ERR_MEMORY,
                        "%s: %s has no %zu bytes on %s, %zu of %zu are free; lower train.batch or "
                        "train.eval_batch, or use more GPUs",
                        what, mr_device_owner(), bytes, own_id, free_bytes, total);
    }
    if (e != cudaSuccess) return cuda_failed(e, what);
    mr_status st = hold(d, p, bytes);
    if (st != MR_OK) {
        (void)cudaFree(p);
        return st;
    }
    *out_p = p;
    return MR_OK;
}

static void cuda_free(mr_device *d, void *ptr)
{
    if (!ptr) return;
    let_go(d, ptr);
    (void)cudaFree(ptr);
}

/* Pinned: copies from and to it need no second copy and do not hold up the host. */
static mr_status cuda_alloc_host(mr_device *d, void **out_p, size_t bytes, const char *what)
{
    void *p = NULL;
    d->counts.allocs++;
    cudaError_t e = cudaHostAlloc(&p, bytes ? bytes : 1, cudaHostAllocDefault);
    if (e == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError();
        return MR_RAISE(MR_ERR_MEMORY, "%s: the host has no %zu bytes of memory to pin", what,
                        bytes);
    }
    if (e != cudaSuccess) return cuda_failed(e, what);
    memset(p, 0, bytes);
    *out_p = p;
    return MR_OK;
}

static void cuda_free_host(mr_device *d, void *ptr)
{
    (void)d;
    if (ptr) (void)cudaFreeHost(ptr);
}

static mr_status cuda_send(mr_device *d, void *dst, const void *src, size_t bytes)
{
    const mr_cuda_queue *q = d->impl;
    d->counts.copies_in++;
    if (bytes)
        CUDA_TRY(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyHostToDevice, q->stream), "a copy");
    return MR_OK;
}

static mr_status cuda_copy(mr_device *d, void *dst, const void *src, size_t bytes,
                           enum cudaMemcpyKind kind)
{
    const mr_cuda_queue *q = d->impl;
    if (bytes) CUDA_TRY(cudaMemcpyAsync(dst, src, bytes, kind, q->stream), "a copy");
    return cuda_sync(d);
}

static mr_status cuda_to_device(mr_device *d, void *dst, const void *src, size_t bytes)
{
    d->counts.copies_in++;
    return cuda_copy(d, dst, src, bytes, cudaMemcpyHostToDevice);
}

static mr_status cuda_to_host(mr_device *d, void *dst, const void *src, size_t bytes)
{
    d->counts.copies_out++;
    return cuda_copy(d, dst, src, bytes, cudaMemcpyDeviceToHost);
}

static mr_status cuda_fill(mr_device *d, void *dst, int byte, size_t bytes)
{
    const mr_cuda_queue *q = d->impl;
    if (bytes) CUDA_TRY(cudaMemsetAsync(dst, byte, bytes, q->stream), "filling memory");
    return MR_OK;
}

static mr_status cuda_memory(mr_device *d, int64_t *free_p, int64_t *total_p)
{
    size_t left = 0, total = 0;
    (void)d;
    CUDA_TRY(cudaMemGetInfo(&left, &total), "asking for free memory");
    *free_p = (int64_t)left;
    *total_p = (int64_t)total;
    return MR_OK;
}

static void forget(mr_kept *k)
{
    if (k->graph) (void)cudaGraphExecDestroy(k->graph);
    *k = (mr_kept){.graph = NULL};
}

static void forget_kind(mr_cuda_queue *q, mr_recorded kind)
{
    for (int i = 0; i < MR_KEPT; i++) forget(&q->kept[kind][i]);
    q->next[kind].has_signature = false;
}

/* Where a recording goes: what has no signature always to the first place, the others to a free
 * one, else to that of the one that was started longest ago. */
static mr_kept *place_for(mr_cuda_queue *q, mr_recorded kind)
{
    mr_kept *best = q->kept[kind];
    for (int i = 0; q->next[kind].has_signature && best->graph && i < MR_KEPT; i++) {
        mr_kept *k = &q->kept[kind][i];
        if (!k->graph || k->turn < best->turn) best = k;
    }
    return best;
}

/* The recorded work as a graph. Shapes change from batch to batch, but not which kernels follow
 * which, as long as no count is 0: then a graph at hand takes over the new arguments. Else it is
 * made anew; so it is where CUDA does not let NCCL's nodes be taken over. Each rank does what it
 * can: NCCL asks that all ranks start what they recorded together, not that they keep it alike, and
 * waits for nobody when a graph goes. What a graph held of NCCL's (plans, work lists) is given back
 * by CUDA when its last start is done, which the host has waited for by now. */
static cudaError_t take_graph(mr_kept *k, cudaGraph_t graph)
{
    cudaGraphExecUpdateResultInfo info;
    if (k->graph && cudaGraphExecUpdate(k->graph, graph, &info) == cudaSuccess) return cudaSuccess;
    (void)cudaGetLastError(); /* another order of kernels is no error */
    forget(k);
    return cudaGraphInstantiate(&k->graph, graph, 0);
}

static mr_status start(mr_device *d, mr_cuda_queue *q, mr_recorded kind, mr_kept *k)
{
    k->turn = ++q->turns;
    d->place = (int)(k - q->kept[kind]);
    CUDA_TRY(cudaGraphLaunch(k->graph, q->stream), "starting recorded work");
    return MR_OK;
}

/* Make a graph of what was recorded, keep it under the signature that was said, start it. */
static mr_status keep_and_start(mr_device *d, mr_cuda_queue *q, mr_recorded kind, cudaGraph_t graph)
{
    mr_kept *next = &q->next[kind], *k = place_for(q, kind);
    k->has_signature = false; /* until all is well */
    CUDA_TRY(take_graph(k, graph), "making a graph");
    k->of = next->of;
    k->has_signature = next->has_signature;
    k->calls = d->counts.calls - next->calls;
    k->launches = d->counts.launches - next->launches;
    d->counts.recorded++;
    return start(d, q, kind, k);
}

/* ThreadLocal: NCCL's communicators are non-blocking, so that a thread of its own puts a collective
 * into the recording (and may allocate) while this one waits in settle() of dist/comm_nccl.c; in
 * the global mode CUDA would forbid that thread what it does. */
static mr_status begin_capture(mr_device *d, mr_cuda_queue *q, mr_recorded kind)
{
    CUDA_TRY(cudaStreamBeginCapture(q->stream, cudaStreamCaptureModeThreadLocal),
             "beginning to record");
    d->recording = ++q->recordings;
    q->next[kind].calls = d->counts.calls;
    q->next[kind].launches = d->counts.launches;
    return MR_OK;
}

static mr_status cuda_capture(mr_device *d, mr_recorded kind, mr_capture what)
{
    mr_cuda_queue *q = d->impl;
    cudaGraph_t graph = NULL;
    mr_status st = MR_OK;
    if (what == MR_CAPTURE_BEGIN) return begin_capture(d, q, kind);
    if (what == MR_CAPTURE_FORGET) {
        forget_kind(q, kind);
        return MR_OK;
    }
    d->recording = 0;
    cudaError_t e = cudaStreamEndCapture(q->stream, &graph);
    if (what == MR_CAPTURE_DROP) /* what failed has been said */
        (void)cudaGetLastError();
    else if (e != cudaSuccess)
        st = cuda_failed(e, "recording");
    else
        st = keep_and_start(d, q, kind, graph);
    if (graph) (void)cudaGraphDestroy(graph);
    q->next[kind].has_signature = false;
    return st;
}

static mr_status cuda_replay(mr_device *d, mr_recorded kind, const mr_signature *s, bool *is_done_p)
{
    mr_cuda_queue *q = d->impl;
    for (int i = 0; i < MR_KEPT; i++) {
        mr_kept *k = &q->kept[kind][i];
        if (!k->has_signature || memcmp(k->of.word, s->word, sizeof s->word) != 0) continue;
        MR_CHECK(!memcmp(k->of.here, s->here, sizeof s->here), MR_ERR_INTERNAL,
                 "recorded work is for memory that this rank uses no more, and the other ranks "
                 "start theirs");
        MR_TRY(start(d, q, kind, k));
        d->counts.calls += k->calls;
        d->counts.launches += k->launches;
        d->counts.replayed++;
        *is_done_p = true;
        return MR_OK;
    }
    q->next[kind].of = *s;
    q->next[kind].has_signature = true;
    *is_done_p = false;
    return MR_OK;
}

static void cuda_mark(mr_device *d, const char *name)
{
    (void)d;
    if (name)
        nvtxRangePushA(name);
    else
        nvtxRangePop();
}

/* In a recording an event that is not `external` would only order the recording itself. */
static mr_status cuda_stamp(mr_device *d, int i)
{
    mr_cuda_queue *q = d->impl;
    cudaEvent_t *e = &q->moment[i];
    if (!*e) CUDA_TRY(cudaEventCreateWithFlags(e, cudaEventDefault), "making an event");
    unsigned how = d->recording ? cudaEventRecordExternal : cudaEventRecordDefault;
    CUDA_TRY(cudaEventRecordWithFlags(*e, q->stream, how), "an event");
    return MR_OK;
}

static mr_status cuda_stamped(mr_device *d, int from, int to, double *seconds)
{
    const mr_cuda_queue *q = d->impl;
    float ms = 0;
    CUDA_TRY(cudaEventElapsedTime(&ms, q->moment[from], q->moment[to]), "time between events");
    *seconds = 1e-3 * (double)ms;
    return MR_OK;
}

static void cuda_nothing(mr_device *d) { (void)d; }

static void cuda_close(mr_device *d)
{
    mr_cuda_queue *q = d->impl;
    if (q->stream) (void)cudaStreamSynchronize(q->stream);
    for (int i = 0; i < MR_MOMENTS; i++)
        if (q->moment[i]) (void)cudaEventDestroy(q->moment[i]);
    for (int i = 0; i < MR_N_RECORDED; i++) forget_kind(q, (mr_recorded)i);
    if (q->blas) (void)cublasDestroy(q->blas);
    cuda_free(d, q->blas_space);
    cuda_free(d, q->partials);
    if (q->stream) (void)cudaStreamDestroy(q->stream);
    MR_FREE(q->held);
    MR_FREE(d->impl);
}

/* Is there a driver, a GPU of that number, and can it run what was compiled? */
static mr_status choose(int index)
{
    int count = 0, major = 0, minor = 0;
    cudaError_t e = cudaGetDeviceCount(&count);
    MR_CHECK(e != cudaErrorInsufficientDriver, MR_ERR_DEVICE,
             "run.device=cuda: there is no NVIDIA driver here, or it is older than this program's "
             "CUDA %d.%d; use --run.device=cpu",
             CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
    MR_CHECK(e != cudaErrorNoDevice && (e != cudaSuccess || count > 0), MR_ERR_DEVICE,
             "run.device=cuda: this machine has no CUDA GPU; use --run.device=cpu");
    MR_CHECK(e == cudaSuccess, MR_ERR_DEVICE,
             "run.device=cuda: the GPUs cannot be counted: %s; use --run.device=cpu",
             cudaGetErrorString(e));
    MR_CHECK(index >= 0 && index < count, MR_ERR_DEVICE,
             "run.device=cuda: there is no GPU %d, this machine has %d", index, count);
    CUDA_TRY(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index), "a query");
    CUDA_TRY(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, index), "a query");
    if (major * 10 + minor < MIN_CHIP) {
        struct cudaDeviceProp p = {0};
        (void)cudaGetDeviceProperties(&p, index);
        return mr_device_wrong_chip(index, p.name, major * 10 + minor, MIN_CHIP);
    }
    CUDA_TRY(cudaSetDevice(index), "choosing the GPU");
    return MR_OK;
}

/* UUIDs tell apart GPUs that different ranks see under the same number. */
static mr_status describe(mr_device *d, int index)
{
    struct cudaDeviceProp p;
    CUDA_TRY(cudaGetDeviceProperties(&p, index), "a query");
    int at = snprintf(d->id, sizeof d->id, "cuda:%d %.64s GPU-", index, p.name);
    for (int i = 0; i < 16 && at + 3 < (int)sizeof d->id; i++)
        at += snprintf(d->id + at, sizeof d->id - (size_t)at, "%02x",
                       (unsigned)(unsigned char)p.uuid.bytes[i]);
    snprintf(own_id, sizeof own_id, "%s", d->id);
    return MR_OK;
}

void mr_device_bus_id_cuda(int index, char *out, size_t bytes)
{
    if (cudaDeviceGetPCIBusId(out, (int)bytes, index) != cudaSuccess) out[0] = 0;
    for (char *c = out; *c; c++)
        if (*c >= 'A' && *c <= 'F') *c = (char)(*c - 'A' + 'a');
}

int mr_device_count_cuda(void)
{
    int count = 0;
    return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

mr_status mr_device_cuda_text(int index, char *text, size_t bytes, bool *is_free_p)
{
    struct cudaDeviceProp p;
    char bus[32] = "";
    size_t left = 0, total = 0;
    int driver = 0;
    MR_TRY(choose(index));
    CUDA_TRY(cudaGetDeviceProperties(&p, index), "a query");
    CUDA_TRY(cudaDeviceGetPCIBusId(bus, sizeof bus, index), "a query");
    CUDA_TRY(cudaDriverGetVersion(&driver), "a query");
    CUDA_TRY(cudaMemGetInfo(&left, &total), "asking for free memory");
    snprintf(text, bytes, "%s at %s, %.1f of %.1f GiB free, compute capability %d.%d, driver %d.%d",
             p.name, bus, (double)left / 1073741824.0, (double)total / 1073741824.0, p.major,
             p.minor, driver / 1000, driver % 1000 / 10);
    *is_free_p = (double)left > 0.95 * (double)total;
    return MR_OK;
}

static mr_status queue_open(mr_device *d, mr_cuda_queue *q)
{
    CUDA_TRY(cudaStreamCreateWithFlags(&q->stream, cudaStreamNonBlocking), "making a stream");
    size_t of_sums = MR_CUDA_PARTIALS * sizeof(double),
           of_counters = MR_CUDA_COUNTERS * sizeof(int);
    MR_TRY(cuda_alloc(d, (void **)&q->partials, of_sums + of_counters, "partial sums on the GPU"));
    q->counters = (unsigned *)(q->partials + MR_CUDA_PARTIALS);
    MR_TRY(cuda_fill(d, q->counters, 0, of_counters));
    size_t of_blas = MR_CUDA_BLAS_BYTES, of_rows = MR_CUDA_SUMS * sizeof(float);
    MR_TRY(cuda_alloc(d, &q->blas_space, of_blas + of_rows, "workspace of cuBLAS and of sums"));
    q->sums = (float *)((char *)q->blas_space + of_blas);
    cublasStatus_t b = cublasCreate(&q->blas);
    if (b == CUBLAS_STATUS_SUCCESS) b = cublasSetStream(q->blas, q->stream);
    if (b == CUBLAS_STATUS_SUCCESS)
        b = cublasSetWorkspace(q->blas, q->blas_space, MR_CUDA_BLAS_BYTES);
    if (b == CUBLAS_STATUS_SUCCESS) b = cublasSetMathMode(q->blas, CUBLAS_DEFAULT_MATH);
    if (b == CUBLAS_STATUS_SUCCESS) b = cublasSetAtomicsMode(q->blas, CUBLAS_ATOMICS_NOT_ALLOWED);
    MR_CHECK(b == CUBLAS_STATUS_SUCCESS, MR_ERR_DEVICE, "GPU: cuBLAS does not start: %s",
             cublasGetStatusString(b));
    return MR_OK;
}

mr_status mr_device_open_cuda(mr_device **out_p, int index)
{
    mr_device *d = NULL;
    mr_cuda_queue *q = NULL;
    mr_status st;
    MR_TRY(choose(index));
    MR_TRY(MR_ALLOC(&d, 1, "device"));
    MR_TRY_GOTO(MR_ALLOC(&q, 1, "CUDA device"), st, fail);
    q->counts = &d->counts;
    *d = (mr_device){.name = "cuda",
                     .real = MR_F32,
                     .act = MR_F32,
                     .host_memory = false,
                     .whole_products = true,
                     .row_bytes = 16, /* of one load, and of what tensor cores are fed with */
                     .alloc = cuda_alloc,
                     .free = cuda_free,
                     .memory = cuda_memory,
                     .alloc_host = cuda_alloc_host,
                     .free_host = cuda_free_host,
                     .to_device = cuda_to_device,
                     .to_host = cuda_to_host,
                     .send = cuda_send,
                     .fill = cuda_fill,
                     .enter = cuda_nothing,
                     .leave = cuda_nothing,
                     .sync = cuda_sync,
                     .capture = cuda_capture,
                     .replay = cuda_replay,
                     .mark = cuda_mark,
                     .stamp = cuda_stamp,
                     .stamped = cuda_stamped,
                     .close = cuda_close,
                     .stream = q,
                     .impl = q};
    MR_TRY_GOTO(queue_open(d, q), st, fail_queue);
    d->native_stream = q->stream;
    MR_TRY_GOTO(describe(d, index), st, fail_queue);
    *out_p = d;
    return MR_OK;
fail_queue:
    cuda_close(d);
fail:
    MR_FREE(d);
    return st;
}
