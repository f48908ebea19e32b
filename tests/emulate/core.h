/* What the parts of the emulator share. Everything is called with the lock of queue.cc held, and
 * kernels run one at a time on the thread that waits for them. */
#ifndef MR_EMULATE_CORE_H
#define MR_EMULATE_CORE_H

#include "cuda_runtime.h"

#include <functional>
#include <initializer_list>
#include <mutex>
#include <string>

namespace emulate
{
/* ---- settings.cc: MR_EMULATE="order=backward,when=mixed,seed=3,..." ---- */
enum order { FORWARD, BACKWARD, SHUFFLED };
enum when { LATE, EARLY, MIXED };
struct settings {
    order threads = FORWARD; /* of a block, and blocks of a grid */
    when work = LATE;        /* at the wait, at once, or either */
    uint64_t seed = 1;
    int64_t fail_alloc = 0;      /* the n-th cudaMalloc has no memory; 0: none */
    int64_t fail_launch = 0;     /* the n-th kernel that runs makes an illegal access */
    int64_t fail_collective = 0; /* the n-th collective of NCCL fails while it runs */
    int64_t fail_record = 0;     /* the n-th that is recorded fails at that */
    int64_t fail_again = 0;      /* in the n-th start of a graph that has started before */
    int signal = 0;              /* that the process gets then; 0: its GPU is lost */
    bool has_driver = true, finds_races = true;
    bool keeps_collectives = false; /* no graph takes over new arguments of a collective */
    int devices = 1, chip = 90;
    size_t memory = (size_t)4 << 30;
};
const settings &set();
/* A number below n; the same sequence for the same seed. */
uint64_t draw(uint64_t n);
/* One sentence, and the end of the process by SIGABRT. */
[[noreturn]] void stop(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- blocks.cc ---- */
void run_grid(const call &c);
/* "kernel K (block 3, thread 17)" while one runs, else "". */
const char *running();
const char *running_kernel();        /* the kernel alone */
uint32_t block_of_run(uint32_t run); /* of the launch */

/* ---- access.cc ---- */
/* What the running thread may touch beside the GPU's memory, and who it is. access.cc is told of
 * every load and store of a kernel. */
struct thread_view {
    bool is_on = false, finds_races = true;
    uintptr_t stack = 0, values = 0, arena = 0;
    size_t stack_bytes = 0, values_bytes = 0, static_bytes = 0, arena_bytes = 0, rest_bytes = 0;
    /* Blocks that run are counted through all launches: this one, and the first of its launch. */
    uint32_t run = 0, first_run = 0;
    uint32_t launch = 0, block = 0, epoch = 0, warp_epoch = 0, thread = 0;
};
extern thread_view view;
void begin_launch();
void forget_area(uintptr_t first);             /* an allocation has gone */
void forget_runs();                            /* they are counted from 1 again */
void check_access(uintptr_t at, size_t bytes); /* may the running thread touch it at all? */

/* ---- fences.cc ---- */
/* Has the other block of this launch published its writes of that epoch to the running thread? */
bool is_published(uint32_t block, uint32_t epoch);
void end_counting(); /* the launch is over */

/* ---- memory.cc ---- */
enum where { HOST, PINNED, DEVICE, NOWHERE };
/* Where [p, p + bytes) lies; NOWHERE: not inside one allocation. */
where where_is(const void *p, size_t bytes);
/* Device memory may be touched between open and close; they nest. An allocation opens when work
 * says that it is about to touch it, or a kernel does so; close looks for writes that went beside
 * it. */
void touch(std::initializer_list<const void *> all); /* host memory: no harm */
/* The same, and which allocation of the GPU or pinned memory it is; false: none. */
bool touch_area(const void *p, uintptr_t *first, size_t *bytes);
void open_memory();
void close_memory();
size_t memory_used();

/* ---- device.cc ---- */
int current_device();

/* ---- queue.cc ---- */
extern std::recursive_mutex lock;
typedef std::lock_guard<std::recursive_mutex> locked;
/* A piece of work of a stream. Same `function`: a graph may take it over with new arguments. */
struct op {
    const void *function;
    std::string name;
    std::function<void()> run;
    cudaEvent_t chain = nullptr; /* of a communicator, whose calls follow each other */
};
cudaError_t enqueue(cudaStream_t s, op o);
/* Nothing may go into a held stream. */
void hold(cudaStream_t s, bool is_held);
void check_held(cudaStream_t s);
/* What an API call returns when the process lost its GPU, or calls what a recording forbids. */
cudaError_t refused();
cudaError_t forbidden_in_capture();
/* All streams are done. */
cudaError_t drain_all();
/* Everything that is asked for fails from now on. */
void lose(cudaError_t e);
cudaError_t note(cudaError_t e); /* for cudaGetLastError; returns e */

/* ---- record.cc ---- */
/* Number of the recording that s takes part in, from 1; 0: none. */
int64_t recording_of(cudaStream_t s);
} // namespace emulate

#endif
