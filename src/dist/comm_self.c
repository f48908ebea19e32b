/* The communicator of one rank: copies and nothing else, so that one code path serves every size.
 * What it is not: a stand-in for MPI in a job of several processes (mr_comm_mpi_world refuses
 * that). Invariant: results are those of the mpi communicator with one rank, bit for bit. */
#include <string.h>

#include "base/mem.h"
#include "dist/comm_impl.h"

static void copy(void *dst, const void *src, int64_t n, mr_dtype t)
{
    if (n > 0 && dst != src) memmove(dst, src, (size_t)n * mr_dtype_bytes(t));
}

static mr_status self_allreduce(mr_comm *c, void *buf, int64_t n, mr_dtype t, mr_reduce op)
{
    (void)buf, (void)op;
    MR_TRY(mr_comm_check_counts(c, &n, "allreduce"));
    MR_TRY(mr_comm_check_reducible(t));
    mr_account_allreduce(c, n, t);
    return MR_OK;
}

static mr_status self_iallreduce(mr_comm *c, void *buf, int64_t n, mr_dtype t)
{
    return self_allreduce(c, buf, n, t, MR_SUM);
}

static mr_status self_wait_all(mr_comm *c)
{
    (void)c;
    return MR_OK;
}

static mr_status self_allgatherv(mr_comm *c, const void *send, void *recv, const int64_t *counts,
                                 mr_dtype t)
{
    MR_TRY(mr_comm_check_counts(c, counts, "allgatherv"));
    copy(recv, send, counts[0], t);
    mr_account_allgatherv(c, counts, t);
    return MR_OK;
}

static mr_status self_reduce_scatterv(mr_comm *c, const void *send, void *recv,
                                      const int64_t *counts, mr_dtype t)
{
    MR_TRY(mr_comm_check_counts(c, counts, "reduce_scatterv"));
    MR_TRY(mr_comm_check_reducible(t));
    copy(recv, send, counts[0], t);
    mr_account_reduce_scatterv(c, counts, t);
    return MR_OK;
}

static mr_status self_alltoallv(mr_comm *c, const void *send, const int64_t *send_counts,
                                void *recv, const int64_t *recv_counts, mr_dtype t)
{
    MR_TRY(mr_comm_check_counts(c, send_counts, "alltoallv"));
    MR_CHECK(send_counts[0] == recv_counts[0], MR_ERR_INTERNAL,
             "alltoallv: rank 0 sends %lld elements to itself but expects %lld",
             (long long)send_counts[0], (long long)recv_counts[0]);
    copy(recv, send, send_counts[0], t);
    mr_account_alltoallv(c, send_counts, recv_counts, t);
    return MR_OK;
}

static mr_status self_bcast(mr_comm *c, void *buf, int64_t n, mr_dtype t, int root)
{
    (void)buf;
    MR_TRY(mr_comm_check_counts(c, &n, "bcast"));
    MR_CHECK(root == 0, MR_ERR_INTERNAL, "bcast: root %d of 1 rank", root);
    mr_account_bcast(c, n, t, root);
    return MR_OK;
}

static mr_status self_barrier(mr_comm *c)
{
    mr_account_barrier(c);
    return MR_OK;
}

static mr_status self_split(mr_comm *c, int color, mr_comm **out_p)
{
    (void)c;
    MR_CHECK(color >= 0, MR_ERR_INTERNAL, "split: color %d is negative", color);
    return mr_comm_self(out_p);
}

static mr_status self_split_host(mr_comm *c, mr_comm **out_p)
{
    (void)c;
    return mr_comm_self(out_p);
}

static void self_destroy(mr_comm *c) { MR_FREE(c); }

mr_status mr_comm_self(mr_comm **out_p)
{
    mr_comm *c = NULL;
    MR_TRY(MR_ALLOC(&c, 1, "communicator"));
    *c = (mr_comm){.kind = "self",
                   .rank = 0,
                   .size = 1,
                   .allreduce = self_allreduce,
                   .iallreduce = self_iallreduce,
                   .wait_all = self_wait_all,
                   .allgatherv = self_allgatherv,
                   .reduce_scatterv = self_reduce_scatterv,
                   .alltoallv = self_alltoallv,
                   .bcast = self_bcast,
                   .barrier = self_barrier,
                   .split = self_split,
                   .split_host = self_split_host,
                   .destroy = self_destroy};
    *out_p = c;
    return MR_OK;
}
