/* One training step as a safetensors file, so that anybody can recompute it (model.md §10). */
#ifndef MR_TRAIN_DUMP_H
#define MR_TRAIN_DUMP_H

#include "train/trainer.h"

/* Forward and backward of global batch 0, epoch 0, without dropout and gate noise, written by rank
 * 0 to `path` (an existing file is refused). Rows are in ascending global row order, so any number
 * of ranks gives the same file up to rounding. steps > 1: then training goes on with this batch and
 * these draws, and the total loss of every step is in the file, too. t must have been created with
 * stochastic = false and an optimizer. Collective. */
mr_status mr_dump_step(mr_trainer *t, int64_t steps, const char *path);

#endif
