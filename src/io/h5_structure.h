/* The structure of a data set file, read from its bytes before HDF5 sees them. HDF5 1.10 can be
 * crashed by hostile metadata with right checksums, almost always through what a data set does not
 * need: heaps, B-trees, shared messages, variable length. So only the few messages that the schema
 * needs reach it. What it is not: a check of names, shapes and counts (h5_read.c). */
#ifndef MR_IO_H5_STRUCTURE_H
#define MR_IO_H5_STRUCTURE_H

#include <stdint.h>

#include "base/status.h"

/* fd: the open file of file_bytes bytes. Local. ERR_DATA with path and object; ERR_IO. */
mr_status mr_h5_structure_check(int fd, int64_t file_bytes, const char *path);

#endif
