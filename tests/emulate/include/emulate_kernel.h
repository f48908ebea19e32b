/* What CUDA C adds to C++, for kernels that an ordinary compiler translates: the words in front of
 * functions, the indices, shared memory, barriers, shuffles, and the launch.
 * Included by the emulator's cuda_runtime.h; tests/emulate/blocks.cc does the work. */
#ifndef MR_EMULATE_KERNEL_H
#define MR_EMULATE_KERNEL_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include <memory>
#include <tuple>

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

/* Of the thread that runs at the moment; the emulator runs one at a time. */
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

namespace emulate
{
/* Where in the source a thread waits: one object for each place. */
struct site {
    const char *what, *file;
    int line;
};

void fence();
unsigned atomic_inc(unsigned *at, unsigned most);
int atomic_add(int *at, int x); /* of integers alone */
void barrier(const site *at);
int barrier_or(const site *at, int value);
uint64_t shuffle_xor(const site *at, unsigned mask, uint64_t bits, int lanes);
/* The bits of lane `from`; lanes: a number that all lanes say alike. */
uint64_t shuffle(const site *at, unsigned mask, uint64_t bits, int from, int lanes);
void warp_barrier(const site *at);

template <class T> uint64_t bits_of(T v)
{
    static_assert(sizeof(T) <= sizeof(uint64_t), "a shuffle moves up to 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &v, sizeof v);
    return bits;
}

template <class T> T value_of_bits(uint64_t bits)
{
    T v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

template <class T> T shuffle_xor_of(const site *at, unsigned mask, T v, int lanes)
{
    return value_of_bits<T>(shuffle_xor(at, mask, bits_of(v), lanes));
}

template <class T> T shuffle_of(const site *at, unsigned mask, T v, int from)
{
    return value_of_bits<T>(shuffle(at, mask, bits_of(v), from, 0));
}

/* A variable in shared memory: its place is chosen when the first thread of a launch meets it. */
struct place {
    uint64_t launch;
    size_t offset;
};
void *shared_at(place *p, size_t bytes, size_t align, const char *name);
void *shared_rest();
template <class T, class Tag> T &shared(Tag, const char *name)
{
    static place p;
    return *static_cast<T *>(shared_at(&p, sizeof(T), alignof(T), name));
}

/* One kernel launch. thread(values) is what every thread of the grid runs. */
struct call {
    const char *kernel, *caller; /* as written; the function that launches, with its types */
    const void *function;        /* which kernel: a graph may change arguments, but not this */
    dim3 grid, block;
    size_t shared_bytes;
    void (*thread)(const void *values);
    std::shared_ptr<const void> values; /* the kernel and its arguments */
    size_t values_bytes;
};
void start(call c, struct CUstream_st *stream);

template <class... P> struct packed {
    void (*kernel)(P...);
    std::tuple<P...> values;
    static void run(const void *p)
    {
        const packed *self = static_cast<const packed *>(p);
        std::apply(self->kernel, self->values);
    }
};

template <class... P, class... A>
void launch(const char *name, const char *caller, void (*kernel)(P...), dim3 grid, dim3 block,
            size_t shared_bytes, struct CUstream_st *stream, A... args)
{
    typedef packed<P...> values;
    start({name, caller, reinterpret_cast<const void *>(kernel), grid, block, shared_bytes,
           values::run, std::make_shared<const values>(values{kernel, std::tuple<P...>(args...)}),
           sizeof(values)},
          stream);
}
} // namespace emulate

#define MR_EMULATE_SITE(what)                                                                      \
    ([]() -> const emulate::site * {                                                               \
        static const emulate::site here = {what, __FILE__, __LINE__};                              \
        return &here;                                                                              \
    }())
#define __syncthreads() emulate::barrier(MR_EMULATE_SITE("__syncthreads"))
#define __syncthreads_or(v) emulate::barrier_or(MR_EMULATE_SITE("__syncthreads_or"), (v))
#define __syncwarp() emulate::warp_barrier(MR_EMULATE_SITE("__syncwarp"))
#define __threadfence() emulate::fence()
#define atomicInc(at, most) emulate::atomic_inc((at), (most))
#define atomicAdd(at, x) emulate::atomic_add((at), (x))
#define __shfl_xor_sync(mask, v, lanes)                                                            \
    emulate::shuffle_xor_of(MR_EMULATE_SITE("__shfl_xor_sync"), (mask), (v), (lanes))
#define __shfl_sync(mask, v, from)                                                                 \
    emulate::shuffle_of(MR_EMULATE_SITE("__shfl_sync"), (mask), (v), (from))

/* What common.cuh defines for nvcc. */
#define SHARED(type, name, size)                                                                   \
    auto &name = emulate::shared<type size>([] {}, #name) /* a lambda is a type of its own */
#define SHARED_REST(type, name) type *name = static_cast<type *>(emulate::shared_rest())
#define START(kernel, grid, block, shared_bytes, stream, ...)                                      \
    emulate::launch(#kernel, __PRETTY_FUNCTION__, kernel, grid, block, shared_bytes, stream,       \
                    __VA_ARGS__)

static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }

#endif
