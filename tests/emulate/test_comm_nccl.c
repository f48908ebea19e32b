/* The communicator over NCCL on the emulated GPU, against MPI on host copies, bit for bit: calls as
 * they come, and the same calls recorded by all ranks, with other counts from time to time. Numbers
 * are whole, so that sums have no order. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/mem.h"
#include "dist/comm_nccl.h"

enum { N = 600, MAX_RANKS = 8, ROUNDS = 7 };
#define OK(call) assert_int_equal((call), MR_OK)

/* What a round makes: [N] each, in device memory and on the host. */
typedef struct buffers {
    float *sum, *row, *moved, *all, *part, *late;
} buffers;

static mr_comm *host, *world, *items;
static mr_device *dev;
static buffers d, h;

static float number(int round, int i)
{
    return (float)((i * 31 + host->rank * 7 + round * 13) % 101) - 40.0f;
}

static void each(void (*f)(float **device, float **here))
{
    f(&d.sum, &h.sum);
    f(&d.row, &h.row);
    f(&d.moved, &h.moved);
    f(&d.all, &h.all);
    f(&d.part, &h.part);
    f(&d.late, &h.late);
}

static void make(float **device, float **here)
{
    OK(dev->alloc(dev, (void **)device, N * sizeof(float), "numbers"));
    OK(MR_ALLOC(here, N, "numbers"));
}

static void release(float **device, float **here)
{
    dev->free(dev, *device);
    MR_FREE(*here);
}

static int now;

static void begin_round(float **device, float **here)
{
    for (int i = 0; i < N; i++) (*here)[i] = number(now, i);
    OK(dev->to_device(dev, *device, *here, N * sizeof(float)));
}

static void compare(float **device, float **here)
{
    float got[N];
    OK(dev->to_host(dev, got, *device, sizeof got));
    assert_memory_equal(got, *here, sizeof got);
}

/* Counts that differ, in some rounds 0 for one rank. */
static void counts_of(int round, int64_t *counts)
{
    for (int r = 0; r < host->size; r++) counts[r] = round % 3 == 1 && r == 1 ? 0 : 9 + 2 * r;
}

/* A sum beside calls of the other communicator, one that reads it, and a sum at the end. */
static mr_status make_calls(mr_comm *w, mr_comm *it, const buffers *b)
{
    int64_t counts[MAX_RANKS], own[MAX_RANKS];
    counts_of(now, counts);
    for (int r = 0; r < host->size; r++) own[r] = counts[host->rank];
    MR_TRY(w->iallreduce(w, b->sum, N, MR_F32));
    MR_TRY(it->alltoallv(it, b->row, counts, b->moved, own, MR_F32));
    MR_TRY(w->iallreduce(w, b->row, N / 2, MR_F32));
    MR_TRY(it->allgatherv(it, b->moved, b->all, counts, MR_F32));
    MR_TRY(w->wait_all(w));
    MR_TRY(it->reduce_scatterv(it, b->sum, b->part, counts, MR_F32));
    MR_TRY(it->bcast(it, b->all, N, MR_F32, host->size - 1));
    MR_TRY(w->allreduce(w, b->part, N, MR_F32, MR_MAX));
    MR_TRY(w->iallreduce(w, b->late, N, MR_F32));
    return w->wait_all(w);
}

static void add_counts(int64_t *out, const mr_comm *c, int sign)
{
    int64_t in, sent;
    mr_comm_stats_total(&c->stats, &in, &sent);
    out[0] += sign * in;
    out[1] += sign * sent;
    for (int k = 0; k < MR_COLL_COUNT; k++) out[2 + k] += sign * c->stats.calls[k];
}

static void run_round(bool is_recorded)
{
    int64_t apart[2 + MR_COLL_COUNT] = {0};
    each(begin_round);
    add_counts(apart, world, -1);
    add_counts(apart, items, -1);
    add_counts(apart, host, 1);
    if (is_recorded) OK(dev->capture(dev, MR_RECORD_STEP, MR_CAPTURE_BEGIN));
    OK(make_calls(world, items, &d));
    if (is_recorded) OK(dev->capture(dev, MR_RECORD_STEP, MR_CAPTURE_START));
    OK(make_calls(host, host, &h));
    each(compare);
    add_counts(apart, world, 1);
    add_counts(apart, items, 1);
    add_counts(apart, host, -1);
    for (int i = 0; i < 2 + MR_COLL_COUNT; i++) assert_int_equal(apart[i], 0);
}

static void test_calls(void **state)
{
    (void)state;
    for (now = 0; now < 3; now++) run_round(false);
}

static void test_recorded(void **state)
{
    (void)state;
    for (now = 0; now < ROUNDS; now++) run_round(true);
    run_round(false);
    run_round(true);
}

/* What was begun is not done, and nothing is left of it. */
static void test_dropped(void **state)
{
    (void)state;
    now = 0;
    each(begin_round);
    OK(dev->capture(dev, MR_RECORD_STEP, MR_CAPTURE_BEGIN));
    OK(items->allreduce(items, d.row, N, MR_F32, MR_SUM));
    OK(world->iallreduce(world, d.sum, N, MR_F32));
    OK(dev->capture(dev, MR_RECORD_STEP, MR_CAPTURE_DROP));
    each(compare);
    run_round(false);
    run_round(true);
}

/* A part of the ranks records as well. */
static void test_part(void **state)
{
    (void)state;
    mr_comm *part = NULL;
    float want = 0;
    OK(world->split(world, host->rank % 2, &part));
    now = 0;
    each(begin_round);
    for (int r = host->rank % 2; r < host->size; r += 2) want += (float)((r * 7) % 101) - 40.0f;
    OK(dev->capture(dev, MR_RECORD_STEP, MR_CAPTURE_BEGIN));
    OK(part->allreduce(part, d.sum, N, MR_F32, MR_SUM));
    OK(dev->capture(dev, MR_RECORD_STEP, MR_CAPTURE_START));
    OK(dev->to_host(dev, h.sum, d.sum, sizeof *h.sum));
    assert_true(h.sum[0] == want);
    OK(dev->capture(dev, MR_RECORD_STEP, MR_CAPTURE_FORGET));
    mr_comm_destroy(&part);
}

int main(void)
{
    int failed = 1;
    char id[24];
    if (mr_comm_mpi_world(&host) != MR_OK) return 1;
    snprintf(id, sizeof id, "host%d", host->rank);
    setenv("NCCL_HOSTID", id, 1);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_calls),
                                       cmocka_unit_test(test_recorded),
                                       cmocka_unit_test(test_dropped), cmocka_unit_test(test_part)};
    if (mr_device_open(&dev, "cuda", 0) == MR_OK &&
        mr_comm_nccl(host, dev, dev->native_stream, MR_NCCL_RECORDED, &world) == MR_OK &&
        mr_comm_nccl(host, dev, dev->native_stream, MR_NCCL_RECORDED_ROWS, &items) == MR_OK) {
        each(make);
        failed = cmocka_run_group_tests(tests, NULL, NULL);
        each(release);
    }
    mr_comm_destroy(&items);
    mr_comm_destroy(&world);
    mr_device_close(&dev);
    mr_comm_destroy(&host);
    mr_comm_finalize();
    return failed;
}
