/* Activations of kernels/shared/act.h against the C library in double over dense grids. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "kernels/shared/act.h"

typedef struct act_case {
    const char *name;
    float (*got)(float);
    double (*want)(double);
    double lo, hi;
    double rel, abs; /* |got - want| <= rel |want| + abs */
} act_case;

static float f_exp(float x) { return mr_expf(x); }
static float f_erf(float x) { return mr_erff(x); }
static float f_gelu(float x) { return mr_geluf(x); }
static float f_gelu_grad(float x) { return mr_gelu_gradf(x); }
static float f_sigmoid(float x) { return mr_sigmoidf(x); }
static float f_silu(float x) { return mr_siluf(x); }
static float f_silu_grad(float x) { return mr_silu_gradf(x); }

/* References that keep their digits in the tails. */
static double d_phi(double x) { return 0.5 * erfc(-x / sqrt(2.0)); }
static double d_gelu(double x) { return x * d_phi(x); }
static double d_gelu_grad(double x)
{
    return d_phi(x) + x * exp(-x * x / 2) / sqrt(2 * acos(-1.0));
}
static double d_sigmoid(double x) { return 1 / (1 + exp(-x)); }
static double d_silu(double x) { return x * d_sigmoid(x); }
static double d_silu_grad(double x)
{
    double s = d_sigmoid(x);
    return s + x * s * d_sigmoid(-x);
}

static const act_case cases[] = {
    {"exp", f_exp, exp, -87, 88, 4e-7, 0},
    {"erf", f_erf, erf, -6, 6, 4e-7, 0},
    {"erf near 0", f_erf, erf, -1e-3, 1e-3, 4e-7, 0},
    {"gelu", f_gelu, d_gelu, 0, 30, 4e-7, 0},
    {"gelu, negative", f_gelu, d_gelu, -30, 0, 0, 4e-7},
    {"gelu_grad", f_gelu_grad, d_gelu_grad, -30, 30, 0, 4e-7},
    {"sigmoid", f_sigmoid, d_sigmoid, -80, 80, 4e-7, 0},
    {"silu", f_silu, d_silu, -80, 80, 4e-7, 0},
    {"silu_grad", f_silu_grad, d_silu_grad, -80, 80, 0, 4e-7},
};

static void test_accuracy(void **state)
{
    (void)state;
    enum { N = 400000 };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        const act_case *a = &cases[c];
        double worst = 0, at = 0;
        for (int i = 0; i <= N; i++) {
            float x = (float)(a->lo + (a->hi - a->lo) * i / N);
            double want = a->want((double)x), err = fabs((double)a->got(x) - want);
            double share = err == 0 ? 0 : err / (a->rel * fabs(want) + a->abs);
            if (!(share <= worst)) worst = share, at = (double)x;
        }
        print_message("  %-16s worst %.2g of %.1g at %g\n", a->name, worst * (a->rel + a->abs),
                      a->rel + a->abs, at);
        if (!(worst <= 1)) fail_msg("%s(%.9g): %.2f of the tolerance", a->name, at, worst);
    }
}

/* Far outside the grids: finite, the right limits; a NaN stays one. */
static void test_limits(void **state)
{
    (void)state;
    assert_true(isfinite(mr_expf(1e30f)) && mr_expf(-1e30f) < 2e-38f && mr_expf(0.0f) == 1.0f);
    assert_true(mr_erff(40.0f) == 1.0f && mr_erff(-40.0f) == -1.0f && mr_erff(0.0f) == 0.0f);
    assert_true(mr_geluf(1e4f) == 1e4f && fabsf(mr_geluf(-1e4f)) < 1e-30f);
    assert_true(mr_siluf(1e4f) == 1e4f && fabsf(mr_siluf(-1e4f)) < 1e-30f);
    assert_true(fabsf(mr_gelu_gradf(1e4f) - 1) < 1e-7f && fabsf(mr_gelu_gradf(-1e4f)) < 1e-30f);
    assert_true(fabsf(mr_silu_gradf(1e4f) - 1) < 1e-7f && fabsf(mr_silu_gradf(-1e4f)) < 1e-30f);
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
        if (!isnan(cases[c].got(NAN))) fail_msg("%s(NaN) is a number", cases[c].name);
}

static void test_double(void **state)
{
    (void)state;
    for (double x = -30; x <= 30; x += 0.0137) {
        assert_true(fabs(mr_gelu_f64(x) - d_gelu(x)) <= 4e-15 * (1 + fabs(x)));
        assert_true(fabs(mr_gelu_grad_f64(x) - d_gelu_grad(x)) <= 4e-15);
        assert_true(fabs(mr_silu_f64(x) - d_silu(x)) <= 4e-15 * (1 + fabs(x)));
        assert_true(fabs(mr_silu_grad_f64(x) - d_silu_grad(x)) <= 8e-15);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accuracy),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_double),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
