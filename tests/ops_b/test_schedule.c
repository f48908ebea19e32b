/* The noise schedule against the published table, against the closed forms and at its ends. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "model/schedule.h"

static mr_schedule make(int name, int64_t steps)
{
    mr_config c = {0};
    mr_schedule s;
    c.diffusion.steps = steps;
    c.diffusion.schedule = name;
    c.diffusion.beta_start = 1e-4;
    c.diffusion.beta_end = 0.02;
    assert_int_equal(mr_schedule_make(&s, &c), MR_OK);
    assert_int_equal(s.T, steps);
    return s;
}

/* sqrt(abar_T), the signal left at the last step, for T = 5, 10, 15, 20, 25. */
static void test_table(void **state)
{
    (void)state;
    static const struct {
        int name;
        double want[5];
    } row[] = {{MR_SCHED_LINEAR, {.975, .951, .927, .904, .881}},
               {MR_SCHED_TRUNC_LIN, {.722, .713, .698, .682, .0004}},
               {MR_SCHED_COSINE, {.010, .005, .003, .0025, .002}},
               {MR_SCHED_SQRT, {.010, .007, .006, .005, .0045}}};
    static const double sd[5] = {.222, .310, .375, .428, .473};
    for (int r = 0; r < 4; r++)
        for (int i = 0; i < 5; i++) {
            mr_schedule s = make(row[r].name, 5 * (i + 1));
            double signal = sqrt(s.abar[s.T]), thousands = row[r].want[i] * 1000;
            /* half a unit of the last printed digit: the table has three or four */
            double half = fabs(thousands - rint(thousands)) > 1e-9 ? .000050001 : .00050001;
            if (!(fabs(signal - row[r].want[i]) <= half))
                fail_msg("schedule %d T %lld: %.6f, not %.4f", row[r].name, (long long)s.T, signal,
                         row[r].want[i]);
            if (row[r].name == MR_SCHED_LINEAR)
                assert_true(fabs(sqrt(1 - s.abar[s.T]) - sd[i]) <= .0005001);
            mr_schedule_free(&s);
        }
    mr_schedule s = make(MR_SCHED_SCALED, 25);
    assert_true(fabs(sqrt(s.abar[25]) - .0005) <= .00005);
    mr_schedule_free(&s);
}

/* Reverse coefficients quoted in F 5 for linear, T = 25. */
static void test_coefficients(void **state)
{
    (void)state;
    mr_schedule s = make(MR_SCHED_LINEAR, 25);
    static const struct {
        int t;
        double c1, c2;
    } row[] = {{25, .080, .920}, {13, .153, .847}, {3, .631, .369}, {2, .903, .097}};
    for (int i = 0; i < 4; i++) {
        assert_true(fabs(s.c1[row[i].t] - row[i].c1) <= .0005001);
        assert_true(fabs(s.c2[row[i].t] - row[i].c2) <= .0005001);
    }
    mr_schedule_free(&s);
}

static void test_identities(void **state)
{
    (void)state;
    static const int names[] = {MR_SCHED_LINEAR, MR_SCHED_COSINE, MR_SCHED_SQRT,
                                MR_SCHED_TRUNC_LIN};
    static const int64_t steps[] = {1, 2, 3, 20, 200};
    for (int k = 0; k < 4; k++)
        for (int i = 0; i < 5; i++) {
            mr_schedule s = make(names[k], steps[i]);
            assert_true(s.c1[1] == 1.0 && s.c2[1] == 0.0 && s.s2[1] == 0.0);
            assert_true(s.abar[0] == 1.0);
            for (int64_t t = 1; t <= s.T; t++) {
                assert_true(s.beta[t] > 0 && s.beta[t] <= 0.999 + 1e-15);
                assert_true(s.abar[t] == s.abar[t - 1] * (1 - s.beta[t]));
                assert_true(s.abar[t] > 0 && s.abar[t] < s.abar[t - 1]);
                /* The posterior mean is unbiased: c1 + c2 sqrt(abar_t) = sqrt(abar_{t-1}). */
                assert_true(fabs(s.c1[t] + s.c2[t] * sqrt(s.abar[t]) - sqrt(s.abar[t - 1])) < 1e-9);
                /* Its variance: c2^2 (1 - abar_t) + s2 = 1 - abar_{t-1}. */
                assert_true(
                    fabs(s.c2[t] * s.c2[t] * (1 - s.abar[t]) + s.s2[t] - 1 + s.abar[t - 1]) < 1e-9);
            }
            mr_schedule_free(&s);
            assert_null(s.beta);
        }
}

static void test_forms(void **state)
{
    (void)state;
    mr_schedule s = make(MR_SCHED_LINEAR, 20);
    assert_true(s.beta[1] == 1e-4 && fabs(s.beta[20] - 0.02) < 1e-17);
    assert_true(fabs(s.beta[8] - (1e-4 + 0.0199 * 7 / 19)) < 1e-16);
    mr_schedule_free(&s);
    s = make(MR_SCHED_LINEAR, 1);
    assert_true(s.beta[1] == 1e-4);
    mr_schedule_free(&s);
    s = make(MR_SCHED_COSINE, 10);
    double f3 = pow(cos((.3 + .008) / 1.008 * M_PI / 2), 2),
           f0 = pow(cos(.008 / 1.008 * M_PI / 2), 2);
    assert_true(fabs(s.abar[3] - f3 / f0) < 1e-12);
    assert_true(fabs(s.beta[10] - 0.999) < 1e-15);
    mr_schedule_free(&s);
    s = make(MR_SCHED_TRUNC_LIN, 5); /* 0.02 * 200 + 0.01 > 1, so the end is 0.001 * 200 + 0.01 */
    assert_true(fabs(s.beta[1] - 0.03) < 1e-15 && fabs(s.beta[5] - 0.21) < 1e-15);
    mr_schedule_free(&s);
    s = make(MR_SCHED_TRUNC_LIN, 25); /* 0.02 * 40 + 0.01 */
    assert_true(fabs(s.beta[25] - 0.81) < 1e-15);
    mr_schedule_free(&s);
}

static void refuse(int name, int64_t steps, int64_t member)
{
    mr_config c = {0};
    mr_schedule s = {.T = -5};
    c.diffusion.steps = steps;
    c.diffusion.schedule = name;
    c.diffusion.beta_start = 1e-4;
    c.diffusion.beta_end = 0.02;
    if (member) c.diffusion.t_set = (mr_int_list){2, {5, member}};
    mr_errors_to_log(false);
    assert_int_equal(mr_schedule_make(&s, &c), MR_ERR_CONFIG);
    mr_errors_to_log(true);
    assert_int_equal(s.T, -5); /* nothing is written on failure */
}

static void test_refusals(void **state)
{
    (void)state;
    refuse(MR_SCHED_SCALED, 5, 0);
    refuse(MR_SCHED_SCALED, 19, 0);
    refuse(MR_SCHED_SCALED, 20, 0); /* beta is exactly 1 */
    refuse(MR_SCHED_LINEAR, 0, 0);
    refuse(MR_SCHED_LINEAR, 4096, 0); /* no random purpose word is left for step 4096 */
    refuse(MR_SCHED_LINEAR, 20, -3);
    mr_config c = {0};
    mr_schedule s;
    c.diffusion.steps = 7;
    c.diffusion.beta_start = 1e-4;
    c.diffusion.beta_end = 0.02;
    c.diffusion.t_set = (mr_int_list){5, {5, 25, 15, 20, 10}};
    assert_int_equal(mr_schedule_make(&s, &c), MR_OK);
    assert_int_equal(s.T, 25);
    mr_schedule_free(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),      cmocka_unit_test(test_coefficients),
        cmocka_unit_test(test_identities), cmocka_unit_test(test_forms),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
