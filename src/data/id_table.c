/* Hash table of strings with linear probing, at most half full. */
#include "data/id_table.h"

#include <string.h>
#include <xxhash.h>

#include "base/mem.h"
#include "data/open_stream.h"

static int64_t probe(const mr_id_table *t, const char *s, int64_t len)
{
    int64_t i = (int64_t)(XXH3_64bits(s, (size_t)len) & (uint64_t)(t->slots - 1));
    for (; t->slot[i]; i = (i + 1) & (t->slots - 1)) {
        const char *have = mr_id_text(t, t->slot[i] - 1);
        if (strncmp(have, s, (size_t)len) == 0 && have[len] == '\0') break;
    }
    return i;
}

static mr_status rehash(mr_id_table *t)
{
    mr_id_table bigger = *t;
    bigger.slots = t->slots ? t->slots * 2 : 1024;
    bigger.slot = NULL;
    MR_TRY(MR_ALLOC(&bigger.slot, bigger.slots, "hash table"));
    for (int64_t i = 0; i < t->n; i++) {
        const char *s = mr_id_text(t, i);
        bigger.slot[probe(&bigger, s, (int64_t)strlen(s))] = (int32_t)(i + 1);
    }
    MR_FREE(t->slot);
    *t = bigger;
    return MR_OK;
}

mr_status mr_id_intern(mr_id_table *t, const char *s, int64_t len, int32_t *out)
{
    if (t->n * 2 >= t->slots) MR_TRY(rehash(t));
    int64_t i = probe(t, s, len);
    if (!t->slot[i]) {
        MR_CHECK(t->n < INT32_MAX - 1, MR_ERR_DATA, "more than %d distinct ids", INT32_MAX - 1);
        MR_TRY(mr_grow((void **)&t->start, &t->start_cap, t->n + 1, sizeof *t->start, "ids"));
        MR_TRY(mr_grow((void **)&t->text, &t->text_cap, t->text_used + len + 1, 1, "text of ids"));
        memcpy(t->text + t->text_used, s, (size_t)len);
        t->text[t->text_used + len] = '\0';
        t->start[t->n] = t->text_used;
        t->text_used += len + 1;
        t->slot[i] = (int32_t)++t->n;
    }
    *out = t->slot[i] - 1;
    return MR_OK;
}

int32_t mr_id_lookup(const mr_id_table *t, const char *s, int64_t len)
{
    return t->slots ? t->slot[probe(t, s, len)] - 1 : -1;
}

void mr_id_table_free(mr_id_table *t)
{
    MR_FREE(t->start);
    MR_FREE(t->text);
    MR_FREE(t->slot);
    memset(t, 0, sizeof *t);
}
