/* Shared by the CUDA kernel files: launching, fixed-order reductions, dropout factors. Every one of
 * these files is compiled twice, for mr_act of float and (with MR_ACT_BF16) of bf16: act_t.
 * Invariants: no floating-point atomics; a reduction's order depends on sizes alone, never on the
 * GPU. A launch error stays with the runtime until the device's next copy or sync reports it. */
#ifndef MR_KERNELS_CUDA_COMMON_CUH
#define MR_KERNELS_CUDA_COMMON_CUH

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kernels/kernels.h"
#include "kernels/shared/act.h"
#include "kernels/shared/bf16.h"
#include "tensor/cuda_queue.h"

#ifdef MR_ACT_BF16
#ifdef __CUDACC__
#include <cuda_bf16.h>
#endif
#define MR_ACT_SPACE mr_act_bf16
#else
#define MR_ACT_SPACE mr_act_f32
#endif

namespace MR_ACT_SPACE
{
/* Declarations of all entries: a definition with other arguments does not link (table.cu). */
#define X(name, args) void name args;
MR_KERNEL_LIST(X)
#undef X

/* bf16 in memory, a float everywhere else. */
struct bf16_t {
    uint16_t bits;

    bf16_t() = default;
    __host__ __device__ bf16_t(float f)
    {
#ifdef __CUDA_ARCH__
        bits = __bfloat16_as_ushort(__float2bfloat16_rn(f));
#else
        bits = mr_float_to_bf16(f);
#endif
    }
    __host__ __device__ operator float() const { return mr_bf16_to_float(bits); }
};
#ifdef MR_ACT_BF16
typedef bf16_t act_t;
#define ACT_BLAS_TYPE CUDA_R_16BF
#else
typedef float act_t;
#define ACT_BLAS_TYPE CUDA_R_32F
#endif

enum {
    BLOCK = 256,
    MOST_THREADS = 512,
    WARP = 32,
    SHARED_BYTES = 40 << 10
}; /* shared memory every GPU has, less some */
#define ALL_LANES 0xffffffffu

/* What only nvcc understands; where another compiler takes the kernels, for the emulator of the
 * tests, that one's cuda_runtime.h defines these. SHARED(type, name, [size]): shared memory of a
 * block; SHARED_REST(type, name): what the launch asked for. */
#ifdef __CUDACC__
#define START(kernel, grid, block, bytes, stream, ...)                                             \
    kernel<<<grid, block, bytes, stream>>>(__VA_ARGS__)
#define SHARED(type, name, size) __shared__ type name size
#define SHARED_REST(type, name) extern __shared__ type name[]
#define UNROLL _Pragma("unroll")
#else
#define UNROLL
#endif

static inline mr_cuda_queue *queue_of(const mr_exec *ex) { return (mr_cuda_queue *)ex->stream; }
/* The stream of something that is about to start in it. */
static inline cudaStream_t next_in_stream(const mr_exec *ex)
{
    queue_of(ex)->counts->launches++;
    return queue_of(ex)->stream;
}
/* Start a kernel with so many bytes of SHARED_REST. */
#define LAUNCH(kernel, grid, block, bytes, ex, ...)                                                \
    START(kernel, grid, block, bytes, next_in_stream(ex), __VA_ARGS__)
static inline int64_t pieces(int64_t n, int64_t size) { return (n + size - 1) / size; }
/* Threads for a block that walks w columns: as few as take no more turns than MOST_THREADS. */
static inline unsigned threads_for(int64_t w)
{
    int64_t turns = w > MOST_THREADS ? pieces(w, MOST_THREADS) : 1;
    return w > 0 ? (unsigned)(pieces(pieces(w, turns), WARP) * WARP) : WARP;
}
/* Blocks for n elements, one a thread, that go on in strides of `most` blocks: 1 to `most`. */
__host__ __device__ static inline unsigned blocks_of_strides(int64_t n, int64_t most)
{
    int64_t all = (n + BLOCK - 1) / BLOCK;
    return (unsigned)(all < 1 ? 1 : all < most ? all : most);
}

template <class F> __global__ void each_kernel(int64_t n, F f)
{
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) f(i);
}

/* f(i) for i < n, one thread each. */
template <class F> static void each(int64_t n, const mr_exec *ex, F f)
{
    if (n > 0) LAUNCH(each_kernel<F>, (unsigned)pieces(n, BLOCK), BLOCK, 0, ex, n, f);
}

template <class F> __global__ void cells_kernel(int64_t w, F f)
{
    for (int64_t j = threadIdx.x; j < w; j += blockDim.x) f((int64_t)blockIdx.x, j);
}

/* Short rows, as many of them a block as fit. */
template <class F> __global__ void short_cells_kernel(int64_t n, int w, int rows, F f)
{
    int r = (int)threadIdx.x / w, j = (int)threadIdx.x % w;
    int64_t i = (int64_t)blockIdx.x * rows + r;
    if (r < rows && i < n) f(i, (int64_t)j);
}

/* f(i, j) for i < n, j < w, one thread each: neighbouring threads on neighbouring columns. */
template <class F> static void cells(int64_t n, int64_t w, const mr_exec *ex, F f)
{
    if (n <= 0 || w <= 0) return;
    int64_t rows = BLOCK / w;
    if (rows > 1)
        LAUNCH(short_cells_kernel<F>, (unsigned)pieces(n, rows), BLOCK, 0, ex, n, (int)w, (int)rows,
               f);
    else
        LAUNCH(cells_kernel<F>, (unsigned)n, threads_for(w), 0, ex, w, f);
}

template <class T> __device__ static inline void put(T *y, float v, int acc)
{
    *y = acc ? (float)*y + v : v;
}

/* Neighbouring elements that a thread reads and writes at once: one element a thread leaves most of
 * the memory's rate unused, above all where it has two bytes. */
template <class T, int N> struct alignas(N * sizeof(T)) several {
    enum { COUNT = N };
    T v[N];
};
template <class T> using wide = several<T, 16 / sizeof(T)>; /* the most of one load */

/* Do rows of w elements at p fall into pieces of V? NULL does. */
template <class V> static inline bool splits(const void *p, int64_t w)
{
    return w % V::COUNT == 0 && (uintptr_t)p % sizeof(V) == 0;
}
/* The same of V elements; and elements that a thread takes at once where rows of acts can be cut.
 */
template <int V, class T> static inline bool splits_by(const T *p, int64_t w)
{
    return splits<several<T, V>>(p, w);
}
enum { PIECE = wide<act_t>::COUNT };
template <class V, class T> __device__ static inline V at_once(const T *p) { return *(const V *)p; }

/* V neighbours as floats; p is a multiple of their size. */
template <int V, class T> __device__ static inline void load(float x[V], const T *p)
{
    several<T, V> s = at_once<several<T, V>>(p);
    UNROLL
    for (int v = 0; v < V; v++) x[v] = s.v[v];
}

template <int V, class T> __device__ static inline void store(T *p, const float x[V], int acc)
{
    float old[V] = {};
    several<T, V> s;
    if (acc) load<V>(old, p);
    UNROLL
    for (int v = 0; v < V; v++) s.v[v] = old[v] + x[v];
    *(several<T, V> *)p = s;
}

/* cells() for f.at<V>(i, j), which does V columns from j on: V is PIECE where rows can be cut so.
 */
template <int V, class F> struct by_pieces {
    F f;

    __device__ void operator()(int64_t i, int64_t q) const { f.template at<V>(i, q * V); }
};
template <class F>
static void cells_by(bool in_pieces, int64_t n, int64_t w, const mr_exec *ex, F f)
{
    if (in_pieces)
        cells(n, w / PIECE, ex, by_pieces<PIECE, F>{f});
    else
        cells(n, w, ex, by_pieces<1, F>{f});
}

__device__ static inline int lane() { return (int)threadIdx.x % WARP; }

/* f(y, x, ...) with y and x as pointers to what `sides` says. */
#define OF_SIDES(sides, f, y, x, ...)                                                              \
    do {                                                                                           \
        switch (sides) {                                                                           \
        case MR_ACT_ACT: f((act_t *)(y), (const act_t *)(x), __VA_ARGS__); break;                  \
        case MR_ACT_REAL: f((act_t *)(y), (const float *)(x), __VA_ARGS__); break;                 \
        case MR_REAL_ACT: f((float *)(y), (const act_t *)(x), __VA_ARGS__); break;                 \
        case MR_REAL_REAL: f((float *)(y), (const float *)(x), __VA_ARGS__); break;                \
        }                                                                                          \
    } while (0)

/* Rows from..to-1 of x[.,w], ld elements apart, = 0, shared out among all blocks. What lies behind
 * the tokens of a batch, whose number kernels read from device memory. */
template <class T>
__device__ static inline void zero_rows(T *x, int64_t from, int64_t to, int64_t w, int64_t ld)
{
    for (int64_t i = from + blockIdx.x; i < to; i += gridDim.x)
        for (int64_t j = threadIdx.x; j < w; j += blockDim.x) x[i * ld + j] = 0;
}

/* The same value in every lane. */
template <class T> __device__ static inline T warp_sum(T v)
{
    for (int o = WARP / 2; o > 0; o /= 2) v += __shfl_xor_sync(ALL_LANES, v, o);
    return v;
}

template <class T> __device__ static inline T warp_max(T v)
{
    for (int o = WARP / 2; o > 0; o /= 2) {
        T other = __shfl_xor_sync(ALL_LANES, v, o);
        v = other > v ? other : v;
    }
    return v;
}

/* Number of the lowest bit that is set; there is one. */
__device__ static inline int lowest_bit(unsigned bits)
{
#ifdef __CUDA_ARCH__
    return __ffs((int)bits) - 1;
#else
    return __builtin_ctz(bits);
#endif
}

/* Sum over the block, the same in every thread; all threads take part. blockDim.x is a multiple of
 * 32. Lanes by the tree of warp_sum, warps in order. */
template <class T> __device__ static inline T block_sum(T v)
{
    SHARED(T, part, [WARP]);
    v = warp_sum(v);
    __syncthreads(); /* part may still be read by the call before */
    if (threadIdx.x % WARP == 0) part[threadIdx.x / WARP] = v;
    __syncthreads();
    T s = part[0];
    for (unsigned i = 1; i < blockDim.x / WARP; i++) s += part[i];
    return s;
}

template <class T> __device__ static inline T block_max(T v)
{
    SHARED(T, part, [WARP]);
    v = warp_max(v);
    __syncthreads();
    if (threadIdx.x % WARP == 0) part[threadIdx.x / WARP] = v;
    __syncthreads();
    T s = part[0];
    for (unsigned i = 1; i < blockDim.x / WARP; i++) s = part[i] > s ? part[i] : s;
    return s;
}

/* True, for the whole block alike, in the one of `count` blocks that comes here last: what the
 * others wrote before they came, it may read. Who is last is chance, so it adds what all of them
 * left in memory, in an order of its own. counter: one of mr_cuda_queue.counters; it goes from
 * count - 1 back to 0, ready for the next kernel. All threads of a block come, once a launch for
 * each counter. The barriers make the fences of one thread speak for its block. */
__device__ static inline bool is_last_block(unsigned *counter, unsigned count)
{
    SHARED(unsigned, before, [1]);
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        before[0] = atomicInc(counter, count - 1);
        __threadfence();
    }
    __syncthreads();
    return before[0] == count - 1;
}

enum { SUM_GROUP = 16 };

/* Partial sums of `count` blocks: w of each, rows ld apart. */
struct mr_parts {
    float *part;
    int64_t w, ld;
    int count;
    unsigned *counters; /* mr_cuda_queue.counters */
};

/* out(j, sum over rows of column j); block p has written row p and calls this. The last block of
 * every group adds the group's rows (in place of its first), and the last of these the groups': so
 * no block reads all rows alone while the others have long ended. */
template <class F> __device__ static void add_parts(const mr_parts &a, int p, F out)
{
    int size = SUM_GROUP;
    while ((a.count + size - 1) / size >= MR_CUDA_COUNTERS) size++;
    int groups = (a.count + size - 1) / size, group = p / size;
    int own = group < groups - 1 ? size : a.count - group * size;
    float *first = a.part + (int64_t)group * size * a.ld;
    if (!is_last_block(&a.counters[1 + group], (unsigned)own)) return;
    for (int64_t j = threadIdx.x; j < a.w; j += blockDim.x) {
        float s = 0;
        for (int k = 0; k < own; k++) s += first[k * a.ld + j];
        if (groups == 1)
            out(j, s);
        else
            first[j] = s;
    }
    if (groups == 1 || !is_last_block(&a.counters[0], (unsigned)groups)) return;
    for (int64_t j = threadIdx.x; j < a.w; j += blockDim.x) {
        float s = 0;
        for (int g = 0; g < groups; g++) s += a.part[(int64_t)g * size * a.ld + j];
        out(j, s);
    }
}

/* What the factors of a matrix row follow from, but for the column. */
struct mask_row {
    uint32_t rid, first, step;
};

/* mr_drop with everything that is constant over a call resolved; passed to kernels by value. */
struct mask {
    bool is_on;
    float scale;
    uint32_t threshold, purpose;
    uint64_t seed;
    const mr_step_state *state;
    const uint32_t *rid;
    const int32_t *pos;
    int64_t per_row;

    /* Matrix row i of width w, for factors(). */
    __device__ mask_row row(int64_t i, int64_t w) const
    {
        mask_row r = {0, 0, 0};
        if (!is_on) return r;
        int64_t lead = per_row == 1 ? i : (uint32_t)i / (uint32_t)per_row;
        r.rid = rid[lead];
        r.first = mr_drop_first_block(pos[lead] * per_row + (i - lead * per_row), w);
        r.step = state->step;
        return r;
    }

    /* Factors of elements j .. j + V - 1 of a row, j a multiple of V, which is 8, 4 or 1: one
     * Philox block has the bits of eight. */
    template <int V> __device__ void factors(float f[V], const mask_row &r, int64_t j) const
    {
        mr_u32x4 b = {{0, 0, 0, 0}};
        if (is_on) b = mr_philox(seed, purpose, r.step, r.rid, r.first + (uint32_t)(j / 8));
        UNROLL
        for (int k = 0; k < V; k++) {
            int e = V == 8 ? k : (int)(j % 8) + k;
            uint32_t word = e < 4 ? (e < 2 ? b.v[0] : b.v[1]) : (e < 6 ? b.v[2] : b.v[3]);
            uint32_t bits = e & 1 ? word >> 16 : word & 0xffffu;
            f[k] = !is_on ? 1.0f : bits >= threshold ? scale : 0.0f;
        }
    }

    /* Factor of element j of matrix row i of width w. */
    __device__ float factor(int64_t i, int64_t w, int64_t j) const
    {
        float f[1];
        factors<1>(f, row(i, w), j);
        return f[0];
    }
};

static inline mask mask_of(const mr_drop *d, const mr_exec *ex)
{
    mask m = {};
    m.is_on = d && d->p > 0;
    m.per_row = 1;
    if (!m.is_on) return m;
    m.scale = (float)mr_drop_scale(d->p);
    m.threshold = mr_drop_threshold(d->p);
    m.purpose = d->purpose;
    m.seed = ex->seed;
    m.state = ex->state;
    m.rid = d->rows.rid;
    m.pos = d->rows.pos;
    m.per_row = d->per_row;
    return m;
}
} // namespace MR_ACT_SPACE

#endif
