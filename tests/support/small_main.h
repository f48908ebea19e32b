/* The end of a test program that trains on a small synthetic set, on one rank. */
#ifndef MR_TESTS_SMALL_MAIN_H
#define MR_TESTS_SMALL_MAIN_H

#include "base/log.h"
#include "data/synth.h"
#include "dist/comm.h"

/* Body of main: 40 users, 30 items, so many interactions, 3 frames and texts of these widths in
 * *data_p, this rank alone in *world_p; then the tests. Include cmocka.h first. */
#define SMALL_MAIN(world_p, data_p, interactions, visual_width, text_elements, tests)              \
    do {                                                                                           \
        mr_synth_spec spec_;                                                                       \
        mr_log_init(0, MR_LOG_ERROR);                                                              \
        if (mr_comm_self(world_p) != MR_OK || mr_synth_spec_for("demo", &spec_) != MR_OK)          \
            return 1;                                                                              \
        spec_.users = 40;                                                                          \
        spec_.items = 30;                                                                          \
        spec_.inter = interactions;                                                                \
        spec_.frames = 3;                                                                          \
        spec_.width = visual_width;                                                                \
        spec_.text_width = text_elements;                                                          \
        if (mr_synth(data_p, &spec_) != MR_OK) return 1;                                           \
        int failed_ = cmocka_run_group_tests(tests, NULL, NULL);                                   \
        mr_dataset_free(data_p);                                                                   \
        mr_comm_destroy(world_p);                                                                  \
        return failed_;                                                                            \
    } while (0)

#endif
