/* A GPU goes on while its host waits for other hosts. This one has no thread of its own, and where
 * work may run before the host waits for it (MR_EMULATE=when=early, mixed) another GPU may already
 * be in a collective that this one has been asked for as well: so the streams are done before the
 * host waits in MPI.
 * What it is not: MPI; these calls take the place of the library's, which then does the work. */
#define OMPI_SKIP_MPICXX 1
#include <mpi.h>

#include "core.h"

using namespace emulate;

static void go_on_meanwhile()
{
    locked l(lock);
    if (set().work != LATE) (void)drain_all();
}

extern "C" int MPI_Sendrecv(const void *send, int n_send, MPI_Datatype of_send, int to,
                            int send_tag, void *recv, int n_recv, MPI_Datatype of_recv, int from,
                            int recv_tag, MPI_Comm c, MPI_Status *status)
{
    go_on_meanwhile();
    return PMPI_Sendrecv(send, n_send, of_send, to, send_tag, recv, n_recv, of_recv, from, recv_tag,
                         c, status);
}

extern "C" int MPI_Allreduce(const void *send, void *recv, int n, MPI_Datatype type, MPI_Op op,
                             MPI_Comm c)
{
    go_on_meanwhile();
    return PMPI_Allreduce(send, recv, n, type, op, c);
}

extern "C" int MPI_Allgatherv(const void *send, int n, MPI_Datatype of_send, void *recv,
                              const int counts[], const int at[], MPI_Datatype of_recv, MPI_Comm c)
{
    go_on_meanwhile();
    return PMPI_Allgatherv(send, n, of_send, recv, counts, at, of_recv, c);
}

extern "C" int MPI_Bcast(void *buffer, int n, MPI_Datatype type, int root, MPI_Comm c)
{
    go_on_meanwhile();
    return PMPI_Bcast(buffer, n, type, root, c);
}

extern "C" int MPI_Barrier(MPI_Comm c)
{
    go_on_meanwhile();
    return PMPI_Barrier(c);
}

extern "C" int MPI_Waitall(int n, MPI_Request requests[], MPI_Status statuses[])
{
    go_on_meanwhile();
    return PMPI_Waitall(n, requests, statuses);
}
