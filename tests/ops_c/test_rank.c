/* Full ranking against a brute-force sort: ties, left-out items, best-k lists, several ranks;
 * scores whose bits do not depend on their place. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/mem.h"
#include "graph/params.h"
#include "op_world.h"
#include "train/rank.h"
#include "ranks_main.h"

static mr_comm *world;

#define NEW(ptr, n) assert_int_equal(MR_ALLOC(&(ptr), (n), #ptr), MR_OK)

typedef struct problem {
    int64_t rows, n_items, d, k;
    bool cosine, has_mask, skip, integers;
    double *x, *e; /* [rows,d], [n_items+1+mask,d] */
    int32_t *target, *skip_id;
    int64_t *skip_start;
} problem;

static double value(const problem *p, uint32_t stream, int64_t i)
{
    double v = op_random(stream, i);
    return p->integers ? floor(v * 2.999) : (double)(float)v;
}

static void problem_make(problem *p)
{
    int64_t n_table = p->n_items + 1 + p->has_mask;
    NEW(p->x, p->rows * p->d + 1);
    NEW(p->e, n_table * p->d);
    NEW(p->target, p->rows + 1);
    NEW(p->skip_start, p->rows + 1);
    NEW(p->skip_id, p->rows * 5 + 1);
    for (int64_t i = 0; i < p->rows * p->d; i++) p->x[i] = value(p, 1, i);
    for (int64_t i = 0; i < n_table * p->d; i++) p->e[i] = value(p, 2, i);
    /* equal rows give equal scores also without integers */
    for (int64_t i = 3; i + 2 < p->n_items; i += 7)
        memcpy(p->e + (i + 2) * p->d, p->e + i * p->d, (size_t)p->d * sizeof(double));
    int64_t at = 0;
    for (int64_t b = 0; b < p->rows; b++) {
        p->target[b] = 1 + (int32_t)((op_random(3, b) + 1) * 0.5 * (double)p->n_items);
        p->skip_start[b] = at;
        int32_t id = 0;
        for (int q = 0; p->skip && q < b % 6; q++) {
            id += 1 + (int32_t)((op_random(4, b * 5 + q) + 1) * 0.5 * (double)p->n_items / 6.0);
            if (id <= p->n_items) p->skip_id[at++] = id;
        }
        if (p->skip && b % 4 == 1 && at > p->skip_start[b]) p->target[b] = p->skip_id[at - 1];
    }
    p->skip_start[p->rows] = at;
}

static void problem_free(problem *p)
{
    MR_FREE(p->x);
    MR_FREE(p->e);
    MR_FREE(p->target);
    MR_FREE(p->skip_start);
    MR_FREE(p->skip_id);
}

typedef struct answer {
    int32_t *rank, *id;
    double *score;
} answer;

static void answer_make(answer *a, const problem *p)
{
    NEW(a->rank, p->rows + 1);
    NEW(a->id, p->rows * p->k + 1);
    NEW(a->score, p->rows * p->k + 1);
}

static void answer_free(answer *a)
{
    MR_FREE(a->rank);
    MR_FREE(a->id);
    MR_FREE(a->score);
}

static bool is_skipped(const problem *p, int64_t b, int32_t id)
{
    for (int64_t j = p->skip_start[b]; j < p->skip_start[b + 1]; j++)
        if (p->skip_id[j] == id) return id != p->target[b];
    return false;
}

typedef struct scored {
    double s;
    int32_t id;
} scored;

static int by_score(const void *a, const void *b)
{
    const scored *p = a, *q = b;
    if (p->s != q->s) return p->s > q->s ? -1 : 1;
    return p->id < q->id ? -1 : 1;
}

/* Sort everything. Cosine with integers: squared norms are exact, so the score is one rounding off.
 */
static void brute(const problem *p, answer *a)
{
    scored *all;
    NEW(all, p->n_items);
    for (int64_t b = 0; b < p->rows; b++) {
        int64_t n = 0;
        const double *x = p->x + b * p->d;
        double nx = 0;
        for (int64_t k = 0; k < p->d; k++) nx += x[k] * x[k];
        for (int32_t i = 1; i <= p->n_items; i++) {
            const double *e = p->e + (int64_t)i * p->d;
            double s = 0, ne = 0;
            for (int64_t k = 0; k < p->d; k++) {
                s += x[k] * e[k];
                ne += e[k] * e[k];
            }
            if (p->cosine) s /= fmax(sqrt(nx), 1e-12) * fmax(sqrt(ne), 1e-12);
            if (!is_skipped(p, b, i)) all[n++] = (scored){s, i};
        }
        qsort(all, (size_t)n, sizeof *all, by_score);
        for (int64_t i = 0; i < n; i++)
            if (all[i].id == p->target[b]) a->rank[b] = (int32_t)i + 1;
        for (int64_t q = 0; q < p->k; q++) {
            a->id[b * p->k + q] = q < n ? all[q].id : -1;
            a->score[b * p->k + q] = q < n ? all[q].s : -HUGE_VAL;
        }
    }
    MR_FREE(all);
}

static void to_real(void *dst, const double *src, int64_t n, mr_dtype t)
{
    for (int64_t i = 0; i < n; i++)
        if (t == MR_F64)
            ((double *)dst)[i] = src[i];
        else
            ((float *)dst)[i] = (float)src[i];
}

/* Rows lo..hi of all rows, this rank's shard of the items, answers for all rows gathered. */
static void solve(const problem *p, const char *device, mr_comm *comm, int64_t block, answer *a)
{
    mr_device *dev;
    mr_ranker *rk;
    assert_int_equal(mr_device_open(&dev, device, 0), MR_OK);
    int size = comm ? comm->size : 1, me = comm ? comm->rank : 0;
    int64_t n_table = p->n_items + 1 + p->has_mask, lo, hi;
    mr_shard_rows(n_table, me, size, &lo, &hi);
    size_t real = mr_dtype_bytes(dev->real);
    void *table, *x, *host = NULL;
    assert_int_equal(mr_alloc(&host, (n_table + p->rows) * p->d, 8, "host"), MR_OK);
    assert_int_equal(dev->alloc(dev, &table, (size_t)((hi - lo) * p->d) * real + 8, "table"),
                     MR_OK);
    assert_int_equal(dev->alloc(dev, &x, (size_t)(block * p->d) * real + 8, "x"), MR_OK);
    to_real(host, p->e + lo * p->d, (hi - lo) * p->d, dev->real);
    assert_int_equal(dev->to_device(dev, table, host, (size_t)((hi - lo) * p->d) * real), MR_OK);
    mr_rank_spec spec = {.dev = dev,
                         .comm = comm,
                         .table = table,
                         .row_lo = lo,
                         .row_hi = hi,
                         .n_items = p->n_items,
                         .d = p->d,
                         .is_cosine = p->cosine,
                         .rows_cap = block,
                         .top_k = p->k};
    assert_int_equal(mr_kernels_for(&spec.k, device, spec.dev->act), MR_OK);
    assert_int_equal(mr_ranker_create(&rk, &spec), MR_OK);
    mr_ranker_refresh(rk);
    memset(a->rank, 0, (size_t)p->rows * 4);
    memset(a->id, 0, (size_t)(p->rows * p->k) * 4);
    memset(a->score, 0, (size_t)(p->rows * p->k) * 8);
    for (int64_t b0 = 0; b0 < p->rows; b0 += block) {
        int64_t n = p->rows - b0 < block ? p->rows - b0 : block, counts[8], at = b0;
        /* uneven: the first rank has no row, the last one the remainder */
        for (int i = 0; i < size; i++)
            counts[i] = i == size - 1 ? n : (i == 0 ? 0 : n / (size + 1));
        for (int i = 1; i < size - 1; i++) counts[size - 1] -= counts[i];
        for (int i = 0; i < me; i++) at += counts[i];
        to_real(host, p->x + at * p->d, counts[me] * p->d, dev->real);
        assert_int_equal(dev->to_device(dev, x, host, (size_t)(counts[me] * p->d) * real), MR_OK);
        mr_rank_block b = {.x = x,
                           .counts = counts,
                           .target = p->target + at,
                           .skip_start = p->skip ? p->skip_start + at : NULL,
                           .skip_id = p->skip_id,
                           .rank = a->rank + at,
                           .top_id = a->id + at * p->k,
                           .top_score = a->score + at * p->k};
        assert_int_equal(mr_ranker_run(rk, &b), MR_OK);
    }
    if (comm) {
        comm->allreduce(comm, a->rank, p->rows, MR_I32, MR_SUM);
        comm->allreduce(comm, a->id, p->rows * p->k, MR_I32, MR_SUM);
        comm->allreduce(comm, a->score, p->rows * p->k, MR_F64, MR_SUM);
    }
    mr_ranker_free(&rk);
    dev->free(dev, table);
    dev->free(dev, x);
    mr_device_close(&dev);
    MR_FREE(host);
}

static void compare(const problem *p, const answer *a, const answer *b, double tol)
{
    for (int64_t i = 0; i < p->rows; i++) assert_int_equal(a->rank[i], b->rank[i]);
    for (int64_t i = 0; i < p->rows * p->k; i++) {
        assert_int_equal(a->id[i], b->id[i]);
        assert_true(a->score[i] == b->score[i] || fabs(a->score[i] - b->score[i]) <= tol);
    }
}

static void check(problem p, double tol)
{
    answer want, got, one;
    problem_make(&p);
    answer_make(&want, &p);
    answer_make(&got, &p);
    answer_make(&one, &p);
    brute(&p, &want);
    solve(&p, "cpu64", NULL, p.rows, &one);
    compare(&p, &one, &want, tol);
    const char *devices[] = {"cpu64", "cpu", "guard"};
    for (int i = 0; i < 3; i++) {
        if (i > 0) solve(&p, devices[i], NULL, p.rows, &one);
        solve(&p, devices[i], world, 13, &got);
        compare(&p, &got, &one, 0.0); /* the same bits for any number of ranks and any blocks */
        if (p.integers && !p.cosine) compare(&p, &got, &want, 0.0);
    }
    answer_free(&want);
    answer_free(&got);
    answer_free(&one);
    problem_free(&p);
}

static void test_ties(void **state)
{
    (void)state;
    /* small integers: every score is exact and most are tied */
    check((problem){.rows = 29, .n_items = 83, .d = 5, .k = 10, .integers = true}, 0.0);
    check((problem){.rows = 29,
                    .n_items = 83,
                    .d = 5,
                    .k = 10,
                    .integers = true,
                    .skip = true,
                    .has_mask = true},
          0.0);
    check((problem){.rows = 3, .n_items = 2, .d = 3, .k = 4, .integers = true}, 0.0);
    check((problem){.rows = 1, .n_items = 5000, .d = 3, .k = 20, .integers = true, .skip = true},
          0.0);
}

static void test_real(void **state)
{
    (void)state;
    check((problem){.rows = 300, .n_items = 2700, .d = 30, .k = 7, .has_mask = true}, 1e-13);
    check((problem){.rows = 31, .n_items = 211, .d = 19, .k = 7, .skip = true, .cosine = true},
          1e-13);
    check((problem){.rows = 31, .n_items = 211, .d = 19, .k = 0, .cosine = true}, 1e-13);
}

/* A NaN never helps: the target ranks behind everything. */
static void test_nan(void **state)
{
    (void)state;
    problem p = {.rows = 4, .n_items = 9, .d = 2, .k = 3};
    answer a;
    problem_make(&p);
    answer_make(&a, &p);
    p.x[0] = NAN;
    solve(&p, "cpu64", world, 4, &a);
    assert_int_equal(a.rank[0], 9);
    answer_free(&a);
    problem_free(&p);
}

static void score_bits(const char *device, int64_t d)
{
    enum { N = 67, M = 330 };
    mr_device *dev;
    const mr_kernels *k;
    assert_int_equal(mr_device_open(&dev, device, 0), MR_OK);
    assert_int_equal(mr_kernels_for(&k, device, dev->act), MR_OK);
    size_t real = mr_dtype_bytes(dev->real);
    char *x, *e, *s, *t, *u;
    mr_exec ex = {0};
    assert_int_equal(dev->alloc(dev, (void **)&x, (size_t)(N * d) * real, "x"), MR_OK);
    assert_int_equal(dev->alloc(dev, (void **)&e, (size_t)(M * d) * real, "e"), MR_OK);
    assert_int_equal(dev->alloc(dev, (void **)&s, (size_t)(N * M) * real, "s"), MR_OK);
    assert_int_equal(dev->alloc(dev, (void **)&t, (size_t)(N * M) * real, "t"), MR_OK);
    assert_int_equal(dev->alloc(dev, (void **)&u, (size_t)N * real, "u"), MR_OK);
    assert_int_equal(dev->alloc(dev, &ex.scratch, (size_t)mr_score_scratch(d, (int64_t)real), "w"),
                     MR_OK);
    for (int64_t i = 0; i < N * d; i++)
        to_real(x + i * real, &(double){op_random(5, i)}, 1, dev->real);
    for (int64_t i = 0; i < M * d; i++)
        to_real(e + i * real, &(double){op_random(6, i)}, 1, dev->real);
    k->score_tile(s, x, e, NULL, N, M, d, &ex);
    for (int64_t r0 = 0; r0 < N; r0 += 9)
        for (int64_t c0 = 0; c0 < M; c0 += 23) {
            int64_t n = 1 + (r0 * 7 + c0) % (N - r0), m = 1 + (r0 + c0 * 3) % (M - c0);
            k->score_tile(t, x + r0 * d * real, e + c0 * d * real, NULL, n, m, d, &ex);
            for (int64_t i = 0; i < n; i++)
                assert_memory_equal(t + i * m * real, s + ((r0 + i) * M + c0) * real, m * real);
        }
    int32_t target[N];
    for (int i = 0; i < N; i++) target[i] = 100 + (i * 37) % M;
    k->score_target(u, x, e, NULL, target, N, M, d, 100, &ex);
    for (int64_t i = 0; i < N; i++)
        assert_memory_equal(u + i * real, s + (i * M + target[i] - 100) * real, real);
    dev->free(dev, x);
    dev->free(dev, e);
    dev->free(dev, s);
    dev->free(dev, t);
    dev->free(dev, u);
    dev->free(dev, ex.scratch);
    mr_device_close(&dev);
}

static void test_bits(void **state)
{
    (void)state;
    for (int64_t d = 1; d < 400; d = d * 3 + 1) {
        score_bits("cpu", d);
        score_bits("cpu64", d);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_bits), cmocka_unit_test(test_ties),
                                       cmocka_unit_test(test_real), cmocka_unit_test(test_nan)};
    RANKS_MAIN(&world, tests);
}
