/* Device table: where memory lives and which kernels work on it.
 * What it is not: a tensor library; tensors are views made by the plan.
 * Invariant: the host never dereferences device memory, it copies through this table. `guard` makes
 * a violation fault on any machine. */
#ifndef MR_TENSOR_DEVICE_H
#define MR_TENSOR_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "tensor/dtype.h"

/* What a device was asked for since it was opened. A wait: the host stands still until everything
 * that it gave the device is done. */
typedef struct mr_device_counts {
    int64_t allocs, copies_in, copies_out, waits;
    int64_t calls;    /* of kernels of the table, by plans that run */
    int64_t launches; /* kernels and library products, recorded ones too; 0 but on cuda */
    /* Device memory of this process in allocations: now, and the most so far; 0 but on cuda. What
     * the driver takes for itself is not in it. */
    int64_t bytes, most_bytes;
    /* Recordings that were started when they were made, and later once more. What those started
     * again ask for is counted in calls and launches as when they were made. */
    int64_t recorded, replayed;
} mr_device_counts;

enum { MR_MOMENTS = 128 }; /* that a device can note: see mr_device.stamp */

/* Kinds of work that are recorded: a step, forward of a block of users. */
typedef enum mr_recorded { MR_RECORD_STEP, MR_RECORD_BLOCK, MR_N_RECORDED } mr_recorded;
/* A recording begins; it ends and starts as one piece of work; it ends and nothing of it happens,
 * because something failed in it. FORGET, outside of one: what is kept of the last is given back.
 */
typedef enum mr_capture {
    MR_CAPTURE_BEGIN,
    MR_CAPTURE_START,
    MR_CAPTURE_DROP,
    MR_CAPTURE_FORGET
} mr_capture;

#define MR_KEPT 16 /* recordings of a kind that are kept */

/* All that the arguments of recorded work follow from, besides what never changes while a device is
 * open: work of one kind and signature asks for the same, argument for argument. */
#define MR_SIGNATURE_WORDS 17
typedef struct mr_signature {
    int64_t word[MR_SIGNATURE_WORDS];
    /* With several ranks words are the same on all of them. What is this rank's own follows from
     * them: recorded work with the same words and others of these is not found but an error. */
    int64_t here[2];
} mr_signature;

typedef struct mr_device mr_device;
struct mr_device {
    const char *name;    /* cpu, cpu64, guard, cuda */
    mr_dtype real;       /* MR_F32, or MR_F64 for cpu64 */
    mr_dtype act;        /* of values and gradients of nodes: real, or MR_BF16 (a GPU alone) */
    bool host_memory;    /* ordinary loads work inside kernels (cpu, cpu64, guard) */
    bool whole_products; /* few large calls are better than pieces that fit a cache (cuda) */
    size_t row_bytes;    /* rows of activations had better be a multiple of (cuda); 0: no matter */
    mr_status (*alloc)(mr_device *d, void **out_p, size_t bytes, const char *what);
    void (*free)(mr_device *d, void *ptr);
    /* Bytes of device memory that are free, and all of them. NULL: nobody has to ask before. */
    mr_status (*memory)(mr_device *d, int64_t *free_p, int64_t *total_p);
    /* Host memory that the device reads and writes by itself, zeroed: plain memory on a CPU, pinned
     * for a GPU. */
    mr_status (*alloc_host)(mr_device *d, void **out_p, size_t bytes, const char *what);
    void (*free_host)(mr_device *d, void *ptr);
    /* Copies; each waits. */
    mr_status (*to_device)(mr_device *d, void *dst, const void *src, size_t bytes);
    mr_status (*to_host)(mr_device *d, void *dst, const void *src, size_t bytes);
    /* A copy that does not wait: it happens in order with kernels and other copies. src lies in
     * memory of alloc_host, and nothing of that block is written before the next wait. */
    mr_status (*send)(mr_device *d, void *dst, const void *src, size_t bytes);
    mr_status (*fill)(mr_device *d, void *dst, int byte, size_t bytes);
    /* Bracket device work: between enter and leave kernels may touch device memory (guard device).
     */
    void (*enter)(mr_device *d);
    void (*leave)(mr_device *d);
    mr_status (*sync)(mr_device *d);
    /* What is asked of the device between BEGIN and START is recorded, and starts as one piece of
     * work at the end. In between nothing may wait, allocate, or copy from or to the host. Work of
     * one kind is much the same every time. DROP and FORGET do not fail. Devices that cannot record
     * do everything at once. */
    mr_status (*capture)(mr_device *d, mr_recorded kind, mr_capture what);
    /* Recorded work of this signature starts once more, and *is_done_p = true. When none is kept,
     * is_done is false, and what is recorded next of this kind is kept under the signature, MR_KEPT
     * recordings of each kind, the one that was started longest ago going first. What is kept where
     * follows from the calls alone: ranks that make the same keep alike. */
    mr_status (*replay)(mr_device *d, mr_recorded kind, const mr_signature *s, bool *is_done_p);
    int64_t recording; /* number of the recording under way, from 1; 0: none */
    int place; /* of the recorded work that was started last: 0 .. MR_KEPT - 1 of its kind */
    /* Name what follows for a profiler, until the matching call with NULL; may nest. NULL where no
     * profiler could listen. Costs next to nothing while none does. */
    void (*mark)(mr_device *d, const char *name);
    /* Note moment i (0 .. MR_MOMENTS - 1): when the device comes to this place among its kernels
     * and copies, in a recording too; and the seconds between two moments, once the host has waited
     * for the later one. Both NULL where work is done when the call returns. */
    mr_status (*stamp)(mr_device *d, int i);
    mr_status (*stamped)(mr_device *d, int from, int to, double *seconds);
    void (*close)(mr_device *d); /* release impl; NULL = nothing to release */
    mr_precision precision; /* of products; the opener of a GPU sets both before the first run */
    void *stream;           /* for mr_exec.stream: mr_cuda_queue on cuda, NULL elsewhere */
    void *native_stream;    /* the cudaStream_t inside, for libraries; NULL elsewhere */
    mr_device_counts counts;
    char id[128]; /* which one, on all hosts: "cuda:0 NVIDIA H200 GPU-..."; or "" */
    void *impl;
};

/* name: cpu | cpu64 | guard | cuda; index: GPU number (ignored elsewhere).
 * Errors: ERR_DEVICE when not compiled in or no such GPU. Caller closes with mr_device_close. */
mr_status mr_device_open(mr_device **out_p, const char *name, int index);
/* Elements that rows of activations are rounded up to a multiple of: mr_graph_dims.row_unit. */
int64_t mr_device_row_unit(const mr_device *d);
/* Devices of that name that this process sees: GPUs for cuda, 1 for the others; 0 without a driver.
 */
int mr_device_count(const char *name);
/* Where a GPU hangs on the PCI bus, as the kernel writes it ("0000:3b:00.0"); "" for other devices
 * and when it cannot be told. Starts nothing on the GPU. */
void mr_device_bus_id(const char *name, int index, char *out, size_t bytes);
void mr_device_close(mr_device **dev_p);

/* Say that work will be recorded, before the first use of any GPU and before other threads are. */
void mr_device_will_record(void);
/* replay of a device that does recorded work at once. */
mr_status mr_device_replays_nothing(mr_device *d, mr_recorded kind, const mr_signature *s,
                                    bool *is_done_p);

/* Who works with devices in this process, for sentences about them: "rank 3 on node7". */
void mr_device_set_owner(int rank);
const char *mr_device_owner(void);
/* ERR_DEVICE in a sentence that names owner and device. id: mr_device.id or a name. is_lost: the
 * device does no more work for this process. */
mr_status mr_device_failed(const char *id, const char *what, const char *error, bool is_lost);
/* ERR_DEVICE: compute capability chip / 10 . chip % 10, and the least that the program runs on. */
mr_status mr_device_wrong_chip(int index, const char *name, int chip, int least);

/* One line on GPU `index`: name, memory, place on the bus, driver. *is_free_p: almost none of its
 * memory is taken. Local; errors as mr_device_open for "cuda". */
mr_status mr_device_cuda_text(int index, char *text, size_t bytes, bool *is_free_p);

mr_status mr_device_open_cpu(mr_device **out_p, mr_dtype real);
mr_status mr_device_open_guard(mr_device **out_p, mr_dtype real);
mr_status mr_device_open_cuda(mr_device **out_p, int index);
int mr_device_count_cuda(void);
void mr_device_bus_id_cuda(int index, char *out, size_t bytes);

#endif
