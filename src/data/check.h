/* Meaning of a data set: counts, offsets, ids, finite features; checksums and statistics.
 * What it is not: reading or writing (io/h5_dataset.h). */
#ifndef MR_DATA_CHECK_H
#define MR_DATA_CHECK_H

#include <stdint.h>
#include <stdio.h>

#include "data/dataset.h"

/* Limits of every data set, also of what a file may declare. */
#define MR_MAX_USERS INT64_C(2147483647)
#define MR_MAX_ITEMS INT64_C(2147483645) /* PAD and MASK fit in int32 as well */
#define MR_MAX_INTER INT64_C(2147483647) /* mr_rows keeps int32 indices */
#define MR_MAX_WIDTH INT64_C(65536)
#define MR_MAX_FRAMES INT64_C(256)

/* Every invariant of dataset.h; `where` (a path) opens the sentence. Not collective. ERR_DATA. */
mr_status mr_dataset_check(const mr_dataset *d, const char *where);
/* The same but for the values of features, which a reader checks slice by slice with the next two.
 */
mr_status mr_dataset_check_form(const mr_dataset *d, const char *where);
/* NaN and infinite values among n; 0 for types other than MR_F32 and MR_F16. */
int64_t mr_count_not_finite(const void *x, mr_dtype t, int64_t n);
/* ERR_DATA when bad > 0: so many values of feature `name`. */
mr_status mr_check_finite(int64_t bad, const char *name, const char *where);

/* The seven arrays of a data set in the order of the file schema. */
enum {
    MR_PART_OFFSET,
    MR_PART_ITEMS,
    MR_PART_VISUAL,
    MR_PART_FRAMES,
    MR_PART_TEXT,
    MR_PART_USER_IDS,
    MR_PART_ITEM_IDS,
    MR_PART_COUNT
};
typedef struct mr_part {
    const char *name;
    mr_dtype dtype;
    int rank;         /* number of dims; 0 = absent */
    int64_t dims[3];  /* slowest first */
    const void *data; /* borrowed from the data set */
} mr_part;
void mr_dataset_parts(const mr_dataset *d, mr_part parts[MR_PART_COUNT]);
int64_t mr_part_bytes(const mr_part *p);

/* sums[i] = XXH3-64 of part i's bytes (0 if absent). Returns XXH3-64 over the seven sums. */
uint64_t mr_dataset_sums(const mr_dataset *d, uint64_t sums[MR_PART_COUNT]);

/* Table 1 of the paper, and what it leaves for training. */
typedef struct mr_stats {
    int64_t users, items, inter;
    double mean_len, sparsity; /* inter / users; 1 - inter / (users items) */
    int64_t min_len, max_len;
    int64_t train_rows, eval_users; /* sum max(0, n-3); users with n >= 3 */
} mr_stats;
/* length[u] interactions of user u, [users]. */
mr_stats mr_stats_of(const int64_t *length, int64_t users, int64_t items);
mr_stats mr_dataset_stats(const mr_dataset *d);
/* Columns side by side, n <= 2; heads[i] is the title of a column. */
void mr_stats_print(FILE *f, const mr_stats *s, const char *const *heads, int n);

#endif
