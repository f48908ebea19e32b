/* Communicator: a table of collectives with the implementations self (one rank), mpi (host memory),
 * staged (device memory through host memory) and fake (errors on purpose, for tests). This header
 * knows no MPI. Every function is collective over the communicator unless it says otherwise; counts
 * are elements; every rank passes the same counts (except where a per-rank count array is an
 * argument). Bytes sent and received are counted per kind and per purpose in `stats`. */
#ifndef MR_DIST_COMM_H
#define MR_DIST_COMM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "tensor/device.h"

typedef enum mr_reduce { MR_SUM, MR_MAX, MR_MIN } mr_reduce;

typedef enum mr_coll {
    MR_COLL_ALLREDUCE,
    MR_COLL_ALLGATHER,
    MR_COLL_REDUCE_SCATTER,
    MR_COLL_ALLTOALL,
    MR_COLL_BCAST,
    MR_COLL_BARRIER,
    MR_COLL_COUNT
} mr_coll;

/* What a call is made for: MR_FOR_ROWS and so on, the lines of purposes.def. */
typedef enum mr_purpose {
#define MR_PURPOSE(id, kind, among, when, what, received) MR_FOR_##id,
#include "dist/purposes.def"
#undef MR_PURPOSE
    MR_FOR_COUNT
} mr_purpose;

typedef struct mr_count {
    int64_t calls, bytes_in, bytes_out;
} mr_count;

typedef struct mr_comm_stats {
    int64_t calls[MR_COLL_COUNT];
    /* Payload of this rank by the formulas of a ring of P ranks (what an optimal algorithm moves,
     * not what the library happens to do). Own data and the case P = 1 count nothing. With n
     * elements of b bytes:
     *   allreduce        in = out = floor(2 (P - 1) n b / P)
     *   allgatherv       in = (total - own) b,  out = (P - 1) own b
     *   reduce_scatterv  in = (P - 1) own b,    out = (total - own) b
     *   alltoallv        exactly what goes to and comes from other ranks
     *   bcast            in = n b but for the root, out = n b but for the last after the root */
    int64_t bytes_in[MR_COLL_COUNT];
    int64_t bytes_out[MR_COLL_COUNT];
    mr_count made_for[MR_FOR_COUNT]; /* the same calls by purpose */
} mr_comm_stats;

typedef struct mr_comm mr_comm;
struct mr_comm {
    const char *kind; /* self, mpi, nccl, fake */
    int rank, size;
    mr_comm_stats stats;
    mr_purpose purpose; /* of the next call: set by the caller, MR_FOR_OTHER (0) again after it */
    mr_status (*allreduce)(mr_comm *c, void *buf, int64_t n, mr_dtype t, mr_reduce op);
    /* Start an in-place SUM; at most MR_COMM_PENDING in flight; finished by wait_all. */
    mr_status (*iallreduce)(mr_comm *c, void *buf, int64_t n, mr_dtype t);
    mr_status (*wait_all)(mr_comm *c);
    /* recv = concatenation over ranks; rank r gives counts[r] elements. In place allowed when send
     * is its own part of recv. */
    mr_status (*allgatherv)(mr_comm *c, const void *send, void *recv, const int64_t *counts,
                            mr_dtype t);
    /* send holds sum(counts) elements; recv = the SUM over ranks of part `rank`, counts[rank] long.
     */
    mr_status (*reduce_scatterv)(mr_comm *c, const void *send, void *recv, const int64_t *counts,
                                 mr_dtype t);
    mr_status (*alltoallv)(mr_comm *c, const void *send, const int64_t *send_counts, void *recv,
                           const int64_t *recv_counts, mr_dtype t);
    mr_status (*bcast)(mr_comm *c, void *buf, int64_t n, mr_dtype t, int root);
    mr_status (*barrier)(mr_comm *c);
    /* New communicator of the ranks with equal color, ordered by rank. */
    mr_status (*split)(mr_comm *c, int color, mr_comm **out_p); /* color >= 0 */
    /* New communicator of the ranks on this rank's host (shared memory), ordered by rank. */
    mr_status (*split_host)(mr_comm *c, mr_comm **out_p);
    void (*destroy)(mr_comm *c); /* collective; frees c */
    /* The next two are not collective, may be NULL and are called by the watchdog's thread while
     * another one waits in c. abort: calls on c return ERR_COMM, now and later. poll: ERR_COMM when
     * something failed behind the caller's back (nccl). */
    void (*abort)(mr_comm *c);
    mr_status (*poll)(mr_comm *c);
    void *impl;
};
#define MR_COMM_PENDING 64

mr_status mr_comm_self(mr_comm **out_p);
/* Starts MPI on first use (MPI_THREAD_FUNNELED); the world communicator is a duplicate. Ranks > 0
 * hold their errors from here on (mr_errors_hold). ERR_CONFIG when a launcher says that there are
 * several ranks and MPI says that this one is alone. Reductions know MR_F32, MR_F64, MR_I32, MR_I64
 * and MR_U32; everything else moves any type. iallreduce waits when MR_COMM_PENDING are in flight.
 * reduce_scatterv adds in rank order, so its bits depend on the number of ranks alone. */
mr_status mr_comm_mpi_world(mr_comm **out_p);
/* Largest piece of one MPI call; larger buffers are sent in slices. For tests; default 1 GiB. */
void mr_comm_mpi_slice(int64_t bytes);
/* The same collectives for buffers in the memory of dev: copies through host memory. inner and dev
 * stay the caller's and must live longer; inner's own calls must not be in flight. kind "staged".
 * Not collective; split makes communicators of the same kind. */
mr_status mr_comm_staged(mr_comm *inner, mr_device *dev, mr_comm **out_p);
/* For tests: every call goes to inner; call number fail_at (1 = the first) of this communicator
 * and those split from it is carried out and then reported as failed (ERR_COMM), so other ranks do
 * not hang; 0 = never. inner stays the caller's and must live longer. */
mr_status mr_comm_fake(mr_comm *inner, int64_t fail_at, mr_comm **out_p);
/* For tests: call number `at` is not made at all and reported as done (SKIP), or never returns
 * until the communicator is aborted (LOOP), or returns while poll fails from then on (LATE). */
typedef enum mr_fake_act { MR_FAKE_FAIL, MR_FAKE_SKIP, MR_FAKE_LOOP, MR_FAKE_LATE } mr_fake_act;
mr_status mr_comm_fake_act(mr_comm *inner, int64_t at, mr_fake_act act, mr_comm **out_p);
/* Every call of inner, and of what is split from it, is noted in the ring (dist/ring.h). Takes
 * inner over. */
mr_status mr_comm_traced(mr_comm *inner, mr_comm **out_p);
/* abort and poll of all traced communicators. Local; any thread. */
void mr_comm_abort_all(void);
mr_status mr_comm_poll_all(void);
/* A barrier of all processes of the job for those that may wait long while others compute: they
 * sleep between looks instead of taking a core. Nothing without MPI. Collective over the job. */
mr_status mr_comm_rest(void);
void mr_comm_destroy(mr_comm **c_p);
/* End MPI if it was started. Not to be followed by anything that matters. */
void mr_comm_finalize(void);
/* The end of a program whose work returned st on this rank; returns the exit code. After a failure
 * the other ranks are given 2 s to fail too: if all do, the failure was one of the whole job, the
 * lowest rank's sentence is printed and MPI ends in order; else mr_comm_abort ends the job for the
 * ranks that wait. */
int mr_comm_end(mr_status st);
/* Local failure: print rank and host, end the whole job with this exit code. Does not return. */
void mr_comm_abort(int exit_code) __attribute__((noreturn));

/* All ranks learn the same status: that of the lowest failing rank (an error beats STOPPED), which
 * alone prints the message that it held. ERR_COMM when this fails itself and mine is OK. */
mr_status mr_comm_agree(mr_comm *c, mr_status mine);

/* `bytes` bytes of every rank, one after another in rank order; the same number on all ranks. The
 * caller frees *all_p. All ranks get the same status. */
mr_status mr_comm_gather(mr_comm *c, const void *mine, int64_t bytes, void *all_p);

const char *mr_coll_name(mr_coll k);
/* One line of purposes.def. */
typedef struct mr_purpose_line {
    const char *id, *among, *when, *what, *received;
    mr_coll kind;
} mr_purpose_line;
const mr_purpose_line *mr_purpose_at(mr_purpose p);
/* *out = now - before, for one phase; out may be either. Not collective. */
void mr_comm_stats_since(mr_comm_stats *out, const mr_comm_stats *now, const mr_comm_stats *before);
/* Sums over all kinds. */
void mr_comm_stats_total(const mr_comm_stats *s, int64_t *bytes_in, int64_t *bytes_out);

#endif
