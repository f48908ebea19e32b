/* Numbers from the environment, which launchers, batch systems and users write: input like any
 * other, so digits only, no sign, no overflow, within the limits asked for. */
#ifndef MR_BASE_ENV_H
#define MR_BASE_ENV_H

#include <stdbool.h>
#include <stdint.h>

/* True and *out when the variable is set and reads [blanks]digits with lo <= value <= hi, followed
 * by its end or by one of the characters of `stops` (a list's first number; "" = none). Otherwise
 * false and *out is untouched: a variable that is no number says nothing. */
bool mr_env_int(const char *name, int64_t lo, int64_t hi, const char *stops, int64_t *out);

#endif
