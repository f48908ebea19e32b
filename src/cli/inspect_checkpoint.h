/* The parts of `inspect` for checkpoints and safetensors files: print what they hold, verify them.
 */
#ifndef MR_CLI_INSPECT_CHECKPOINT_H
#define MR_CLI_INSPECT_CHECKPOINT_H

#include <stdbool.h>

#include "base/status.h"

/* A checkpoint's folder, or a folder of checkpoints, or a run folder (its latest good one). Every
 * checksum is verified. ERR_DATA when damaged. */
mr_status mr_inspect_checkpoint(const char *path);
/* Header, names, shapes, and for floating types the range and whether all values are finite. The
 * format has no checksum; the XXH3-128 of the file is printed so that copies can be compared. */
mr_status mr_inspect_safetensors(const char *path);
/* Starts like a safetensors file? */
bool mr_is_safetensors(const char *path);

#endif
