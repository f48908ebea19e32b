/* A model from a checkpoint, for scoring: no gradients, no optimizer. */
#ifndef MR_TRAIN_RESTORE_H
#define MR_TRAIN_RESTORE_H

#include "train/session.h"
#include "train/trainer.h"

typedef struct mr_restored {
    mr_config cfg; /* the checkpoint's, with what the user gave on the command line over it */
    mr_session session;
    mr_trainer *t;
    int64_t step, epoch;
    char path[1024]; /* folder of the checkpoint */
} mr_restored;

/* where: a checkpoint folder, or a run folder (its best checkpoint). given: the parsed command
 * line; options that were set there or in files win over the checkpoint's (data.path, dist.*, ...).
 * Collective. Errors: ERR_NO_INPUT, ERR_DATA (damaged), ERR_CONFIG (another model or data set). */
mr_status mr_restore(mr_restored *out, const char *where, const mr_config *given);
void mr_restored_free(mr_restored *m);

#endif
