/* The checksum of HDF5's own metadata. What it is not: the checksums of a data set, which are XXH3
 * (h5_schema.h). */
#ifndef MR_IO_H5_CHECKSUM_H
#define MR_IO_H5_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

/* Bob Jenkins' lookup3 of bytes p[0..n), with a start value of 0, as the file format says. */
uint32_t mr_h5_checksum(const uint8_t *p, size_t n);

#endif
