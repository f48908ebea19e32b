/* Host allocation: zeroed, 64-byte aligned, counted, able to fail on purpose.
 * All host memory of the program comes from here so that tests can make the n-th request fail
 * and so that peak use is known. */
#ifndef MR_BASE_MEM_H
#define MR_BASE_MEM_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* *out_p = count zeroed elements of elem_bytes; NULL for count 0. The caller frees with mr_free.
 * Errors: ERR_MEMORY with the size and `what` named. */
mr_status mr_alloc(void **out_p, int64_t count, size_t elem_bytes, const char *what);
#define MR_ALLOC(ptr_p, count, what) mr_alloc((void **)(ptr_p), (count), sizeof(**(ptr_p)), (what))
/* Frees *ptr_p and sets it to NULL; accepts NULL content. */
void mr_free_ptr(void **ptr_p);
#define MR_FREE(ptr) mr_free_ptr((void **)&(ptr))

/* Have the kernel give the pages of an allocation now, all at once: cheaper than one fault for each
 * when the whole of it will be written. Changes no content; does nothing where it is not known. */
void mr_mem_touch(void *ptr);

/* malloc for libraries that allocate through the program and free with free(); not counted. */
void *mr_plain_alloc(size_t bytes);

/* n as a multiple of unit, rounded up; unit 0 = 1. */
static inline int64_t mr_round_up(int64_t n, int64_t unit)
{
    return unit > 1 ? (n + unit - 1) / unit * unit : n;
}

int64_t mr_mem_now_bytes(void);
int64_t mr_mem_peak_bytes(void);
/* Fault injection: the n-th following allocation fails (n >= 1); 0 turns it off. */
void mr_mem_fail_at(int64_t n);

#endif
