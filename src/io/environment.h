/* What a result depends on beside its configuration: versions of the program and its libraries. */
#ifndef MR_IO_ENVIRONMENT_H
#define MR_IO_ENVIRONMENT_H

#include <stddef.h>

typedef struct mr_version {
    const char *name; /* "mealrec-dist", "git", "mpi", "hdf5", "openblas", "compiler", "options",
                         "system" */
    char text[160];
} mr_version;

/* Fill at most max entries, return their number. Local; may be called before MPI is started. */
int mr_environment(mr_version *out, int max);

#endif
