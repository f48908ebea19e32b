/* Import while calls fail: the right status, no leak, the same data set or none. */
#include "walk.h"

#include <stdio.h>
#include <string.h>

#include "../data/support.h"
#include "base/log.h"
#include "base/mem.h"
#include "data/import.h"
#include "data/npy.h"

static mr_dataset whole, got;
static mr_import_spec spec;
static char paths[6][512];

static const char *put(int i, const char *name, const char *text)
{
    snprintf(paths[i], sizeof paths[i], "%s", tmp_path(name));
    if (text) write_text(paths[i], text);
    return paths[i];
}

static void make_files(void)
{
    float x[5 * 2 * 3];
    const int64_t frames[3] = {5, 2, 3};
    for (int i = 0; i < 30; i++) x[i] = (float)(i * i % 17) / 4;
    spec = (mr_import_spec){.feature_dtype = MR_F32, .k_core = 2};
    spec.interactions = put(0, "log.tsv",
                            "user,item,timestamp\n1,10,1\n1,11,2\n1,12,3\n1,10,4\n1,13,5\n"
                            "2,11,1\n2,12,2\n2,13,3\n2,10,4\n3,14,1\n3,11,9\n3,10,8\n");
    spec.frames = put(1, "frames.npy", NULL);
    spec.feature_ids = put(2, "ids.txt", "14\n13\n12\n11\n10\n");
    spec.titles = put(3, "titles.csv", "item,title\n10,a red cat\n11,\"the, dog\"\n12,cat dog\n");
    spec.glove = put(4, "glove.txt", "cat 1 2 3\ndog 4 5 6\nred 0 0 1\n");
    assert_int_equal(mr_npy_write(spec.frames, MR_F32, 3, frames, x), MR_OK);
}

static mr_status import(void)
{
    mr_import_report report;
    mr_status st = mr_import(&got, &report, &spec);
    if (st != MR_OK || !whole.offset) return st;
    bool same = same_dataset(&whole, &got);
    mr_dataset_free(&got);
    return same ? MR_OK : MR_ERR_INTERNAL;
}

static void judge(mr_status st)
{
    assert_null(got.offset);
    assert_true(st == MR_OK || strlen(mr_last_error()) > 10);
}

static void test_import(void **state)
{
    (void)state;
    make_files();
    assert_int_equal(import(), MR_OK);
    whole = got;
    got = (mr_dataset){0};
    assert_non_null(whole.frames.data);
    assert_non_null(whole.text.data);
    walk_job job = {"import", NULL, import, judge,
                    1u << MR_ERR_MEMORY | 1u << MR_ERR_IO | 1u << MR_ERR_DATA};
    walk(&job, INJECT_ALLOC, 1);
    walk(&job, INJECT_FILE, 1);
    mr_dataset_free(&whole);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_import)};
    mr_errors_to_log(false);
    mr_log_init(1, MR_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
