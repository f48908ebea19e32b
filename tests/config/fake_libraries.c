/* Preloaded by test_library_settings.py: an OpenBLAS that takes the CPU for FAKE_CORE, and a line
 * on standard error for every start of the program. */
#include <stdio.h>
#include <stdlib.h>

char *openblas_get_corename(void);

char *openblas_get_corename(void)
{
    char *name = getenv("FAKE_CORE");
    return name ? name : (char *)"Haswell";
}

__attribute__((constructor)) static void tell(void)
{
    const char *core = getenv("OPENBLAS_CORETYPE"), *spins = getenv("GOMP_SPINCOUNT");
    fprintf(stderr, "start with %s %s\n", core ? core : "-", spins ? spins : "-");
}
