/* The staged communicator: memory of the guard device, which faults when the network reads it,
 * against the inner communicator on host copies, bit for bit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/mem.h"
#include "dist/comm.h"

enum { N = 1000, MAX_RANKS = 16, MANY = MR_COMM_PENDING + 9 };

static mr_comm *world, *staged;
static mr_device *dev;
static float *x, *y; /* [N] device memory: what is sent, what comes */

static float number(int rank, int i) { return 0.37f * (float)((i * 31 + rank * 7) % 101) - 11.0f; }

/* Fresh numbers in host memory and in x; y poisoned. */
static void fill(float *host)
{
    for (int i = 0; i < N; i++) host[i] = number(world->rank, i);
    assert_int_equal(dev->to_device(dev, x, host, N * 4), MR_OK);
    assert_int_equal(dev->fill(dev, y, 0xFF, N * 4), MR_OK);
}

static void expect(const float *device, const float *want, int64_t n)
{
    float got[N];
    assert_int_equal(dev->to_host(dev, got, device, (size_t)n * 4), MR_OK);
    assert_memory_equal(got, want, (size_t)n * 4);
}

/* Counts that differ, one of them 0 when there are several ranks; sum at most N. */
static void counts_of(int64_t *counts)
{
    for (int r = 0; r < world->size; r++) counts[r] = world->size > 1 && r == 1 ? 0 : 11 + 3 * r;
}

static void test_reductions(void **state)
{
    (void)state;
    float a[N], b[N];
    int64_t counts[MAX_RANKS];
    counts_of(counts);
    fill(a);
    assert_int_equal(staged->allreduce(staged, x, N, MR_F32, MR_SUM), MR_OK);
    assert_int_equal(world->allreduce(world, a, N, MR_F32, MR_SUM), MR_OK);
    expect(x, a, N);
    fill(a);
    assert_int_equal(staged->reduce_scatterv(staged, x, y, counts, MR_F32), MR_OK);
    assert_int_equal(world->reduce_scatterv(world, a, b, counts, MR_F32), MR_OK);
    expect(y, b, counts[world->rank]);
}

static void test_pending(void **state)
{
    (void)state;
    float a[N];
    fill(a);
    for (int i = 0; i < MANY; i++)
        assert_int_equal(staged->iallreduce(staged, x + 7 * i, 7, MR_F32), MR_OK);
    assert_int_equal(staged->wait_all(staged), MR_OK);
    for (int i = 0; i < MANY; i++)
        assert_int_equal(world->allreduce(world, a + 7 * i, 7, MR_F32, MR_SUM), MR_OK);
    expect(x, a, N);
}

static void test_moves(void **state)
{
    (void)state;
    float a[N], b[N];
    int64_t counts[MAX_RANKS], same[MAX_RANKS], first = 0, total = 0;
    counts_of(counts);
    for (int r = 0; r < world->size; r++) {
        first += r < world->rank ? counts[r] : 0;
        total += counts[r];
        same[r] = 5;
    }
    fill(a);
    assert_int_equal(staged->allgatherv(staged, x, y, counts, MR_F32), MR_OK);
    assert_int_equal(world->allgatherv(world, a, b, counts, MR_F32), MR_OK);
    expect(y, b, total);
    /* In place: what is sent is its own part of what comes. */
    assert_int_equal(staged->allgatherv(staged, y + first, y, counts, MR_F32), MR_OK);
    expect(y, b, total);
    assert_int_equal(staged->alltoallv(staged, x, same, y, same, MR_F32), MR_OK);
    assert_int_equal(world->alltoallv(world, a, same, b, same, MR_F32), MR_OK);
    expect(y, b, 5 * world->size);
    assert_int_equal(staged->bcast(staged, x, N, MR_F32, world->size - 1), MR_OK);
    for (int i = 0; i < N; i++) a[i] = number(world->size - 1, i);
    expect(x, a, N);
    assert_int_equal(staged->barrier(staged), MR_OK);
}

/* A part is staged too, and its statistics are those of the communicator inside. */
static void test_part(void **state)
{
    (void)state;
    float a[N];
    mr_comm *part = NULL;
    fill(a);
    assert_int_equal(staged->split(staged, world->rank % 2, &part), MR_OK);
    assert_string_equal(part->kind, "staged");
    assert_int_equal(part->size, (world->size + 1 - world->rank % 2) / 2);
    assert_int_equal(part->allreduce(part, x, N, MR_F32, MR_MAX), MR_OK);
    assert_int_equal(part->stats.calls[MR_COLL_ALLREDUCE], 1);
    for (int i = 0; i < N; i++)
        for (int r = world->rank % 2; r < world->size; r += 2)
            if (number(r, i) > a[i]) a[i] = number(r, i);
    expect(x, a, N);
    mr_comm_destroy(&part);
    assert_memory_equal(&staged->stats, &world->stats, sizeof world->stats);
}

int main(void)
{
    int failed = 1;
    int64_t before = mr_mem_now_bytes();
    if (mr_comm_mpi_world(&world) != MR_OK) return 1;
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_reductions),
                                       cmocka_unit_test(test_pending), cmocka_unit_test(test_moves),
                                       cmocka_unit_test(test_part)};
    if (mr_device_open(&dev, "guard", 0) == MR_OK && mr_comm_staged(world, dev, &staged) == MR_OK &&
        dev->alloc(dev, (void **)&x, N * 4, "x") == MR_OK &&
        dev->alloc(dev, (void **)&y, N * 4, "y") == MR_OK)
        failed = cmocka_run_group_tests(tests, NULL, NULL);
    mr_comm_destroy(&staged);
    mr_device_close(&dev);
    mr_comm_destroy(&world);
    if (mr_mem_now_bytes() != before) failed = 1;
    mr_comm_finalize();
    return failed;
}
