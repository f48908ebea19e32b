/* Versions of the program and of the libraries that it runs with (not those it was compiled with).
 */
#include "io/environment.h"

#include <cblas.h>
#include <hdf5.h>
#include <mpi.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

#ifndef MR_GIT_REVISION
#define MR_GIT_REVISION "unknown"
#endif

#ifndef MR_BUILD_OPTIONS
#define MR_BUILD_OPTIONS "unknown"
#endif

static void add(mr_version *out, int max, int *n, const char *name, const char *text)
{
    if (*n == max) return;
    out[*n].name = name;
    snprintf(out[*n].text, sizeof out[*n].text, "%.*s", (int)strcspn(text, "\n"), text);
    (*n)++;
}

int mr_environment(mr_version *out, int max)
{
    int n = 0, length = 0;
    char text[MPI_MAX_LIBRARY_VERSION_STRING + 1] = "";
    unsigned a = 0, b = 0, c = 0;
    struct utsname u;
    add(out, max, &n, "mealrec-dist", MR_VERSION);
    add(out, max, &n, "git", MR_GIT_REVISION);
    if (MPI_Get_library_version(text, &length) == MPI_SUCCESS) {
        text[strcspn(text, ",")] = 0;
        add(out, max, &n, "mpi", text);
    }
    if (H5get_libversion(&a, &b, &c) >= 0) {
        snprintf(text, sizeof text, "%u.%u.%u", a, b, c);
        add(out, max, &n, "hdf5", text);
    }
    add(out, max, &n, "openblas", openblas_get_config());
    add(out, max, &n, "compiler", __VERSION__);
    add(out, max, &n, "options", MR_BUILD_OPTIONS);
    if (uname(&u) == 0) {
        snprintf(text, sizeof text, "%s %s %s", u.sysname, u.release, u.machine);
        add(out, max, &n, "system", text);
    }
    return n;
}
