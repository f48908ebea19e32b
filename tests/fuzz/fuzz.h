/* Fuzz targets: what the driver, or libFuzzer, and a target know of each other.
 * A target defines LLVMFuzzerTestOneInput, fuzz_name, fuzz_words and fuzz_seed; it hands the bytes
 * to one reader of the program and passes the outcome to fuzz_judge. */
#ifndef MR_TESTS_FUZZ_H
#define MR_TESTS_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#define FUZZ_BYTES (1 << 16) /* longest input */

extern const char fuzz_name[];
extern const char *const fuzz_words[]; /* pieces that mean something to the reader; NULL ends */
/* Seed i (from 0) into out [FUZZ_BYTES]; its length, or 0 when there is no seed i. */
size_t fuzz_seed(int i, uint8_t *out);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* For targets. fuzz_folder: a private folder, in memory where there is one; removed at exit.
 * fuzz_write: the bytes as a file of that folder; its path lives as long as the process. */
const char *fuzz_folder(void);
const char *fuzz_write(const char *name, const void *data, size_t n);
/* Copy a text as a seed. */
size_t fuzz_text(uint8_t *out, const char *text);
/* st must be OK, or one of the statuses of `allowed` (bits 1 << MR_...) with a sentence that holds
 * `named`, usually the file. Anything else ends the process as a finding. */
void fuzz_judge(mr_status st, unsigned allowed, const char *named);
void fuzz_require(bool holds, const char *what);

/* For the driver. */
extern long fuzz_accepted, fuzz_refused;

#endif
