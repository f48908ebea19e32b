/* Failure on purpose: the n-th following call of a kind fails. Calls of the program's own code are
 * caught by the linker (--wrap, tests.cmake), so the program itself knows nothing of it.
 *   ALLOC   mr_alloc and the allocations of jansson
 *   FILE    open, read, write, sync, rename, close, ... of the C library
 *   HDF5    every function of HDF5 that src/io calls
 *   COMM    every collective of a communicator from inject_comm
 * A failing call that gives something back (close, H5Sclose, ...) does it and then reports failure;
 * a failing collective was carried out (mr_comm_fake); all others do nothing. */
#ifndef MR_TESTS_INJECT_H
#define MR_TESTS_INJECT_H

#include <stdbool.h>
#include <stdint.h>

#include "dist/comm.h"

typedef enum inject_kind {
    INJECT_ALLOC,
    INJECT_FILE,
    INJECT_HDF5,
    INJECT_COMM,
    INJECT_KINDS
} inject_kind;

const char *inject_name(inject_kind kind);
void inject_at(inject_kind kind, int64_t n); /* n >= 1 counts from now */
/* Name of the call that failed, or NULL when n was more than all calls. Turns it off. */
const char *inject_off(void);
/* Is it the turn of this call to fail? For wrappers. */
bool inject_now(inject_kind kind, const char *call);
/* Objects of HDF5 that the program has open. */
int64_t inject_h5_open(void);
/* A communicator over inner whose calls are counted as COMM. */
mr_status inject_comm(mr_comm *inner, mr_comm **out_p);

#endif
