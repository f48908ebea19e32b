/* A small program for test_job.sh: what a job prints and how it ends.
 * same: every rank raises the same error and all agree; last: only the last rank does;
 * handled: rank 1 raises an error, deals with it and agrees on success; start: nothing but the
 * start; abort: the last rank ends the job with code 65 while the others wait; leave: it raises and
 * exits without a word to the others. */
#include <string.h>

#include "base/log.h"
#include "dist/comm.h"

int main(int argc, char **argv)
{
    mr_comm *world = NULL;
    const char *mode = argc > 1 ? argv[1] : "";
    mr_status st = mr_comm_mpi_world(&world);
    if (st != MR_OK) {
        mr_comm_finalize();
        return mr_exit_code(st);
    }
    mr_log_init(world->rank, MR_LOG_INFO);
    bool last = world->rank == world->size - 1;
    if (!strcmp(mode, "same") || (!strcmp(mode, "last") && last))
        st = MR_RAISE(MR_ERR_DATA, "the sentence of rank %d", world->rank);
    if (!strcmp(mode, "handled") && world->rank == 1)
        (void)MR_RAISE(MR_ERR_DATA, "the sentence of rank %d", world->rank);
    if (!strcmp(mode, "leave") && last)
        return mr_exit_code(MR_RAISE(MR_ERR_IO, "the sentence of rank %d", world->rank));
    if (!strcmp(mode, "abort") && last)
        mr_comm_abort(mr_exit_code(MR_RAISE(MR_ERR_DATA, "the sentence of rank %d", world->rank)));
    if (!strcmp(mode, "abort") || !strcmp(mode, "leave")) (void)world->barrier(world);
    st = mr_comm_agree(world, st);
    (void)world->barrier(world);
    mr_comm_destroy(&world);
    mr_comm_finalize();
    return mr_exit_code(st);
}
