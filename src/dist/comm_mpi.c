/* The communicator over MPI, host memory only.
 * What it is not: for device pointers (callers stage), nor thread-safe: one thread calls it.
 * Invariants: every MPI return code becomes a status with MPI's own text; no MPI call gets more
 * than slice_bytes at once, so element counts are 64 bit for callers although MPI's are 32 bit;
 * whether slices are used depends only on arguments that all ranks share. */
#include <limits.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/env.h"
#include "base/log.h"
#include "base/mem.h"
#include "dist/comm_impl.h"
#include "dist/watchdog.h"

typedef struct mpi_impl {
    MPI_Comm comm;
    MPI_Request pending[MR_COMM_PENDING];
    int n_pending;
    int *counts, *displs; /* [size] scratch for MPI's 32 bit arguments */
    char *parts;          /* scratch of reduce_scatterv, kept: fresh pages cost more than the sum */
    int64_t parts_bytes;
} mpi_impl;

static int64_t slice_bytes = (int64_t)1 << 30;
static bool started_here;

enum { TAG = 1 };

void mr_comm_mpi_slice(int64_t bytes) { slice_bytes = bytes; }

static mr_status fail(const mr_comm *c, int rc, const char *call)
{
    char text[MPI_MAX_ERROR_STRING + 1] = "";
    int len = 0;
    MPI_Error_string(rc, text, &len);
    return MR_RAISE(MR_ERR_COMM, "%s failed on rank %d of %d: %s", call, c->rank, c->size, text);
}

#define MPI_TRY(c, call, name)                                                                     \
    do {                                                                                           \
        int rc_ = (call);                                                                          \
        if (rc_ != MPI_SUCCESS) return fail((c), rc_, (name));                                     \
    } while (0)

static MPI_Datatype mpi_type(mr_dtype t)
{
    switch (t) {
    case MR_F32: return MPI_FLOAT;
    case MR_F64: return MPI_DOUBLE;
    case MR_I32: return MPI_INT32_T;
    case MR_I64: return MPI_INT64_T;
    case MR_U32: return MPI_UINT32_T;
    case MR_F16:
    case MR_BF16: return MPI_UINT16_T; /* moved, never added: mr_comm_check_reducible */
    case MR_U8: break;
    }
    return MPI_UINT8_T;
}

static MPI_Op mpi_op(mr_reduce op)
{
    return op == MR_SUM ? MPI_SUM : op == MR_MAX ? MPI_MAX : MPI_MIN;
}

/* Elements of one slice. */
static int64_t slice_of(mr_dtype t)
{
    int64_t n = slice_bytes / (int64_t)mr_dtype_bytes(t);
    return n < 1 ? 1 : n > INT_MAX ? INT_MAX : n;
}

static int piece(int64_t left, int64_t slice) { return (int)(left < slice ? left : slice); }

static void *at(const void *base, int64_t element, mr_dtype t)
{
    return base ? (char *)base + (size_t)element * mr_dtype_bytes(t) : NULL;
}

static mr_status mpi_allreduce(mr_comm *c, void *buf, int64_t n, mr_dtype t, mr_reduce op)
{
    mpi_impl *m = c->impl;
    int64_t slice = slice_of(t);
    MR_CHECK(n >= 0, MR_ERR_INTERNAL, "allreduce: count %lld is negative", (long long)n);
    MR_TRY(mr_comm_check_reducible(t));
    for (int64_t i = 0; i < n; i += slice)
        MPI_TRY(c,
                MPI_Allreduce(MPI_IN_PLACE, at(buf, i, t), piece(n - i, slice), mpi_type(t),
                              mpi_op(op), m->comm),
                "MPI_Allreduce");
    mr_account_allreduce(c, n, t);
    return MR_OK;
}

static mr_status mpi_wait_all(mr_comm *c)
{
    mpi_impl *m = c->impl;
    MPI_Status each[MR_COMM_PENDING];
    int n = m->n_pending;
    m->n_pending = 0;
    int rc = MPI_Waitall(n, m->pending, each);
    if (rc == MPI_SUCCESS) return MR_OK;
    int code;
    if (MPI_Error_class(rc, &code) == MPI_SUCCESS && code == MPI_ERR_IN_STATUS)
        for (int i = n - 1; i >= 0; i--)
            if (each[i].MPI_ERROR != MPI_SUCCESS) rc = each[i].MPI_ERROR;
    return fail(c, rc, "MPI_Waitall");
}

static mr_status mpi_iallreduce(mr_comm *c, void *buf, int64_t n, mr_dtype t)
{
    mpi_impl *m = c->impl;
    int64_t slice = slice_of(t);
    MR_CHECK(n >= 0, MR_ERR_INTERNAL, "iallreduce: count %lld is negative", (long long)n);
    MR_TRY(mr_comm_check_reducible(t));
    for (int64_t i = 0; i < n; i += slice) {
        if (m->n_pending == MR_COMM_PENDING) MR_TRY(mpi_wait_all(c));
        MPI_TRY(c,
                MPI_Iallreduce(MPI_IN_PLACE, at(buf, i, t), piece(n - i, slice), mpi_type(t),
                               MPI_SUM, m->comm, &m->pending[m->n_pending]),
                "MPI_Iallreduce");
        m->n_pending++;
    }
    mr_account_allreduce(c, n, t);
    return MR_OK;
}

static mr_status bcast_sliced(mr_comm *c, void *buf, int64_t n, mr_dtype t, int root)
{
    mpi_impl *m = c->impl;
    int64_t slice = slice_of(t);
    for (int64_t i = 0; i < n; i += slice)
        MPI_TRY(c, MPI_Bcast(at(buf, i, t), piece(n - i, slice), mpi_type(t), root, m->comm),
                "MPI_Bcast");
    return MR_OK;
}

static mr_status mpi_bcast(mr_comm *c, void *buf, int64_t n, mr_dtype t, int root)
{
    MR_CHECK(n >= 0 && root >= 0 && root < c->size, MR_ERR_INTERNAL,
             "bcast: count %lld, root %d of %d ranks", (long long)n, root, c->size);
    MR_TRY(bcast_sliced(c, buf, n, t, root));
    mr_account_bcast(c, n, t, root);
    return MR_OK;
}

/* One broadcast a rank when MPI's 32 bit displacements or the slice do not suffice. */
static mr_status allgatherv_large(mr_comm *c, const void *send, void *recv, const int64_t *counts,
                                  mr_dtype t)
{
    for (int64_t r = 0, first = 0; r < c->size; first += counts[r++]) {
        void *part = at(recv, first, t);
        if (r == c->rank && counts[r] > 0 && send != part)
            memcpy(part, send, (size_t)counts[r] * mr_dtype_bytes(t));
        MR_TRY(bcast_sliced(c, part, counts[r], t, (int)r));
    }
    return MR_OK;
}

static mr_status mpi_allgatherv(mr_comm *c, const void *send, void *recv, const int64_t *counts,
                                mr_dtype t)
{
    mpi_impl *m = c->impl;
    int64_t total = 0, own = 0;
    MR_TRY(mr_comm_check_counts(c, counts, "allgatherv"));
    for (int r = 0; r < c->size; r++) {
        if (r == c->rank) own = total;
        total += counts[r];
    }
    if (total > slice_of(t)) {
        MR_TRY(allgatherv_large(c, send, recv, counts, t));
    } else {
        for (int r = 0, first = 0; r < c->size; r++) {
            m->counts[r] = (int)counts[r];
            m->displs[r] = first;
            first += (int)counts[r];
        }
        bool in_place = counts[c->rank] == 0 || send == at(recv, own, t);
        MPI_TRY(c,
                MPI_Allgatherv(in_place ? MPI_IN_PLACE : send, m->counts[c->rank], mpi_type(t),
                               recv, m->counts, m->displs, mpi_type(t), m->comm),
                "MPI_Allgatherv");
    }
    mr_account_allgatherv(c, counts, t);
    return MR_OK;
}

/* Send to one rank and receive from another, in slices; both sides see the same number of them. */
static mr_status exchange(mr_comm *c, const void *send, int64_t n_send, int to, void *recv,
                          int64_t n_recv, int from, mr_dtype t)
{
    mpi_impl *m = c->impl;
    int64_t slice = slice_of(t);
    for (int64_t i = 0; i < n_send || i < n_recv; i += slice) {
        bool s = i < n_send, r = i < n_recv;
        MPI_TRY(c,
                MPI_Sendrecv(at(send, i, t), s ? piece(n_send - i, slice) : 0, mpi_type(t),
                             s ? to : MPI_PROC_NULL, TAG, at(recv, i, t),
                             r ? piece(n_recv - i, slice) : 0, mpi_type(t),
                             r ? from : MPI_PROC_NULL, TAG, m->comm, MPI_STATUS_IGNORE),
                "MPI_Sendrecv");
    }
    return MR_OK;
}

static int64_t first_of(const int64_t *counts, int rank)
{
    int64_t first = 0;
    for (int r = 0; r < rank; r++) first += counts[r];
    return first;
}

/* In round k every rank sends to rank + k and receives from rank - k. Done by hand because
 * MPI_Alltoallv has 32 bit displacements and no rank knows the totals of the others. */
static mr_status mpi_alltoallv(mr_comm *c, const void *send, const int64_t *send_counts, void *recv,
                               const int64_t *recv_counts, mr_dtype t)
{
    MR_TRY(mr_comm_check_counts(c, send_counts, "alltoallv"));
    MR_TRY(mr_comm_check_counts(c, recv_counts, "alltoallv"));
    int me = c->rank;
    MR_CHECK(send_counts[me] == recv_counts[me], MR_ERR_INTERNAL,
             "alltoallv: rank %d sends %lld elements to itself but expects %lld", me,
             (long long)send_counts[me], (long long)recv_counts[me]);
    if (send_counts[me] > 0)
        memcpy(at(recv, first_of(recv_counts, me), t), at(send, first_of(send_counts, me), t),
               (size_t)send_counts[me] * mr_dtype_bytes(t));
    for (int k = 1; k < c->size; k++) {
        int to = (me + k) % c->size, from = (me - k + c->size) % c->size;
        MR_TRY(exchange(c, at(send, first_of(send_counts, to), t), send_counts[to], to,
                        at(recv, first_of(recv_counts, from), t), recv_counts[from], from, t));
    }
    mr_account_alltoallv(c, send_counts, recv_counts, t);
    return MR_OK;
}

#define SUM_ROWS(type)                                                                             \
    do {                                                                                           \
        type *o = out;                                                                             \
        const type *p = parts;                                                                     \
        for (int64_t i = 0; i < n; i++) {                                                          \
            type s = p[i];                                                                         \
            for (int r = 1; r < ranks; r++) s = (type)(s + p[r * n + i]);                          \
            o[i] = s;                                                                              \
        }                                                                                          \
    } while (0)

/* out[n] = sum over ranks, in rank order, of parts[ranks, n]. Integers wrap as in MPI_SUM. */
static void sum_in_rank_order(void *out, const void *parts, int ranks, int64_t n, mr_dtype t)
{
    switch (t) {
    case MR_F32: SUM_ROWS(float); break;
    case MR_F64: SUM_ROWS(double); break;
    case MR_I32:
    case MR_U32: SUM_ROWS(uint32_t); break;
    default: SUM_ROWS(uint64_t); break;
    }
}

static mr_status make_room(mpi_impl *m, int64_t bytes)
{
    if (bytes <= m->parts_bytes) return MR_OK;
    MR_FREE(m->parts);
    m->parts_bytes = 0;
    MR_TRY(MR_ALLOC(&m->parts, bytes, "reduce_scatterv"));
    m->parts_bytes = bytes;
    return MR_OK;
}

/* Every rank sends its summands straight to the owner, who adds in rank order: as many bytes as a
 * ring, and the result does not depend on an algorithm chosen by the library. The scratch holds one
 * chunk of every rank's summands. */
static mr_status mpi_reduce_scatterv(mr_comm *c, const void *send, void *recv,
                                     const int64_t *counts, mr_dtype t)
{
    MR_TRY(mr_comm_check_counts(c, counts, "reduce_scatterv"));
    MR_TRY(mr_comm_check_reducible(t));
    int64_t chunk = slice_of(t) < 1 << 18 ? slice_of(t) : 1 << 18, longest = 0;
    int me = c->rank;
    mpi_impl *m = c->impl;
    for (int r = 0; r < c->size; r++) longest = counts[r] > longest ? counts[r] : longest;
    if (longest < chunk) chunk = longest;
    MR_TRY(make_room(m, c->size * chunk * (int64_t)mr_dtype_bytes(t)));
    char *parts = m->parts;
    for (int64_t i = 0; i < longest; i += chunk) {
        int64_t n = i < counts[me] ? piece(counts[me] - i, chunk) : 0;
        if (n > 0)
            memcpy(at(parts, me * n, t), at(send, first_of(counts, me) + i, t),
                   (size_t)n * mr_dtype_bytes(t));
        for (int k = 1; k < c->size; k++) {
            int to = (me + k) % c->size, from = (me - k + c->size) % c->size;
            int64_t n_to = i < counts[to] ? piece(counts[to] - i, chunk) : 0;
            MR_TRY(exchange(c, at(send, first_of(counts, to) + i, t), n_to, to,
                            at(parts, from * n, t), n, from, t));
        }
        if (n > 0) sum_in_rank_order(at(recv, i, t), parts, c->size, n, t);
    }
    mr_account_reduce_scatterv(c, counts, t);
    return MR_OK;
}

static mr_status mpi_barrier(mr_comm *c)
{
    MPI_TRY(c, MPI_Barrier(((mpi_impl *)c->impl)->comm), "MPI_Barrier");
    mr_account_barrier(c);
    return MR_OK;
}

static mr_status wrap(MPI_Comm comm, mr_comm **out_p);

static mr_status mpi_split(mr_comm *c, int color, mr_comm **out_p)
{
    MPI_Comm part;
    MR_CHECK(color >= 0, MR_ERR_INTERNAL, "split: color %d is negative", color);
    MPI_TRY(c, MPI_Comm_split(((mpi_impl *)c->impl)->comm, color, c->rank, &part),
            "MPI_Comm_split");
    return wrap(part, out_p);
}

static mr_status mpi_split_host(mr_comm *c, mr_comm **out_p)
{
    MPI_Comm part;
    MPI_TRY(c,
            MPI_Comm_split_type(((mpi_impl *)c->impl)->comm, MPI_COMM_TYPE_SHARED, c->rank,
                                MPI_INFO_NULL, &part),
            "MPI_Comm_split_type");
    return wrap(part, out_p);
}

static void release(mr_comm *c)
{
    mpi_impl *m = c->impl;
    if (m) {
        MR_FREE(m->counts);
        MR_FREE(m->displs);
        MR_FREE(m->parts);
    }
    MR_FREE(m);
    MR_FREE(c);
}

static void mpi_destroy(mr_comm *c)
{
    mpi_impl *m = c->impl;
    if (m->n_pending) (void)mpi_wait_all(c);
    MPI_Comm_free(&m->comm);
    release(c);
}

/* Takes comm over: it is freed with *out_p, or at once when this fails. */
static mr_status wrap(MPI_Comm comm, mr_comm **out_p)
{
    mr_status st;
    mr_comm *c = NULL;
    mpi_impl *m = NULL;
    MR_TRY_GOTO(MR_ALLOC(&c, 1, "communicator"), st, failed);
    MR_TRY_GOTO(MR_ALLOC(&m, 1, "communicator"), st, failed);
    *c = (mr_comm){.kind = "mpi",
                   .allreduce = mpi_allreduce,
                   .iallreduce = mpi_iallreduce,
                   .wait_all = mpi_wait_all,
                   .allgatherv = mpi_allgatherv,
                   .reduce_scatterv = mpi_reduce_scatterv,
                   .alltoallv = mpi_alltoallv,
                   .bcast = mpi_bcast,
                   .barrier = mpi_barrier,
                   .split = mpi_split,
                   .split_host = mpi_split_host,
                   .destroy = mpi_destroy,
                   .impl = m};
    m->comm = comm;
    MPI_Comm_rank(comm, &c->rank);
    MPI_Comm_size(comm, &c->size);
    MR_TRY_GOTO(MR_ALLOC(&m->counts, c->size, "communicator"), st, failed);
    MR_TRY_GOTO(MR_ALLOC(&m->displs, c->size, "communicator"), st, failed);
    *out_p = c;
    return MR_OK;
failed:
    MPI_Comm_free(&comm);
    if (c) release(c);
    return st;
}

/* mpirun's own word is final: inside a SLURM job `mpirun -np 1` is one rank although SLURM speaks
 * of many. */
int mr_comm_promised_ranks(const char **name_p)
{
    static const char *const names[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS",
                                        "SLURM_NTASKS"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        int64_t n;
        if (!mr_env_int(names[i], 1, INT_MAX, "", &n)) continue;
        *name_p = names[i];
        return (int)n;
    }
    return 1;
}

static mr_status start_mpi(void)
{
    int on = 0, level = 0;
    MPI_Initialized(&on);
    if (!on) {
        int rc = MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &level);
        MR_CHECK(rc == MPI_SUCCESS, MR_ERR_COMM, "MPI_Init_thread failed with code %d", rc);
        started_here = true;
    } else {
        MPI_Query_thread(&level);
    }
    MR_CHECK(level >= MPI_THREAD_FUNNELED, MR_ERR_COMM,
             "this MPI library offers thread level %d but %d (MPI_THREAD_FUNNELED) is needed; use "
             "an MPI library that was built with threads",
             level, MPI_THREAD_FUNNELED);
    return MR_OK;
}

mr_status mr_comm_mpi_world(mr_comm **out_p)
{
    /* The environment is read first: a lone MPI_Init may write these names itself. */
    const char *name = "";
    int promised = mr_comm_promised_ranks(&name), size = 0, rank = 0;
    MPI_Comm dup;
    MR_TRY(start_mpi());
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN); /* duplicates inherit it */
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MR_CHECK(size > 1 || promised == 1, MR_ERR_CONFIG,
             "%s=%d promises %d ranks but MPI started this process alone; the launcher and the MPI "
             "library do not fit: see `srun --mpi=list` and use `srun --mpi=pmix` or mpirun, or "
             "--dist.comm=self for one process on purpose",
             name, promised, promised);
    mr_errors_hold(rank > 0);
    int rc = MPI_Comm_dup(MPI_COMM_WORLD, &dup);
    MR_CHECK(rc == MPI_SUCCESS, MR_ERR_COMM, "MPI_Comm_dup of the world failed with code %d", rc);
    return wrap(dup, out_p);
}

static bool mpi_running(void)
{
    int on = 0, off = 0;
    MPI_Initialized(&on);
    MPI_Finalized(&off);
    return on && !off;
}

mr_status mr_comm_rest(void)
{
    MPI_Request request;
    int done = 0;
    if (!mpi_running()) return MR_OK;
    int rc = MPI_Ibarrier(MPI_COMM_WORLD, &request);
    while (rc == MPI_SUCCESS && !done) {
        rc = MPI_Test(&request, &done, MPI_STATUS_IGNORE);
        mr_watch_alive(); /* it is not this rank's turn to make progress */
        if (!done) usleep(1000);
    }
    MR_CHECK(rc == MPI_SUCCESS, MR_ERR_COMM, "MPI_Ibarrier of all ranks failed with code %d", rc);
    return MR_OK;
}

void mr_comm_finalize(void)
{
    if (started_here && mpi_running()) MPI_Finalize();
}

/* Do all ranks come to the end within 2 s? The lowest failing rank is returned through low_p. */
static bool all_end(mr_status st, int *low_p)
{
    int rank, mine, low, done = 0;
    MPI_Request req;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    mine = st == MR_OK ? INT_MAX : rank;
    if (MPI_Iallreduce(&mine, &low, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD, &req) != MPI_SUCCESS)
        return false;
    for (int i = 0; i < 2000 && !done; i++) {
        if (MPI_Test(&req, &done, MPI_STATUS_IGNORE) != MPI_SUCCESS) return false;
        if (!done) usleep(1000);
    }
    *low_p = low;
    return done != 0;
}

int mr_comm_end(mr_status st)
{
    int low = 0, rank = 0;
    if (!mpi_running()) return mr_exit_code(st);
    if (st != MR_OK) {
        MPI_Comm_rank(MPI_COMM_WORLD, &rank);
        if (!all_end(st, &low)) mr_comm_abort(mr_exit_code(st));
        mr_errors_release(rank == low);
    }
    mr_comm_finalize();
    return mr_exit_code(st);
}

void mr_comm_abort(int exit_code)
{
    char host[256] = "an unknown host";
    int rank = 0;
    bool mpi = mpi_running();
    gethostname(host, sizeof host - 1);
    if (mpi) MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    mr_errors_release(true);
    mr_log(MR_LOG_ERROR, "rank %d on %s ends the job with exit code %d", rank, host, exit_code);
    fflush(NULL);
    if (mpi) MPI_Abort(MPI_COMM_WORLD, exit_code);
    _exit(exit_code);
}
