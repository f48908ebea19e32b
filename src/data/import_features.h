/* Feature files onto the items of a data set. Used by import.c only. */
#ifndef MR_DATA_IMPORT_FEATURES_H
#define MR_DATA_IMPORT_FEATURES_H

#include "data/dataset.h"
#include "data/import.h"
#include "data/inter_log.h"

/* Which row of the feature files belongs to which kept item. */
typedef struct mr_row_map {
    int64_t rows;  /* rows that every file must have */
    int64_t items; /* kept items */
    int32_t *row;  /* [items] */
    int64_t unused;
    const char *source; /* for sentences: what the rows must match */
} mr_row_map;

/* all: every item of the log in ascending order; kept: after filtering. Without an ids file row r
 * is the r-th item of `all`. */
mr_status mr_row_map_make(mr_row_map *m, const mr_inter_log *log, const mr_sequences *all,
                          const mr_sequences *kept, const char *ids_path);
void mr_row_map_free(mr_row_map *m);

/* rank 2: [rows, width]; rank 3: [rows, K, width]. dtype as in mr_import_spec. */
mr_status mr_feature_read(mr_feature *f, const mr_row_map *m, const char *path, int rank,
                          int dtype);
/* visual = mean over the frames, in the frames' type. */
mr_status mr_feature_mean(mr_feature *visual, const mr_feature *frames, int64_t items);
/* Take rows of a float32 array [rows of the map, width] as a feature. */
mr_status mr_feature_take(mr_feature *f, const mr_row_map *m, const float *x, int64_t width,
                          int dtype);

#endif
