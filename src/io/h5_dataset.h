/* One data set as one HDF5 file (docs/data-format.md): a closed schema of contiguous, unfiltered,
 * fixed-size arrays in the root group, each with its XXH3-64, and a reader that refuses anything
 * else. What it is not: import of foreign files (data/import.h). Files made by other programs are
 * untrusted: shapes are checked against the file size before memory is asked for, and nothing
 * outside the schema is opened. */
#ifndef MR_IO_H5_DATASET_H
#define MR_IO_H5_DATASET_H

#include <stdbool.h>

#include "data/dataset.h"
#include "dist/comm.h"

#define MR_DATASET_SCHEMA "mealrec-dist"
#define MR_DATASET_SCHEMA_VERSION 1

/* May `path` be written? Asked before long work starts; the writer asks again. ERR_USAGE. */
mr_status mr_h5_check_out(const char *path, bool force);

/* Write d to `path`: temporary file beside it, fsync, rename. Sets d->checksum. Called by one
 * process. Without `force` an existing file is never touched: ERR_USAGE. ERR_DATA when d breaks a
 * rule of the data set; ERR_IO when the file system fails (the temporary file is removed). */
mr_status mr_h5_dataset_write(mr_dataset *d, const char *path, bool force);

/* Read the whole data set onto every rank. Collective over comm; NULL = this process alone. With
 * the mpi communicator of the whole world each rank reads a share through MPI-IO, collectively, and
 * the shares are gathered; with any other communicator every rank reads the whole file for itself.
 * The caller frees *out with mr_dataset_free; on error *out is untouched and all ranks have the
 * same status: ERR_NO_INPUT no such file, ERR_IO unreadable, ERR_DATA damaged or not of this
 * schema, ERR_MEMORY (before anything is allocated) when the arrays do not fit the memory of a
 * host. */
mr_status mr_h5_dataset_read(mr_dataset *out, const char *path, mr_comm *comm);
/* The same, but only rank 0 opens the file and the others get what it read (data.read=rank0). */
mr_status mr_h5_dataset_read_rank0(mr_dataset *out, const char *path, mr_comm *comm);

/* What becomes of features: every rank holds all, each rank holds a block of items
 * (mr_feature_block), or whichever fits: a block only when all do not. */
typedef enum mr_feature_mode {
    MR_FEATURES_REPLICATE,
    MR_FEATURES_SHARD,
    MR_FEATURES_AUTO
} mr_feature_mode;

typedef struct mr_h5_how {
    bool is_rank0; /* data.read=rank0 */
    mr_feature_mode features;
} mr_h5_how;

/* Both of the above by `how`. With blocks each rank reads its own rows only, and the checksum of an
 * array is carried from rank to rank; out->is_sharded tells what was chosen (never on one rank
 * alone). */
mr_status mr_h5_dataset_read_as(mr_dataset *out, const char *path, mr_comm *comm,
                                const mr_h5_how *how);

/* True when the file starts like HDF5: which reader `inspect` should call. Not collective. */
bool mr_h5_is_hdf5(const char *path);

#endif
