/* Counted, zeroed, aligned host memory with fault injection. */
#include "base/mem.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Linux 5.14; older kernels refuse it, and pages come one by one. */
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE                                                                        \
    23 /* Linux 5.14; older kernels refuse it, and pages come one by one                           \
        */
#endif

/* A header in front of every block; 64 bytes keep the alignment. */
#define HEADER 64
/* From this size on memory comes from the kernel directly: zeroed, and a page that is never touched
 * (the unused capacity of a batch buffer) costs nothing. */
#define MAP_FROM ((size_t)1 << 20)

typedef struct block_header {
    size_t bytes;        /* as asked for */
    size_t mapped_bytes; /* of the mapping, 0 = from the C library */
} block_header;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int64_t now_bytes, peak_bytes, fail_at;

static bool must_fail(int64_t bytes)
{
    pthread_mutex_lock(&lock);
    bool fail = fail_at > 0 && --fail_at == 0;
    if (!fail) {
        now_bytes += bytes;
        if (now_bytes > peak_bytes) peak_bytes = now_bytes;
    }
    pthread_mutex_unlock(&lock);
    return fail;
}

mr_status mr_alloc(void **out_p, int64_t count, size_t elem_bytes, const char *what)
{
    *out_p = NULL;
    if (count == 0) return MR_OK;
    MR_CHECK(count > 0 && (uint64_t)count <= (SIZE_MAX / 2 - HEADER) / elem_bytes, MR_ERR_MEMORY,
             "%s: %lld elements of %zu bytes cannot be allocated", what, (long long)count,
             elem_bytes);
    size_t bytes = (size_t)count * elem_bytes, total = (bytes + HEADER + 63) / 64 * 64;
    MR_CHECK(!must_fail((int64_t)bytes), MR_ERR_MEMORY, "%s: no memory for %zu bytes", what, bytes);
    block_header h = {.bytes = bytes, .mapped_bytes = total >= MAP_FROM ? total : 0};
    char *base = h.mapped_bytes
                     ? mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
                     : aligned_alloc(64, total);
    MR_CHECK(base && base != MAP_FAILED, MR_ERR_MEMORY,
             "%s: no memory for %zu bytes; use fewer or smaller tensors", what, bytes);
    if (!h.mapped_bytes) memset(base, 0, total);
    memcpy(base, &h, sizeof h);
    *out_p = base + HEADER;
    return MR_OK;
}

void mr_free_ptr(void **ptr_p)
{
    if (!*ptr_p) return;
    char *base = (char *)*ptr_p - HEADER;
    block_header h;
    memcpy(&h, base, sizeof h);
    pthread_mutex_lock(&lock);
    now_bytes -= (int64_t)h.bytes;
    pthread_mutex_unlock(&lock);
    if (h.mapped_bytes)
        munmap(base, h.mapped_bytes);
    else
        free(base);
    *ptr_p = NULL;
}

void mr_mem_touch(void *ptr)
{
    block_header h;
    if (!ptr) return;
    memcpy(&h, (char *)ptr - HEADER, sizeof h);
    if (h.mapped_bytes) madvise((char *)ptr - HEADER, h.mapped_bytes, MADV_POPULATE_WRITE);
}

void *mr_plain_alloc(size_t bytes) { return malloc(bytes); }

int64_t mr_mem_now_bytes(void) { return now_bytes; }
int64_t mr_mem_peak_bytes(void) { return peak_bytes; }

void mr_mem_fail_at(int64_t n)
{
    pthread_mutex_lock(&lock);
    fail_at = n;
    pthread_mutex_unlock(&lock);
}
