/* The row exchange against a dense table: rows fetched through it are the table's rows, gradients
 * sent back through it are the dense sums, exactly, on integer-valued data. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/mem.h"
#include "base/rng.h"
#include "dist/shard.h"
#include "ranks_main.h"

enum { CAP = 600, WIDTH = 3, MAX_ROWS = 5000 };
static mr_comm *world;

static uint32_t draw(uint32_t a, uint32_t b, uint32_t c) { return mr_philox(11, a, b, c, 0).v[2]; }

/* List `kind` of rank r; every rank can make every rank's. */
enum { RANDOM, FEW_IDS, ALL_SAME, DISTINCT_DOWN, LAST_ROWS, NOTHING, SOME_EMPTY, KINDS };
static int64_t make_list(int kind, int rank, int64_t n_rows, int32_t *ids)
{
    int64_t n = kind == NOTHING ? 0 : 37 + rank * 61;
    if (kind == SOME_EMPTY && rank % 2 == 0) n = 0;
    if (kind == DISTINCT_DOWN && n > n_rows) n = n_rows;
    for (int64_t i = 0; i < n; i++) {
        uint32_t w = draw((uint32_t)kind, (uint32_t)rank, (uint32_t)i);
        switch (kind) {
        case FEW_IDS: ids[i] = (int32_t)mr_below(w, n_rows < 4 ? (uint32_t)n_rows : 4); break;
        case ALL_SAME: ids[i] = (int32_t)(n_rows / 2); break;
        case DISTINCT_DOWN: ids[i] = (int32_t)(n_rows - 1 - i); break;
        case LAST_ROWS: ids[i] = (int32_t)(n_rows - 1 - mr_below(w, 2) % n_rows); break;
        default: ids[i] = (int32_t)mr_below(w, (uint32_t)n_rows); break;
        }
    }
    return n;
}

/* The index of a list, by definition. */
static void check_index(const mr_exchange *x, const int32_t *ids, int64_t n, int64_t block)
{
    int64_t at = 0, want = 0;
    assert_int_equal(x->n, n);
    for (int64_t u = 0; u < x->n_unique; u++) {
        if (u > 0) assert_true(x->unique_id[u] > x->unique_id[u - 1]);
        for (int64_t i = 0; i < n; i++)
            if (ids[i] == x->unique_id[u]) {
                assert_int_equal(x->inv[i], u);
                assert_int_equal(x->csr_pos[at++], i);
            }
        assert_int_equal(x->csr_start[u + 1], at);
        assert_true(x->csr_start[u + 1] > x->csr_start[u]);
    }
    assert_int_equal(x->csr_start[0], 0);
    assert_int_equal(at, n);
    for (int r = 0; r < x->size; r++) {
        want = 0;
        for (int64_t u = 0; u < x->n_unique; u++)
            want += x->unique_id[u] >= r * block && x->unique_id[u] < (r + 1) * block;
        assert_int_equal(x->want[r], want);
    }
}

/* The requests that this rank must serve, from the lists of all ranks. */
static void check_give(const mr_exchange *x, int kind, int64_t n_rows, int64_t lo, int64_t hi)
{
    static int32_t ids[CAP];
    static char used[MAX_ROWS];
    int64_t at = 0, seen = 0;
    for (int r = 0; r < x->size; r++) {
        int64_t n = make_list(kind, r, n_rows, ids), first = at;
        memset(used, 0, sizeof used);
        for (int64_t i = 0; i < n; i++) used[ids[i]] = 1;
        for (int64_t row = lo; row < hi; row++)
            if (used[row]) assert_int_equal(x->give_row[at++], row - lo);
        assert_int_equal(x->give[r], at - first);
    }
    assert_int_equal(x->n_give, at);
    assert_int_equal(x->own_start[0], 0);
    for (int64_t k = 0; k < x->n_own; k++) {
        if (k > 0) assert_true(x->own_row[k] > x->own_row[k - 1]);
        assert_true(x->own_start[k + 1] > x->own_start[k]);
        for (int32_t p = x->own_start[k]; p < x->own_start[k + 1]; p++, seen++) {
            assert_int_equal(x->give_row[x->own_pos[p]], x->own_row[k]);
            if (p > x->own_start[k]) assert_true(x->own_pos[p] > x->own_pos[p - 1]);
        }
    }
    assert_int_equal(seen, at);
}

static float cell(int64_t row, int k) { return (float)(row * 10 + k); }

static float token_gradient(int rank, int64_t i, int k)
{
    return (float)((int)(draw(99, (uint32_t)rank, (uint32_t)i) % 201) - 100 + k);
}

static void by_width(int64_t *out, const int64_t *rows)
{
    for (int r = 0; r < world->size; r++) out[r] = rows[r] * WIDTH;
}

/* Fetch rows and send gradients back as the ops do. */
static void check_trip(const mr_exchange *x, int kind, int64_t n_rows, int64_t lo, int64_t hi)
{
    static float give[8 * CAP * WIDTH], rows[CAP * WIDTH], grad[CAP * WIDTH], back[8 * CAP * WIDTH];
    static float table[MAX_ROWS * WIDTH], dense[MAX_ROWS * WIDTH];
    static int32_t ids[CAP];
    int64_t give_n[64], want_n[64];
    by_width(give_n, x->give);
    by_width(want_n, x->want);
    for (int64_t i = 0; i < x->n_give; i++)
        for (int k = 0; k < WIDTH; k++) give[i * WIDTH + k] = cell(lo + x->give_row[i], k);
    assert_int_equal(world->alltoallv(world, give, give_n, rows, want_n, MR_F32), MR_OK);
    int64_t n = make_list(kind, world->rank, n_rows, ids);
    for (int64_t i = 0; i < n; i++)
        for (int k = 0; k < WIDTH; k++) assert_true(rows[x->inv[i] * WIDTH + k] == cell(ids[i], k));

    memset(grad, 0, sizeof grad);
    for (int64_t u = 0; u < x->n_unique; u++)
        for (int32_t p = x->csr_start[u]; p < x->csr_start[u + 1]; p++)
            for (int k = 0; k < WIDTH; k++)
                grad[u * WIDTH + k] += token_gradient(world->rank, x->csr_pos[p], k);
    assert_int_equal(world->alltoallv(world, grad, want_n, back, give_n, MR_F32), MR_OK);
    memset(table, 0, sizeof table);
    for (int64_t o = 0; o < x->n_own; o++)
        for (int32_t p = x->own_start[o]; p < x->own_start[o + 1]; p++)
            for (int k = 0; k < WIDTH; k++)
                table[(lo + x->own_row[o]) * WIDTH + k] += back[x->own_pos[p] * WIDTH + k];
    memset(dense, 0, sizeof dense);
    for (int r = 0; r < world->size; r++) {
        n = make_list(kind, r, n_rows, ids);
        for (int64_t i = 0; i < n; i++)
            for (int k = 0; k < WIDTH; k++) dense[ids[i] * WIDTH + k] += token_gradient(r, i, k);
    }
    for (int64_t e = lo * WIDTH; e < hi * WIDTH; e++) assert_true(table[e] == dense[e]);
}

/* One exchange reused for lists and tables of all kinds, the requests growing and shrinking. */
static void test_plans(void **state)
{
    (void)state;
    static const int64_t tables[] = {1, 2, 3, 7, 100, 101, 2048, MAX_ROWS};
    mr_exchange *x = NULL;
    assert_int_equal(mr_exchange_create(&x, CAP, world->size), MR_OK);
    for (size_t t = 0; t < sizeof tables / sizeof *tables; t++)
        for (int kind = 0; kind < KINDS; kind++) {
            static int32_t ids[CAP];
            int64_t n_rows = tables[t], block = (n_rows + world->size - 1) / world->size;
            int64_t lo = world->rank * block < n_rows ? world->rank * block : n_rows;
            int64_t hi = lo + block < n_rows ? lo + block : n_rows;
            int64_t n = make_list(kind, world->rank, n_rows, ids);
            mr_comm_stats before = world->stats, used;
            assert_int_equal(mr_exchange_plan(x, world, n_rows, ids, n), MR_OK);
            mr_comm_stats_since(&used, &world->stats, &before);
            assert_int_equal(used.calls[MR_COLL_ALLTOALL], world->size > 1 ? 2 : 0);
            check_index(x, ids, n, block);
            check_give(x, kind, n_rows, lo, hi);
            check_trip(x, kind, n_rows, lo, hi);
        }
    mr_exchange_free(&x);
    assert_null(x);
}

/* Ids of many digits, against qsort. */
static int ascending(const void *a, const void *b)
{
    return (*(const int32_t *)a > *(const int32_t *)b) -
           (*(const int32_t *)a < *(const int32_t *)b);
}

static void test_large_ids(void **state)
{
    (void)state;
    mr_comm *self = NULL;
    mr_exchange *x = NULL;
    int32_t ids[CAP], sorted[CAP];
    assert_int_equal(mr_comm_self(&self), MR_OK);
    assert_int_equal(mr_exchange_create(&x, CAP, 1), MR_OK);
    for (int64_t i = 0; i < CAP; i++) sorted[i] = ids[i] = (int32_t)(draw(5, 5, (uint32_t)i) >> 1);
    ids[7] = sorted[7] = INT32_MAX;
    assert_int_equal(mr_exchange_plan(x, self, (int64_t)1 << 31, ids, CAP), MR_OK);
    qsort(sorted, CAP, sizeof *sorted, ascending);
    for (int64_t i = 0; i < CAP; i++) {
        assert_int_equal(ids[x->csr_pos[i]], sorted[i]);
        assert_int_equal(x->unique_id[x->inv[i]], ids[i]);
    }
    mr_exchange_free(&x);
    mr_comm_destroy(&self);
}

static void test_bad_lists(void **state)
{
    (void)state;
    mr_exchange *x = NULL;
    int32_t ids[] = {0, 3, 10, -1};
    assert_int_equal(mr_exchange_create(&x, 4, world->size), MR_OK);
    mr_errors_to_log(false);
    assert_int_equal(mr_exchange_plan(x, world, 10, ids, 3), MR_ERR_INTERNAL);
    assert_non_null(strstr(mr_last_error(), "id 10 at position 2"));
    assert_int_equal(mr_exchange_plan(x, world, 11, ids, 4), MR_ERR_INTERNAL);
    assert_int_equal(mr_exchange_plan(x, world, 11, ids, 5), MR_ERR_INTERNAL);
    assert_int_equal(x->n_unique, 0);
    /* Ranks with different tables: the owner notices. */
    if (world->size > 1) {
        int64_t n_rows = world->rank == 0 ? 1000 : 10;
        int32_t mine[] = {world->rank == 0 ? 999 : 9};
        mr_status st = mr_exchange_plan(x, world, n_rows, mine, 1);
        assert_int_equal(st, world->rank == world->size - 1 ? MR_ERR_COMM : MR_OK);
    }
    mr_errors_to_log(true);
    mr_exchange_free(&x);
}

/* The n-th allocation or call fails, for every n: a status, nothing leaked, usable afterwards. */
static void test_faults(void **state)
{
    (void)state;
    int64_t before = mr_mem_now_bytes(), n = 0;
    int32_t ids[] = {0, 3, 3, 1};
    mr_status st = MR_ERR_MEMORY;
    mr_errors_to_log(false);
    mr_comm *self = NULL;
    assert_int_equal(mr_comm_self(&self), MR_OK);
    while (st != MR_OK) {
        mr_exchange *x = NULL;
        mr_mem_fail_at(++n);
        st = mr_exchange_create(&x, 4, 1);
        if (st == MR_OK) st = mr_exchange_plan(x, self, 4, ids, 4);
        mr_mem_fail_at(0);
        assert_true(st == MR_OK || st == MR_ERR_MEMORY);
        if (x) {
            assert_int_equal(mr_exchange_plan(x, self, 4, ids, 4), MR_OK);
            assert_int_equal(x->n_unique, 3);
            assert_int_equal(x->n_own, 3);
        }
        mr_exchange_free(&x);
    }
    assert_int_equal(n, 1 + 8 + 5 + 1);
    mr_comm_destroy(&self);
    for (int k = 1; k <= 2 && world->size > 1; k++) {
        mr_comm *bad = NULL;
        mr_exchange *x = NULL;
        assert_int_equal(mr_exchange_create(&x, 4, world->size), MR_OK);
        assert_int_equal(mr_comm_fake(world, k, &bad), MR_OK);
        assert_int_equal(mr_exchange_plan(x, bad, 4, ids, 4), MR_ERR_COMM);
        assert_int_equal(x->n_give, 0);
        assert_int_equal(mr_exchange_plan(x, bad, 4, ids, 4), MR_OK);
        assert_int_equal(x->n_unique, 3);
        mr_comm_destroy(&bad);
        mr_exchange_free(&x);
    }
    mr_errors_to_log(true);
    assert_int_equal(mr_mem_now_bytes(), before);
}

/* Fixed rows of every pair: rows arrive where inv says and gradients where own_pos says, padding
 * is never used; a list that does not fit on one rank makes all exact. */
static void test_fixed(void **state)
{
    (void)state;
    enum { ROWS = 50, N = 12, C = 9 };
    int size = world->size, rank = world->rank;
    int64_t block = (ROWS + size - 1) / size, lo = rank * block, count[8];
    int32_t ids[N], give[8 * C], got[8 * C];
    for (int i = 0; i < N; i++) ids[i] = (int32_t)((rank * 7 + i * i * 5) % ROWS);
    for (int fixed = C; fixed >= 1; fixed -= C - 1) { /* 9 rows, then 1: too few */
        mr_exchange *x = NULL;
        assert_int_equal(mr_exchange_create(&x, N, size), MR_OK);
        x->fixed = fixed;
        assert_int_equal(mr_exchange_plan(x, world, ROWS, ids, N), MR_OK);
        assert_int_equal(x->is_fixed, size > 1 && fixed == C);
        assert_int_equal(x->n_misfit, size > 1 && fixed == 1);
        for (int r = 0; r < size && x->is_fixed; r++) {
            count[r] = fixed;
            assert_true(mr_exchange_wants(x, r) == fixed && mr_exchange_gives(x, r) == fixed);
            assert_true(x->want[r] <= fixed && x->give[r] <= fixed);
        }
        if (x->is_fixed) {
            assert_true(x->n_slots == size * fixed && x->n_send == size * fixed);
            for (int64_t k = 0; k < x->n_send; k++) give[k] = x->give_row[k] + (int32_t)lo;
            assert_int_equal(world->alltoallv(world, give, count, got, count, MR_I32), MR_OK);
            for (int i = 0; i < N; i++) assert_int_equal(got[x->inv[i]], ids[i]);
            for (int64_t u = 0; u < x->n_unique; u++)
                assert_int_equal(got[x->slot[u]], x->unique_id[u]);
            for (int64_t o = 0; o < x->n_own; o++) /* what came from askers is about own rows */
                for (int32_t k = x->own_start[o]; k < x->own_start[o + 1]; k++) {
                    assert_true(x->own_pos[k] % fixed < x->give[x->own_pos[k] / fixed]);
                    assert_int_equal(x->give_row[x->own_pos[k]], x->own_row[o]);
                }
        }
        mr_exchange_free(&x);
    }
    if (size < 2) return;
    mr_exchange *x = NULL; /* only the last rank wants more than 2 rows of one owner */
    assert_int_equal(mr_exchange_create(&x, N, size), MR_OK);
    x->fixed = 2;
    for (int i = 0; i < N; i++) ids[i] = rank == size - 1 ? i % 4 : 1;
    assert_int_equal(mr_exchange_plan(x, world, ROWS, ids, N), MR_OK);
    assert_true(!x->is_fixed && x->n_misfit == 1 && x->want[0] == (rank == size - 1 ? 4 : 1));
    mr_exchange_free(&x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plans),  cmocka_unit_test(test_large_ids),
        cmocka_unit_test(test_fixed),  cmocka_unit_test(test_bad_lists),
        cmocka_unit_test(test_faults),
    };
    RANKS_MAIN(&world, tests);
}
