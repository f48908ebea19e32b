/* Helpers of the data tests. */
#ifndef MR_TESTS_DATA_SUPPORT_H
#define MR_TESTS_DATA_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "data/dataset.h"

/* A new empty folder under $TMPDIR or /tmp; removed at exit. Path of a name in it (static ring of
 * 8). */
const char *tmp_path(const char *name);
void write_bytes(const char *path, const void *data, size_t n);
void write_text(const char *path, const char *text);
/* Whole file; caller frees. */
unsigned char *read_bytes(const char *path, size_t *n);
/* 20 users, 30 items, both features small; every array filled. */
void tiny_dataset(mr_dataset *d, uint64_t seed);
bool same_dataset(const mr_dataset *a, const mr_dataset *b);
/* splitmix64: for test inputs only. */
uint64_t next_random(uint64_t *state);

#endif
