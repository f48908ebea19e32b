/* The ring: what this rank is doing and the last collectives it made, in memory that others can
 * read even when this rank is stopped or dead. It lives in plain memory first, then in memory that
 * the ranks of a host share, and in a mapped file <run folder>/hang/rank-00000.ring once there is a
 * run folder.
 * One ring a process. The main thread writes entries, the watchdog's thread writes tick and state.
 * What it is not: exact under races; a reader may see an entry half written. It is a diagnosis. */
#ifndef MR_DIST_RING_H
#define MR_DIST_RING_H

#include <stdint.h>

#include "base/status.h"
#include "tensor/dtype.h"

#define MR_RING_ENTRIES 256
#define MR_RING_TEXT 40
#define MR_RING_FOLDER "hang"

/* The first kinds are those of mr_coll, in its order. */
typedef enum mr_ring_kind {
    MR_RING_ALLREDUCE,
    MR_RING_ALLGATHER,
    MR_RING_REDUCE_SCATTER,
    MR_RING_ALLTOALL,
    MR_RING_BCAST,
    MR_RING_BARRIER,
    MR_RING_START, /* of a sum that goes on in the background */
    MR_RING_WAIT,
    MR_RING_SPLIT,
    MR_RING_KINDS
} mr_ring_kind;

/* What the main thread is busy with, as far as limits are concerned (watchdog.h). */
typedef enum mr_ring_phase {
    MR_AT_START,
    MR_AT_READ,
    MR_AT_STEP,
    MR_AT_EVAL,
    MR_AT_SAVE,
    MR_AT_WORK, /* whatever commands other than train do */
    MR_AT_PHASES
} mr_ring_phase;

typedef enum mr_ring_state { MR_RING_RUNS, MR_RING_LEFT, MR_RING_FIRED } mr_ring_state;

typedef struct mr_ring_entry {
    int64_t seq;          /* number of the collective on this rank, from 1; 0: unused */
    int64_t count;        /* elements, as far as every rank passes the same */
    double entered, left; /* seconds since 1970; left 0: still in it */
    int32_t kind, dtype, comm_size, unused;
    char label[MR_RING_TEXT];
} mr_ring_entry;

typedef struct mr_ring {
    char magic[8];
    int32_t version, bytes;
    int32_t rank, size, pid, phase;
    int32_t state, is_told; /* rank 0's: a rank of the shared rings reports already */
    uint64_t job;           /* the same number on all ranks of a start */
    char host[64];
    char label[MR_RING_TEXT];             /* what the rank is doing */
    double label_since, beat;             /* when it began that, when it last made progress */
    double tick;                          /* when its watchdog's thread last ran */
    double limit;                         /* seconds that may pass after a beat */
    int64_t step, last;                   /* training step; seq of the last entry */
    mr_ring_entry entry[MR_RING_ENTRIES]; /* seq s is at s % MR_RING_ENTRIES */
} mr_ring;

/* The ring of this process; never NULL. */
mr_ring *mr_ring_mine(void);
/* Who this process is, as far as it is known. Local. */
void mr_ring_begin(int rank, int size, uint64_t job);
/* What follows belongs to `label` (copied). Local and cheap. */
void mr_ring_at(const char *label);
void mr_ring_enter(mr_ring_kind kind, int comm_size, mr_dtype t, int64_t count);
void mr_ring_leave(void);
double mr_ring_now(void); /* seconds since 1970 */
/* For the watchdog's thread: note that it ran, and the limit that holds. */
void mr_ring_tick(double limit);
void mr_ring_state_set(mr_ring_state s);

/* Go on in folder/rank-NNNNN.ring. ERR_IO leaves everything as it was. Local. */
mr_status mr_ring_map(const char *folder, int rank, int size, uint64_t job);
/* Go on in the memory of fd, which is that of all `size` ranks, rank r at r * sizeof(mr_ring); fd
 * may be closed afterwards. ERR_IO leaves everything as it was. Local. */
mr_status mr_ring_share(int fd, int rank, int size, uint64_t job);
/* The rings of all ranks while they are shared, else NULL. Any thread. */
mr_ring *mr_ring_shared(void);
/* Back to plain memory; the file is deleted unless it is to be kept. Local. */
void mr_ring_unmap(bool keep_file);
/* Strict: ERR_NO_INPUT, ERR_IO, ERR_DATA with the path. Texts are terminated. */
mr_status mr_ring_read(mr_ring *out, const char *path);
void mr_ring_path(char *out, size_t bytes, const char *folder, int rank);

const char *mr_ring_kind_name(int kind);
const char *mr_ring_phase_name(int phase);

#endif
