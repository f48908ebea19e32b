/* Kernels of full ranking (score_skip, rank_count, score_count, topk_merge) against sorting
 * everything. Scores are small integers with ties, infinities and NaN, so both precisions must give
 * the same integers.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/rng.h"
#include "kernel_ways.h"

enum { ROWS = 7, IDS = 53, TOP = 9 };
static const mr_exec ex = {.seed = 5};
/* Where the ids 1..IDS are cut into blocks; one block is empty. */
static const int64_t cut[] = {1, 2, 20, 20, 47, IDS + 1};
enum { BLOCKS = sizeof cut / sizeof *cut - 1 };

static uint32_t draw(uint32_t row, uint32_t id, uint32_t n)
{
    return mr_below(mr_philox(9, 1, 0, row, id).v[0], n);
}

/* The whole table of scores [ROWS, IDS], id 1 first. */
static pair table(void)
{
    pair s = pair_make(ROWS * IDS, 1);
    for (int64_t e = 0; e < s.n; e++) {
        uint32_t r = draw((uint32_t)(e / IDS), (uint32_t)(e % IDS), 12);
        double v = r == 10 ? -HUGE_VAL : r == 11 ? NAN : (double)r - 5;
        s.d[e] = v;
        s.f[e] = (float)v;
    }
    return s;
}

/* Columns of the block b: [ROWS, m]. */
static pair block_of(const pair *s, int b)
{
    int64_t m = cut[b + 1] - cut[b];
    pair p = pair_make(ROWS * m, 1);
    for (int64_t i = 0; i < ROWS; i++)
        for (int64_t j = 0; j < m; j++) {
            p.d[i * m + j] = s->d[i * IDS + cut[b] - 1 + j];
            p.f[i * m + j] = s->f[i * IDS + cut[b] - 1 + j];
        }
    return p;
}

static void test_skip(void **unused)
{
    (void)unused;
    /* no ids; the target among them; ids below, at and behind every cut */
    static const int32_t skip[] = {5, 1, 19, 20, 46, 47, 53, 2, 53, 30};
    static const int64_t start[ROWS + 1] = {0, 0, 1, 7, 7, 9, 9, 10};
    static const int32_t target[ROWS] = {3, 5, 20, 7, 8, 9, 31};
    pair s = table();
    for (int b = 0; b < BLOCKS; b++) {
        pair p = block_of(&s, b), want = pair_copy(&p);
        int64_t m = cut[b + 1] - cut[b];
        for (int i = 0; i < ROWS; i++)
            for (int64_t q = start[i]; q < start[i + 1]; q++)
                if (skip[q] >= cut[b] && skip[q] < cut[b + 1] && skip[q] != target[i])
                    want.d[i * m + skip[q] - cut[b]] = -HUGE_VAL;
        BOTH_TABLES k->score_skip(P(p), start, skip, target, ROWS, m, cut[b], &ex);
        for (int64_t e = 0; e < p.n; e++) {
            bool same = isnan(want.d[e]) ? isnan(p.d[e]) && isnan(p.f[e])
                                         : p.d[e] == want.d[e] && (double)p.f[e] == want.d[e];
            if (!same) fail_msg("block %d, element %lld", b, (long long)e);
        }
        FREE_ALL(&p, &want);
    }
    pair_free(&s);
}

static void test_count(void **unused)
{
    (void)unused;
    pair s = table(), ts = pair_make(ROWS, 1);
    static const int32_t target[ROWS] = {1, 53, 20, 19, 33, 46, 2};
    int32_t want[ROWS] = {0}, got[2][ROWS];
    for (int i = 0; i < ROWS; i++) {
        double t = s.d[i * IDS + target[i] - 1];
        if (isnan(t) || isinf(t)) t = 1;
        ts.d[i] = t;
        ts.f[i] = (float)t;
        want[i] = got[0][i] = got[1][i] = 100 * i; /* counts are added to */
        for (int32_t id = 1; id <= IDS; id++) {
            double v = s.d[i * IDS + id - 1];
            want[i] += id != target[i] && (isnan(v) || v > t || (v == t && id < target[i]));
        }
    }
    for (int b = 0; b < BLOCKS; b++) {
        pair p = block_of(&s, b);
        BOTH_TABLES
        k->rank_count(got[wide], P(p), P(ts), target, ROWS, cut[b + 1] - cut[b], cut[b], &ex);
        pair_free(&p);
    }
    assert_memory_equal(got[0], want, sizeof want);
    assert_memory_equal(got[1], want, sizeof want);
    FREE_ALL(&s, &ts);
}

/* Scores of small integers, many of them equal; some rows of x and e are NaN. Counted from a table
 * that holds the ids lo .. lo+m-1, in which the target need not be. */
static void check_score_count(int64_t n, int64_t m, int64_t w, bool has_scale)
{
    enum { LO = 3, MOST = 530 };
    pair x = pair_make(n * w, 1), e = pair_make(m * w, 1), cs = pair_make(m, 1);
    pair ts = pair_make(n, 1), scratch = pair_make(mr_score_scratch(w, 8) / 8, 0);
    int32_t target[MOST], want[MOST], got[2][MOST];
    pair *small[] = {&x, &e, &cs};
    for (int p = 0; p < 3; p++)
        for (int64_t i = 0; i < small[p]->n; i++) {
            uint32_t r = draw((uint32_t)(p + 7), (uint32_t)i, 40);
            double v = p == 2 ? (r % 2 ? 1 : 2) : r == 39 ? NAN : (double)(r % 3) - 1;
            small[p]->d[i] = v;
            small[p]->f[i] = (float)v;
        }
    for (int64_t i = 0; i < n; i++) {
        target[i] = 1 + (int32_t)draw(5, (uint32_t)i, (uint32_t)m + 6);
        ts.d[i] = (double)draw(6, (uint32_t)i, 5) - 2;
        ts.f[i] = (float)ts.d[i];
        want[i] = got[0][i] = got[1][i] = (int32_t)(100 * i);
        for (int64_t c = 0; c < m; c++) {
            double v = 0;
            for (int64_t k = 0; k < w; k++) v += x.d[i * w + k] * e.d[c * w + k];
            if (has_scale) v *= cs.d[c];
            want[i] += LO + c != target[i] &&
                       (isnan(v) || v > ts.d[i] || (v == ts.d[i] && LO + c < target[i]));
        }
    }
    BOTH_TABLES
    {
        mr_exec own = {.scratch = P(scratch)};
        k->score_count(got[wide], P(x), P(e), has_scale ? P(cs) : NULL, P(ts), target, n, m, w, LO,
                       &own);
    }
    assert_memory_equal(got[0], want, (size_t)n * sizeof *want);
    assert_memory_equal(got[1], want, (size_t)n * sizeof *want);
    FREE_ALL(&x, &e, &cs, &ts, &scratch);
}

static void test_score_count(void **unused)
{
    (void)unused;
    static const int64_t sizes[][3] = {{1, 1, 1},     {7, 63, 5},   {6, 64, 3},
                                       {13, 65, 4},   {4, 0, 2},    {0, 9, 2},
                                       {257, 130, 2}, {530, 33, 1}, {3, 200, 9}};
    for (int i = 0; i < COUNT(sizes); i++)
        for (int scale = 0; scale < 2; scale++)
            check_score_count(sizes[i][0], sizes[i][1], sizes[i][2], scale);
}

/* The k best of a row of scores by choosing the best again and again. */
static void choose(int32_t *id, double *score, const double *s, int64_t k)
{
    bool taken[IDS + 1] = {false};
    for (int64_t q = 0; q < k; q++) {
        id[q] = -1;
        score[q] = -HUGE_VAL;
        for (int32_t i = 1; i <= IDS; i++)
            if (!taken[i] && s[i - 1] > score[q]) {
                id[q] = i;
                score[q] = s[i - 1];
            }
        if (id[q] > 0) taken[id[q]] = true;
    }
}

static void check_top(const pair *s, int64_t k_top)
{
    int32_t ids[2][ROWS * (IDS + 5)], want_id[IDS + 5];
    double want[IDS + 5];
    pair best = pair_make(ROWS * k_top, 0);
    memset(ids, 77, sizeof ids);
    for (int b = 0; b < BLOCKS; b++) {
        pair p = block_of(s, b);
        BOTH_TABLES
        k->topk_merge(ids[wide], P(best), P(p), ROWS, cut[b + 1] - cut[b], k_top, cut[b], b == 0,
                      &ex);
        pair_free(&p);
    }
    for (int i = 0; i < ROWS; i++) {
        choose(want_id, want, s->d + i * IDS, k_top);
        for (int64_t q = 0; q < k_top; q++) {
            int64_t e = i * k_top + q;
            assert_int_equal(ids[0][e], want_id[q]);
            assert_int_equal(ids[1][e], want_id[q]);
            assert_true(best.d[e] == want[q] && (double)best.f[e] == want[q]);
        }
    }
    pair_free(&best);
}

static void test_top(void **unused)
{
    (void)unused;
    pair s = table();
    static const int64_t lengths[] = {1, 2, TOP, IDS, IDS + 5};
    for (int i = 0; i < COUNT(lengths); i++) check_top(&s, lengths[i]);
    pair_free(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_skip),
        cmocka_unit_test(test_count),
        cmocka_unit_test(test_score_count),
        cmocka_unit_test(test_top),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
