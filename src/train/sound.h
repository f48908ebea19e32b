/* Are the numbers of a training still sound: finite on all ranks, and the same where ranks hold
 * copies of the same parameters? Collective over the world communicator of the trainer. */
#ifndef MR_TRAIN_SOUND_H
#define MR_TRAIN_SOUND_H

#include "train/trainer.h"

/* Whether this step's update is skipped (state_host.skip; the device has decided the same, kernel
 * step_decide), the same on all ranks. n_bad: elements of all gradients, which are still in memory,
 * that are not finite. ERR_DIVERGED when the fourth step in a row is
 * skipped; the sentence names the first such element of the first such tensor over all ranks. */
mr_status mr_sound_finite(mr_trainer *t, double n_bad);
/* Compare checksums of values and moments over the ranks that hold the same of them. ERR_INTERNAL
 * with the ranks in the minority (both sides when there is none) and the first tensor that differs.
 * One rank: nothing to compare. Costs a pass over the dense parameters (and over the table's rows
 * when there are copies of it), and 8 bytes a rank. */
mr_status mr_sound_replicas(mr_trainer *t);

#endif
