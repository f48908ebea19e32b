/* Order of original ids: numeric when all of a set are integers, else bytewise (model.md §11.11).
 * What it is not: a hash table (id_table.h). */
#ifndef MR_DATA_IDS_H
#define MR_DATA_IDS_H

#include <stdbool.h>
#include <stdint.h>

/* -?[0-9]+ of any length. */
bool mr_id_is_integer(const char *s);
/* <0, 0, >0. Numeric order of integers; equal numbers spelt differently ("7", "07") order bytewise,
 * so the order is total. */
int mr_id_compare(const char *a, const char *b, bool numeric);

/* Index of `id` in a table [n, width] of zero-padded ids in ascending order (user_ids, item_ids of
 * a data set), or -1. */
int64_t mr_id_find(const char *table, int64_t n, int64_t width, const char *id);
/* True when every id of the table is an integer. */
bool mr_ids_numeric(const char *table, int64_t n, int64_t width);

#define MR_ID_MAX 255 /* longest id in bytes */

#endif
