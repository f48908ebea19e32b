/* The draws of diffusion: float normals against double, their distribution, independence of batch
 * layout and of threads (bit for bit), and t. */
#include <math.h>
#include <omp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "kernels/kernels.h"
#include "kernels/shared/draw.h"

static void pair(uint32_t a, uint32_t b, double *worst)
{
    double n0, n1;
    float c, s, r = mr_normal_radiusf(a);
    mr_normal2(a, b, &n0, &n1);
    mr_turn_sincosf(b, &c, &s);
    double e = fmax(fabs((double)(r * c) - n0), fabs((double)(r * s) - n1));
    if (!(e <= 1e-6))
        fail_msg("words %08x %08x: (%.9g, %.9g), not (%.9g, %.9g)", a, b, (double)(r * c),
                 (double)(r * s), n0, n1);
    if (e > *worst) *worst = e;
}

static void test_float_against_double(void **state)
{
    (void)state;
    /* Ends of the range, the switch of the logarithm at sqrt(1/2), corners of the quadrants. */
    static const uint32_t edge[] = {0,          1,          2,          255,        256,
                                    0x00ffffff, 0x01000000, 0x1fffffff, 0x20000000, 0x3fffffff,
                                    0x40000000, 0x5fffffff, 0x60000000, 0x7fffffff, 0x80000000,
                                    0x9fffffff, 0xa0000000, 0xb504f332, 0xb504f333, 0xb504f334,
                                    0xbfffffff, 0xc0000000, 0xdfffffff, 0xe0000000, 0xff000000,
                                    0xfffffeff, 0xffffff00, 0xfffffffe, 0xffffffff};
    double worst = 0;
    int n = (int)(sizeof edge / sizeof *edge);
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) pair(edge[i], edge[j], &worst);
    for (uint32_t i = 0; i < 400000; i++) {
        mr_u32x4 r = mr_philox(3, 1, 2, i, 0);
        pair(r.v[0], r.v[1], &worst);
        pair(r.v[2], r.v[3], &worst);
        pair(~(r.v[0] >> (i % 32)), r.v[1], &worst); /* near 1: small radius */
        pair(r.v[0] >> (i % 32), r.v[1], &worst);    /* near 0: large radius */
    }
    printf("float normals: worst absolute error %.3g\n", worst);
}

/* The kernel's vector path gives the elements that mr_draw_normal defines. */
static void test_elements(void **state)
{
    (void)state;
    float v[MR_NORMALS];
    double d[MR_NORMALS];
    mr_normals64_f32(v, 11, MR_RNG_EPS_TCD, 5, 1234, 32);
    mr_normals64_f64(d, 11, MR_RNG_EPS_TCD, 5, 1234, 32);
    for (int i = 0; i < MR_NORMALS; i++) {
        double w = mr_draw_normal(11, MR_RNG_EPS_TCD, 5, 1234, 128 + i);
        assert_true(d[i] == w);
        assert_true(fabs((double)v[i] - w) <= 1e-6);
    }
    for (uint32_t block = 0; block < 16; block++) {
        float four[4];
        mr_draw_normal4f(four, 11, MR_RNG_EPS_TCD, 5, 1234, 32 + block);
        for (int i = 0; i < 4; i++) assert_true(fabsf(four[i] - v[4 * block + i]) <= 1e-6f);
    }
}

static void test_distribution(void **state)
{
    (void)state;
    enum { ROWS = 2000, W = 768 };
    double n = (double)ROWS * W, s1 = 0, s2 = 0, s3 = 0, s4 = 0, next = 0, rows = 0, two = 0,
           three = 0;
    static float now[W], before[W];
    const mr_noise nz = {MR_RNG_T_TCD, MR_RNG_EPS_TCD, 1, 5, NULL, true, 0, 0};
    mr_step_state st = {.step = 3};
    mr_exec ex = {.seed = 2020, .state = &st};
    for (uint32_t r = 0; r < ROWS; r++) {
        memcpy(before, now, sizeof now);
        mr_kernels_cpu32.noise_fwd(now, NULL, NULL, &r, 1, W, &nz, &ex);
        for (int i = 0; i < W; i++) {
            double x = (double)now[i];
            s1 += x;
            s2 += x * x;
            s3 += x * x * x;
            s4 += x * x * x * x;
            two += fabs(x) > 2;
            three += fabs(x) > 3;
            if (i) next += x * (double)now[i - 1];
            rows += x * (double)before[i];
        }
    }
    double se = 1 / sqrt(n); /* each bound is 5 standard errors */
    assert_true(fabs(s1 / n) < 5 * se);
    assert_true(fabs(s2 / n - 1) < 5 * sqrt(2.0) * se);
    assert_true(fabs(s3 / n) < 5 * sqrt(15.0) * se);
    assert_true(fabs(s4 / n - 3) < 5 * sqrt(96.0) * se);
    assert_true(fabs(next / n) < 5 * se);
    assert_true(fabs(rows / n) < 5 * se);
    assert_true(fabs(two / n - 0.0455002639) < 5 * sqrt(0.0455) * se);
    assert_true(fabs(three / n - 0.0026997961) < 5 * sqrt(0.0027) * se);
}

/* A row gets the same bits alone, among others in another order, and with any number of threads. */
static void layout(const mr_kernels *k, size_t rb, int64_t w, int threads)
{
    enum { N = 37 };
    const double abar[6] = {1, .9, .7, .5, .3, .1};
    uint32_t rid[N], mixed[N];
    for (uint32_t i = 0; i < N; i++) rid[i] = 500 + 3 * i;
    for (int i = 0; i < N; i++) mixed[i] = rid[(i * 11 + 5) % N];
    mr_step_state st = {.step = 3};
    mr_exec ex = {.seed = 2020, .state = &st};
    const mr_noise nz = {MR_RNG_T_TCD, MR_RNG_EPS_TCD, 0, 5, NULL, false, 0, 0};
    size_t row = (size_t)w * rb;
    char *x0 = calloc(N, row), *a = calloc(N, row), *b = calloc(N, row), *one = calloc(1, row);
    omp_set_num_threads(1);
    k->noise_fwd(a, x0, abar, rid, N, w, &nz, &ex);
    omp_set_num_threads(threads);
    k->noise_fwd(b, x0, abar, mixed, N, w, &nz, &ex);
    for (int i = 0; i < N; i++) {
        assert_memory_equal(b + (size_t)i * row, a + (size_t)((i * 11 + 5) % N) * row, row);
        k->noise_fwd(one, x0, abar, &rid[i], 1, w, &nz, &ex);
        assert_memory_equal(one, a + (size_t)i * row, row);
    }
    for (int i = 1; i < N; i++) assert_memory_not_equal(a, a + (size_t)i * row, row);
    free(x0);
    free(a);
    free(b);
    free(one);
}

static void test_layout(void **state)
{
    (void)state;
    static const int64_t w[] = {1, 3, 63, 64, 65, 300};
    for (int i = 0; i < 6; i++)
        for (int t = 1; t <= 3; t++) {
            layout(&mr_kernels_cpu32, 4, w[i], t);
            layout(&mr_kernels_cpu64, 8, w[i], t);
        }
}

static double chi_square(const mr_int_list *set, int64_t T, int n_bins, const int64_t *bin_of,
                         uint32_t purpose)
{
    enum { N = 100000 };
    double count[32] = {0}, x2 = 0;
    for (uint32_t r = 0; r < N; r++) {
        int64_t t = mr_draw_t(9, purpose, 4, r, T, set);
        assert_true(t >= 1 && t <= T);
        assert_true(bin_of[t] >= 0);
        count[bin_of[t]]++;
    }
    for (int i = 0; i < n_bins; i++) x2 += pow(count[i] - N / (double)n_bins, 2) * n_bins / N;
    return x2;
}

static void test_t(void **state)
{
    (void)state;
    int64_t bin[26];
    for (int t = 0; t <= 25; t++) bin[t] = t - 1;
    /* 19 degrees of freedom: above 43.8 with probability 0.001 */
    double x2 = chi_square(NULL, 20, 20, bin, MR_RNG_T_TCD);
    assert_true(x2 < 43.8 && x2 > 1);
    const mr_int_list none = {0}, set = {5, {5, 10, 15, 20, 25}};
    assert_true(chi_square(&none, 20, 20, bin, MR_RNG_T_TCD) == x2);
    for (int t = 0; t <= 25; t++) bin[t] = t % 5 ? -1 : t / 5 - 1;
    x2 = chi_square(&set, 25, 5, bin, MR_RNG_T_NPD);
    assert_true(x2 < 18.5 && x2 > 1e-6); /* 4 degrees of freedom */
    /* TCD and NPD draw independently; the step matters */
    int same = 0, again = 0;
    for (uint32_t r = 0; r < 20000; r++) {
        int64_t t = mr_draw_t(9, MR_RNG_T_TCD, 4, r, 20, NULL);
        same += t == mr_draw_t(9, MR_RNG_T_NPD, 4, r, 20, NULL);
        again += t == mr_draw_t(9, MR_RNG_T_TCD, 5, r, 20, NULL);
    }
    assert_true(abs(same - 1000) < 155 && abs(again - 1000) < 155); /* 5 standard deviations */
    for (uint32_t r = 0; r < 100; r++)
        assert_int_equal(mr_draw_t(9, MR_RNG_T_TCD, 4, r, 1, NULL), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_float_against_double),
        cmocka_unit_test(test_elements),
        cmocka_unit_test(test_distribution),
        cmocka_unit_test(test_layout),
        cmocka_unit_test(test_t),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
