/* A checkpoint written while training goes on: the state of the moment it was begun, the bytes that
 * a synchronous save writes, failures on any rank, nothing left behind. */
#include "support.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "ranks_main.h"

static mr_comm *world;

static void open_toy(toy *t) { toy_open(t, MR_F32, world->rank, world->size, true, 0); }

static void same_file(const char *dir, const char *other, const char *name)
{
    char a[600], b[600], *x = NULL, *y = NULL;
    size_t n = 0, m = 0;
    snprintf(a, sizeof a, "%s/%s", dir, name);
    snprintf(b, sizeof b, "%s/%s", other, name);
    FILE *f = fopen(a, "r"), *g = fopen(b, "r");
    assert_non_null(f);
    assert_non_null(g);
    n = (size_t)getdelim(&x, &n, EOF, f);
    m = (size_t)getdelim(&y, &m, EOF, g);
    fclose(f);
    fclose(g);
    free(x);
    free(y);
    char command[1300];
    snprintf(command, sizeof command, "cmp '%s' '%s'", a, b);
    assert_int_equal(system(command), 0);
    assert_true(n == m && n > 100);
}

/* The parameters change as soon as begin returns, as a training step does. */
static void test_state_of_the_moment(void **state)
{
    (void)state;
    char dir[2][256], name[64];
    int64_t before = mr_mem_now_bytes();
    toy t;
    open_toy(&t);
    for (int k = 0; k < 2; k++) {
        mr_train_state s = toy_state(7), got;
        mr_checkpoint_job *j = NULL;
        folder_make(dir[k], world);
        mr_checkpoint_save_args a = toy_args(&t, dir[k], &s, world);
        a.is_async = k == 0;
        a.is_best = true;
        toy_fill(&t, 5);
        if (k == 1) {
            assert_int_equal(mr_checkpoint_save(&a), MR_OK);
        } else {
            assert_int_equal(mr_checkpoint_begin(&j, &a), MR_OK);
            size_t bytes = (size_t)t.ps.n_total * t.ps.real_bytes;
            memset(t.ps.v, 1, bytes); /* at once, before a thread can have come far */
            memset(t.ps.m, 1, bytes);
            memset(t.ps.value, 1, bytes);
            s.step = 99;
            for (int polls = 0; j; polls++) {
                int32_t busy = mr_checkpoint_is_busy(j);
                assert_int_equal(world->allreduce(world, &busy, 1, MR_I32, MR_MAX), MR_OK);
                if (busy)
                    usleep(1000);
                else
                    assert_int_equal(mr_checkpoint_advance(&j), MR_OK);
                assert_true(polls < 20000);
            }
        }
        assert_int_equal(mr_checkpoint_load(dir[k], &t.ps, &got, world), MR_OK);
        assert_int_equal(toy_differs(&t, 5), 0);
        assert_int_equal(got.step, 7);
    }
    for (int r = 0; r < world->size && world->rank == 0; r++) {
        snprintf(name, sizeof name, "step-000000007/shard-%05d.safetensors", r);
        same_file(dir[0], dir[1], name);
    }
    same_file(dir[0], dir[1], "step-000000007/MANIFEST.json");
    folder_remove(dir[0], world);
    folder_remove(dir[1], world);
    toy_close(&t);
    assert_int_equal(mr_mem_now_bytes(), before);
}

/* Begun and abandoned: the older one is what is found, and the next save cleans up. */
static void test_abandoned(void **state)
{
    (void)state;
    char dir[256];
    toy t;
    mr_train_state s = toy_state(8), got;
    mr_checkpoint_job *j = NULL;
    open_toy(&t);
    toy_fill(&t, 1);
    folder_make(dir, world);
    assert_int_equal(toy_save(&t, dir, 4, world, false, 9), MR_OK);
    mr_checkpoint_save_args a = toy_args(&t, dir, &s, world);
    a.is_async = true;
    toy_fill(&t, 2);
    assert_int_equal(mr_checkpoint_begin(&j, &a), MR_OK);
    mr_checkpoint_abandon(&j);
    assert_null(j);
    mr_checkpoint_abandon(&j);
    assert_false(mr_checkpoint_is_busy(j));
    assert_int_equal(mr_checkpoint_load(dir, &t.ps, &got, world), MR_OK);
    assert_int_equal(got.step, 4);
    assert_int_equal(toy_differs(&t, 1), 0);
    assert_int_equal(toy_save(&t, dir, 12, world, false, 9), MR_OK);
    char command[400];
    snprintf(command, sizeof command, "ls '%s' | grep -q tmp", dir);
    if (world->rank == 0) assert_int_not_equal(system(command), 0);
    folder_remove(dir, world);
    toy_close(&t);
}

/* The last rank's file cannot be made: all ranks learn it, the sentence names the file. */
static void test_failure(void **state)
{
    (void)state;
    char dir[256], path[400];
    toy t;
    mr_train_state s = toy_state(8), got;
    mr_checkpoint_job *j = NULL;
    open_toy(&t);
    toy_fill(&t, 1);
    folder_make(dir, world);
    assert_int_equal(toy_save(&t, dir, 4, world, false, 9), MR_OK);
    int last = world->size - 1;
    for (int round = 0; round < 2; round++) { /* in a thread of a rank; in the one of rank 0 */
        mr_checkpoint_save_args a = toy_args(&t, dir, &s, world);
        a.is_async = true;
        mr_errors_to_log(false);
        if (round == 1) { /* latest cannot be replaced by a file */
            snprintf(path, sizeof path, "%s/latest", dir);
            if (world->rank == 0) {
                assert_int_equal(unlink(path), 0);
                assert_int_equal(mkdir(path, 0700), 0);
            }
            assert_int_equal(mr_checkpoint_begin(&j, &a), MR_OK);
            assert_int_equal(mr_checkpoint_finish(&j), MR_ERR_IO);
            if (world->rank == 0) assert_int_equal(rmdir(path), 0);
        } else {
            mr_comm *fake = NULL;
            /* Memory of the copy: a failure before there is a thread. */
            assert_int_equal(mr_comm_fake(world, 0, &fake), MR_OK);
            a.world = fake;
            if (world->rank == last) mr_mem_fail_at(6);
            mr_status st = mr_checkpoint_begin(&j, &a);
            if (st == MR_OK) st = mr_checkpoint_finish(&j);
            mr_mem_fail_at(0);
            assert_int_equal(st, MR_ERR_MEMORY);
            mr_comm_destroy(&fake);
        }
        mr_errors_to_log(true);
        assert_null(j);
        assert_int_equal(world->barrier(world), MR_OK);
    }
    (void)got;
    folder_remove(dir, world);
    toy_close(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_state_of_the_moment),
        cmocka_unit_test(test_abandoned),
        cmocka_unit_test(test_failure),
    };
    RANKS_MAIN(&world, tests);
}
