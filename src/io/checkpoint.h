/* Checkpoints: the state of a training run as a folder that either is complete or is not there.
 *   <dir>/step-000012000/MANIFEST.json, shard-00000.safetensors, ...   docs/checkpoint-format.md
 *   <dir>/latest, <dir>/best      one line each: the folder's name
 * A checkpoint does not depend on the number of ranks: P ranks write it, Q ranks read it.
 * What it is not: parallel HDF5 (a full disk there hangs or crashes the job), nor a data position
 * by generator state: random numbers are functions of the seed and of the counters below. */
#ifndef MR_IO_CHECKPOINT_H
#define MR_IO_CHECKPOINT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "dist/comm.h"
#include "graph/params.h"

#define MR_STATE_SUMS 8

/* Everything that continues a run bit for bit, beside the tensors. The same on all ranks. */
typedef struct mr_train_state {
    int64_t step;           /* optimizer steps done */
    int64_t epoch;          /* epoch in progress, from 0 */
    int64_t batch_in_epoch; /* batches of it that are done */
    int64_t rows_seen;      /* training rows since the start */
    double best_metric;     /* meaningful when best_epoch >= 0 */
    int64_t best_epoch;     /* -1: no validation yet */
    int64_t best_step;
    int64_t bad_evals;                /* validations since the best one */
    int64_t skipped_in_row;           /* steps skipped in a row because of non-finite gradients */
    bool is_finished;                 /* the run ended by itself: nothing left to train */
    double seconds;                   /* training time so far */
    double epoch_sums[MR_STATE_SUMS]; /* running sums of the epoch in progress, the loop's own */
    uint64_t seed, config_hash, data_checksum;
} mr_train_state;

typedef struct mr_manifest mr_manifest;

typedef struct mr_checkpoint_save_args {
    const char *dir; /* existing folder of checkpoints */
    const mr_params *params;
    const mr_train_state *state;
    const char *config_json; /* resolved configuration, one object; NULL: unknown */
    mr_comm *world;          /* all ranks of the run */
    bool is_best;            /* also make it what `best` names */
    bool is_async;           /* by a thread, from a copy of this rank's share in memory */
    int64_t keep;            /* complete ones kept, at least 1; the best one is kept in any case */
} mr_checkpoint_save_args;

/* Collective over world. Writes values and, when they exist, Adam's moments. All ranks return the
 * same status. How tables are sharded is seen from the parameters themselves: ranks that hold the
 * same rows share the writing of them. On failure (ERR_IO and others) nothing is left of it, older
 * checkpoints are as they were, one warning says so, and training may go on. */
mr_status mr_checkpoint_save(const mr_checkpoint_save_args *a);

/* The same in pieces, so that training goes on while files are written.
 * begin (collective) takes the state as it is; with is_async a thread writes a copy of it and begin
 * returns early; dir, config_json, world and the description of params must outlive the job. A
 * failure is that of mr_checkpoint_save. Memory: this rank's rows of values and moments once more,
 * until they are on the disk. */
typedef struct mr_checkpoint_job mr_checkpoint_job;
mr_status mr_checkpoint_begin(mr_checkpoint_job **out_p, const mr_checkpoint_save_args *a);
/* Local: does a thread of this rank still work? False for NULL. */
bool mr_checkpoint_is_busy(const mr_checkpoint_job *j);
/* Collective, to be called when no rank is busy: the next stage, or the end, when *job_p becomes
 * NULL. After a failure it is NULL too. */
mr_status mr_checkpoint_advance(mr_checkpoint_job **job_p);
/* Collective: wait for the end of it. Accepts NULL content. */
mr_status mr_checkpoint_finish(mr_checkpoint_job **job_p);
/* Local, when the ranks can no longer agree: wait for the thread and forget the rest. What is left
 * on the disk is removed by the next save. */
void mr_checkpoint_abandon(mr_checkpoint_job **job_p);

typedef enum mr_checkpoint_which { MR_CHECKPOINT_LATEST, MR_CHECKPOINT_BEST } mr_checkpoint_which;

/* An opened, verified checkpoint. */
typedef struct mr_checkpoint {
    char path[1024]; /* its folder */
    char name[64];   /* last part of it */
    mr_manifest *m;
    mr_train_state state;
    const char *config_json; /* borrowed from m */
    mr_comm *world;          /* borrowed */
    int dir_fd;
} mr_checkpoint;

/* Collective. `where`: a checkpoint's own folder, a folder of checkpoints, or a run folder. In the
 * latter two `which` is looked up; a damaged or incomplete one is skipped with a warning and the
 * next older good one is taken. Every byte of every file is verified before this returns (each rank
 * a share). *out_p = NULL and OK when there is no checkpoint at all.
 * Errors: ERR_NO_INPUT no such folder; ERR_DATA damaged, with the file; ERR_IO.
 * Caller frees with mr_checkpoint_close on every rank. */
mr_status mr_checkpoint_open(mr_checkpoint **out_p, const char *where, mr_checkpoint_which which,
                             mr_comm *world);
/* Collective. Fill the allocated parameters (any split over any number of ranks) with values, and
 * with the moments when ps has them. ERR_CONFIG when names or shapes are not those of ps; ERR_DATA
 * when moments are wanted and absent. A checkpoint of the other real type is converted, with a
 * warning when training would go on from it. After a failure ps is not to be used. */
mr_status mr_checkpoint_read(const mr_checkpoint *c, mr_params *ps);
void mr_checkpoint_close(mr_checkpoint **c_p);

/* open + read + close for a known checkpoint or the latest one; ERR_NO_INPUT when there is none.
 * *state on success only; state may be NULL. */
mr_status mr_checkpoint_load(const char *where, mr_params *ps, mr_train_state *state,
                             mr_comm *world);

#endif
