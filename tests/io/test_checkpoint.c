/* Checkpoints over ranks: P write, Q read, bit for bit; pruning, pointers, fallback, full disk. */
#include "support.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"

static mr_comm *world;

/* Communicator of the first n ranks; the others get a useless one and sit out. */
static mr_comm *first_ranks(int n)
{
    mr_comm *c = NULL;
    assert_int_equal(world->split(world, world->rank < n ? 0 : 1, &c), MR_OK);
    return c;
}

static void save_by(int p, int group, mr_dtype real, const char *dir, int64_t step, int salt)
{
    mr_comm *c = first_ranks(p);
    if (world->rank < p) {
        toy t;
        toy_open(&t, real, c->rank % group, group, true, 0);
        toy_fill(&t, salt);
        assert_int_equal(toy_save(&t, dir, step, c, false, 10), MR_OK);
        toy_close(&t);
    }
    mr_comm_destroy(&c);
    assert_int_equal(world->barrier(world), MR_OK);
}

static void load_by(int q, int group, mr_dtype real, bool with_optimizer, const char *dir,
                    int64_t step, int salt)
{
    mr_comm *c = first_ranks(q);
    if (world->rank < q) {
        toy t;
        mr_train_state got, want = toy_state(step);
        toy_open(&t, real, c->rank % group, group, with_optimizer, 0);
        assert_int_equal(mr_checkpoint_load(dir, &t.ps, &got, c), MR_OK);
        assert_int_equal(toy_differs(&t, salt), 0);
        assert_memory_equal(&got, &want, sizeof got);
        toy_close(&t);
    }
    mr_comm_destroy(&c);
    assert_int_equal(world->barrier(world), MR_OK);
}

/* Every (P, Q), with tables split over all ranks of the communicator. */
static void test_reshard(void **state)
{
    (void)state;
    char dir[256];
    folder_make(dir, world);
    for (int p = 1; p <= world->size; p++) {
        mr_dtype real = p % 2 ? MR_F32 : MR_F64;
        save_by(p, p, real, dir, 100 * p, p);
        for (int q = 1; q <= world->size; q++) load_by(q, q, real, true, dir, 100 * p, p);
    }
    folder_remove(dir, world);
}

/* Tables split over 2 of 4 ranks: two replicas of every block. */
static void test_groups(void **state)
{
    (void)state;
    char dir[256];
    if (world->size < 4) skip();
    folder_make(dir, world);
    save_by(4, 2, MR_F32, dir, 7, 3);
    load_by(4, 2, MR_F32, true, dir, 7, 3);
    load_by(4, 1, MR_F32, true, dir, 7, 3);
    load_by(3, 3, MR_F32, true, dir, 7, 3);
    folder_remove(dir, world);
}

static void test_weights_only(void **state)
{
    (void)state;
    char dir[256];
    folder_make(dir, world);
    save_by(world->size, world->size, MR_F32, dir, 1, 9);
    load_by(1, 1, MR_F32, false, dir, 1, 9);
    load_by(world->size, 1, MR_F64, false, dir, 1, 9); /* every float is a double */
    folder_remove(dir, world);
}

/* Each replicated row is in exactly one file, and no rank writes it all. */
static void test_load_is_spread(void **state)
{
    (void)state;
    char dir[256], path[400];
    if (world->size < 4) skip();
    folder_make(dir, world);
    save_by(4, 4, MR_F32, dir, 5, 1);
    if (world->rank == 0) {
        struct stat s;
        int64_t sum = 0, most = 0;
        for (int r = 0; r < 4; r++) {
            snprintf(path, sizeof path, "%s/step-000000005/shard-%05d.safetensors", dir, r);
            assert_int_equal(stat(path, &s), 0);
            sum += s.st_size;
            if (s.st_size > most) most = s.st_size;
        }
        int64_t elements = 37 * 5 + 13 + 18 * 9 + 6 * 3 * 4 + 701 * 51 + 4001 * 20;
        assert_true(sum >= 12 * elements);
        assert_true(sum < 12 * elements + 4 * 8192);
        assert_true(most < sum / 4 + 16384);
    }
    folder_remove(dir, world);
}

static void test_other_model(void **state)
{
    (void)state;
    char dir[256];
    toy t;
    folder_make(dir, world);
    save_by(world->size, world->size, MR_F32, dir, 1, 9);
    toy_open(&t, MR_F32, world->rank, world->size, true, 3);
    toy_fill(&t, 4);
    mr_errors_to_log(false);
    assert_int_equal(mr_checkpoint_load(dir, &t.ps, NULL, world), MR_ERR_CONFIG);
    mr_errors_to_log(true);
    assert_non_null(strstr(mr_last_error(), "big.weight"));
    assert_non_null(strstr(mr_last_error(), "704x51"));
    assert_int_equal(toy_differs(&t, 4), 0); /* refused before anything was changed */
    toy_close(&t);
    folder_remove(dir, world);
}

static bool has(const char *dir, const char *name)
{
    char path[600];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return access(path, F_OK) == 0;
}

static void test_prune(void **state)
{
    (void)state;
    char dir[256];
    toy t;
    folder_make(dir, world);
    toy_open(&t, MR_F32, world->rank, world->size, true, 0);
    for (int64_t step = 10; step <= 60; step += 10) {
        toy_fill(&t, (int)step);
        assert_int_equal(toy_save(&t, dir, step, world, step == 20, 2), MR_OK);
    }
    assert_int_equal(world->barrier(world), MR_OK);
    assert_false(has(dir, "step-000000010"));
    assert_true(has(dir, "step-000000020"));
    assert_false(has(dir, "step-000000030"));
    assert_false(has(dir, "step-000000040"));
    assert_true(has(dir, "step-000000050"));
    assert_true(has(dir, "step-000000060"));
    mr_checkpoint *c = NULL;
    assert_int_equal(mr_checkpoint_open(&c, dir, MR_CHECKPOINT_BEST, world), MR_OK);
    assert_int_equal(c->state.step, 20);
    assert_string_equal(c->name, "step-000000020");
    assert_non_null(strstr(c->config_json, "hidden"));
    assert_int_equal(mr_checkpoint_read(c, &t.ps), MR_OK);
    assert_int_equal(toy_differs(&t, 20), 0);
    mr_checkpoint_close(&c);
    toy_close(&t);
    folder_remove(dir, world);
}

static void shell(const char *fmt, const char *dir)
{
    char command[600];
    snprintf(command, sizeof command, fmt, dir, dir);
    assert_int_equal(world->barrier(world), MR_OK);
    if (world->rank == 0) assert_int_equal(system(command), 0);
    assert_int_equal(world->barrier(world), MR_OK);
}

static int64_t newest(const char *dir, mr_checkpoint_which which)
{
    mr_checkpoint *c = NULL;
    mr_status st = mr_checkpoint_open(&c, dir, which, world);
    int64_t step = st != MR_OK ? -(int64_t)st : c ? c->state.step : 0;
    mr_checkpoint_close(&c);
    return step;
}

/* What a killed run may leave is ignored, then cleaned; what is damaged is skipped. */
static void test_fallback(void **state)
{
    (void)state;
    char dir[256];
    toy t;
    folder_make(dir, world);
    mr_errors_to_log(false);
    mr_log_init(world->rank, MR_LOG_ERROR);
    assert_int_equal(newest(dir, MR_CHECKPOINT_LATEST), 0);
    toy_open(&t, MR_F32, world->rank, world->size, true, 0);
    toy_fill(&t, 1);
    for (int64_t step = 10; step <= 50; step += 10)
        assert_int_equal(toy_save(&t, dir, step, world, false, 9), MR_OK);
    assert_int_equal(newest(dir, MR_CHECKPOINT_LATEST), 50);
    shell("rm %s/step-000000050/MANIFEST.json", dir);
    assert_int_equal(newest(dir, MR_CHECKPOINT_LATEST), 40);
    shell("rm %s/step-000000040/shard-00000.safetensors", dir);
    assert_int_equal(newest(dir, MR_CHECKPOINT_LATEST), 30);
    shell("truncate -s -1 %s/step-000000030/shard-00000.safetensors", dir);
    assert_int_equal(newest(dir, MR_CHECKPOINT_LATEST), 20);
    shell("cd %s/step-000000020 && mv shard-00000.safetensors ../x && "
          "ln -s ../x shard-00000.safetensors",
          dir);
    assert_int_equal(newest(dir, MR_CHECKPOINT_LATEST), 10);
    shell("printf step-000000010 > %s/latest; mkdir %s/step-000000011.tmp-1", dir); /* no newline */
    assert_int_equal(newest(dir, MR_CHECKPOINT_LATEST), 10);
    shell("truncate -s 100 %s/step-000000010/MANIFEST.json", dir);
    assert_int_equal(newest(dir, MR_CHECKPOINT_LATEST), -(int64_t)MR_ERR_DATA);
    assert_int_equal(newest("/nonexistent/folder", MR_CHECKPOINT_LATEST),
                     -(int64_t)MR_ERR_NO_INPUT);
    mr_log_init(world->rank, MR_LOG_INFO);
    mr_errors_to_log(true);
    toy_close(&t);
    folder_remove(dir, world);
}

static void test_leftovers_are_cleaned(void **state)
{
    (void)state;
    char dir[256];
    toy t;
    folder_make(dir, world);
    toy_open(&t, MR_F32, world->rank, world->size, true, 0);
    toy_fill(&t, 1);
    assert_int_equal(toy_save(&t, dir, 10, world, false, 9), MR_OK);
    shell("cp -r %s/step-000000010 %s/step-000000099.tmp-77", dir);
    mr_log_init(world->rank, MR_LOG_ERROR);
    assert_int_equal(newest(dir, MR_CHECKPOINT_LATEST), 10);
    toy_fill(&t, 2);
    assert_int_equal(toy_save(&t, dir, 10, world, false, 9), MR_OK); /* again the same step */
    mr_log_init(world->rank, MR_LOG_INFO);
    assert_false(has(dir, "step-000000099.tmp-77"));
    toy_fill(&t, 3);
    assert_int_equal(mr_checkpoint_load(dir, &t.ps, NULL, world), MR_OK);
    assert_int_equal(toy_differs(&t, 2), 0);
    toy_close(&t);
    folder_remove(dir, world);
}

static int count_entries(const char *dir)
{
    int n = 0;
    DIR *d = opendir(dir);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) n += e->d_name[0] != '.' || strlen(e->d_name) > 2;
    closedir(d);
    return n;
}

/* One rank has no room: all learn it, nothing is left behind, the older one is as it was. */
static void test_full_disk(void **state)
{
    (void)state;
    char dir[256];
    toy t;
    struct rlimit was, small;
    folder_make(dir, world);
    toy_open(&t, MR_F32, world->rank, world->size, true, 0);
    toy_fill(&t, 1);
    assert_int_equal(toy_save(&t, dir, 10, world, true, 9), MR_OK);
    signal(SIGXFSZ, SIG_IGN);
    mr_errors_to_log(false);
    mr_log_init(world->rank, MR_LOG_ERROR);
    for (int i = 0; i < 8; i++) {
        toy_fill(&t, 2);
        assert_int_equal(getrlimit(RLIMIT_FSIZE, &was), 0);
        small = was;
        small.rlim_cur = (rlim_t)(1 + i * 3000);
        if (world->rank == world->size - 1) assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
        mr_status st = toy_save(&t, dir, 20, world, true, 9);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &was), 0);
        assert_int_equal(st, MR_ERR_IO);
        assert_int_equal(world->barrier(world), MR_OK);
        assert_int_equal(count_entries(dir), 3); /* step-000000010, latest, best */
        if (world->rank == world->size - 1) assert_non_null(strstr(mr_last_error(), "shard-"));
        assert_int_equal(world->barrier(world), MR_OK);
    }
    mr_errors_to_log(true);
    mr_log_init(world->rank, MR_LOG_INFO);
    toy_fill(&t, 3);
    assert_int_equal(mr_checkpoint_load(dir, &t.ps, NULL, world), MR_OK);
    assert_int_equal(toy_differs(&t, 1), 0);
    assert_int_equal(toy_save(&t, dir, 20, world, true, 9), MR_OK); /* and room again */
    toy_close(&t);
    folder_remove(dir, world);
}

/* Collectives that fail (and allocations): an error everywhere, no leak, no hang. */
static void test_faults(void **state)
{
    (void)state;
    char dir[256];
    toy t;
    folder_make(dir, world);
    toy_open(&t, MR_F32, world->rank, world->size, true, 0);
    toy_fill(&t, 1);
    assert_int_equal(toy_save(&t, dir, 10, world, true, 9), MR_OK);
    int64_t before = mr_mem_now_bytes();
    mr_errors_to_log(false);
    mr_log_init(world->rank, MR_LOG_ERROR);
    int failed = 0;
    for (int n = 1; n <= 60; n++) {
        if (world->rank == 0) mr_mem_fail_at(n);
        mr_status st = toy_save(&t, dir, 20 + n, world, false, 1);
        mr_mem_fail_at(0);
        failed += st != MR_OK;
        assert_int_equal(mr_mem_now_bytes(), before);
        if (world->rank == 0) mr_mem_fail_at(n);
        mr_train_state s;
        st = mr_checkpoint_load(dir, &t.ps, &s, world);
        mr_mem_fail_at(0);
        failed += st != MR_OK;
        assert_int_equal(mr_mem_now_bytes(), before);
    }
    mr_log_init(world->rank, MR_LOG_INFO);
    mr_errors_to_log(true);
    assert_true(failed >= 20);
    toy_close(&t);
    folder_remove(dir, world);
}

int main(void)
{
    if (getenv("OMPI_COMM_WORLD_SIZE")) {
        if (mr_comm_mpi_world(&world) != MR_OK) return 1;
    } else if (mr_comm_self(&world) != MR_OK) {
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reshard),      cmocka_unit_test(test_groups),
        cmocka_unit_test(test_weights_only), cmocka_unit_test(test_load_is_spread),
        cmocka_unit_test(test_other_model),  cmocka_unit_test(test_prune),
        cmocka_unit_test(test_fallback),     cmocka_unit_test(test_leftovers_are_cleaned),
        cmocka_unit_test(test_full_disk),    cmocka_unit_test(test_faults),
    };
    mr_log_init(world->rank, MR_LOG_INFO);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    mr_comm_destroy(&world);
    mr_comm_finalize();
    return failed;
}
