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

using namespace MR_ACT_SPACE;

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

static int result(const uint16_t *p)
{
    uint16_t v;
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

/* Lanes of a warp exchange, or (across) threads of two warps. */
__global__ static void warp_reverse_kernel(float *p, bool has_barrier, bool is_across)
{
    SHARED(float, s, [N]);
    unsigned t = threadIdx.x, other = is_across ? N - 1 - t : t / WARP * WARP + WARP - 1 - t % WARP;
    s[t] = p[t];
    if (has_barrier) __syncwarp();
    p[t] = s[other];
    if (has_barrier) __syncwarp();
    s[t] = 0; /* behind what another lane has read */
}

__global__ static void half_warp_kernel(float *p)
{
    if (threadIdx.x % WARP >= WARP / 2) return;
    __syncwarp();
    p[threadIdx.x] = 1;
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

/* One thread writes a float, another one reads the half of it; then each writes a half. */
__global__ static void halves_kernel(float *p, bool has_barrier)
{
    uint16_t *h = (uint16_t *)p;
    if (threadIdx.x == 0) p[0] = 1;
    if (has_barrier) __syncthreads();
    uint16_t bits = h[1];
    __syncthreads();
    h[threadIdx.x % 2] = bits;
}

enum way { RIGHT, NO_COUNTER, NO_FENCE, NO_RESET, WRONG_COUNT, TWICE };

/* As is_last_block should be, or with a bug of its own. */
__device__ static bool comes_last(unsigned *counter, way how)
{
    if (how == RIGHT) return is_last_block(counter, gridDim.x);
    if (how == NO_COUNTER) return blockIdx.x == gridDim.x - 1;
    if (how == WRONG_COUNT) return is_last_block(counter, gridDim.x + 1) || blockIdx.x == 1;
    if (how == TWICE && is_last_block(counter, gridDim.x)) return false;
    SHARED(unsigned, before, [1]);
    __syncthreads();
    if (threadIdx.x == 0) {
        if (how != NO_FENCE) __threadfence();
        before[0] = atomicInc(counter, how == NO_RESET ? 1000 : gridDim.x - 1);
        if (how != NO_FENCE) __threadfence();
    }
    __syncthreads();
    return before[0] == gridDim.x - 1;
}

/* p[0] = sum of what N threads of every block left in part[grid][N] */
__global__ static void blocks_sum_kernel(float *p, float *part, unsigned *counter, way how)
{
    part[blockIdx.x * N + threadIdx.x] = 1;
    if (!comes_last(counter, how) || threadIdx.x) return;
    float s = 0;
    for (unsigned i = 0; i < gridDim.x * N; i++) s += part[i];
    p[0] = s;
    part[0] += s; /* block 0 has written it, this one read it */
}

/* ---- plants ---- */
static void no_barrier(void)
{
    LAUNCH(reverse_kernel, 1, N, 0, &ex, x, false);
    wait_for_it();
}
static void no_warp_barrier(void)
{
    LAUNCH(warp_reverse_kernel, 1, N, 0, &ex, x, false, false);
    wait_for_it();
}
static void warp_barrier_for_two(void)
{
    LAUNCH(warp_reverse_kernel, 1, N, 0, &ex, x, true, true);
    wait_for_it();
}
static void half_warp(void)
{
    LAUNCH(half_warp_kernel, 1, N, 0, &ex, x);
    wait_for_it();
}
static void beside(void)
{
    LAUNCH(fill_kernel, 1, N + 1, 0, &ex, x, N + 1, 0.0f);
    wait_for_it();
}
static void host_load(void) { must(*(volatile float *)x > 0, "a load"); }
static void host_load_behind_work(void)
{
    LAUNCH(fill_kernel, 1, N, 0, &ex, x, N, 1.0f);
    wait_for_it();
    host_load();
}
static void host_store_beside(int at)
{
    float *p = pinned_floats(N - 1);
    ((char *)p)[at] = 1;
    must(dev->fill(dev, x, 0, N) == MR_OK, "work");
    wait_for_it();
}
static void host_store_before(void) { host_store_beside(-1); }
static void host_store_behind(void) { host_store_beside((N - 1) * (int)sizeof(float) + 3); }
static void half_of_a_float(void)
{
    LAUNCH(halves_kernel, 1, 2, 0, &ex, x, false);
    wait_for_it();
}
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
    gemm(x, x, x, 9, 9, 9, 0, 0, 9, 9, 9, 1.0, 0.0, MR_REAL_REAL, &ex);
    wait_for_it();
}
static void product_bf16(void) /* 12 x 12 elements of 2 bytes */
{
    gemm_bf16(x, 1, (uint16_t *)x, (uint16_t *)x, 12, 8, 8, 0, 0, 8, 8, 12, 1.0, 0.0, &ex);
    wait_for_it();
}
static void product_of_nothing(void)
{
    float al = 1, be = 0;
    (void)cublasGemmEx_64(queue_of(&ex)->blas, CUBLAS_OP_N, CUBLAS_OP_N, 4, 4, 0, &al, x,
                          CUDA_R_32F, 4, x, CUDA_R_32F, 1, &be, x, CUDA_R_32F, 4,
                          CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
}
static void no_workspace(void)
{
    (void)cublasSetStream(queue_of(&ex)->blas, own_stream());
    gemm(x, x, x, 4, 4, 4, 0, 0, 4, 4, 4, 1.0, 0.0, MR_REAL_REAL, &ex);
}
/* A layer of 16 rows of 16 in 16; shift: floats by which x begins later than it should. */
static void layer_at(uint32_t promised, int shift)
{
    cublasLtMatmulDescOpaque_t d;
    cublasLtMatrixLayoutOpaque_t l;
    cublasLtMatmulPreferenceOpaque_t wish;
    cublasLtMatmulHeuristicResult_t found;
    cublasLtHandle_t h = (cublasLtHandle_t)queue_of(&ex)->blas;
    float *p = device_floats(1024), al = 1, be = 0;
    uint64_t space = MR_CUDA_BLAS_BYTES;
    int n = 0;
    must(!cublasLtMatmulDescInit(&d, CUBLAS_COMPUTE_32F, CUDA_R_32F), "a description");
    must(!cublasLtMatrixLayoutInit(&l, CUDA_R_32F, 16, 16, 16), "a layout");
    must(!cublasLtMatmulPreferenceInit(&wish), "a wish");
    must(!cublasLtMatmulPreferenceSetAttribute(&wish, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                               &space, sizeof space),
         "a workspace");
    uint32_t sums = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    must(!cublasLtMatmulPreferenceSetAttribute(&wish, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                                               &sums, sizeof sums),
         "sums");
    for (int k = 0; k < 4; k++)
        must(!cublasLtMatmulPreferenceSetAttribute(
                 &wish,
                 (cublasLtMatmulPreferenceAttributes_t)(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES +
                                                        k),
                 &promised, sizeof promised),
             "alignment");
    must(!cublasLtMatmulAlgoGetHeuristic(h, &d, &l, &l, &l, &l, &wish, 1, &found, &n) && n == 1,
         "a kernel");
    must(!cublasLtMatmul(h, &d, &al, p + shift, &l, p + 256, &l, &be, p + 512, &l, p + 512, &l,
                         &found.algo, queue_of(&ex)->blas_space, MR_CUDA_BLAS_BYTES, own_stream()),
         "a product");
}
static void less_aligned(void) { layer_at(256, 4); }
static void as_aligned(void) { layer_at(16, 4); }
static void after_free(void)
{
    float *y = device_floats(N);
    LAUNCH(fill_kernel, 1, N, 0, &ex, y, N, 0.0f);
    dev->free(dev, y);
    LAUNCH(fill_kernel, 1, N, 0, &ex, y, N, 0.0f);
    wait_for_it();
}

static void blocks_sum(way how)
{
    float *part = device_floats(3 * N);
    LAUNCH(blocks_sum_kernel, 3, N, 0, &ex, x, part, queue_of(&ex)->counters, how);
    wait_for_it();
}
static void no_counter(void) { blocks_sum(NO_COUNTER); }
static void no_fence(void) { blocks_sum(NO_FENCE); }
static void no_reset(void) { blocks_sum(NO_RESET); }
static void wrong_count(void) { blocks_sum(WRONG_COUNT); }
static void counted_twice(void) { blocks_sum(TWICE); }

/* ---- what must be as it is on a GPU; ends with "as it should" ---- */
static void good(void)
{
    must(first_of(x) != first_of(x), "fresh memory is NaN");
    LAUNCH(fill_kernel, 1, N, 0, &ex, x, N, 2.0f);
    LAUNCH(reverse_kernel, 1, N, 0, &ex, x, true);
    LAUNCH(warp_reverse_kernel, 1, N, 0, &ex, x, true, false);
    must(first_of(x) == 2, "a kernel's result");
    LAUNCH(halves_kernel, 1, 2, 0, &ex, x, true);
    must(result((uint16_t *)x) == 0x3f80, "halves of a float");
    must(dev->fill(dev, x, 0, (N + 1) * sizeof(float)) != MR_OK, "too long a filling is refused");
}
static void last_block(void)
{
    for (int i = 0; i < 2; i++) { /* the counter is ready for the next launch */
        LAUNCH(fill_kernel, 1, N, 0, &ex, x, N, 0.0f);
        blocks_sum(RIGHT);
        must(first_of(x) == 3 * N, "the block that comes last sees what all have left");
    }
}
/* 512 + 3 - 512 in float32; in bf16 the parts of such a sum lose the 3, unless that is forbidden.
 */
static void sums_bf16(void)
{
    const uint16_t terms[3] = {0x4400, 0x4040, 0xC400}, one[3] = {0x3F80, 0x3F80, 0x3F80};
    uint16_t *a = (uint16_t *)x, *b = a + 8, *c = a + 16;
    float al = 1, be = 0;
    cublasHandle_t h = queue_of(&ex)->blas;
    must(dev->to_device(dev, a, terms, sizeof terms) == MR_OK, "a copy");
    must(dev->to_device(dev, b, one, sizeof one) == MR_OK, "a copy");
    gemm_bf16(c, 1, a, b, 1, 1, 3, 0, 0, 3, 1, 1, 1.0, 0.0, &ex);
    must(result(c) == 0x4040, "sums stay float32");
    must(!cublasSetMathMode(h, CUBLAS_DEFAULT_MATH), "a mode");
    must(!cublasGemmEx_64(h, CUBLAS_OP_N, CUBLAS_OP_N, 1, 1, 3, &al, b, CUDA_R_16BF, 1, a,
                          CUDA_R_16BF, 3, &be, c, CUDA_R_16BF, 1, CUBLAS_COMPUTE_32F,
                          CUBLAS_GEMM_DEFAULT),
         "a product");
    must(result(c) != 0x4040, "and may not, where nobody forbids it");
    must(cublasGemmEx_64(h, CUBLAS_OP_N, CUBLAS_OP_N, 1, 1, 3, &al, b, CUDA_R_16BF, 1, a,
                         CUDA_R_32F, 3, &be, c, CUDA_R_32F, 1, CUBLAS_COMPUTE_32F,
                         CUBLAS_GEMM_DEFAULT) == CUBLAS_STATUS_NOT_SUPPORTED,
         "operands of two types are refused");
    must(cublasGemmEx_64(h, CUBLAS_OP_N, CUBLAS_OP_N, 1, 1, 3, &al, b, CUDA_R_16BF, 1, a,
                         CUDA_R_16BF, 3, &be, c, CUDA_R_16BF, 1, CUBLAS_COMPUTE_32F_FAST_16BF,
                         CUBLAS_GEMM_DEFAULT) == CUBLAS_STATUS_NOT_SUPPORTED,
         "what is bf16 already is not rounded");
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

#include "plants_record.h"

typedef struct plant {
    const char *name;
    void (*run)(void);
    int signal;
    const char *says;
} plant;

static const plant plants[] = {
    {"a barrier is missing", no_barrier, SIGABRT, "without a barrier"},
    {"a barrier of a warp is missing", no_warp_barrier, SIGABRT, "without a barrier"},
    {"a barrier of a warp orders two warps", warp_barrier_for_two, SIGABRT, "without a barrier"},
    {"half a warp comes to its barrier", half_warp, SIGABRT, "only lanes 0000ffff"},
    {"an index is one too large", beside, SIGABRT, "at byte 256 of an allocation of 256 bytes"},
    {"the host reads device memory", host_load, SIGSEGV, "the host touches device memory"},
    {"the host reads what work has left", host_load_behind_work, SIGSEGV,
     "the host touches device"},
    {"the host writes before its memory", host_store_before, SIGABRT, "wrote 1 bytes before"},
    {"the host writes behind its memory", host_store_behind, SIGABRT, "wrote 3 bytes behind"},
    {"half of a float is read without a barrier", half_of_a_float, SIGABRT, "without a barrier"},
    {"a kernel gets host memory", host_address, SIGABRT, "memory that is not the GPU's"},
    {"memory is used after it was given back", after_free, SIGABRT, "not the GPU's"},
    {"some threads end before a barrier", some_ended, SIGABRT, "has ended"},
    {"threads wait at two barriers", other_barrier, SIGABRT, "while others wait at"},
    {"a lane does not come to a shuffle", no_lane, SIGABRT, "only lanes fffffff7"},
    {"two blocks write one word", blocks_meet, SIGABRT, "of block 0 writes without a barrier"},
    {"a block reads what others left, uncounted", no_counter, SIGABRT, "without a barrier"},
    {"blocks count without a fence", no_fence, SIGABRT, "without a barrier"},
    {"a counter that is not reset", no_reset, SIGABRT, "leaves a counter of blocks at 3"},
    {"a counter of another number of blocks", wrong_count, SIGABRT, "without a barrier"},
    {"a counter used twice in a launch", counted_twice, SIGABRT, "a second time"},
    {"shared memory that was not asked for", no_rest, SIGABRT, "outside its variables"},
    {"shared memory that is too short", short_rest, SIGABRT, "outside its variables"},
    {"too much shared memory asked for", large_rest, SIGABRT, "bytes of shared memory"},
    {"too much shared memory declared", large_shared, SIGABRT, "bytes of shared memory"},
    {"a misaligned address", misaligned, SIGABRT, "no multiple of that"},
    {"too large a block", large_block, SIGABRT, "a block of 2048"},
    {"too large a grid", large_grid, SIGABRT, "a grid of 1 x 70000"},
    {"an empty grid", no_grid, SIGABRT, "a grid of 0"},
    {"a product outside its memory", product, SIGABRT, "reaches outside"},
    {"a bf16 product outside its memory", product_bf16, SIGABRT, "reaches outside"},
    {"a workspace that is not set again", no_workspace, SIGABRT, "library's own workspace"},
    {"an operand less aligned than promised", less_aligned, SIGABRT, "no multiple of the 256"},
    {"an operand aligned as promised", as_aligned, 0, "as it should"},
    {"a product of no terms", product_of_nothing, SIGABRT, "may leave the result"},
    {"sums of bf16", sums_bf16, 0, "as it should"},
    {"nothing wrong", good, 0, "as it should"},
    {"the block that comes last", last_block, 0, "as it should"},
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
    {"recorded collectives start again", started_again, 0, "as it should"},
    {"ranks start what was not one", another_again, SIGABRT, "of its recording 1, rank 1 of its"},
    {"one rank records and one starts", one_again, SIGABRT, "of its recording 1, rank 1 of its"},
    {"recorded work for other memory", elsewhere, 0, "for memory that this rank uses no more"},
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
