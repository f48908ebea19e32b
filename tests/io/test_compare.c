/* The t-test: Student's tail and the incomplete beta function against values of scipy 1.17.1, the
 * whole test against scipy.stats.ttest_rel, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/mem.h"
#include "data/npy.h"
#include "train/compare.h"

static void near(double got, double want, double relative)
{
    if (!(fabs(got - want) <= relative * fabs(want)))
        fail_msg("got %.17g, expected %.17g", got, want);
}

static void test_beta(void **state)
{
    (void)state;
    static const double known[][4] = {/* a, b, x, scipy.special.betainc(a, b, x) */
                                      {0.5, 0.5, 0.25, 0.33333333333333337},
                                      {2, 3, 0.4, 0.5247999999999999},
                                      {10, 0.5, 0.9, 0.15164090963470994},
                                      {0.5, 10, 0.01, 0.3420718248432154},
                                      {50, 0.5, 0.99, 0.3173043978741973},
                                      {5000, 0.5, 0.9995, 0.02533267265780569},
                                      {1, 1, 0.3, 0.3},
                                      {2.5, 7.25, 0.85, 0.999983980239283},
                                      {1e-3, 2, 0.5, 0.9998067465369478},
                                      {300, 200, 0.61, 0.6741626935263771}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        near(mr_incomplete_beta(known[i][0], known[i][1], known[i][2]), known[i][3], 1e-11);
    assert_true(mr_incomplete_beta(2, 3, 0.0) == 0.0);
    assert_true(mr_incomplete_beta(2, 3, 1.0) == 1.0);
}

static void test_student(void **state)
{
    (void)state;
    static const double known[][3] = {/* t, df, 2 * scipy.stats.t.sf(|t|, df) */
                                      {0, 5, 1.0},
                                      {1, 1, 0.5000000000000001},
                                      {2.5, 9, 0.033861827682985735},
                                      {-2.5, 9, 0.033861827682985735},
                                      {12.706204736432095, 1, 0.0499999999989913},
                                      {1.959963984540054, 1e6, 0.0500002772952217},
                                      {3.3, 8693, 0.0009707404871610447},
                                      {25, 8693, 2.8723839732198592e-133},
                                      {1e-9, 30, 0.9999999992087356},
                                      {0.5, 2, 0.6666666666666667}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        near(mr_student_two_sided(known[i][0], known[i][1]), known[i][2], 1e-9);
    assert_true(mr_student_two_sided(40, 86072) < 1e-300);
    assert_true(mr_student_two_sided(INFINITY, 10) == 0.0);
    assert_true(isnan(mr_student_two_sided(NAN, 10)));
}

static const double a[] = {0.512, 0.95,  0.144, 0.949, 0.312, 0.423,
                           0.828, 0.409, 0.55,  0.028, 0.754, 0.538};
static const double b[] = {0.505, 0.972, 0.15, 1.009, 0.344, 0.438,
                           0.819, 0.426, 0.58, 0.044, 0.849, 0.618};

static void test_paired(void **state)
{
    (void)state;
    mr_paired r, back;
    assert_int_equal(mr_paired_test(&r, a, b, 12), MR_OK);
    near(r.t, -3.1534601400379483, 1e-12);
    near(r.p, 0.009185363486888802, 1e-10);
    near(r.mean_diff, -0.02974999999999998, 1e-12);
    assert_int_equal(r.better, 2);
    assert_int_equal(r.worse, 10);
    assert_int_equal(mr_paired_test(&back, b, a, 12), MR_OK);
    assert_true(back.t == -r.t && back.p == r.p);
    assert_int_equal(mr_paired_test(&r, a, a, 12), MR_OK);
    assert_true(r.t == 0 && r.p == 1 && r.mean_diff == 0);

    double with_gap_a[14], with_gap_b[14];
    with_gap_a[0] = with_gap_b[0] = with_gap_a[13] = with_gap_b[13] = NAN;
    memcpy(with_gap_a + 1, a, sizeof a);
    memcpy(with_gap_b + 1, b, sizeof b);
    assert_int_equal(mr_paired_test(&r, with_gap_a, with_gap_b, 14), MR_OK);
    assert_int_equal(r.n, 12);
    assert_true(r.t == -back.t && r.p == back.p);
    mr_errors_to_log(false);
    with_gap_b[13] = 0.5;
    assert_int_equal(mr_paired_test(&r, with_gap_a, with_gap_b, 14), MR_ERR_DATA);
    assert_non_null(strstr(mr_last_error(), "user 13"));
    assert_int_equal(mr_paired_test(&r, a, b, 1), MR_ERR_DATA);
    assert_int_equal(mr_paired_test(&r, a, b, 0), MR_ERR_DATA);
    mr_errors_to_log(true);
}

/* Values that no metric has, and files that do not belong together. values: good ones. */
static void refuse_values(const char *path, const mr_per_user *values)
{
    static const double bad[] = {-0.1, 1.5, 7.0, NAN, INFINITY};
    double v[5] = {0, 1, 0.5, 0, 1}, gap[5] = {0, 1, 0.5, NAN, 1};
    int64_t n = 5;
    mr_per_user f = {0}, ranks = {"ranks.npy", 5, gap, true}, whole = {"whole.npy", 5, v, true};
    mr_per_user four = {"four.npy", 4, v, false};
    mr_errors_to_log(false);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        v[3] = bad[i];
        assert_int_equal(mr_npy_write(path, MR_F64, 1, &n, v), MR_OK);
        assert_int_equal(mr_per_user_read(&f, path, "hit@3"), MR_ERR_DATA);
        assert_non_null(strstr(mr_last_error(), path));
        assert_non_null(strstr(mr_last_error(), "user 3"));
    }
    v[3] = 0;
    assert_int_equal(mr_per_user_match(&ranks, values), MR_ERR_DATA);
    assert_non_null(strstr(mr_last_error(), "ranks.npy holds ranks and"));
    assert_int_equal(mr_per_user_match(values, &whole), MR_ERR_DATA);
    assert_non_null(strstr(mr_last_error(), "whole.npy holds ranks and"));
    assert_int_equal(mr_per_user_match(&whole, &ranks), MR_ERR_DATA);
    assert_non_null(strstr(mr_last_error(), "ranks.npy has no rank for user 3"));
    assert_int_equal(mr_per_user_match(values, &four), MR_ERR_DATA);
    assert_non_null(strstr(mr_last_error(), "four.npy holds 4"));
    assert_int_equal(mr_per_user_match(&ranks, &ranks), MR_OK);
    mr_errors_to_log(true);
}

static void test_files(void **state)
{
    (void)state;
    char path[] = "/tmp/mr-compare-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    int64_t n = 5, two[2] = {5, 1};
    mr_per_user got = {0};
    int32_t ranks[5] = {1, 0, 3, 10, 11};
    assert_int_equal(mr_npy_write(path, MR_I32, 1, &n, ranks), MR_OK);
    assert_int_equal(mr_per_user_read(&got, path, "ndcg@10"), MR_OK);
    assert_int_equal(got.n, 5);
    assert_true(got.is_ranks);
    assert_true(got.value[0] == 1.0 && isnan(got.value[1]) && got.value[2] == 0.5 &&
                got.value[4] == 0.0);
    near(got.value[3], 1.0 / log2(11.0), 1e-15);
    MR_FREE(got.value);
    assert_int_equal(mr_per_user_read(&got, path, "hit@3"), MR_OK);
    assert_true(got.value[2] == 1.0 && got.value[3] == 0.0);
    MR_FREE(got.value);
    assert_int_equal(mr_per_user_read(&got, path, "mrr@20"), MR_OK);
    near(got.value[4], 1.0 / 11.0, 1e-15);
    MR_FREE(got.value);
    mr_errors_to_log(false);
    static const char *const bad[] = {"ndcg", "ndcg@", "ndcg@0", "hit@-1", "auc@10", "hit@10x", ""};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(mr_per_user_read(&got, path, bad[i]), MR_ERR_CONFIG);
    ranks[2] = -4;
    assert_int_equal(mr_npy_write(path, MR_I32, 1, &n, ranks), MR_OK);
    assert_int_equal(mr_per_user_read(&got, path, "hit@3"), MR_ERR_DATA);
    assert_int_equal(mr_npy_write(path, MR_I32, 2, two, ranks), MR_OK);
    assert_int_equal(mr_per_user_read(&got, path, "hit@3"), MR_ERR_DATA);
    assert_int_equal(mr_per_user_read(&got, "/nonexistent.npy", "hit@3"), MR_ERR_NO_INPUT);
    mr_errors_to_log(true);
    assert_null(got.value);
    assert_int_equal(mr_npy_write(path, MR_F64, 1, &n, a), MR_OK);
    assert_int_equal(mr_per_user_read(&got, path, "hit@3"), MR_OK);
    assert_memory_equal(got.value, a, 5 * sizeof *a);
    assert_false(got.is_ranks);
    refuse_values(path, &got);
    MR_FREE(got.value);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_beta),
        cmocka_unit_test(test_student),
        cmocka_unit_test(test_paired),
        cmocka_unit_test(test_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
