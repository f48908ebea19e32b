/* The allocations of jansson, counted when they fail.
 * Invariant: jansson is told of them before main and frees with free(), so texts made before or
 * after are all alike. */
#include "io/json_build.h"

#include <stdlib.h>

#include "base/mem.h"

static __thread int64_t lost;

static void *counted(size_t bytes)
{
    void *p = mr_plain_alloc(bytes);
    if (!p) lost++;
    return p;
}

__attribute__((constructor)) static void install(void) { json_set_alloc_funcs(counted, free); }

int64_t mr_json_lost(void) { return lost; }

char *mr_json_text(const json_t *o, size_t flags)
{
    int64_t before = lost;
    char *text = json_dumps(o, flags);
    if (lost == before) return text;
    free(text);
    return NULL;
}

mr_status mr_json_read(json_t **out_p, const char *text, size_t bytes, const char *path,
                       json_error_t *e)
{
    int64_t before = lost;
    json_t *o = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, e);
    if (lost != before) {
        json_decref(o);
        return MR_RAISE(MR_ERR_MEMORY, "no memory to read %s", path);
    }
    *out_p = o;
    return MR_OK;
}
