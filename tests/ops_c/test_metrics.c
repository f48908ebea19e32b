/* Metrics against a sum over rows, their names and refusals; the early-stopping rule. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "op_world.h"
#include "train/metrics.h"

enum { N = 400 };

static void make_ranks(int32_t *rank)
{
    for (int i = 0; i < N; i++) rank[i] = 1 + (int32_t)(exp((op_random(9, i) + 1) * 4.0) - 1);
    rank[0] = 10;
    rank[1] = 11;
    rank[2] = 1;
}

static void test_values(void **state)
{
    (void)state;
    mr_metrics m, parts;
    int32_t rank[N];
    int k[] = {10, 1, 20};
    make_ranks(rank);
    assert_int_equal(mr_metrics_begin(&m, k, 3), MR_OK);
    assert_int_equal(mr_metrics_begin(&parts, k, 3), MR_OK);
    mr_metrics_add(&m, rank, N);
    mr_metrics_add(&parts, rank + 100, N - 100);
    mr_metrics_add(&parts, rank, 100);
    assert_int_equal(mr_metrics_count(&m), 9);
    for (int c = 0; c < 3; c++) {
        double hit = 0, ndcg = 0, mrr = 0;
        for (int i = 0; i < N; i++)
            if (rank[i] <= k[c]) {
                hit += 1.0 / N;
                ndcg += 1.0 / (log(1.0 + rank[i]) / log(2.0)) / N;
                mrr += 1.0 / rank[i] / N;
            }
        const double want[] = {hit, ndcg, mrr};
        const char *kind[] = {"hit", "ndcg", "mrr"};
        for (int i = 0; i < 3; i++) {
            char name[24], expect[24];
            double v, w, g;
            mr_metrics_at(&m, 3 * c + i, name, &v);
            mr_metrics_at(&parts, 3 * c + i, name, &w);
            snprintf(expect, sizeof expect, "%s@%d", kind[i], k[c]);
            assert_string_equal(name, expect);
            assert_true(fabs(v - want[i]) < 1e-12 && v > 0);
            assert_true(v == w); /* any order of rows, the same bits */
            assert_int_equal(mr_metrics_get(&m, name, &g), MR_OK);
            assert_true(g == v);
        }
    }
}

static void test_refusals(void **state)
{
    (void)state;
    mr_metrics m;
    double v = -1;
    mr_errors_to_log(false);
    assert_int_equal(mr_metrics_begin(&m, (int[]){0}, 1), MR_ERR_CONFIG);
    assert_non_null(strstr(mr_last_error(), "cutoff 0"));
    assert_int_equal(mr_metrics_begin(&m, (int[]){1001}, 1), MR_ERR_CONFIG);
    assert_int_equal(mr_metrics_begin(&m, (int[]){1}, 0), MR_ERR_CONFIG);
    assert_int_equal(mr_metrics_begin(&m, (int[]){5, 7}, 2), MR_OK);
    assert_int_equal(mr_metrics_get(&m, "ndcg@10", &v), MR_ERR_CONFIG);
    assert_non_null(strstr(mr_last_error(), "hit@5, ndcg@5, mrr@5, hit@7"));
    assert_true(v == -1);
    assert_int_equal(mr_metrics_get(&m, "ndcg@7", &v), MR_OK);
    assert_true(v == 0); /* no rows yet */
    mr_errors_to_log(true);
}

/* Feed values; returns the number of evaluations until it is over (n + 1: never). */
static int feed(mr_early_stop *e, const double *v, int n)
{
    for (int i = 0; i < n; i++) {
        mr_early_stop_enter(e, v[i], i);
        if (mr_early_stop_is_over(e)) return i + 1;
    }
    return n + 1;
}

static void test_early_stop(void **state)
{
    (void)state;
    mr_early_stop e = {.patience = 2};
    /* a tie after rounding is an improvement, also when the value itself is lower */
    const double ties[] = {0.12344, 0.12341, 0.1230, 0.1234, 0.1, 0.1, 0.1, 0.9};
    assert_int_equal(feed(&e, ties, 8), 7); /* patience + 1 = 3 evaluations without one */
    assert_int_equal(e.best_epoch, 3);
    assert_true(e.best == 0.1234);
    e = (mr_early_stop){.patience = 0};
    const double fall[] = {0.5, 0.4, 0.6};
    assert_int_equal(feed(&e, fall, 3), 2);
    e = (mr_early_stop){.patience = 1};
    const double nan_first[] = {NAN, 0.1, NAN, NAN};
    assert_int_equal(feed(&e, nan_first, 4), 4);
    assert_int_equal(e.best_epoch, 1);
    e = (mr_early_stop){.patience = 3};
    assert_true(mr_early_stop_enter(&e, 0.0, 0));
    assert_true(mr_early_stop_enter(&e, 0.00004, 1));
    assert_false(mr_early_stop_enter(&e, -0.1, 2));
    assert_true(mr_round4(0.12345) == 0.1235 && mr_round4(0.12344999) == 0.1234);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_values),
                                       cmocka_unit_test(test_refusals),
                                       cmocka_unit_test(test_early_stop)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
