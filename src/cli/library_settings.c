/* Settings of libraries that are read when a library is loaded, before main: they can only be
 * changed by an environment variable and a fresh start of the program.
 *
 * OPENBLAS_CORETYPE: OpenBLAS 0.3.21 picks its kernels by the CPU's family and model; a CPU it does
 * not know is taken for Haswell (Intel) or Zen (AMD), whose kernels use half the vector width:
 * matrix products then take twice the time.
 *
 * GOMP_SPINCOUNT: left alone, threads of libgomp that wait for each other spin for milliseconds. As
 * soon as a core is shared, by another program or another rank, the thread that has the work waits
 * for those that spin, and a step takes ten times as long. About 30 microseconds are enough to meet
 * the next parallel region without going to sleep.
 *
 * Invariant: at most one restart, because each variable that is set (by the user or by us) ends the
 * wish for it. */
#include "cli/commands.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cblas.h>

#define SPINS "1000"

static bool has_avx512(void)
{
#if defined(__x86_64__)
    /* The instruction sets of OpenBLAS' SkylakeX kernels. */
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#else
    return false;
#endif
}

static bool wants_core(void)
{
    if (getenv("OPENBLAS_CORETYPE") || !has_avx512()) return false;
    const char *core = openblas_get_corename();
    return strcmp(core, "Haswell") == 0 || strcmp(core, "Zen") == 0;
}

bool mr_blas_core_advice(char *core, size_t core_bytes, char *text, size_t text_bytes)
{
    const char *name = openblas_get_corename(), *forced = getenv("OPENBLAS_CORETYPE");
    snprintf(core, core_bytes, "%s", name);
    if (!has_avx512() || (strcmp(name, "Haswell") != 0 && strcmp(name, "Zen") != 0)) return false;
    snprintf(text, text_bytes,
             "OpenBLAS uses its %s kernels although this CPU has AVX-512, which makes matrix "
             "products about half as fast; %s",
             name, forced ? "unset OPENBLAS_CORETYPE" : "set OPENBLAS_CORETYPE=SkylakeX");
    return true;
}

void mr_library_settings(char **argv)
{
    bool core = wants_core(), spins = !getenv("OMP_WAIT_POLICY") && !getenv("GOMP_SPINCOUNT");
    if (!core && !spins) return;
    if (core && setenv("OPENBLAS_CORETYPE", "SkylakeX", 1) != 0) return;
    if (spins && setenv("GOMP_SPINCOUNT", SPINS, 1) != 0) return;
    execv("/proc/self/exe", argv);
    /* Not Linux, or /proc is not mounted: go on, correct but slower. */
    if (core) unsetenv("OPENBLAS_CORETYPE");
    if (spins) unsetenv("GOMP_SPINCOUNT");
}
