/* Recipes: a good data set file is changed through HDF5's interface, as somebody who makes a
 * hostile file would. */
#ifndef MR_TESTS_FUZZ_H5_H
#define MR_TESTS_FUZZ_H5_H

#include "fuzz.h"
#include "io/h5_schema.h"

/* Carry out the recipe on the file. Byte 0: how often the checksums are made right afterwards (odd:
 * once); then operations of three bytes: what, which object, a parameter. */
void fuzz_h5_cook(const char *path, const uint8_t *recipe, size_t n);

#endif
