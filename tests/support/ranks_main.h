/* The end of a test program on several ranks. */
#ifndef MR_TESTS_RANKS_MAIN_H
#define MR_TESTS_RANKS_MAIN_H

#include "dist/comm.h"

/* Body of main: MPI's world in *world_p, the tests, MPI's end. After a failure the job is aborted,
 * since other ranks may wait in a collective. Include cmocka.h first. */
#define RANKS_MAIN(world_p, tests)                                                                 \
    do {                                                                                           \
        if (mr_comm_mpi_world(world_p) != MR_OK) return 1;                                         \
        int failed_ = cmocka_run_group_tests(tests, NULL, NULL);                                   \
        if (failed_) mr_comm_abort(1);                                                             \
        mr_comm_destroy(world_p);                                                                  \
        mr_comm_finalize();                                                                        \
        return failed_;                                                                            \
    } while (0)

#endif
