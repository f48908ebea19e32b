/* The end of a test program that trains on a small synthetic set, on one rank. */
#ifndef MR_TESTS_SMALL_MAIN_H
#define MR_TESTS_SMALL_MAIN_H

#include "base/log.h"
#include "data/synth.h"
#include "dist/comm.h"

/* 40 users, 30 items, so many interactions, 3 frames and texts of these widths. */
static inline mr_status small_data(mr_dataset *out, int64_t interactions, int64_t visual_width,
                                   int64_t text_width)
{
    mr_synth_spec spec;
    MR_TRY(mr_synth_spec_for("demo", &spec));
    spec.users = 40;
    spec.items = 30;
    spec.inter = interactions;
    spec.frames = 3;
    spec.width = visual_width;
    spec.text_width = text_width;
    return mr_synth(out, &spec);
}

/* Body of main: small_data in *data_p, this rank alone in *world_p; then the tests. Include
 * cmocka.h first. */
#define SMALL_MAIN(world_p, data_p, interactions, visual_width, text_width, tests)                 \
    do {                                                                                           \
        mr_log_init(0, MR_LOG_ERROR);                                                              \
        if (mr_comm_self(world_p) != MR_OK ||                                                      \
            small_data(data_p, interactions, visual_width, text_width) != MR_OK)                   \
            return 1;                                                                              \
        int failed_ = cmocka_run_group_tests(tests, NULL, NULL);                                   \
        mr_dataset_free(data_p);                                                                   \
        mr_comm_destroy(world_p);                                                                  \
        return failed_;                                                                            \
    } while (0)

#endif
