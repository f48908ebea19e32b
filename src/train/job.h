/* A training job: session, run folder, signals, resume, the loop, and what is said at the end. */
#ifndef MR_TRAIN_JOB_H
#define MR_TRAIN_JOB_H

#include "train/loop.h"
#include "train/session.h"

typedef struct mr_job {
    const mr_config *cfg;
    mr_session *session; /* open, data loaded */
    const char *title;   /* of the progress line; NULL: "train" */
    int argc;            /* for run.json */
    const char *const *argv;
    /* results */
    mr_metrics valid, test;
    double train_seconds, eval_seconds, save_seconds; /* last: waiting for checkpoints */
    int64_t epochs; /* of the whole run, earlier starts included */
    int64_t best_epoch;
    int64_t tested_epoch; /* whose weights were tested, when they were saved; -1: the last ones */
    bool is_unsaved;      /* saves failed: the weights of the best epoch are nowhere */
} mr_job;

/* Train cfg in its run folder <run.dir>/<run.name>, going on from its latest checkpoint when there
 * is one and checkpoint.resume says so. Collective. MR_STOPPED, with a
 * checkpoint, after a request to stop (base/stop.h) or checkpoint.stop_before a SLURM job's end. */
mr_status mr_job_run(mr_job *j);
/* What a finished job still has to say, after its results: ERR_IO when the weights of the
 * best epoch were not saved. The same on all ranks. */
mr_status mr_job_saved(const mr_job *j);

#endif
