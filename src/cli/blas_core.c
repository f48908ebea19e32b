/* Makes OpenBLAS use its AVX-512 kernels on CPUs that are newer than it.
 * OpenBLAS 0.3.21 picks its kernels by the CPU's family and model; a CPU it does not know is taken
 * for Haswell (Intel) or Zen (AMD), whose kernels use half the vector width: matrix products then
 * take twice the time. The choice is made when the library is loaded, so it can only be changed by
 * an environment variable and a fresh start of the program. Invariant: at most one restart, because
 * a set OPENBLAS_CORETYPE (by the user or by us) ends it. */
#include "cli/commands.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cblas.h>

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

void mr_blas_core_select(char **argv)
{
    if (getenv("OPENBLAS_CORETYPE") || !has_avx512()) return;
    const char *core = openblas_get_corename();
    if (strcmp(core, "Haswell") != 0 && strcmp(core, "Zen") != 0) return;
    if (setenv("OPENBLAS_CORETYPE", "SkylakeX", 1) != 0) return;
    execv("/proc/self/exe", argv);
    /* Not Linux, or /proc is not mounted: go on, correct but slower. */
    unsetenv("OPENBLAS_CORETYPE");
}
