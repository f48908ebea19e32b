/* Building JSON with memory that may run out: every insertion is checked, the outcome is asked
 * once. Only src/io and src/train include this (it needs jansson.h). */
#ifndef MR_IO_JSON_BUILD_H
#define MR_IO_JSON_BUILD_H

#include <jansson.h>
#include <stdbool.h>
#include <stdlib.h>

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

/* The text, or NULL without memory; the caller frees it with free(). It is read back: jansson 2.14
 * leaves a part out, and reports success, when one of its small allocations fails. */
static inline char *mr_json_text(const json_t *o, size_t flags)
{
    char *text = json_dumps(o, flags);
    json_t *again = text ? json_loads(text, JSON_DECODE_ANY, NULL) : NULL;
    bool is_whole = again && json_equal(o, again);
    json_decref(again);
    if (is_whole) return text;
    free(text);
    return NULL;
}

#endif
