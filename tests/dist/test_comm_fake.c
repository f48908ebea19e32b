/* The failing communicator: the n-th call fails, for every n, and only that one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/mem.h"
#include "dist/comm.h"
#include "ranks_main.h"

static mr_comm *world;

enum { CALLS = 13 };

/* One call of everything (and one on a part); which of them failed is marked. */
static void call_everything(mr_comm *c, mr_status *st, mr_comm **part_p)
{
    float x[64] = {0}, y[64] = {0};
    int64_t counts[64];
    for (int r = 0; r < c->size; r++) counts[r] = 1;
    st[0] = c->allreduce(c, x, 2, MR_F32, MR_SUM);
    st[1] = c->iallreduce(c, x, 2, MR_F32);
    st[2] = c->wait_all(c);
    st[3] = c->allgatherv(c, x, y, counts, MR_F32);
    st[4] = c->reduce_scatterv(c, x, y, counts, MR_F32);
    st[5] = c->alltoallv(c, x, counts, y, counts, MR_F32);
    st[6] = c->bcast(c, x, 3, MR_F32, 0);
    st[7] = c->barrier(c);
    st[8] = mr_comm_agree(c, MR_OK);
    st[9] = c->split(c, 0, part_p);
    st[10] = *part_p ? (*part_p)->barrier(*part_p) : c->barrier(c);
    mr_comm *host = NULL;
    st[11] = c->split_host(c, &host);
    st[12] = host ? host->barrier(host) : c->barrier(c);
    mr_comm_destroy(&host);
}

static void test_every_call(void **state)
{
    (void)state;
    mr_status first[CALLS];
    mr_comm *kept = NULL;
    call_everything(world, first, &kept); /* a communicator keeps the scratch it once needed */
    mr_comm_destroy(&kept);
    int64_t before = mr_mem_now_bytes();
    for (int fail_at = 0; fail_at <= CALLS + 1; fail_at++) {
        mr_comm *c = NULL, *part = NULL;
        mr_status st[CALLS];
        assert_int_equal(mr_comm_fake(world, fail_at, &c), MR_OK);
        assert_string_equal(c->kind, "fake");
        assert_int_equal(c->size, world->size);
        mr_errors_to_log(false);
        call_everything(c, st, &part);
        mr_errors_to_log(true);
        for (int k = 0; k < CALLS; k++)
            assert_int_equal(st[k], k + 1 == fail_at ? MR_ERR_COMM : MR_OK);
        if (fail_at == 10)
            assert_null(part);
        else
            assert_non_null(part);
        assert_int_equal(c->stats.calls[MR_COLL_BCAST], world->stats.calls[MR_COLL_BCAST]);
        mr_comm_destroy(&part);
        mr_comm_destroy(&c);
    }
    assert_int_equal(mr_mem_now_bytes(), before);
}

/* An error on one rank alone: the agreement brings it to all, the data still arrived. */
static void test_one_rank(void **state)
{
    (void)state;
    mr_comm *c = NULL;
    int bad = world->size - 1;
    int64_t x = 1;
    assert_int_equal(mr_comm_fake(world, world->rank == bad ? 1 : 0, &c), MR_OK);
    mr_errors_to_log(false);
    mr_status st = c->allreduce(c, &x, 1, MR_I64, MR_SUM);
    mr_errors_to_log(true);
    assert_int_equal(st, world->rank == bad ? MR_ERR_COMM : MR_OK);
    assert_int_equal(x, world->size);
    assert_int_equal(mr_comm_agree(c, st), MR_ERR_COMM);
    mr_comm_destroy(&c);
}

static void test_out_of_memory(void **state)
{
    (void)state;
    int64_t before = mr_mem_now_bytes();
    mr_comm *c = NULL;
    mr_errors_to_log(false);
    for (int n = 1; n <= 3; n++) {
        mr_mem_fail_at(n);
        assert_int_equal(mr_comm_fake(world, 1, &c), MR_ERR_MEMORY);
        assert_null(c);
        assert_int_equal(mr_mem_now_bytes(), before);
    }
    mr_mem_fail_at(0);
    mr_errors_to_log(true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_call),
        cmocka_unit_test(test_one_rank),
        cmocka_unit_test(test_out_of_memory),
    };
    RANKS_MAIN(&world, tests);
}
