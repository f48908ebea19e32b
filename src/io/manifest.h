/* MANIFEST.json of a checkpoint: what the files hold and how to know that they are whole.
 * The last line is an XXH3-128 of everything before it, so the manifest protects itself too.
 * What it is not: reading or writing of tensors (checkpoint_read.c, checkpoint_write.c). */
#ifndef MR_IO_MANIFEST_H
#define MR_IO_MANIFEST_H

#include "io/checkpoint.h"
#include "io/file.h"
#include "tensor/dtype.h"

#define MR_MANIFEST_NAME "MANIFEST.json"
#define MR_MANIFEST_FORMAT "mealrec-dist checkpoint"
#define MR_MANIFEST_VERSION 1
#define MR_MANIFEST_BYTES (64 << 20) /* longest accepted */

typedef struct mr_manifest_file {
    char name[64];
    int64_t bytes;
    char xxh3[MR_XXH_HEX];
} mr_manifest_file;

/* Rows [row0, row0 + rows) of a tensor are in `file`. */
typedef struct mr_manifest_part {
    int file;
    int64_t row0, rows;
} mr_manifest_part;

typedef struct mr_manifest_tensor {
    char name[64];
    int ndim;
    int64_t dim[4]; /* global shape */
    int n_parts;
    mr_manifest_part *part; /* [n_parts] ascending, covering dim[0] exactly */
} mr_manifest_tensor;

struct mr_manifest {
    mr_train_state state;
    int world;          /* ranks that wrote it */
    mr_dtype dtype;     /* of all tensors */
    bool has_optimizer; /* sections m and v exist */
    char *config_json;  /* owned; "null" when unknown */
    int n_files;
    mr_manifest_file *file;
    int n_tensors;
    mr_manifest_tensor *tensor;
};

/* The complete text with its checksum line; caller MR_FREEs. */
mr_status mr_manifest_text(const mr_manifest *m, char **text_p, size_t *bytes_p);
/* Strict parse of untrusted bytes. ERR_DATA with the path. Caller frees with mr_manifest_free. */
mr_status mr_manifest_parse(mr_manifest *m, const char *text, size_t bytes, const char *path);
void mr_manifest_free(mr_manifest *m);

#endif
