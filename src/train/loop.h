/* The training loop: epochs of steps, validation, early stopping, checkpoints, one test at the end.
 * Invariant: everything that decides (metrics, losses, stop requests) is equal on all ranks, so all
 * ranks take the same way. */
#ifndef MR_TRAIN_LOOP_H
#define MR_TRAIN_LOOP_H

#include <signal.h>

#include "io/checkpoint.h"
#include "train/evaluate.h"
#include "train/record.h"
#include "train/trainer.h"

typedef struct mr_loop {
    mr_trainer *t;
    mr_record *record;           /* metrics of the run; NULL: nobody listens (ranks above 0) */
    const char *checkpoint_dir;  /* NULL: no checkpoints, the last weights are tested */
    const char *config_json;     /* for the checkpoints; NULL without them */
    const char *title;           /* of the progress line: "train sasrec" */
    volatile sig_atomic_t *stop; /* set by a signal: finish the step, checkpoint, leave; or NULL */
    double stop_time;            /* the same by rank 0's clock, seconds since 1970; 0: never */
    mr_checkpoint_job *saving;   /* the loop's own: a checkpoint that is being written */
    mr_train_state state;        /* where to start; where it ended */
    bool said_collapse;          /* the warning has been given */
    bool save_failed;            /* some checkpoint could not be written */
    double saved_at; /* monotonic time of the last checkpoint; 0: when the loop starts */
    /* results */
    mr_metrics valid, test; /* valid: of the best epoch */
    double train_seconds, eval_seconds;
    double save_seconds;  /* in which training waited for checkpoints */
    int64_t tested_epoch; /* whose weights were tested: the best saved one; -1: the last weights */
    bool is_unsaved;      /* saves failed, and so the weights of the best epoch are nowhere */
} mr_loop;

/* Fresh state for a run. */
mr_train_state mr_loop_state(const mr_config *cfg, const mr_dataset *data);
/* Train until early stopping, train.epochs or train.max_steps; then load the best checkpoint and
 * test. Collective. MR_STOPPED after a stop request, with a complete checkpoint; ERR_DIVERGED;
 * ERR_IO... */
mr_status mr_loop_run(mr_loop *l);

#endif
