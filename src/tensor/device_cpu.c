/* The CPU as a device: plain memory from mr_alloc, nothing to wait for. */
#include <string.h>

#include "base/mem.h"
#include "tensor/device.h"

static mr_status cpu_alloc(mr_device *d, void **out_p, size_t bytes, const char *what)
{
    d->counts.allocs++;
    return mr_alloc(out_p, (int64_t)(bytes ? bytes : 1), 1, what);
}

static void cpu_free(mr_device *d, void *ptr)
{
    (void)d;
    MR_FREE(ptr);
}

static mr_status cpu_send(mr_device *d, void *dst, const void *src, size_t bytes)
{
    d->counts.copies_in++;
    if (bytes) memmove(dst, src, bytes);
    return MR_OK;
}

static mr_status cpu_to_device(mr_device *d, void *dst, const void *src, size_t bytes)
{
    d->counts.waits++;
    return cpu_send(d, dst, src, bytes);
}

static mr_status cpu_to_host(mr_device *d, void *dst, const void *src, size_t bytes)
{
    d->counts.copies_out++;
    d->counts.waits++;
    if (bytes) memmove(dst, src, bytes);
    return MR_OK;
}

static mr_status cpu_fill(mr_device *d, void *dst, int byte, size_t bytes)
{
    (void)d;
    memset(dst, byte, bytes);
    return MR_OK;
}

static void cpu_nothing(mr_device *d) { (void)d; }

static mr_status cpu_sync(mr_device *d)
{
    d->counts.waits++;
    return MR_OK;
}

mr_status mr_device_replays_nothing(mr_device *d, mr_recorded kind, const mr_signature *s,
                                    bool *is_done_p)
{
    (void)d;
    (void)kind;
    (void)s;
    *is_done_p = false;
    return MR_OK;
}

static mr_status cpu_capture(mr_device *d, mr_recorded kind, mr_capture what)
{
    (void)kind;
    (void)d, (void)what;
    return MR_OK;
}

mr_status mr_device_open_cpu(mr_device **out_p, mr_dtype real)
{
    mr_device *d = NULL;
    MR_TRY(MR_ALLOC(&d, 1, "device"));
    *d = (mr_device){.name = real == MR_F64 ? "cpu64" : "cpu",
                     .real = real,
                     .act = real,
                     .host_memory = true,
                     .alloc = cpu_alloc,
                     .free = cpu_free,
                     .alloc_host = cpu_alloc,
                     .free_host = cpu_free,
                     .to_device = cpu_to_device,
                     .to_host = cpu_to_host,
                     .send = cpu_send,
                     .fill = cpu_fill,
                     .enter = cpu_nothing,
                     .leave = cpu_nothing,
                     .sync = cpu_sync,
                     .capture = cpu_capture,
                     .replay = mr_device_replays_nothing};
    *out_p = d;
    return MR_OK;
}
