/* The watchdog: a thread that ends the job with exit code 76 when this rank makes no progress, and
 * says which rank keeps it from going on.
 * Progress is a beat: a training step, a block of evaluation, a collective while data are read,
 * bytes of a checkpoint. The limit of a phase is learnt: 5 times the longest of the last 128 times
 * between beats, the first 5 left out, and never less than least_seconds; before that is known, and
 * while the job starts or reads, a fixed multiple of least_seconds. A pause of the whole process (a
 * stopped and continued job) does not count. One watchdog a process; all functions are local but
 * mr_watch_share, mr_watch_folder and mr_watch_end, and do little or nothing while none runs. */
#ifndef MR_DIST_WATCHDOG_H
#define MR_DIST_WATCHDOG_H

#include <stdbool.h>

#include "dist/comm.h"
#include "dist/hang.h"

typedef struct mr_watch_opts {
    double least_seconds; /* 0: no watchdog */
    /* For tests: called in the watchdog's thread instead of ending the process. */
    void (*on_fire)(const mr_hang *h, void *user);
    void *user;
} mr_watch_opts;

mr_status mr_watch_start(const mr_watch_opts *o);
/* Stop the thread. Others see from now on that this rank has left. */
void mr_watch_stop(void);

void mr_watch_phase(mr_ring_phase p);
/* Progress in the phase; a time between two beats is learnt from. */
void mr_watch_beat(int64_t step);
/* A sign of life that nothing is learnt from. */
void mr_watch_alive(void);
double mr_watch_limit(void); /* seconds, of the phase; 0 without a watchdog */

/* Let the ranks see each other's rings in shared memory, which has no name and vanishes with the
 * last of them. When that cannot be, above all on several hosts, each rank goes on speaking for
 * itself. Collective. */
mr_status mr_watch_share(mr_comm *world);
/* Put the ring of every rank in <run_folder>/hang. A folder that cannot be written costs the
 * ability to name ranks, not the run: one warning. Collective. */
mr_status mr_watch_folder(const char *run_folder, mr_comm *world);
/* After work that ended in order on all ranks: remove these files. Collective. */
mr_status mr_watch_end(mr_comm *world);

/* lowest and highest: results of a reduction over the ranks' numbers of collectives. When they are
 * not equal the job ends with the culprit named (ERR_WATCHDOG without a watchdog). Local. */
mr_status mr_watch_same_place(int64_t lowest, int64_t highest);
/* A collective failed: when the ranks made different ones the job ends with the culprit named,
 * otherwise st comes back, or ERR_WATCHDOG when the watchdog had it aborted. Local. */
mr_status mr_watch_explain(mr_status st);
/* After a wait for work with collectives in it: ERR_COMM when one failed or was ended, and what was
 * waited for is nothing. With a watchdog its thread says why, and ends the process. Local. */
mr_status mr_watch_poll(void);

#endif
