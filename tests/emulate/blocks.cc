/* Runs the threads of a grid on one core: a thread goes on until it ends, or waits at a barrier or
 * shuffle; then another one runs. Blocks follow each other.
 * What it is not: fast or parallel. It finds what depends on the order of threads because the order
 * is chosen from outside (MR_EMULATE=order=...), and refuses what a GPU leaves undefined.
 * Invariant: threads that never wait share one stack, so that kernels without barriers cost
 * function calls only. Stacks are changed by the compiler's setjmp and longjmp, which keep as
 * little as can be; ucontext makes new ones. */
#include "core.h"

#include <cstdio>
#include <cstring>
#include <vector>

#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace emulate
{
namespace
{
enum : size_t {
    STACK_BYTES = 128 << 10,
    PAGE = 4096,
    SHARED_MOST = 48 << 10, /* without cudaFuncSetAttribute, which this program does not call */
    ARENA = 64 << 10
};
enum { LANES = 32, THREADS_MOST = 1024 };

struct fiber {
    char *stack;
    ucontext_t begin;
    void *at[5]; /* __builtin_setjmp's */
    bool has_begun = false;
};

enum state : char { NEW, READY, BARRIER, SHUFFLE, DONE };

struct thread {
    fiber *own = nullptr;
    state is = NEW;
    const site *at = nullptr;
    uint3 index = {};
};

struct warp {
    uint64_t value[LANES], result[LANES];
    int from[LANES]; /* whose value a lane gets */
    unsigned arrived = 0, mask = 0;
    int lanes = 0;
    const site *at = nullptr;
    uint32_t epoch = 0; /* barriers of the warp */
};

struct block {
    std::vector<thread> threads;
    std::vector<warp> warps;
    int ready[THREADS_MOST]; /* a ring: a thread is in it once at most */
    unsigned head = 0, tail = 0;
    int n = 0, begun = 0, waiting = 0, done = 0, current = 0;
    const site *at = nullptr; /* of the barrier that threads wait at */
    int any = 0, any_result = 0;
    uint32_t step = 1, first = 0; /* order of threads: (first + i * step) % n */
};

block b;
std::vector<thread> fresh; /* threads at the beginning of a block */
std::vector<fiber *> idle;
void *home[5];
const call *now;
char *arena;
uint64_t launch_number, stacks;
uint64_t runs = 1;                           /* the next one of a block */
uint64_t blocks, first_block, step_of_block; /* of the launch, in order as threads are */
char where_text[512];

/* The order of n things: i -> (first + i * step) % n, step without a common divisor with n. */
void choose_order(uint64_t n, uint64_t *first, uint64_t *step)
{
    *first = 0;
    *step = 1;
    if (set().threads == BACKWARD) {
        *first = n - 1;
        *step = n - 1;
    } else if (set().threads == SHUFFLED && n > 1) {
        *first = draw(n);
        for (;;) {
            uint64_t x = 1 + draw(n - 1), y = n, z = x;
            while (z) {
                uint64_t rest = y % z;
                y = z;
                z = rest;
            }
            *step = x;
            if (y == 1) break;
        }
    }
}

int thread_at(uint32_t i) { return (int)((b.first + i * b.step) % (uint32_t)b.n); }

void enter(int t)
{
    b.current = t;
    threadIdx = b.threads[(size_t)t].index;
    view.thread = (uint32_t)t;
    view.warp_epoch = b.warps[(size_t)(t / LANES)].epoch;
}

void may_go_on(int t)
{
    b.threads[(size_t)t].is = READY;
    b.ready[b.tail++ % THREADS_MOST] = t;
}

/* Everybody that waits at the barrier goes on. */
void open_barrier()
{
    b.any_result = b.any;
    b.any = b.waiting = 0;
    b.at = nullptr;
    view.epoch++;
    for (int i = 0; i < b.n; i++) may_go_on(thread_at((uint32_t)i));
}

const thread *first_in(state is, int *number)
{
    for (int i = 0; i < b.n; i++)
        if (b.threads[(size_t)i].is == is) {
            *number = i;
            return &b.threads[(size_t)i];
        }
    return nullptr;
}

/* Nobody can go on, and not all have ended. */
[[noreturn]] void stuck()
{
    int who = 0, other = 0;
    if (const thread *t = first_in(SHUFFLE, &who)) {
        const warp &w = b.warps[(size_t)(who / LANES)];
        stop("%s: thread %d waits in %s (%s:%d) with mask %08x, and only lanes %08x of its warp "
             "come",
             running(), who, t->at->what, t->at->file, t->at->line, w.mask, w.arrived);
    }
    const thread *t = first_in(BARRIER, &who);
    if (first_in(DONE, &other))
        stop("%s: thread %d waits at %s (%s:%d), and thread %d has ended", running(), who,
             t->at->what, t->at->file, t->at->line, other);
    stop("%s: thread %d waits at %s (%s:%d) and nobody comes", running(), who, t->at->what,
         t->at->file, t->at->line);
}

/* The thread that goes on: one that waits no more, or a new one. -1: all have ended. */
int next()
{
    for (;;) {
        bool has_ready = b.head != b.tail, has_new = b.begun < b.n;
        bool takes_new = has_new && (!has_ready || set().threads == BACKWARD ||
                                     (set().threads == SHUFFLED && draw(2)));
        if (takes_new) return thread_at((uint32_t)b.begun++);
        if (has_ready) return b.ready[b.head++ % THREADS_MOST];
        if (b.done == b.n) return -1;
        if (b.waiting != b.n) stuck();
        open_barrier();
    }
}

/* Never inside a function that is gone back to. */
[[noreturn]] __attribute__((noinline)) void jump(void **at) { __builtin_longjmp(at, 1); }

[[noreturn]] void resume(fiber *f)
{
    view.stack = (uintptr_t)f->stack;
    jump(f->at);
}

[[noreturn]] void go_to(int t)
{
    thread &x = b.threads[(size_t)t];
    enter(t);
    if (x.own) resume(x.own);
    static void (*const run)() = [] {
        for (;;) {
            fiber *self = b.threads[(size_t)b.current].own;
            now->thread(now->values.get());
            b.threads[(size_t)b.current].is = DONE;
            b.done++;
            int t = next();
            if (t >= 0 && !b.threads[(size_t)t].own) { /* a new one: on this stack */
                b.threads[(size_t)t].own = self;
                enter(t);
                continue;
            }
            if (__builtin_setjmp(self->at)) continue; /* taken for another thread */
            idle.push_back(self);
            if (t < 0) jump(home);
            enter(t);
            resume(b.threads[(size_t)t].own);
        }
    };
    if (idle.empty()) {
        fiber *f = new fiber;
        char *stack = (char *)mmap(nullptr, STACK_BYTES + PAGE, PROT_READ | PROT_WRITE,
                                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (stack == MAP_FAILED || mprotect(stack, PAGE, PROT_NONE)) stop("no memory for a stack");
        f->stack = stack;
        getcontext(&f->begin);
        f->begin.uc_stack.ss_sp = stack;
        /* Not all at the same place of their pages, or they share the same cache lines. */
        f->begin.uc_stack.ss_size = STACK_BYTES + PAGE - stacks++ % 32 * 320;
        f->begin.uc_link = nullptr;
        makecontext(&f->begin, run, 0);
        idle.push_back(f);
    }
    x.own = idle.back();
    idle.pop_back();
    if (x.own->has_begun) resume(x.own);
    x.own->has_begun = true;
    view.stack = (uintptr_t)x.own->stack;
    setcontext(&x.own->begin);
    stop("a stack cannot be entered");
}

/* A thread waits: if (!__builtin_setjmp(stop_here(is, at))) go_elsewhere(); and goes on behind it.
 * Written out in the functions that kernels call: returns are what a change of stacks costs. */
inline void **stop_here(state is, const site *at)
{
    thread &me = b.threads[(size_t)b.current];
    me.is = is;
    me.at = at;
    return me.own->at;
}

[[noreturn]] __attribute__((noinline)) void go_elsewhere()
{
    int t = next();
    if (t < 0) stuck();
    go_to(t);
}

void run_block()
{
    b.begun = b.waiting = b.done = 0;
    b.any = 0;
    b.head = b.tail = 0;
    b.threads = fresh;
    b.warps.assign((size_t)(b.n + LANES - 1) / LANES, warp());
    uint64_t first, step;
    choose_order((uint64_t)b.n, &first, &step);
    b.first = (uint32_t)first;
    b.step = (uint32_t)step;
    memset(arena, 0xff, view.static_bytes);
    memset(arena + ARENA - now->shared_bytes, 0xff, now->shared_bytes);
    view.epoch = 0;
    if (!__builtin_setjmp(home)) go_to(next());
}
} // namespace

const char *running()
{
    if (!now) return "";
    /* "... [with F = gather_rows_cuda(...)::<lambda...>]": the function says more than the kernel
     */
    const char *f = strstr(now->caller, "F = ");
    std::string who = now->kernel;
    if (f) who = std::string(f + 4, strcspn(f + 4, "(:")) + "'s " + who;
    snprintf(where_text, sizeof where_text, "kernel %s, block (%u,%u,%u) thread (%u,%u,%u)",
             who.c_str(), blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x, threadIdx.y,
             threadIdx.z);
    return where_text;
}

uint32_t block_of_run(uint32_t run)
{
    return (uint32_t)((first_block + (run - view.first_run) * step_of_block) % blocks);
}

const char *running_kernel() { return now ? now->kernel : ""; }

void barrier(const site *at) { (void)barrier_or(at, 0); }

int barrier_or(const site *at, int value)
{
    if (b.at && b.at != at)
        stop("%s waits at %s (%s:%d) while others wait at %s (%s:%d)", running(), at->what,
             at->file, at->line, b.at->what, b.at->file, b.at->line);
    b.at = at;
    b.waiting++;
    b.any |= value != 0;
    if (!__builtin_setjmp(stop_here(BARRIER, at))) go_elsewhere();
    return b.any_result;
}

/* All lanes of a warp; a shuffle does not order what they do to memory. */
void warp_barrier(const site *at)
{
    warp &w = b.warps[(size_t)(b.current / LANES)];
    if ((w.arrived | 1u << b.current % LANES) == ~0u) w.epoch++; /* the last one comes */
    (void)shuffle(at, ~0u, 0, b.current % LANES, 0);
}

uint64_t shuffle_xor(const site *at, unsigned mask, uint64_t bits, int lanes)
{
    return shuffle(at, mask, bits, b.current % LANES ^ lanes, lanes);
}

uint64_t shuffle(const site *at, unsigned mask, uint64_t bits, int from, int lanes)
{
    int lane = b.current % LANES;
    warp &w = b.warps[(size_t)(b.current / LANES)];
    if (!(mask >> lane & 1u) || from < 0 || from >= LANES || !(mask >> from & 1u))
        stop("%s: %s (%s:%d) with mask %08x names lane %d or its partner not", running(), at->what,
             at->file, at->line, mask, lane);
    if (w.arrived && (w.at != at || w.mask != mask || w.lanes != lanes))
        stop("%s is in %s (%s:%d, mask %08x, %d) while lanes %08x of its warp are in %s:%d (mask "
             "%08x, %d)",
             running(), at->what, at->file, at->line, mask, lanes, w.arrived, w.at->file,
             w.at->line, w.mask, w.lanes);
    w.at = at;
    w.mask = mask;
    w.lanes = lanes;
    w.value[lane] = bits;
    w.from[lane] = from;
    w.arrived |= 1u << lane;
    (void)stop_here(SHUFFLE, at);
    if (w.arrived == mask) {
        int first = b.current - lane;
        bool is_forward = set().threads == FORWARD;
        for (int i = 0; i < LANES; i++) {
            int l = is_forward ? i : LANES - 1 - i;
            if (!(mask >> l & 1u)) continue;
            w.result[l] = w.value[w.from[l]];
            may_go_on(first + l);
        }
        w.arrived = 0;
    }
    if (!__builtin_setjmp(b.threads[(size_t)b.current].own->at)) go_elsewhere();
    return w.result[lane];
}

/* As many bytes as the launch asked for end at the guard page. */
void *shared_rest() { return arena + ARENA - now->shared_bytes; }

void *shared_at(place *p, size_t bytes, size_t align, const char *name)
{
    if (p->launch != launch_number) {
        p->launch = launch_number;
        p->offset = (view.static_bytes + align - 1) / align * align;
        view.static_bytes = p->offset + bytes;
        if (view.static_bytes + now->shared_bytes > SHARED_MOST)
            stop("%s: '%s' makes %zu bytes of shared memory, more than %zu", running(), name,
                 view.static_bytes + now->shared_bytes, (size_t)SHARED_MOST);
        memset(arena + p->offset, 0xff, bytes);
    }
    return arena + p->offset;
}

void check_launch(const call &c)
{
    uint64_t threads = (uint64_t)c.block.x * c.block.y * c.block.z;
    if (!threads || threads > THREADS_MOST || c.block.z > 64)
        stop("kernel %s in %s: a block of %u x %u x %u threads; 1 to %d are possible", c.kernel,
             c.caller, c.block.x, c.block.y, c.block.z, THREADS_MOST);
    if (!c.grid.x || !c.grid.y || !c.grid.z || c.grid.x > 0x7fffffffu || c.grid.y > 65535u ||
        c.grid.z > 65535u)
        stop("kernel %s in %s: a grid of %u x %u x %u blocks; 1 to 2147483647 x 65535 x 65535 are "
             "possible",
             c.kernel, c.caller, c.grid.x, c.grid.y, c.grid.z);
    if (c.shared_bytes > SHARED_MOST)
        stop("kernel %s in %s: %zu bytes of shared memory, more than %zu", c.kernel, c.caller,
             c.shared_bytes, (size_t)SHARED_MOST);
}

/* Their numbers have 32 bits. */
static void begin_runs()
{
    if (blocks > UINT32_MAX / 2)
        stop("%s has %llu blocks, more than are told apart", now->kernel,
             (unsigned long long)blocks);
    if (runs + blocks > UINT32_MAX) {
        forget_runs();
        runs = 1;
    }
    view.first_run = (uint32_t)runs;
    begin_launch();
}

void run_grid(const call &c)
{
    if (!arena) {
        char *p =
            (char *)mmap(nullptr, ARENA + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED || mprotect(p + PAGE, ARENA, PROT_READ | PROT_WRITE))
            stop("no memory for the shared memory of blocks");
        arena = p + PAGE;
    }
    now = &c;
    launch_number++;
    view = thread_view();
    view.is_on = true;
    view.stack_bytes = PAGE + STACK_BYTES;
    view.values = (uintptr_t)c.values.get();
    view.values_bytes = c.values_bytes;
    view.arena = (uintptr_t)arena;
    view.arena_bytes = ARENA;
    view.rest_bytes = c.shared_bytes;
    view.launch = (uint32_t)launch_number;
    view.finds_races = set().finds_races;
    blockDim = c.block;
    gridDim = c.grid;
    b.n = (int)(c.block.x * c.block.y * c.block.z);
    fresh.assign((size_t)b.n, thread());
    for (unsigned i = 0; i < (unsigned)b.n; i++)
        fresh[i].index = {i % c.block.x, i / c.block.x % c.block.y, i / (c.block.x * c.block.y)};
    blocks = (uint64_t)c.grid.x * c.grid.y * c.grid.z;
    choose_order(blocks, &first_block, &step_of_block);
    begin_runs();
    for (uint64_t i = 0, at = first_block; i < blocks; i++, at = (at + step_of_block) % blocks) {
        blockIdx.x = (unsigned)(at % c.grid.x);
        blockIdx.y = (unsigned)(at / c.grid.x % c.grid.y);
        blockIdx.z = (unsigned)(at / c.grid.x / c.grid.y);
        view.block = (uint32_t)at;
        view.run = (uint32_t)runs++;
        run_block();
    }
    view.is_on = false;
    end_counting();
    now = nullptr;
}
} // namespace emulate
