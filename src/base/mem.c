/* Counted, zeroed, aligned host memory with fault injection. */
#include "base/mem.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* A header in front of every block keeps its size; 64 bytes keep the alignment. */
#define HEADER 64

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
    char *base = aligned_alloc(64, total);
    MR_CHECK(base, MR_ERR_MEMORY, "%s: no memory for %zu bytes; use fewer or smaller tensors", what,
             bytes);
    memset(base, 0, total);
    memcpy(base, &bytes, sizeof bytes);
    *out_p = base + HEADER;
    return MR_OK;
}

void mr_free_ptr(void **ptr_p)
{
    if (!*ptr_p) return;
    char *base = (char *)*ptr_p - HEADER;
    size_t bytes;
    memcpy(&bytes, base, sizeof bytes);
    pthread_mutex_lock(&lock);
    now_bytes -= (int64_t)bytes;
    pthread_mutex_unlock(&lock);
    free(base);
    *ptr_p = NULL;
}

int64_t mr_mem_now_bytes(void) { return now_bytes; }
int64_t mr_mem_peak_bytes(void) { return peak_bytes; }

void mr_mem_fail_at(int64_t n)
{
    pthread_mutex_lock(&lock);
    fail_at = n;
    pthread_mutex_unlock(&lock);
}
