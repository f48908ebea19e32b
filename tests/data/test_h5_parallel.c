/* Parallel reading: every rank ends with what a serial read gives, or all ranks with the same
 * error. */
#include "support.h"

#include <mpi.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/mem.h"
#include "data/check.h"
#include "data/synth.h"
#include "dist/comm.h"
#include "io/h5_dataset.h"

static mr_comm *world;
static char path[512];

/* Rank 0's folder; every rank reads there. */
static const char *shared_path(const char *name)
{
    if (world->rank == 0) snprintf(path, sizeof path, "%s", tmp_path(name));
    assert_int_equal(world->bcast(world, path, sizeof path, MR_U8, 0), MR_OK);
    return path;
}

static void write_on_root(mr_dataset *d, const char *p)
{
    if (world->rank == 0) assert_int_equal(mr_h5_dataset_write(d, p, false), MR_OK);
    assert_int_equal(world->barrier(world), MR_OK);
}

static void make(mr_dataset *d, int64_t users, int64_t items)
{
    mr_synth_spec s;
    assert_int_equal(mr_synth_spec_for("demo", &s), MR_OK);
    s.users = users;
    s.items = items;
    s.inter = users * 4 > items ? users * 4 : items;
    s.width = 7;
    s.text_width = 3;
    assert_int_equal(mr_synth(d, &s), MR_OK);
}

/* One user and two items: some ranks have no row of some arrays. */
static void make_smallest(mr_dataset *d)
{
    *d = (mr_dataset){.name = "two", .n_users = 1, .n_items = 2, .n_inter = 4};
    d->user_id_bytes = d->item_id_bytes = 1;
    assert_int_equal(MR_ALLOC(&d->offset, 2, "offset"), MR_OK);
    assert_int_equal(MR_ALLOC(&d->items, 4, "items"), MR_OK);
    assert_int_equal(MR_ALLOC(&d->user_ids, 1, "ids"), MR_OK);
    assert_int_equal(MR_ALLOC(&d->item_ids, 2, "ids"), MR_OK);
    d->offset[1] = 4;
    memcpy(d->items, (int32_t[]){1, 2, 2, 1}, 16);
    memcpy(d->user_ids, "7", 1);
    memcpy(d->item_ids, "ab", 2);
}

static void test_equals_serial(void **state)
{
    (void)state;
    /* Counts that no rank count divides. */
    static const int64_t shapes[][2] = {{0, 0}, {31, 37}, {211, 97}};
    for (int k = 0; k < 3; k++) {
        mr_dataset a, b = {0}, c = {0}, e = {0};
        char name[32];
        if (k == 0)
            make_smallest(&a);
        else
            make(&a, shapes[k][0], shapes[k][1]);
        snprintf(name, sizeof name, "par%d.h5", k);
        write_on_root(&a, shared_path(name));
        assert_int_equal(mr_h5_dataset_read(&b, path, world), MR_OK);
        assert_int_equal(mr_h5_dataset_read(&c, path, NULL), MR_OK);
        assert_int_equal(mr_h5_dataset_read_rank0(&e, path, world), MR_OK);
        a.checksum = c.checksum;
        assert_true(same_dataset(&a, &b));
        assert_true(same_dataset(&b, &c));
        assert_true(same_dataset(&c, &e));
        mr_dataset_free(&e);
        mr_dataset_free(&a);
        mr_dataset_free(&b);
        mr_dataset_free(&c);
    }
}

/* A communicator of a part of the processes: no collective file access, the same result. */
static void test_part_of_world(void **state)
{
    (void)state;
    mr_dataset a, b = {0};
    mr_comm *part = NULL;
    make(&a, 20, 30);
    write_on_root(&a, shared_path("part.h5"));
    assert_int_equal(world->split(world, world->rank % 2, &part), MR_OK);
    assert_int_equal(mr_h5_dataset_read(&b, path, part), MR_OK);
    a.checksum = b.checksum;
    assert_true(same_dataset(&a, &b));
    mr_comm_destroy(&part);
    mr_dataset_free(&a);
    mr_dataset_free(&b);
}

/* data.read=rank0: the others need not see the file. */
static void test_only_rank0_has_it(void **state)
{
    (void)state;
    mr_dataset a, b = {0};
    make(&a, 20, 30);
    const char *own = tmp_path("rank0.h5"); /* every rank has its own folder */
    if (world->rank == 0) assert_int_equal(mr_h5_dataset_write(&a, own, false), MR_OK);
    assert_int_equal(mr_h5_dataset_read_rank0(&b, own, world), MR_OK);
    a.checksum = b.checksum;
    assert_true(same_dataset(&a, &b));
    mr_dataset_free(&a);
    mr_dataset_free(&b);
}

static void expect_refusal(mr_status want)
{
    mr_dataset d = {0};
    mr_errors_to_log(false);
    mr_status st = mr_h5_dataset_read(&d, path, world);
    mr_status rank0 = mr_h5_dataset_read_rank0(&d, path, world);
    mr_errors_to_log(true);
    assert_int_equal(st, want);
    assert_int_equal(rank0, want);
    assert_null(d.offset);
}

/* The last rank may take less memory than the arrays need: all refuse, before they ask for any. */
static void test_does_not_fit(void **state)
{
    (void)state;
    mr_dataset a, d = {0};
    mr_synth_spec s;
    struct rlimit old, small = {.rlim_cur = 64 << 20};
    char *room = NULL;
    assert_int_equal(mr_synth_spec_for("demo", &s), MR_OK);
    s.width = 2048; /* 36 MiB */
    assert_int_equal(mr_synth(&a, &s), MR_OK);
    write_on_root(&a, shared_path("large.h5"));
    mr_dataset_free(&a);
    getrlimit(RLIMIT_AS, &old);
    FILE *f = fopen("/proc/self/statm", "r");
    long pages = 0;
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%ld", &pages), 1);
    fclose(f);
    small.rlim_max = old.rlim_max;
    small.rlim_cur = (rlim_t)(pages * sysconf(_SC_PAGESIZE)) + (24 << 20);
    int last = world->rank == world->size - 1;
    assert_int_equal(MR_ALLOC(&room, 8 << 20, "warm up"), MR_OK);
    MR_FREE(room);
    int64_t before = mr_mem_now_bytes();
    if (last) assert_int_equal(setrlimit(RLIMIT_AS, &small), 0);
    mr_errors_to_log(false);
    mr_status st = mr_h5_dataset_read(&d, path, world);
    mr_errors_to_log(true);
    if (last) assert_int_equal(setrlimit(RLIMIT_AS, &old), 0);
    assert_int_equal(st, MR_ERR_MEMORY);
    assert_null(d.offset);
    assert_int_equal(mr_mem_now_bytes(), before);
    if (last) {
        char who[32];
        snprintf(who, sizeof who, "rank %d of %d on ", world->rank, world->size);
        assert_non_null(strstr(mr_last_error(), who));
        assert_non_null(strstr(mr_last_error(), "ulimit -v"));
    }
    assert_int_equal(mr_h5_dataset_read(&d, path, world), MR_OK);
    mr_dataset_free(&d);
}

static void test_refused_by_all(void **state)
{
    (void)state;
    mr_dataset a;
    make(&a, 20, 30);
    shared_path("missing.h5");
    expect_refusal(MR_ERR_NO_INPUT);
    write_on_root(&a, shared_path("good.h5"));
    size_t n;
    unsigned char *bytes = read_bytes(path, &n);
    uint64_t rng = 3;
    for (int i = 0; i < 40; i++) {
        size_t at = next_random(&rng) % n, keep = i % 4 ? n : next_random(&rng) % n;
        bytes[at] ^= 16;
        shared_path("bad.h5");
        if (world->rank == 0) write_bytes(path, bytes, keep);
        bytes[at] ^= 16;
        world->barrier(world);
        expect_refusal(MR_ERR_DATA);
        world->barrier(world);
    }
    free(bytes);
    mr_dataset_free(&a);
}

/* Hosts whose folders of the same name hold different, healthy files. */
static void test_different_files(void **state)
{
    (void)state;
    if (world->size == 1) skip();
    mr_dataset a, d = {0};
    make(&a, 20, 30 + world->rank);
    const char *own = tmp_path("own.h5"); /* every rank has its own folder */
    assert_int_equal(mr_h5_dataset_write(&a, own, false), MR_OK);
    mr_errors_to_log(false);
    assert_int_equal(mr_h5_dataset_read(&d, own, world), MR_ERR_DATA);
    mr_errors_to_log(true);
    if (world->rank) assert_non_null(strstr(mr_last_error(), "is not the file that rank 0 sees"));
    assert_null(d.offset);
    mr_dataset_free(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equals_serial),     cmocka_unit_test(test_part_of_world),
        cmocka_unit_test(test_only_rank0_has_it), cmocka_unit_test(test_does_not_fit),
        cmocka_unit_test(test_refused_by_all),    cmocka_unit_test(test_different_files),
    };
    if (mr_comm_mpi_world(&world) != MR_OK) return 1;
    int64_t before = mr_mem_now_bytes();
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (mr_mem_now_bytes() != before) failed++;
    if (failed) mr_comm_abort(1);
    mr_comm_destroy(&world);
    mr_comm_finalize();
    return failed;
}
