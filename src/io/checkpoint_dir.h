/* The folder that holds checkpoints: names, pointers, leftovers, pruning. Private to src/io; all
 * functions are local (rank 0 calls them). */
#ifndef MR_IO_CHECKPOINT_DIR_H
#define MR_IO_CHECKPOINT_DIR_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

#define MR_CHECKPOINT_NAME 64

void mr_checkpoint_name(int64_t step, char name[MR_CHECKPOINT_NAME]); /* step-000012000 */
bool mr_checkpoint_step(const char *name, int64_t *step_p);           /* false: not such a name */
/* Steps of all complete folders (those without .tmp- or .old- in the name), descending.
 * Caller MR_FREEs. */
mr_status mr_checkpoint_steps(int dir_fd, const char *dir, int64_t **steps_p, int *n_p);
/* Content of `latest` or `best`; false when absent or not the name of a checkpoint. */
bool mr_checkpoint_pointer(int dir_fd, const char *dir, const char *which, int64_t *step_p);
/* Delete what a killed run left half-written. Only while the run folder is locked. */
void mr_checkpoint_clean(int dir_fd, const char *dir);
/* After `step` was written: delete older ones but the keep - 1 newest of them and the best.
 * A failure is a warning. */
void mr_checkpoint_prune(int dir_fd, const char *dir, int64_t step, int64_t keep);

#endif
