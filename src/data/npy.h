/* NumPy's .npy files: strict reading, row by row, and writing.
 * What it is not: pickles. Object arrays, Fortran order, big-endian numbers and trailing bytes are
 * refused. */
#ifndef MR_DATA_NPY_H
#define MR_DATA_NPY_H

#include <stdint.h>

#include "base/status.h"
#include "tensor/dtype.h"

#define MR_NPY_RANK 4

typedef struct mr_npy {
    const char *path; /* borrowed */
    int fd;
    mr_dtype dtype; /* f2 f4 f8 i4 i8 u1 */
    int rank;
    int64_t dims[MR_NPY_RANK], data_at;
} mr_npy;

/* Versions 1.0 and 2.0. The shape times the element size must be exactly the rest of the file.
 * ERR_NO_INPUT, ERR_IO, ERR_DATA. */
mr_status mr_npy_open(mr_npy *f, const char *path);
/* Row r (dims[1..] elements) as stored, into out. ERR_IO. */
mr_status mr_npy_row(const mr_npy *f, int64_t r, void *out);
int64_t mr_npy_row_elems(const mr_npy *f);
void mr_npy_close(mr_npy *f);

/* Write data [dims] as version 1.0: temporary file, fsync, rename over `path`. Types as above.
 * ERR_IO. */
mr_status mr_npy_write(const char *path, mr_dtype dtype, int rank, const int64_t *dims,
                       const void *data);

#endif
