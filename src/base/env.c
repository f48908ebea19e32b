/* Strict numbers from the environment. What it is not: strtol, which takes "-1", "1e9" and, with a
 * silent limit, numbers of any length. */
#include "base/env.h"

#include <stdlib.h>
#include <string.h>

bool mr_env_int(const char *name, int64_t lo, int64_t hi, const char *stops, int64_t *out)
{
    const char *p = getenv(name);
    int64_t v = 0;
    if (!p) return false;
    p += strspn(p, " \t");
    if (*p < '0' || *p > '9') return false;
    for (; *p >= '0' && *p <= '9'; p++)
        if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, *p - '0', &v))
            return false;
    if ((*p && !strchr(stops, *p)) || v < lo || v > hi) return false;
    *out = v;
    return true;
}
