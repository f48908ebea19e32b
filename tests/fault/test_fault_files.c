/* Data set files and checkpoints while calls fail: the right status, nothing left over, nothing
 * lost of what was there before. */
#include "walk.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../data/support.h"
#include "../io/support.h"
#include "base/log.h"
#include "data/check.h"
#include "io/h5_dataset.h"

#define FAILURES (1u << MR_ERR_MEMORY | 1u << MR_ERR_IO | 1u << MR_ERR_DATA)

static mr_dataset whole, got;
static char h5_path[512];

static int entries(const char *dir)
{
    int n = 0;
    DIR *d = opendir(dir);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

/* ---- reading a data set ---- */

static mr_status read_data(void)
{
    mr_status st = mr_h5_dataset_read(&got, h5_path, NULL);
    if (st != MR_OK) return st;
    bool same = same_dataset(&whole, &got);
    mr_dataset_free(&got);
    return same ? MR_OK : MR_ERR_INTERNAL;
}

static void judge_read(mr_status st)
{
    assert_true(st == MR_OK || strstr(mr_last_error(), "purpose") || strstr(mr_last_error(), "h5"));
    assert_null(got.offset);
}

static void test_read(void **state)
{
    (void)state;
    walk_job job = {"read a data set", NULL, read_data, judge_read, FAILURES};
    walk(&job, INJECT_ALLOC, 1);
    walk(&job, INJECT_FILE, 1);
    walk(&job, INJECT_HDF5, 1);
}

/* ---- writing one: the old file or the new one, nothing else ---- */

static char new_dir[512], new_path[600];
static mr_dataset older;
static bool replaces;

static void prepare_write(void)
{
    snprintf(new_dir, sizeof new_dir, "%s", tmp_path("out"));
    snprintf(new_path, sizeof new_path, "%s/new.h5", new_dir);
    mkdir(new_dir, 0700);
    unlink(new_path);
    if (replaces) assert_int_equal(mr_h5_dataset_write(&older, new_path, true), MR_OK);
}

static mr_status write_data(void) { return mr_h5_dataset_write(&whole, new_path, replaces); }

static void judge_write(mr_status st)
{
    bool exists = access(new_path, F_OK) == 0;
    assert_int_equal(entries(new_dir), exists);
    if (st == MR_OK) assert_true(exists);
    if (replaces) assert_true(exists);
    if (!exists) return;
    mr_dataset d = {0};
    assert_int_equal(mr_h5_dataset_read(&d, new_path, NULL), MR_OK);
    /* After a failure of the last fsync the new file may be in place already. */
    assert_true(same_dataset(&whole, &d) || (st != MR_OK && same_dataset(&older, &d)));
    mr_dataset_free(&d);
}

static void test_write(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        replaces = i;
        walk_job job = {i ? "replace a data set" : "write a data set", prepare_write, write_data,
                        judge_write, FAILURES};
        walk(&job, INJECT_ALLOC, 1);
        walk(&job, INJECT_FILE, 1);
        walk(&job, INJECT_HDF5, 1);
    }
}

/* ---- checkpoints ---- */

static toy model, blank;
static mr_comm *self, *world;
static char runs[256];

static void start_folder(void)
{
    char command[300];
    snprintf(command, sizeof command, "rm -rf '%s'/*", runs);
    assert_int_equal(system(command), 0);
    toy_fill(&model, 1);
    assert_int_equal(toy_save(&model, runs, 10, self, true, 5), MR_OK);
    toy_fill(&model, 2);
}

static mr_status save(void) { return toy_save(&model, runs, 20, world, false, 5); }

/* The newest checkpoint is complete and is one of the two; the next save works and leaves no trace
 * of the failed one. */
static void judge_save(mr_status st)
{
    mr_train_state s;
    assert_int_equal(mr_checkpoint_load(runs, &blank.ps, &s, self), MR_OK);
    assert_true(s.step == 20 || (s.step == 10 && st != MR_OK));
    assert_int_equal(toy_differs(&blank, s.step == 20 ? 2 : 1), 0);
    toy_fill(&model, 3);
    assert_int_equal(toy_save(&model, runs, 30, self, false, 5), MR_OK);
    assert_int_equal(mr_checkpoint_load(runs, &blank.ps, &s, self), MR_OK);
    assert_int_equal(s.step, 30);
    assert_int_equal(toy_differs(&blank, 3), 0);
    int n = entries(runs); /* steps 10, perhaps 20, and 30; latest, best */
    assert_true(n == 4 || n == 5);
}

static void test_save(void **state)
{
    (void)state;
    walk_job job = {"save a checkpoint", start_folder, save, judge_save,
                    FAILURES | 1u << MR_ERR_COMM};
    walk(&job, INJECT_ALLOC, 11); /* all of them in tests/soak.sh */
    walk(&job, INJECT_FILE, 1);
    walk(&job, INJECT_COMM, 1);
}

static mr_status load(void)
{
    mr_train_state s;
    MR_TRY(mr_checkpoint_load(runs, &blank.ps, &s, world));
    return s.step == 10 ? MR_OK : MR_ERR_INTERNAL;
}

static void forget(void) { toy_fill(&blank, 9); }

static void judge_load(mr_status st)
{
    if (st == MR_OK) assert_int_equal(toy_differs(&blank, 1), 0);
}

static void test_load(void **state)
{
    (void)state;
    start_folder();
    walk_job job = {"load a checkpoint", forget, load, judge_load, FAILURES | 1u << MR_ERR_COMM};
    walk(&job, INJECT_ALLOC, 5);
    walk(&job, INJECT_FILE, 1);
    walk(&job, INJECT_COMM, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_read), cmocka_unit_test(test_write),
                                       cmocka_unit_test(test_save), cmocka_unit_test(test_load)};
    mr_comm *inner = NULL;
    mr_errors_to_log(false);
    mr_log_init(1, MR_LOG_ERROR);
    tiny_dataset(&whole, 1);
    tiny_dataset(&older, 2);
    snprintf(h5_path, sizeof h5_path, "%s", tmp_path("whole.h5"));
    if (mr_h5_dataset_write(&whole, h5_path, true) != MR_OK || mr_comm_self(&self) != MR_OK ||
        mr_comm_self(&inner) != MR_OK || inject_comm(inner, &world) != MR_OK)
        return 1;
    folder_make(runs, self);
    toy_open(&model, MR_F32, 0, 1, true, 0);
    toy_open(&blank, MR_F32, 0, 1, true, 0);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    toy_close(&model);
    toy_close(&blank);
    folder_remove(runs, self);
    mr_comm_destroy(&self);
    mr_comm_destroy(&world);
    mr_dataset_free(&whole);
    mr_dataset_free(&older);
    return failed;
}
