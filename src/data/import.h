/* Import: an interaction log and feature files become a data set.
 * What it is not: file output (io/h5_dataset.h) or options (cli). Formats: docs/data-format.md. */
#ifndef MR_DATA_IMPORT_H
#define MR_DATA_IMPORT_H

#include <stdint.h>

#include "base/status.h"
#include "data/check.h"
#include "data/dataset.h"
#include "data/titles_glove.h"

#define MR_IMPORT_DTYPE_KEEP (-1)

/* Paths are NULL when not given. Feature files have one row per item of the log, in ascending order
 * of the original ids and before any filtering, or in the order of feature_ids (one original id a
 * line; more items than the log has are allowed). */
typedef struct mr_import_spec {
    const char *interactions;    /* required; "-" = standard input */
    const char *visual, *frames; /* npy [I, D], [I, K, D] */
    const char *text;            /* npy [I, d_h]; not together with titles and glove */
    const char *feature_ids;
    const char *titles, *glove; /* both or neither */
    const char *name;           /* NULL: from the file name of interactions */
    int64_t k_core, min_len;    /* 0 or 1 = off */
    int feature_dtype;          /* MR_F16, MR_F32, or KEEP: float16 stays, all else float32 */
} mr_import_spec;

typedef struct mr_import_report {
    mr_stats before, after;
    bool used_glove, visual_is_frame_mean;
    mr_title_report titles;
    int64_t unused_rows; /* rows of feature_ids whose item is not in the log */
} mr_import_report;

/* Not collective. The caller frees *out. ERR_USAGE for options that contradict each other,
 * ERR_NO_INPUT, ERR_DATA, ERR_IO, ERR_MEMORY. Frames without visual give visual = their mean. */
mr_status mr_import(mr_dataset *out, mr_import_report *report, const mr_import_spec *spec);

#endif
