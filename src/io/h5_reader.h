/* What the two halves of the reader of data sets share: metadata (h5_meta.c), then arrays
 * (h5_read.c). Only src/io includes this. */
#ifndef MR_IO_H5_READER_H
#define MR_IO_H5_READER_H

#include "io/h5_dataset.h"
#include "io/h5_schema.h"

typedef struct mr_h5_reader {
    const char *path;
    mr_comm *comm;            /* borrowed; NULL = this process alone */
    mr_comm *shared;          /* comm when all its ranks read together through MPI-IO, else NULL */
    bool is_rank0;            /* rank 0 reads for all */
    mr_feature_mode features; /* as asked for; never AUTO once memory was looked at */
    int64_t file_bytes;
    mr_h5_header h;
    mr_dataset d;                 /* shapes first, data later; owned until success */
    mr_part parts[MR_PART_COUNT]; /* what the file declares; rank 0 = absent */
    void *data[MR_PART_COUNT];    /* in d: the whole part, or this rank's block of a feature */
    uint64_t sums[MR_PART_COUNT]; /* what the file declares */
    uint64_t seen[MR_PART_COUNT]; /* of what was read; 0 for an absent part */
    int64_t bad[MR_PART_COUNT];   /* values of features that are not finite */
} mr_h5_reader;

extern const char *const mr_h5_part_names[MR_PART_COUNT];

/* Everything but the arrays, by this process alone: nothing of another rank is waited for. */
mr_status mr_h5_read_metadata(mr_h5_reader *r);
/* Shapes of the data set from those of its parts. */
void mr_h5_set_shapes(mr_h5_reader *r);

#endif
