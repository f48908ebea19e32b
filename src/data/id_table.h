/* Strings to dense numbers in order of first sight: users, items, words.
 * What it is not: the final numbering (import.c sorts). */
#ifndef MR_DATA_ID_TABLE_H
#define MR_DATA_ID_TABLE_H

#include <stdint.h>

#include "base/status.h"

typedef struct mr_id_table {
    int64_t n;
    int64_t *start; /* [n] into text */
    char *text;     /* NUL-terminated strings one after another */
    int32_t *slot;  /* open addressing, number + 1; 0 = free */
    int64_t start_cap, text_cap, text_used, slots;
} mr_id_table;

/* *out = number of the string s[len], new or known. ERR_MEMORY, ERR_DATA above 2^31 - 2 strings. */
mr_status mr_id_intern(mr_id_table *t, const char *s, int64_t len, int32_t *out);
/* Number of a known string, or -1. */
int32_t mr_id_lookup(const mr_id_table *t, const char *s, int64_t len);
static inline const char *mr_id_text(const mr_id_table *t, int64_t i)
{
    return t->text + t->start[i];
}
void mr_id_table_free(mr_id_table *t);

#endif
