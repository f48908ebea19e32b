/* JSON with memory that may run out. jansson 2.14 is silent about that in places: it leaves a key,
 * a letter or a part of a text out and reports success. So its allocations are made here and failed
 * ones are counted, and whoever builds or reads JSON asks for the count. Only src/io and src/train
 * include this (it needs jansson.h). */
#ifndef MR_IO_JSON_BUILD_H
#define MR_IO_JSON_BUILD_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

/* Allocations of jansson that failed in this thread so far. */
int64_t mr_json_lost(void);

/* Insert or append v, which is taken over; *ok becomes false when v or o is NULL or memory is gone.
 */
static inline void mr_json_set(json_t *o, const char *key, json_t *v, bool *ok)
{
    if (json_object_set_new(o, key, v) != 0) *ok = false;
}
static inline void mr_json_append(json_t *a, json_t *v, bool *ok)
{
    if (json_array_append_new(a, v) != 0) *ok = false;
}

/* The text, or NULL without memory (or without o); the caller frees it with free(). */
char *mr_json_text(const json_t *o, size_t flags);
/* *out_p = what the text holds, keys not twice; NULL and *e filled in when it is not JSON.
 * ERR_MEMORY names `path`. */
mr_status mr_json_read(json_t **out_p, const char *text, size_t bytes, const char *path,
                       json_error_t *e);

#endif
