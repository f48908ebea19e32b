/* The guard device: CPU memory that is unreadable outside kernels and poisoned when new.
 * Stands in for a GPU where there is none: a host dereference of a device pointer faults, memory
 * that was never written reads as NaN (bytes 0xFF), and writing past a block hits a page without
 * access. Invariant: between enter and leave every block is readable and writable, otherwise none
 * is. */
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/mem.h"
#include "tensor/device.h"

#define MAX_BLOCKS 256

typedef struct guard_block {
    char *map;  /* whole mapping: usable pages, then one page that is never accessible */
    void *user; /* end-aligned to 64 bytes, so that overruns hit the last page */
    size_t use_bytes, map_bytes;
} guard_block;

typedef struct guard_impl {
    int n, depth;
    guard_block block[MAX_BLOCKS];
} guard_impl;

static void protect(guard_impl *g, int access)
{
    for (int i = 0; i < g->n; i++) mprotect(g->block[i].map, g->block[i].use_bytes, access);
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

static mr_status guard_alloc(mr_device *d, void **out_p, size_t bytes, const char *what)
{
    guard_impl *g = d->impl;
    size_t page = (size_t)sysconf(_SC_PAGESIZE), need = (bytes + 63) / 64 * 64;
    size_t use = (need + page - 1) / page * page;
    if (use == 0) use = page;
    MR_CHECK(g->n < MAX_BLOCKS, MR_ERR_MEMORY, "%s: more than %d blocks on the guard device", what,
             MAX_BLOCKS);
    char *map = mmap(NULL, use + page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MR_CHECK(map != MAP_FAILED, MR_ERR_MEMORY, "%s: no memory for %zu bytes", what, bytes);
    mprotect(map, use, PROT_READ | PROT_WRITE);
    memset(map, 0xFF, use);
    if (g->depth == 0) mprotect(map, use, PROT_NONE);
    g->block[g->n++] = (guard_block){map, map + use - need, use, use + page};
    *out_p = map + use - need;
    return MR_OK;
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

static mr_status guard_fill(mr_device *d, void *dst, int byte, size_t bytes)
{
    guard_enter(d);
    memset(dst, byte, bytes);
    guard_leave(d);
    return MR_OK;
}

static mr_status guard_sync(mr_device *d)
{
    (void)d;
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
                     .host_memory = false,
                     .alloc = guard_alloc,
                     .free = guard_free,
                     .to_device = guard_copy,
                     .to_host = guard_copy,
                     .fill = guard_fill,
                     .enter = guard_enter,
                     .leave = guard_leave,
                     .sync = guard_sync,
                     .close = guard_close,
                     .impl = g};
    *out_p = d;
    return MR_OK;
}
