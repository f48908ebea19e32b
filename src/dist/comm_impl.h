/* What the implementations of a communicator share: byte accounting. Private to src/dist.
 * Each function counts one call of its kind in c->stats by the formulas of comm.h. */
#ifndef MR_DIST_COMM_IMPL_H
#define MR_DIST_COMM_IMPL_H

#include "dist/comm.h"

void mr_account_allreduce(mr_comm *c, int64_t n, mr_dtype t);
void mr_account_allgatherv(mr_comm *c, const int64_t *counts, mr_dtype t);
void mr_account_reduce_scatterv(mr_comm *c, const int64_t *counts, mr_dtype t);
void mr_account_alltoallv(mr_comm *c, const int64_t *send_counts, const int64_t *recv_counts,
                          mr_dtype t);
void mr_account_bcast(mr_comm *c, int64_t n, mr_dtype t, int root);
void mr_account_barrier(mr_comm *c);
/* What such calls counted before, n->calls of kind k (none: nothing), once more. */
void mr_account_again(mr_comm *c, mr_coll k, mr_purpose p, const mr_count *n);

/* Ranks that a launcher promises in the environment, with the name of the variable that says so; 1
 * if nothing does. */
int mr_comm_promised_ranks(const char **name_p);

/* ERR_COMM unless reductions are defined for t. */
mr_status mr_comm_check_reducible(mr_dtype t);
/* ERR_INTERNAL on a negative count. */
mr_status mr_comm_check_counts(const mr_comm *c, const int64_t *counts, const char *what);

/* A communicator that hands its calls on: inner is about to make a call for c's purpose, and after
 * it c has inner's counts. */
static inline mr_comm *mr_comm_pass(const mr_comm *c, mr_comm *inner)
{
    inner->purpose = c->purpose;
    return inner;
}
static inline void mr_comm_passed(mr_comm *c, const mr_comm *inner)
{
    c->stats = inner->stats;
    c->purpose = inner->purpose;
}

#endif
