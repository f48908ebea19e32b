/* The walk over n: run a job with its n-th call of a kind failing, for n = 1, 2, ... until no call
 * is left to fail. */
#ifndef MR_TESTS_WALK_H
#define MR_TESTS_WALK_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "inject.h"

typedef struct walk_job {
    const char *name;
    void (*prepare)(void);       /* before each run; nothing fails here; may be NULL */
    mr_status (*run)(void);      /* gives back all it took */
    void (*judge)(mr_status st); /* what must hold now, whatever failed */
    /* Bits 1 << MR_ERR_... that a failure may give; that of an allocation gives ERR_MEMORY alone.
     */
    unsigned allowed;
} walk_job;

/* Every n that is a multiple of the stride plus one ($MR_FAULT_STRIDE, or `stride`). Fails the test
 * when a status is not allowed, when memory, files or HDF5 objects are not given back, or where
 * judge fails; the message names the call. */
void walk(const walk_job *job, inject_kind kind, int64_t stride);

#endif
