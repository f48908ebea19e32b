/* The folder of a run, <run.dir>/<run.name>:
 *   lock            held while a run works here; says which process on which host
 *   config.yaml     resolved configuration        run.json   versions, hosts, data, command lines
 *   train.log       log lines                     metrics.jsonl, events.out.tfevents.*   record.h
 *   checkpoints/    io/checkpoint.h
 * Rank 0 alone touches files here; all ranks learn the outcome. */
#ifndef MR_TRAIN_RUN_FOLDER_H
#define MR_TRAIN_RUN_FOLDER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/config.h"
#include "base/status.h"
#include "dist/comm.h"
#include "io/file.h"
#include "train/record.h"

/* What run.json says beside the configuration. Texts are borrowed; device may differ by rank. */
typedef struct mr_run_info {
    const char *device;    /* "cpu", "cuda:0 NVIDIA ..." */
    const char *data_path; /* "" for the built-in demo */
    uint64_t data_checksum;
    int argc;
    const char *const *argv; /* as given; NULL: unknown */
} mr_run_info;

typedef struct mr_run_folder {
    char path[MR_PATH], checkpoints[MR_PATH]; /* the same on all ranks */
    bool is_continued; /* the folder already held this run, and checkpoint.resume is not never */
    mr_record *record; /* rank 0 after mr_run_folder_start, NULL elsewhere */
    mr_comm *world;    /* borrowed */
    int lock_fd;       /* rank 0, else -1 */
} mr_run_folder;

/* Collective. Make or re-enter the folder of this run and lock it; write config.yaml and run.json,
 * open train.log. Nothing of an earlier run is lost: run.json collects the starts. Errors:
 * ERR_CONFIG when a live process works in it, when it belongs to another configuration (the keys
 * are named) or other data, when checkpoint.resume is never and it already holds a run, when it
 * holds something else; ERR_IO with the path when it cannot be written. All ranks return the same.
 */
mr_status mr_run_folder_open(mr_run_folder **out_p, const mr_config *cfg, const mr_run_info *info,
                             mr_comm *world);
/* Collective. Open the record; resume_step: step of the checkpoint that the run goes on from, -1
 * for none. Lines of a continued run after that step are dropped (all of them for -1: it starts
 * anew). */
mr_status mr_run_folder_start(mr_run_folder *f, int64_t resume_step);
/* Local; unlocks. Accepts NULL content. */
void mr_run_folder_close(mr_run_folder **f_p);

#endif
