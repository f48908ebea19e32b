/* What reader and writer of a data set file share: types, attribute names, limits.
 * Only src/io includes this (it needs hdf5.h). */
#ifndef MR_IO_H5_SCHEMA_H
#define MR_IO_H5_SCHEMA_H

#include <hdf5.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "data/check.h"
#include "data/dataset.h"

#define MR_H5_SLICE_BYTES (INT64_C(1) << 30) /* HDF5 1.10 fails above 2 GiB a call */
#define MR_H5_TEXT 64                        /* bytes of the text attributes, zero padded */

/* The attributes of the file, as one struct; header_sum covers everything else in it and the
 * shapes. */
typedef struct mr_h5_header {
    char schema[MR_H5_TEXT], name[MR_H5_TEXT];
    uint32_t version;
    uint8_t is_synthetic;
    int64_t n_users, n_items, n_inter;
    uint64_t checksum;   /* XXH3-64 over the seven sums of the datasets */
    uint64_t header_sum; /* XXH3-64, mr_h5_header_sum */
} mr_h5_header;

/* Silence HDF5's own messages, forbid plugins. Idempotent. */
void mr_h5_quiet(void);
/* The innermost message of HDF5's error stack, or "" ; valid until the next call. */
const char *mr_h5_reason(void);

/* File type = memory type: little-endian, so no conversion ever runs. Close with H5Tclose. */
hid_t mr_h5_type(mr_dtype t);
hid_t mr_h5_text_type(void);

/* Over the attributes (but checksum sums) and the shape and type of each part. */
uint64_t mr_h5_header_sum(const mr_h5_header *h, const mr_part parts[MR_PART_COUNT]);

/* Visit every attribute of the file with its type; used by both directions. */
typedef struct mr_h5_attr {
    const char *name;
    int kind;      /* 0 text, 1 u32, 2 u8, 3 i64, 4 u64 */
    size_t offset; /* into mr_h5_header */
} mr_h5_attr;
#define MR_H5_ATTRS 9
extern const mr_h5_attr mr_h5_attrs[MR_H5_ATTRS];
hid_t mr_h5_attr_type(int kind);

#endif
