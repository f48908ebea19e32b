/* Every collective on integer-valued data, whose sums are exact in any order, against values that
 * each rank computes for itself; and the byte counts against the formulas of comm.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/mem.h"
#include "base/rng.h"
#include "dist/comm.h"

static mr_comm *world;

/* A small integer that every rank can compute for every rank. */
static int64_t value(int rank, int64_t i)
{
    return (int64_t)mr_below(mr_philox(7, 1, (uint32_t)rank, (uint32_t)i, 0).v[0], 2001) - 1000;
}

static double get(const void *p, int64_t i, mr_dtype t)
{
    switch (t) {
    case MR_F32: return ((const float *)p)[i];
    case MR_F64: return ((const double *)p)[i];
    case MR_I32: return ((const int32_t *)p)[i];
    case MR_I64: return (double)((const int64_t *)p)[i];
    default: return ((const uint32_t *)p)[i];
    }
}

static void put(void *p, int64_t i, mr_dtype t, int64_t v)
{
    switch (t) {
    case MR_F32: ((float *)p)[i] = (float)v; break;
    case MR_F64: ((double *)p)[i] = (double)v; break;
    case MR_I32: ((int32_t *)p)[i] = (int32_t)v; break;
    case MR_I64: ((int64_t *)p)[i] = v; break;
    default: ((uint32_t *)p)[i] = (uint32_t)(v + 1000); break;
    }
}

static const mr_dtype types[] = {MR_F32, MR_F64, MR_I32, MR_I64, MR_U32};
enum { N_TYPES = 5, CAP = 1 << 16 };
static int64_t buf_a[CAP], buf_b[CAP];

static double expected(int64_t i, mr_dtype t, mr_reduce op)
{
    double acc = 0;
    for (int r = 0; r < world->size; r++) {
        double v = (double)value(r, i) + (t == MR_U32 ? 1000 : 0);
        if (r == 0)
            acc = v;
        else if (op == MR_SUM)
            acc += v;
        else
            acc = (op == MR_MAX) == (v > acc) ? v : acc;
    }
    return acc;
}

static void test_allreduce(void **state)
{
    (void)state;
    static const int64_t lengths[] = {0, 1, 2, 7, 1000, 20011};
    for (int k = 0; k < N_TYPES; k++)
        for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++)
            for (int op = MR_SUM; op <= MR_MIN; op++) {
                int64_t n = lengths[l];
                mr_comm_stats before = world->stats, used;
                for (int64_t i = 0; i < n; i++) put(buf_a, i, types[k], value(world->rank, i));
                assert_int_equal(world->allreduce(world, buf_a, n, types[k], (mr_reduce)op), MR_OK);
                for (int64_t i = 0; i < n; i++)
                    assert_true(get(buf_a, i, types[k]) == expected(i, types[k], (mr_reduce)op));
                mr_comm_stats_since(&used, &world->stats, &before);
                int64_t P = world->size, bytes = n * (int64_t)mr_dtype_bytes(types[k]);
                assert_int_equal(used.calls[MR_COLL_ALLREDUCE], 1);
                assert_int_equal(used.bytes_in[MR_COLL_ALLREDUCE], 2 * (P - 1) * bytes / P);
                assert_int_equal(used.bytes_out[MR_COLL_ALLREDUCE], 2 * (P - 1) * bytes / P);
            }
}

/* More at once than may be pending, of different lengths. */
static void test_iallreduce(void **state)
{
    (void)state;
    enum { JOBS = MR_COMM_PENDING * 2 + 5 };
    int64_t first[JOBS + 1] = {0};
    float *x = (float *)buf_a;
    for (int j = 0; j < JOBS; j++) first[j + 1] = first[j] + (j * 37) % 101;
    for (int64_t i = 0; i < first[JOBS]; i++) x[i] = (float)value(world->rank, i);
    for (int j = 0; j < JOBS; j++)
        assert_int_equal(world->iallreduce(world, x + first[j], first[j + 1] - first[j], MR_F32),
                         MR_OK);
    assert_int_equal(world->wait_all(world), MR_OK);
    for (int64_t i = 0; i < first[JOBS]; i++) assert_true(x[i] == expected(i, MR_F32, MR_SUM));
    assert_int_equal(world->wait_all(world), MR_OK);
}

/* Counts per rank: several patterns, some with zeros, one with nothing at all. */
static int64_t fill_counts(int64_t *counts, int pattern)
{
    int64_t total = 0;
    for (int r = 0; r < world->size; r++) {
        counts[r] = pattern == 0   ? 5
                    : pattern == 1 ? (r * 13) % 4 * 17
                    : pattern == 2 ? (r == world->size - 1 ? 1003 : 0)
                    : pattern == 3 ? 0
                                   : 700 + r;
        total += counts[r];
    }
    return total;
}

static void test_allgatherv(void **state)
{
    (void)state;
    int64_t counts[64];
    for (int pattern = 0; pattern < 5; pattern++)
        for (int k = 0; k < N_TYPES; k++)
            for (int in_place = 0; in_place < 2; in_place++) {
                mr_dtype t = types[k];
                int64_t total = fill_counts(counts, pattern), first = 0, own = counts[world->rank];
                for (int r = 0; r < world->rank; r++) first += counts[r];
                memset(buf_b, 0xee, sizeof buf_b);
                char *part = (char *)buf_b + (size_t)first * mr_dtype_bytes(t);
                void *send = in_place ? (void *)part : (void *)buf_a;
                for (int64_t i = 0; i < own; i++) put(send, i, t, value(world->rank, i));
                mr_comm_stats before = world->stats, used;
                assert_int_equal(world->allgatherv(world, send, buf_b, counts, t), MR_OK);
                int64_t at = 0;
                for (int r = 0; r < world->size; r++)
                    for (int64_t i = 0; i < counts[r]; i++, at++)
                        assert_true(get(buf_b, at, t) ==
                                    (double)value(r, i) + (t == MR_U32 ? 1000 : 0));
                unsigned char *end = (unsigned char *)buf_b + (size_t)total * mr_dtype_bytes(t);
                for (int i = 0; i < 8; i++) assert_int_equal(end[i], 0xee);
                mr_comm_stats_since(&used, &world->stats, &before);
                int64_t b = (int64_t)mr_dtype_bytes(t);
                assert_int_equal(used.bytes_in[MR_COLL_ALLGATHER], (total - own) * b);
                assert_int_equal(used.bytes_out[MR_COLL_ALLGATHER], (world->size - 1) * own * b);
            }
}

static void test_reduce_scatterv(void **state)
{
    (void)state;
    int64_t counts[64];
    for (int pattern = 0; pattern < 5; pattern++)
        for (int k = 0; k < N_TYPES; k++) {
            mr_dtype t = types[k];
            int64_t total = fill_counts(counts, pattern), first = 0, own = counts[world->rank];
            for (int r = 0; r < world->rank; r++) first += counts[r];
            for (int64_t i = 0; i < total; i++) put(buf_a, i, t, value(world->rank, i));
            memset(buf_b, 0xee, sizeof buf_b);
            mr_comm_stats before = world->stats, used;
            assert_int_equal(world->reduce_scatterv(world, buf_a, buf_b, counts, t), MR_OK);
            for (int64_t i = 0; i < own; i++)
                assert_true(get(buf_b, i, t) == expected(first + i, t, MR_SUM));
            unsigned char *end = (unsigned char *)buf_b + (size_t)own * mr_dtype_bytes(t);
            for (int i = 0; i < 8; i++) assert_int_equal(end[i], 0xee);
            mr_comm_stats_since(&used, &world->stats, &before);
            int64_t b = (int64_t)mr_dtype_bytes(t);
            assert_int_equal(used.bytes_in[MR_COLL_REDUCE_SCATTER], (world->size - 1) * own * b);
            assert_int_equal(used.bytes_out[MR_COLL_REDUCE_SCATTER], (total - own) * b);
        }
}

/* Element i of rank r, rounded in memory: a product that the compiler may join with an addition is
 * rounded once where the CPU has such an instruction and its tuning likes it. */
static float rounded_value(int r, int64_t i)
{
    volatile float x = (float)value(r, i) * 1.1f;
    return x;
}

/* The order of additions is the order of ranks: floats that round differently in other orders. */
static void test_reduce_scatterv_order(void **state)
{
    (void)state;
    int64_t counts[64];
    int64_t total = fill_counts(counts, 4), first = 0;
    float *x = (float *)buf_a, *y = (float *)buf_b;
    for (int r = 0; r < world->rank; r++) first += counts[r];
    for (int64_t i = 0; i < total; i++) x[i] = rounded_value(world->rank, i);
    assert_int_equal(world->reduce_scatterv(world, x, y, counts, MR_F32), MR_OK);
    for (int64_t i = 0; i < counts[world->rank]; i++) {
        float s = rounded_value(0, first + i);
        for (int r = 1; r < world->size; r++) s += rounded_value(r, first + i);
        assert_true(s == y[i]);
    }
}

static int64_t pair_count(int from, int to, int pattern)
{
    return pattern == 0 ? 3 : pattern == 1 ? (from * 7 + to * 11) % 5 * 19 : from == to ? 9 : 0;
}

static void test_alltoallv(void **state)
{
    (void)state;
    static const mr_dtype all[] = {MR_F32, MR_F64, MR_I32, MR_I64, MR_U32, MR_U8, MR_F16, MR_BF16};
    int64_t to[64], from[64];
    for (int pattern = 0; pattern < 3; pattern++)
        for (size_t k = 0; k < sizeof all / sizeof *all; k++) {
            size_t b = mr_dtype_bytes(all[k]);
            int64_t at = 0, out = 0, in = 0;
            unsigned char *x = (unsigned char *)buf_a, *y = (unsigned char *)buf_b;
            for (int r = 0; r < world->size; r++) {
                to[r] = pair_count(world->rank, r, pattern);
                from[r] = pair_count(r, world->rank, pattern);
                if (r != world->rank) out += to[r], in += from[r];
                for (int64_t i = 0; i < to[r] * (int64_t)b; i++)
                    x[at++] = (unsigned char)value(world->rank * 100 + r, i);
            }
            mr_comm_stats before = world->stats, used;
            memset(buf_b, 0xee, sizeof buf_b);
            assert_int_equal(world->alltoallv(world, x, to, y, from, all[k]), MR_OK);
            at = 0;
            for (int r = 0; r < world->size; r++)
                for (int64_t i = 0; i < from[r] * (int64_t)b; i++)
                    assert_int_equal(y[at++], (unsigned char)value(r * 100 + world->rank, i));
            for (int i = 0; i < 8; i++) assert_int_equal(y[at + i], 0xee);
            mr_comm_stats_since(&used, &world->stats, &before);
            assert_int_equal(used.bytes_in[MR_COLL_ALLTOALL], in * (int64_t)b);
            assert_int_equal(used.bytes_out[MR_COLL_ALLTOALL], out * (int64_t)b);
        }
}

static void test_bcast(void **state)
{
    (void)state;
    for (int root = 0; root < world->size; root++) {
        int64_t n = 501, sums[2];
        double *x = (double *)buf_a;
        for (int64_t i = 0; i < n; i++) x[i] = (double)value(world->rank, i);
        mr_comm_stats before = world->stats, used;
        assert_int_equal(world->bcast(world, x, n, MR_F64, root), MR_OK);
        for (int64_t i = 0; i < n; i++) assert_true(x[i] == (double)value(root, i));
        mr_comm_stats_since(&used, &world->stats, &before);
        sums[0] = used.bytes_in[MR_COLL_BCAST];
        sums[1] = used.bytes_out[MR_COLL_BCAST];
        assert_int_equal(sums[0], world->rank == root ? 0 : n * 8);
        assert_int_equal(sums[1], (world->rank + 1) % world->size == root ? 0 : n * 8);
        assert_int_equal(world->allreduce(world, sums, 2, MR_I64, MR_SUM), MR_OK);
        assert_int_equal(sums[0], (world->size - 1) * n * 8);
        assert_int_equal(sums[1], (world->size - 1) * n * 8);
    }
    assert_int_equal(world->barrier(world), MR_OK);
}

/* All of the above once more with slices of a few elements. */
static void test_slices(void **state)
{
    mr_comm_mpi_slice(100);
    test_iallreduce(state);
    test_allgatherv(state);
    test_reduce_scatterv(state);
    test_reduce_scatterv_order(state);
    test_alltoallv(state);
    test_bcast(state);
    mr_comm_mpi_slice(4000);
    test_allreduce(state);
    mr_comm_mpi_slice((int64_t)1 << 30);
}

static void test_split(void **state)
{
    (void)state;
    mr_comm *part = NULL;
    int color = world->rank % 2;
    assert_int_equal(world->split(world, color, &part), MR_OK);
    assert_int_equal(part->size, (world->size + 1 - color) / 2);
    assert_int_equal(part->rank, world->rank / 2);
    int64_t v = world->rank, want = 0;
    for (int r = color; r < world->size; r += 2) want += r;
    assert_int_equal(part->allreduce(part, &v, 1, MR_I64, MR_SUM), MR_OK);
    assert_int_equal(v, want);
    mr_comm_destroy(&part);
    assert_null(part);
    /* All ranks of a test are on one host. */
    assert_int_equal(world->split_host(world, &part), MR_OK);
    assert_int_equal(part->size, world->size);
    assert_int_equal(part->rank, world->rank);
    mr_comm_destroy(&part);
}

static void test_agree(void **state)
{
    (void)state;
    mr_errors_to_log(false);
    assert_int_equal(mr_comm_agree(world, MR_OK), MR_OK);
    /* One rank fails: all learn its status, whichever rank it is. */
    for (int bad = 0; bad < world->size; bad++)
        assert_int_equal(mr_comm_agree(world, world->rank == bad ? MR_ERR_IO : MR_OK), MR_ERR_IO);
    /* Different errors: the lowest rank's counts, not the largest number. */
    mr_status mine = world->rank == world->size - 1 ? MR_ERR_CONFIG : MR_ERR_DATA;
    assert_int_equal(mr_comm_agree(world, mine), world->size == 1 ? MR_ERR_CONFIG : MR_ERR_DATA);
    /* A wish to stop on rank 0 does not hide an error elsewhere. */
    mine = world->rank == 0 ? MR_STOPPED : MR_OK;
    assert_int_equal(mr_comm_agree(world, mine), MR_STOPPED);
    if (world->rank == world->size - 1) mine = MR_ERR_NO_INPUT;
    assert_int_equal(mr_comm_agree(world, mine), MR_ERR_NO_INPUT);
    mr_errors_to_log(true);
}

static void test_bad_arguments(void **state)
{
    (void)state;
    int64_t counts[64] = {0}, x = 0;
    mr_comm *part = NULL;
    mr_errors_to_log(false);
    assert_int_equal(world->allreduce(world, &x, 1, MR_F16, MR_SUM), MR_ERR_COMM);
    assert_int_equal(world->iallreduce(world, &x, 1, MR_BF16), MR_ERR_COMM);
    assert_int_equal(world->reduce_scatterv(world, &x, &x, counts, MR_U8), MR_ERR_COMM);
    assert_int_equal(world->allreduce(world, &x, -1, MR_F32, MR_SUM), MR_ERR_INTERNAL);
    assert_int_equal(world->bcast(world, &x, 1, MR_I64, world->size), MR_ERR_INTERNAL);
    assert_int_equal(world->split(world, -1, &part), MR_ERR_INTERNAL);
    counts[world->size - 1] = -1;
    assert_int_equal(world->allgatherv(world, &x, &x, counts, MR_I64), MR_ERR_INTERNAL);
    assert_int_equal(world->alltoallv(world, &x, counts, &x, counts, MR_I64), MR_ERR_INTERNAL);
    mr_errors_to_log(true);
}

/* An error inside MPI comes back as a status with MPI's own words: more is sent than expected. */
static void test_mpi_error(void **state)
{
    (void)state;
    int64_t to[64] = {0}, from[64] = {0};
    if (world->size == 1) return;
    to[(world->rank + 1) % world->size] = 2;
    from[(world->rank + world->size - 1) % world->size] = 1;
    mr_errors_to_log(false);
    assert_int_equal(world->alltoallv(world, buf_a, to, buf_b, from, MR_F64), MR_ERR_COMM);
    mr_errors_to_log(true);
    assert_non_null(strstr(mr_last_error(), "MPI_Sendrecv failed on rank"));
    assert_non_null(strstr(mr_last_error(), "truncated"));
}

/* With one rank also the self communicator passes everything; returns the number of failures. */
static int run_all(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_allreduce),
        cmocka_unit_test(test_iallreduce),
        cmocka_unit_test(test_allgatherv),
        cmocka_unit_test(test_reduce_scatterv),
        cmocka_unit_test(test_alltoallv),
        cmocka_unit_test(test_bcast),
        cmocka_unit_test(test_slices),
        cmocka_unit_test(test_split),
        cmocka_unit_test(test_agree),
        cmocka_unit_test(test_bad_arguments),
        cmocka_unit_test(test_reduce_scatterv_order),
        cmocka_unit_test(test_mpi_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(void)
{
    int64_t before = mr_mem_now_bytes();
    if (mr_comm_mpi_world(&world) != MR_OK) return 1;
    int failed = run_all();
    if (world->size == 1) {
        mr_comm_destroy(&world);
        if (mr_comm_self(&world) != MR_OK) return 1;
        failed += run_all();
    }
    if (failed) mr_comm_abort(1); /* the other ranks may be waiting for this one */
    mr_comm_destroy(&world);
    if (mr_mem_now_bytes() != before) failed++;
    mr_comm_finalize();
    return failed;
}
