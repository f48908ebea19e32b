/* Safetensors files: u64 header length (little-endian), JSON header, raw row-major tensors.
 * Writer: declare every tensor, then write their bytes in the order of declaration.
 * Reader: strict; the header is checked completely (names, types, products with overflow checks,
 * offsets contiguous and inside the file) before anything is returned, data is read by pread.
 * All functions are local to the rank. */
#ifndef MR_IO_SAFETENSORS_H
#define MR_IO_SAFETENSORS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "io/file.h"
#include "tensor/dtype.h"

#define MR_ST_NAME 256
#define MR_ST_DIMS 8
#define MR_ST_TENSORS 65536
#define MR_ST_HEADER_BYTES 100000000 /* the format's own limit */

typedef struct mr_st_tensor {
    char name[MR_ST_NAME];
    mr_dtype dtype;
    int ndim; /* 0: scalar */
    int64_t dim[MR_ST_DIMS];
    int64_t begin, end; /* bytes, from the start of the data */
} mr_st_tensor;

const char *mr_st_dtype_name(mr_dtype t);                /* "F32", ... */
bool mr_st_dtype_parse(const char *name, mr_dtype *out); /* false: unknown */

typedef struct mr_st_writer mr_st_writer;
/* Create dir/name; an existing file is an error. */
mr_status mr_st_create(mr_st_writer **out_p, int dir_fd, const char *dir, const char *name);
/* The same for a file that messages call `path`. */
mr_status mr_st_create_as(mr_st_writer **out_p, int dir_fd, const char *name, const char *path);
mr_status mr_st_declare(mr_st_writer *w, const char *name, mr_dtype dtype, int ndim,
                        const int64_t *dim);
/* One string of `__metadata__`; the value is copied. */
mr_status mr_st_set_metadata(mr_st_writer *w, const char *key, const char *value);
/* The next bytes of the data: tensors in order of declaration, each row-major, without gaps. The
 * first call writes the header and reserves the whole file on the disk. */
mr_status mr_st_write(mr_st_writer *w, const void *data, size_t bytes);
/* Check that all bytes came, fsync, close. Length and XXH3-128 of the file are returned when the
 * pointers are not NULL. The writer is freed in any case; on failure the file is deleted. */
mr_status mr_st_finish(mr_st_writer **w_p, int64_t *bytes_p, char hex[MR_XXH_HEX]);
/* Give up: close and delete the file. Accepts NULL content. */
void mr_st_cancel(mr_st_writer **w_p);

typedef struct mr_st_file {
    char path[MR_PATH];
    int fd;
    int n;
    mr_st_tensor *tensor; /* [n] in the order of their data */
    int64_t data_at, data_bytes;
    int n_metadata;
    char **key, **value; /* [n_metadata] */
} mr_st_file;

/* Errors: ERR_NO_INPUT, ERR_IO, ERR_DATA with the file, the tensor and the two values. */
mr_status mr_st_open(mr_st_file **out_p, const char *path);
/* Below an open folder, links refused. */
mr_status mr_st_open_at(mr_st_file **out_p, int dir_fd, const char *dir, const char *name);
void mr_st_close(mr_st_file **f_p);
int mr_st_find(const mr_st_file *f, const char *name);            /* index or -1 */
const char *mr_st_metadata(const mr_st_file *f, const char *key); /* NULL when absent */
int64_t
mr_st_row_bytes(const mr_st_tensor *t); /* bytes of one index of dim[0]; scalar: the element */
/* Rows [row0, row0 + rows) of dim[0] into out; a scalar has one row. */
mr_status mr_st_read(const mr_st_file *f, int i, int64_t row0, int64_t rows, void *out);

#endif
