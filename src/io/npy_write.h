/* Writer of .npy files (version 1.0, little-endian, C order): metrics per user, embeddings.
 * What it is not: a reader, nor for an array that is in memory as a whole (both: data/npy.h); the
 * rows of a table that is spread over ranks come here one after the other. Local to the rank. */
#ifndef MR_IO_NPY_WRITE_H
#define MR_IO_NPY_WRITE_H

#include <stdint.h>

#include "base/status.h"
#include "tensor/dtype.h"

typedef struct mr_npy_writer mr_npy_writer;
/* dtype: F32, F64, I32, I64. The file appears under its name when it is complete. */
mr_status mr_npy_create(mr_npy_writer **out_p, const char *path, mr_dtype dtype, int ndim,
                        const int64_t *dim);
mr_status mr_npy_append(mr_npy_writer *w, const void *data, int64_t elements);
/* ERR_INTERNAL when elements are missing. Frees the writer in any case. */
mr_status mr_npy_finish(mr_npy_writer **w_p);
void mr_npy_cancel(mr_npy_writer **w_p);

#endif
