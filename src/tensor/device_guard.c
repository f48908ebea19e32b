/* The guard device: CPU memory that is unreadable outside kernels and poisoned when new.
 * Stands in for a GPU where there is none: a host dereference of a device pointer faults, memory
 * that was never written reads as NaN (bytes 0xFF), and writing past a block hits a page without
 * access. Staging memory (alloc_host) is ordinary memory, but read-only from a send to the next
 * wait, so that writing what a GPU may not have read yet faults.
 * While work is recorded (capture) everything is refused that a CUDA graph cannot hold.
 * Invariant: between enter and leave every device block is readable and writable, otherwise none
 * is. */
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/host_memory.h"
#include "base/mem.h"
#include "tensor/device.h"

#define MAX_BLOCKS 256

typedef struct guard_block {
    char *map;  /* whole mapping: usable pages, then one page that is never accessible */
    void *user; /* end-aligned to 64 bytes, so that overruns hit the last page */
    size_t use_bytes, map_bytes;
    bool is_staging, is_sent; /* alloc_host; read-only until the next wait */
} guard_block;

typedef struct guard_impl {
    int n, depth;
    int64_t recordings; /* begun */
    guard_block block[MAX_BLOCKS];
} guard_impl;

static void protect(guard_impl *g, int access)
{
    for (int i = 0; i < g->n; i++)
        if (!g->block[i].is_staging) mprotect(g->block[i].map, g->block[i].use_bytes, access);
}

/* The host has waited: it may write to what it sent. */
static void waited(mr_device *d)
{
    guard_impl *g = d->impl;
    d->counts.waits++;
    for (int i = 0; i < g->n; i++) {
        if (!g->block[i].is_sent) continue;
        mprotect(g->block[i].map, g->block[i].use_bytes, PROT_READ | PROT_WRITE);
        g->block[i].is_sent = false;
    }
}

static void guard_enter(mr_device *d)
{
    guard_impl *g = d->impl;
    if (g->depth++ == 0) protect(g, PROT_READ | PROT_WRITE);
}

static void guard_leave(mr_device *d)
{
    guard_impl *g = d->impl;
    if (--g->depth == 0) protect(g, PROT_NONE);
}

/* For what a recording cannot hold. */
static mr_status outside(const mr_device *d, const char *what)
{
    return d->recording ? MR_RAISE(MR_ERR_INTERNAL, "%s while work is recorded", what) : MR_OK;
}

static mr_status guard_capture(mr_device *d, mr_recorded kind, mr_capture what)
{
    (void)kind;
    guard_impl *g = d->impl;
    bool is_begin = what == MR_CAPTURE_BEGIN;
    if (what == MR_CAPTURE_FORGET) return outside(d, "giving back a recording");
    MR_CHECK((d->recording != 0) != is_begin, MR_ERR_INTERNAL, "recording %s twice",
             is_begin ? "begins" : "ends");
    d->recording = is_begin ? ++g->recordings : 0;
    return MR_OK;
}

static mr_status add_block(mr_device *d, void **out_p, size_t bytes, const char *what,
                           bool is_staging)
{
    guard_impl *g = d->impl;
    size_t page = (size_t)sysconf(_SC_PAGESIZE), need = (bytes + 63) / 64 * 64;
    size_t use = (need + page - 1) / page * page;
    if (use == 0) use = page;
    MR_TRY(outside(d, "allocation"));
    MR_CHECK(g->n < MAX_BLOCKS, MR_ERR_MEMORY, "%s: more than %d blocks on the guard device", what,
             MAX_BLOCKS);
    char *map = mmap(NULL, use + page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MR_CHECK(map != MAP_FAILED, MR_ERR_MEMORY, "%s: no memory for %zu bytes", what, bytes);
    mprotect(map, use, PROT_READ | PROT_WRITE);
    if (!is_staging) memset(map, 0xFF, use);
    if (!is_staging && g->depth == 0) mprotect(map, use, PROT_NONE);
    g->block[g->n++] = (guard_block){.map = map,
                                     .user = map + use - need,
                                     .use_bytes = use,
                                     .map_bytes = use + page,
                                     .is_staging = is_staging};
    d->counts.allocs++;
    *out_p = map + use - need;
    return MR_OK;
}

static mr_status guard_alloc(mr_device *d, void **out_p, size_t bytes, const char *what)
{
    return add_block(d, out_p, bytes, what, false);
}

static mr_status guard_alloc_host(mr_device *d, void **out_p, size_t bytes, const char *what)
{
    return add_block(d, out_p, bytes, what, true);
}

static void guard_free(mr_device *d, void *ptr)
{
    guard_impl *g = d->impl;
    for (int i = 0; i < g->n; i++)
        if (g->block[i].user == ptr) {
            munmap(g->block[i].map, g->block[i].map_bytes);
            g->block[i] = g->block[--g->n];
            return;
        }
}

static mr_status guard_copy(mr_device *d, void *dst, const void *src, size_t bytes)
{
    guard_enter(d);
    if (bytes) memmove(dst, src, bytes);
    guard_leave(d);
    return MR_OK;
}

static mr_status guard_to_device(mr_device *d, void *dst, const void *src, size_t bytes)
{
    MR_TRY(outside(d, "copy to the device"));
    d->counts.copies_in++;
    MR_TRY(guard_copy(d, dst, src, bytes));
    waited(d);
    return MR_OK;
}

static mr_status guard_to_host(mr_device *d, void *dst, const void *src, size_t bytes)
{
    MR_TRY(outside(d, "copy to the host"));
    waited(d); /* before the copy: dst may be staging memory */
    d->counts.copies_out++;
    return guard_copy(d, dst, src, bytes);
}

static mr_status guard_send(mr_device *d, void *dst, const void *src, size_t bytes)
{
    guard_impl *g = d->impl;
    guard_block *b = NULL;
    MR_TRY(outside(d, "sending"));
    for (int i = 0; i < g->n && !b; i++) {
        const char *map = g->block[i].map, *from = src;
        if (g->block[i].is_staging && from >= map && from < map + g->block[i].use_bytes)
            b = &g->block[i];
    }
    MR_CHECK(b, MR_ERR_INTERNAL, "send: %zu bytes from memory that alloc_host did not make", bytes);
    d->counts.copies_in++;
    MR_TRY(guard_copy(d, dst, src, bytes));
    mprotect(b->map, b->use_bytes, PROT_READ);
    b->is_sent = true;
    return MR_OK;
}

static mr_status guard_fill(mr_device *d, void *dst, int byte, size_t bytes)
{
    guard_enter(d);
    memset(dst, byte, bytes);
    guard_leave(d);
    return MR_OK;
}

/* It stands for a GPU of as much memory as the address space of the process has left. */
static mr_status guard_memory(mr_device *d, int64_t *free_p, int64_t *total_p)
{
    const char *limit;
    (void)d;
    *free_p = *total_p = mr_process_memory_free(&limit);
    return MR_OK;
}

static mr_status guard_sync(mr_device *d)
{
    MR_TRY(outside(d, "waiting"));
    waited(d);
    return MR_OK;
}

static void guard_close(mr_device *d)
{
    guard_impl *g = d->impl;
    while (g->n) guard_free(d, g->block[0].user);
    MR_FREE(d->impl);
}

mr_status mr_device_open_guard(mr_device **out_p, mr_dtype real)
{
    mr_device *d = NULL;
    guard_impl *g = NULL;
    MR_TRY(MR_ALLOC(&d, 1, "device"));
    mr_status st = MR_ALLOC(&g, 1, "guard device");
    if (st != MR_OK) {
        MR_FREE(d);
        return st;
    }
    *d = (mr_device){.name = "guard",
                     .real = real,
                     .act = real,
                     .host_memory = false,
                     .alloc = guard_alloc,
                     .free = guard_free,
                     .memory = guard_memory,
                     .alloc_host = guard_alloc_host,
                     .free_host = guard_free,
                     .to_device = guard_to_device,
                     .to_host = guard_to_host,
                     .send = guard_send,
                     .fill = guard_fill,
                     .enter = guard_enter,
                     .leave = guard_leave,
                     .sync = guard_sync,
                     .capture = guard_capture,
                     .replay = mr_device_replays_nothing,
                     .close = guard_close,
                     .impl = g};
    *out_p = d;
    return MR_OK;
}
