/* The emulator can see: each plant is a bug of a kernel or of its host, and must be named. A child
 * process makes the bug; its sentence and its signal are looked at. Two ranks of NCCL are this
 * child and one of its own. */
extern "C" {
#include "tensor/device.h"
}
#include "kernels/cuda/common.cuh"

#include <nccl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum { N = 64 };

static mr_device *dev;
static mr_exec ex;
static float *x; /* [N] device memory */

static void must(bool good, const char *what)
{
    if (good) return;
    fprintf(stderr, "not so: %s\n", what);
    exit(3);
}

static float *device_floats(int64_t n)
{
    void *p = NULL;
    must(dev->alloc(dev, &p, (size_t)n * sizeof(float), "floats") == MR_OK, "memory");
    return (float *)p;
}

static float *pinned_floats(int64_t n)
{
    void *p = NULL;
    must(dev->alloc_host(dev, &p, (size_t)n * sizeof(float), "floats") == MR_OK, "memory");
    return (float *)p;
}

static float first_of(const float *p)
{
    float v;
    must(dev->to_host(dev, &v, p, sizeof v) == MR_OK, "a copy");
    return v;
}

static void wait_for_it(void) { (void)dev->sync(dev); }

static cudaStream_t own_stream(void) { return queue_of(&ex)->stream; }

/* ---- kernels ---- */
__global__ static void fill_kernel(float *p, int64_t n, float v)
{
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) p[i] = v;
}

__global__ static void reverse_kernel(float *p, bool has_barrier)
{
    SHARED(float, s, [N]);
    s[threadIdx.x] = p[threadIdx.x];
    if (has_barrier) __syncthreads();
    p[threadIdx.x] = s[N - 1 - threadIdx.x];
}

__global__ static void half_kernel(float *p)
{
    if (threadIdx.x >= N / 2) return;
    __syncthreads();
    p[threadIdx.x] = 1;
}

__global__ static void two_barriers_kernel(float *p)
{
    if (threadIdx.x >= N / 2)
        __syncthreads();
    else
        p[0] = (float)__syncthreads_or(1);
}

__global__ static void lanes_kernel(float *p)
{
    if (threadIdx.x % WARP == 3) return;
    p[threadIdx.x] = warp_sum(1.0f);
}

__global__ static void one_word_kernel(float *p) { p[0] = (float)blockIdx.x; }

__global__ static void rest_kernel(float *p)
{
    SHARED_REST(float, s);
    s[threadIdx.x] = 1;
    p[threadIdx.x] = s[threadIdx.x];
}

__global__ static void large_kernel(float *p)
{
    SHARED(float, s, [16384]);
    s[threadIdx.x] = 1;
    p[threadIdx.x] = s[threadIdx.x];
}

__global__ static void wide_kernel(float *p) { *(double *)(p + 1) = 1; }

/* ---- plants ---- */
static void no_barrier(void)
{
    LAUNCH(reverse_kernel, 1, N, 0, &ex, x, false);
    wait_for_it();
}
static void beside(void)
{
    LAUNCH(fill_kernel, 1, N + 1, 0, &ex, x, N + 1, 0.0f);
    wait_for_it();
}
static void host_load(void) { must(*(volatile float *)x > 0, "a load"); }
static void host_address(void)
{
    float here[N];
    LAUNCH(fill_kernel, 1, N, 0, &ex, here, N, 0.0f);
    wait_for_it();
}
static void some_ended(void)
{
    LAUNCH(half_kernel, 1, N, 0, &ex, x);
    wait_for_it();
}
static void other_barrier(void)
{
    LAUNCH(two_barriers_kernel, 1, N, 0, &ex, x);
    wait_for_it();
}
static void no_lane(void)
{
    LAUNCH(lanes_kernel, 1, N, 0, &ex, x);
    wait_for_it();
}
static void blocks_meet(void)
{
    LAUNCH(one_word_kernel, 2, 1, 0, &ex, x);
    wait_for_it();
}
static void no_rest(void)
{
    LAUNCH(rest_kernel, 1, N, 0, &ex, x);
    wait_for_it();
}
static void short_rest(void)
{
    LAUNCH(rest_kernel, 1, N, (N - 1) * sizeof(float), &ex, x);
    wait_for_it();
}
static void large_rest(void) { LAUNCH(rest_kernel, 1, N, 50000, &ex, x); }
static void large_shared(void)
{
    LAUNCH(large_kernel, 1, N, 0, &ex, x);
    wait_for_it();
}
static void misaligned(void)
{
    LAUNCH(wide_kernel, 1, 1, 0, &ex, x);
    wait_for_it();
}
static void large_block(void) { LAUNCH(fill_kernel, 1, 2048, 0, &ex, x, 1, 0.0f); }
static void large_grid(void) { LAUNCH(fill_kernel, dim3(1, 70000), 1, 0, &ex, x, 1, 0.0f); }
static void no_grid(void) { LAUNCH(fill_kernel, 0, 1, 0, &ex, x, 1, 0.0f); }
static void product(void)
{
    gemm_cuda(x, x, x, 9, 9, 9, 0, 0, 9, 9, 9, 1.0, 0.0, &ex);
    wait_for_it();
}
static void after_free(void)
{
    float *y = device_floats(N);
    dev->free(dev, y);
    LAUNCH(fill_kernel, 1, N, 0, &ex, y, N, 0.0f);
    wait_for_it();
}

/* ---- what must be as it is on a GPU; ends with "as it should" ---- */
static void good(void)
{
    must(first_of(x) != first_of(x), "fresh memory is NaN");
    LAUNCH(fill_kernel, 1, N, 0, &ex, x, N, 2.0f);
    LAUNCH(reverse_kernel, 1, N, 0, &ex, x, true);
    must(first_of(x) == 2, "a kernel's result");
    must(dev->fill(dev, x, 0, (N + 1) * sizeof(float)) != MR_OK, "too long a filling is refused");
}
/* A copy from pinned memory happens when it happens. */
static void early_change(void)
{
    float *h = pinned_floats(N);
    h[0] = 1;
    must(dev->send(dev, x, h, sizeof *h) == MR_OK, "a copy");
    h[0] = 7;
    must(first_of(x) == 7, "the change came before the copy");
}
static void early_read(void)
{
    float *h = pinned_floats(N);
    LAUNCH(fill_kernel, 1, N, 0, &ex, x, N, 2.0f);
    must(!cudaMemcpyAsync(h, x, sizeof *h, cudaMemcpyDeviceToHost, next_in_stream(&ex)), "a copy");
    must(h[0] == 0, "nothing has come before the wait");
    wait_for_it();
    must(h[0] == 2, "it has come after it");
}
/* Two streams: without an event the one that is waited for goes first. */
static void streams(bool has_event)
{
    cudaStream_t side;
    cudaEvent_t e;
    float *h = pinned_floats(1);
    must(!cudaStreamCreateWithFlags(&side, cudaStreamNonBlocking), "a stream");
    must(!cudaEventCreateWithFlags(&e, cudaEventDisableTiming), "an event");
    must(dev->fill(dev, x, 0, sizeof *x) == MR_OK && dev->sync(dev) == MR_OK, "zeros");
    LAUNCH(fill_kernel, 1, N, 0, &ex, x, N, 2.0f);
    must(!cudaEventRecord(e, next_in_stream(&ex)), "a record");
    if (has_event) must(!cudaStreamWaitEvent(side, e, 0), "a wait");
    must(!cudaMemcpyAsync(h, x, sizeof *h, cudaMemcpyDeviceToHost, side), "a copy");
    must(!cudaStreamSynchronize(side), "a wait of the host");
    must(h[0] == (has_event ? 2.0f : 0.0f), "what an event orders, and only that, is in order");
}
static void two_streams(void)
{
    streams(false);
    streams(true);
}
static void recording(void)
{
    must(dev->capture(dev, MR_RECORD_STEP, MR_CAPTURE_BEGIN) == MR_OK, "a recording begins");
    LAUNCH(fill_kernel, 1, N, 0, &ex, x, N, 5.0f);
    must(dev->capture(dev, MR_RECORD_STEP, MR_CAPTURE_START) == MR_OK, "and ends");
    must(first_of(x) == 5, "what was recorded was done");
    must(dev->capture(dev, MR_RECORD_STEP, MR_CAPTURE_BEGIN) == MR_OK, "a second one");
    LAUNCH(fill_kernel, 1, N, 0, &ex, x, N, 6.0f);
    must(dev->sync(dev) != MR_OK, "waiting is not allowed in it");
    must(dev->capture(dev, MR_RECORD_STEP, MR_CAPTURE_START) != MR_OK, "and spoils it");
    wait_for_it(); /* tells of the last error once more */
    must(first_of(x) == 5, "nothing of it was done");
}

/* ---- streams in a recording ---- */
static cudaStream_t side;
static cudaEvent_t mark;

static void make_side(void)
{
    must(!cudaStreamCreateWithFlags(&side, cudaStreamNonBlocking), "a stream");
    must(!cudaEventCreateWithFlags(&mark, cudaEventDisableTiming), "an event");
}
static void begin_recording(void)
{
    must(dev->capture(dev, MR_RECORD_STEP, MR_CAPTURE_BEGIN) == MR_OK, "a recording begins");
}
static mr_status end_recording(void) { return dev->capture(dev, MR_RECORD_STEP, MR_CAPTURE_START); }
/* What comes in `to` comes after what is in `from`. */
static void order_streams(cudaStream_t from, cudaStream_t to)
{
    must(!cudaEventRecord(mark, from) && !cudaStreamWaitEvent(to, mark, 0), "an event");
}
static void side_recorded(void)
{
    float *h = pinned_floats(1);
    make_side();
    for (float v = 2; v < 4; v++) {
        begin_recording();
        LAUNCH(fill_kernel, 1, N, 0, &ex, x, N, v);
        order_streams(own_stream(), side);
        must(!cudaMemcpyAsync(h, x, sizeof *h, cudaMemcpyDeviceToHost, side), "a copy");
        order_streams(side, own_stream());
        LAUNCH(fill_kernel, 1, N, 0, &ex, x, N, 10 * v);
        must(end_recording() == MR_OK, "and ends");
        must(first_of(x) == 10 * v && h[0] == v, "both streams did what was recorded, in order");
    }
    must(cudaStreamWaitEvent(side, mark, 0) == cudaErrorCapturedEvent, "the event stays inside");
}
static void not_joined(void)
{
    make_side();
    begin_recording();
    order_streams(own_stream(), side);
    must(!cudaMemsetAsync(x, 0, sizeof *x, side), "a filling");
    must(end_recording() != MR_OK, "the side stream is still out");
    begin_recording();
    must(end_recording() == MR_OK, "the next one is not concerned");
}
static void outer_event(void)
{
    make_side();
    must(!cudaEventRecord(mark, side), "an event outside");
    begin_recording();
    must(cudaStreamWaitEvent(own_stream(), mark, 0) == cudaErrorStreamCaptureIsolation, "a wait");
    must(end_recording() != MR_OK, "nothing outside can be waited for");
}
static void side_waited(void)
{
    make_side();
    begin_recording();
    order_streams(own_stream(), side);
    must(cudaStreamSynchronize(side) != cudaSuccess, "no waiting for a stream that joined");
    must(end_recording() != MR_OK, "which spoils it");
}
static void dropped(void)
{
    LAUNCH(fill_kernel, 1, N, 0, &ex, x, N, 1.0f);
    make_side();
    begin_recording();
    order_streams(own_stream(), side);
    LAUNCH(fill_kernel, 1, N, 0, &ex, x, N, 2.0f);
    must(dev->capture(dev, MR_RECORD_STEP, MR_CAPTURE_DROP) == MR_OK, "a recording is dropped");
    must(dev->recording == 0 && first_of(x) == 1, "and nothing of it is done");
    must(!cudaStreamSynchronize(side), "the side stream is free again");
}
static void other_mode(void) { cudaStreamBeginCapture(own_stream(), cudaStreamCaptureModeGlobal); }

/* ---- recorded collectives of two ranks ---- */
static ncclUniqueId ids[2];
static ncclComm_t comm;
static int rank;
static pid_t other;

static void settle(ncclComm_t c, ncclResult_t e)
{
    while (e == ncclInProgress) must(!ncclCommGetAsyncError(c, &e), "a question");
    must(e == ncclSuccess, "NCCL");
}
static ncclComm_t join(int i)
{
    ncclComm_t c;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    settle(c, ncclCommInitRankConfig(&c, 2, ids[i], rank, &config));
    return c;
}
static void sum_in(ncclComm_t c, cudaStream_t s)
{
    settle(c, ncclAllReduce(x, x, 1, ncclFloat32, ncclSum, c, s));
}
static void two_ranks(bool are_connected)
{
    make_side();
    setenv("NCCL_GRAPH_REGISTER", "0", 1);
    setenv("NCCL_RUNTIME_CONNECT", "0", 1);
    for (ncclUniqueId &id : ids) must(!ncclGetUniqueId(&id), "a name");
    other = fork();
    rank = other == 0;
    setenv("NCCL_HOSTID", rank ? "b" : "a", 1);
    comm = join(0);
    LAUNCH(fill_kernel, 1, N, 0, &ex, x, N, 1.0f);
    if (are_connected) sum_in(comm, own_stream());
    wait_for_it();
}
/* Rank 1 ends here. */
static void one_rank(void)
{
    int status = 0;
    if (rank) exit(0);
    waitpid(other, &status, 0);
    must(WIFEXITED(status) && WEXITSTATUS(status) == 0, "rank 1 ended as it should");
}
static void record_sum(void)
{
    begin_recording();
    sum_in(comm, own_stream());
    must(end_recording() == MR_OK, "and ends");
}
static void sums_recorded(void)
{
    two_ranks(true);
    for (float v = 1; v < 3; v++) {
        begin_recording();
        LAUNCH(fill_kernel, 1, N, 0, &ex, x, N, v + (float)rank);
        order_streams(own_stream(), side);
        sum_in(comm, side);
        order_streams(side, own_stream());
        LAUNCH(reverse_kernel, 1, N, 0, &ex, x, true);
        must(end_recording() == MR_OK, "and ends");
        must(first_of(x + N - 1) == 2 * v + 1, "the sum of both ranks");
    }
    sum_in(comm, own_stream());
    must(first_of(x) == 5, "a sum that is not recorded, of what the ranks had, follows");
    dev->capture(dev, MR_RECORD_STEP, MR_CAPTURE_FORGET);
    settle(comm, ncclCommFinalize(comm));
    one_rank();
}
static void one_records(void)
{
    two_ranks(true);
    if (rank)
        sum_in(comm, own_stream());
    else
        record_sum();
    wait_for_it();
}
static void another_recording(void)
{
    two_ranks(true);
    if (rank) {
        begin_recording();
        must(end_recording() == MR_OK, "one more");
    }
    record_sum();
    wait_for_it();
}
static void first_recorded(void)
{
    two_ranks(false);
    record_sum();
}
static void first_letter(void)
{
    two_ranks(true);
    begin_recording();
    settle(comm, rank ? ncclRecv(x, 1, ncclFloat32, 0, comm, own_stream())
                      : ncclSend(x, 1, ncclFloat32, 1, comm, own_stream()));
}
static void registering(void)
{
    two_ranks(true);
    unsetenv("NCCL_GRAPH_REGISTER");
    record_sum();
}
static void no_order(void)
{
    two_ranks(true);
    ncclComm_t second = join(1);
    sum_in(second, own_stream());
    begin_recording();
    order_streams(own_stream(), side);
    sum_in(comm, side);
    sum_in(second, own_stream());
    order_streams(side, own_stream());
    (void)end_recording();
}
static void not_asked(void)
{
    two_ranks(true);
    begin_recording();
    (void)ncclAllReduce(x, x, 1, ncclFloat32, ncclSum, comm, own_stream());
    LAUNCH(fill_kernel, 1, N, 0, &ex, x, N, 0.0f);
}
static void ends_too_early(void)
{
    two_ranks(true);
    record_sum();
    wait_for_it();
    settle(comm, ncclCommFinalize(comm));
}
static void made_in_recording(void)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    two_ranks(true);
    begin_recording();
    must(ncclCommInitRankConfig(&comm, 2, ids[1], rank, &config) == ncclUnhandledCudaError,
         "no communicator is made in a recording");
    must(end_recording() != MR_OK, "which spoils it");
    one_rank();
}
static void *abort_comm(void *done)
{
    (void)ncclCommAbort(comm);
    __atomic_store_n((int *)done, 1, __ATOMIC_RELEASE);
    return NULL;
}
/* An abort returns when nothing recorded is left. */
static void aborted(void)
{
    pthread_t thread;
    int done = 0;
    two_ranks(true);
    record_sum();
    wait_for_it();
    must(!pthread_create(&thread, NULL, abort_comm, &done), "a thread");
    usleep(50000);
    must(!__atomic_load_n(&done, __ATOMIC_ACQUIRE), "it waits for the graph");
    dev->capture(dev, MR_RECORD_STEP, MR_CAPTURE_FORGET);
    pthread_join(thread, NULL);
    one_rank();
}

typedef struct plant {
    const char *name;
    void (*run)(void);
    int signal;
    const char *says;
} plant;

static const plant plants[] = {
    {"a barrier is missing", no_barrier, SIGABRT, "without a barrier"},
    {"an index is one too large", beside, SIGABRT, "at byte 256 of an allocation of 256 bytes"},
    {"the host reads device memory", host_load, SIGSEGV, "the host touches device memory"},
    {"a kernel gets host memory", host_address, SIGABRT, "memory that is not the GPU's"},
    {"memory is used after it was given back", after_free, SIGABRT, "not the GPU's"},
    {"some threads end before a barrier", some_ended, SIGABRT, "has ended"},
    {"threads wait at two barriers", other_barrier, SIGABRT, "while others wait at"},
    {"a lane does not come to a shuffle", no_lane, SIGABRT, "only lanes fffffff7"},
    {"two blocks write one word", blocks_meet, SIGABRT, "of block 0 writes without a barrier"},
    {"shared memory that was not asked for", no_rest, SIGABRT, "outside its variables"},
    {"shared memory that is too short", short_rest, SIGABRT, "outside its variables"},
    {"too much shared memory asked for", large_rest, SIGABRT, "bytes of shared memory"},
    {"too much shared memory declared", large_shared, SIGABRT, "bytes of shared memory"},
    {"a misaligned address", misaligned, SIGABRT, "no multiple of that"},
    {"too large a block", large_block, SIGABRT, "a block of 2048"},
    {"too large a grid", large_grid, SIGABRT, "a grid of 1 x 70000"},
    {"an empty grid", no_grid, SIGABRT, "a grid of 0"},
    {"a product outside its memory", product, SIGABRT, "reaches outside"},
    {"nothing wrong", good, 0, "as it should"},
    {"a pinned block changed too early", early_change, 0, "as it should"},
    {"a pinned block read too early", early_read, 0, "as it should"},
    {"two streams", two_streams, 0, "as it should"},
    {"a recording", recording, 0, "as it should"},
    {"a recording of two streams", side_recorded, 0, "as it should"},
    {"a stream that nobody waits for", not_joined, 0, "has unjoined work"},
    {"an event from outside", outer_event, 0, "due to a previous error during capture"},
    {"the host waits for a stream that joined", side_waited, 0, "previous error during capture"},
    {"a recording that is dropped", dropped, 0, "as it should"},
    {"a recording that stops NCCL's threads", other_mode, SIGABRT, "a recording in the mode 0"},
    {"recorded collectives", sums_recorded, 0, "as it should"},
    {"one rank records", one_records, SIGABRT, "rank 0 has recorded a collective that rank 1 has"},
    {"ranks start different recordings", another_recording, SIGABRT, "1, rank 1 of its recording"},
    {"the first collective is recorded", first_recorded, SIGABRT, "the first collective"},
    {"the first letter is recorded", first_letter, SIGABRT, "the first call between two ranks"},
    {"ranks meet in a recording", registering, SIGABRT, "as NCCL_GRAPH_REGISTER is not 0"},
    {"two communicators in no order", no_order, SIGABRT, "may run in any order"},
    {"a stream goes on too early", not_asked, SIGABRT, "while a thread of NCCL"},
    {"a communicator ends before its graph", ends_too_early, SIGABRT, "while graphs hold 1 of"},
    {"a communicator is made in a recording", made_in_recording, 0, "as it should"},
    {"an abort waits for a graph", aborted, 0, "as it should"}};

static void begin(void)
{
    if (mr_device_open_cuda(&dev, 0) != MR_OK) exit(4);
    ex = {};
    ex.stream = dev->stream;
    x = device_floats(N);
}

/* Does the child end as the plant says? */
static bool is_seen(const plant *p)
{
    char text[8192] = "";
    int ends[2], status = 0;
    size_t n = 0;
    must(pipe(ends) == 0, "a pipe");
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(ends[1], STDERR_FILENO);
        begin();
        p->run();
        fputs("as it should", stderr);
        exit(0);
    }
    close(ends[1]);
    for (ssize_t r; n + 1 < sizeof text; n += (size_t)r)
        if ((r = read(ends[0], text + n, sizeof text - 1 - n)) <= 0) break;
    close(ends[0]);
    waitpid(pid, &status, 0);
    bool ended = p->signal ? WIFSIGNALED(status) && WTERMSIG(status) == p->signal
                           : WIFEXITED(status) && WEXITSTATUS(status) == 0;
    bool seen = ended && strstr(text, p->says);
    printf("%-4s %s: %.400s\n", seen ? "ok" : "FAIL", p->name, text);
    return seen;
}

int main(void)
{
    int failed = 0;
    for (const plant &p : plants) failed += !is_seen(&p);
    printf("%d failed\n", failed);
    return failed ? 1 : 0;
}
