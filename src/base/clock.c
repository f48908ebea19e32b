/* Monotonic time. What it is not: the date (see log.c and dist/ring.h). */
#include "base/clock.h"

#include <time.h>

double mr_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
