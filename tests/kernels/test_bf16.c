/* bf16: the conversion over every value and its neighbours, and the kernels of the item head in
 * bf16 against plain double loops. */
#include <float.h>
#include <math.h>
#include <omp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/mem.h"
#include "kernel_ways.h"
#include "kernels/shared/bf16.h"
#include "op_world.h"

static mr_step_state state = {.rows = 3, .rows_global = 37};
static const mr_exec ex = {.state = &state};

static float from_bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* ---- the conversion ---- */

/* Every number, the one just below and above the middle to the next, and the middle itself. */
static void test_rounding(void **unused)
{
    (void)unused;
    for (uint32_t sign = 0; sign <= 0x8000u; sign += 0x8000u)
        for (uint32_t h = 0; h < 0x7F80u; h++) { /* h + 1 is infinity at the end */
            uint32_t at = (sign | h) << 16;
            assert_int_equal(mr_float_to_bf16(from_bits(at)), sign | h);
            assert_int_equal(mr_float_to_bf16(from_bits(at + 0x7FFFu)), sign | h);
            assert_int_equal(mr_float_to_bf16(from_bits(at + 0x8000u)), sign | (h + (h & 1)));
            assert_int_equal(mr_float_to_bf16(from_bits(at + 0x8001u)), sign | (h + 1));
            assert_true(mr_bf16_to_float((uint16_t)(sign | h)) == from_bits(at));
        }
    assert_int_equal(mr_float_to_bf16(FLT_MAX), 0x7F80);
    assert_int_equal(mr_float_to_bf16(-INFINITY), 0xFF80);
    assert_int_equal(mr_float_to_bf16(INFINITY), 0x7F80);
}

/* No NaN becomes a number or infinity, whatever bits it is made of. */
static void test_nan(void **unused)
{
    (void)unused;
    const uint32_t some[] = {0x7F800001u, 0x7F80FFFFu, 0x7FC00000u, 0x7FFFFFFFu,
                             0xFF800001u, 0xFFFF8000u, 0xFFFFFFFFu};
    for (int i = 0; i < COUNT(some); i++) {
        float f = mr_bf16_to_float(mr_float_to_bf16(from_bits(some[i])));
        if (!isnan(f)) fail_msg("%08x became %g", some[i], (double)f);
        assert_int_equal(signbit(f) != 0, some[i] >> 31);
    }
}

/* The error that bounds of tests are made of. */
static void test_error(void **unused)
{
    (void)unused;
    for (int64_t i = 0; i < 100000; i++) {
        float x = (float)(op_random(3, i) * exp(30 * op_random(4, i)));
        double e = fabs((double)mr_bf16_to_float(mr_float_to_bf16(x)) - (double)x);
        if (!(e <= fabs((double)x) / 256)) fail_msg("%g is off by %g", (double)x, e);
    }
}

/* ---- kernels ---- */

/* n numbers of a stream times scale, as bf16; stream 0: NaN. */
static uint16_t *halves(int64_t n, uint32_t stream, double scale)
{
    uint16_t *h = NULL;
    assert_int_equal(MR_ALLOC(&h, n + 1, "bf16"), MR_OK);
    for (int64_t i = 0; i <= n; i++)
        h[i] = stream ? mr_float_to_bf16((float)(scale * op_random(stream, i))) : 0x7FC1;
    return h;
}

static double value(uint16_t h) { return (double)mr_bf16_to_float(h); }
static uint16_t round_of(double x) { return mr_float_to_bf16((float)x); }

/* Results of the float64 kernel are those of the reference; those of the float32 kernel may be the
 * neighbour where its sum was near the middle, which is rare. */
static void same_halves(const char *what, const uint16_t *got, const uint16_t *want, int64_t n,
                        bool wide)
{
    int64_t apart = 0;
    for (int64_t i = 0; i < n; i++) {
        int d = abs((int)got[i] - (int)want[i]);
        apart += d != 0;
        if (d > !wide)
            fail_msg("%s[%lld]: %g, reference %g", what, (long long)i, value(got[i]),
                     value(want[i]));
    }
    if (apart > 1 + n / 100)
        fail_msg("%s: %lld of %lld differ", what, (long long)apart, (long long)n);
}

static void check_rows(int64_t n, int64_t w, bool has_s, bool has_inv)
{
    int64_t pitch = mr_bf16_pitch(w), all = mr_bf16_pitch(n) * pitch;
    pair x = pair_make(n * w, 1), s = pair_make(n, 2), inv = pair_make(n, 0);
    pair want_inv = pair_make(n, 0);
    for (int64_t j = 0; n > 2 && j < w; j++) x.d[2 * w + j] = x.f[2 * w + j] = 0;
    for (int64_t i = 0; i < n; i++) {
        double q = 0;
        for (int64_t j = i * w; j < (i + 1) * w; j++) q += x.d[j] * x.d[j];
        want_inv.d[i] = q > 0 ? 1 / sqrt(q) : 1e12;
    }
    BOTH_TABLES
    {
        uint16_t *want = halves(all, 0, 0);
        for (int64_t e = 0; e < all; e++) {
            int64_t i = e / pitch, j = e % pitch;
            bool is_there = i < n && j < w;
            double f = !is_there ? 0
                       : wide    ? x.d[i * w + j] * (has_s ? s.d[i] : 1)
                                 : (double)(x.f[i * w + j] * (has_s ? s.f[i] : 1));
            want[e] = round_of(f);
            if (!is_there) want[e] = 0;
        }
        for (int threads = 1; threads <= 3; threads += 2) {
            uint16_t *y = halves(all, 0, 0);
            omp_set_num_threads(threads);
            k->rows_to_bf16(y, has_inv ? P(inv) : NULL, P(x), has_s ? P(s) : NULL, n, w, &ex);
            assert_memory_equal(y, want, (size_t)all * 2);
            assert_int_equal(y[all], 0x7FC1);
            MR_FREE(y);
        }
        MR_FREE(want);
    }
    for (int64_t i = 0; has_inv && i < n; i++) {
        pair one = {1, inv.d + i, inv.f + i};
        pair_compare("inv", &one, want_inv.d + i, w);
    }
    FREE_ALL(&x, &s, &inv, &want_inv);
}

static void test_rows(void **unused)
{
    (void)unused;
    static const int64_t sizes[][2] = {{1, 1}, {0, 5}, {3, 7}, {9, 8}, {131, 60}, {16, 301}};
    for (int i = 0; i < COUNT(sizes); i++)
        for (int t = 0; t < 4; t++) check_rows(sizes[i][0], sizes[i][1], t & 1, t & 2);
}

typedef struct product {
    int64_t m, n, k;
    int ta, tb;
    double beta;
    int64_t lda, ldb, ldc;
    uint16_t *a, *b;
    double *want; /* [m,ldc] without beta c; 0 between the rows */
} product;

/* Operands lie in wider rows, with NaN between them. */
static product product_of(int64_t m, int64_t n, int64_t k, int t, double beta)
{
    product p = {m, n, k, t & 1, t >> 1 & 1, beta, 0, 0, 0, NULL, NULL, NULL};
    p.lda = (p.ta ? m : k) + 5;
    p.ldb = (p.tb ? k : n) + 1;
    p.ldc = beta != 0 ? n + 3 : n;
    p.a = halves((p.ta ? k : m) * p.lda, 0, 0);
    p.b = halves((p.tb ? n : k) * p.ldb, 0, 0);
    assert_int_equal(MR_ALLOC(&p.want, m * p.ldc, "want"), MR_OK);
    for (int64_t i = 0; i < m; i++)
        for (int64_t q = 0; q < k; q++)
            p.a[p.ta ? q * p.lda + i : i * p.lda + q] = round_of(op_random(5, i * k + q));
    for (int64_t j = 0; j < n; j++)
        for (int64_t q = 0; q < k; q++)
            p.b[p.tb ? j * p.ldb + q : q * p.ldb + j] = round_of(op_random(6, j * k + q));
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++)
            for (int64_t q = 0; q < k; q++)
                p.want[i * p.ldc + j] += 0.5 * value(p.a[p.ta ? q * p.lda + i : i * p.lda + q]) *
                                         value(p.b[p.tb ? j * p.ldb + q : q * p.ldb + j]);
    return p;
}

static void product_free(product *p)
{
    MR_FREE(p->a);
    MR_FREE(p->b);
    MR_FREE(p->want);
}

/* The result as numbers, and as bf16; what lies between its rows stays as it is. */
static void check_gemm(int64_t m, int64_t n, int64_t depth, int t, double beta)
{
    product p = product_of(m, n, depth, t, beta);
    int64_t all = m * p.ldc;
    pair c = pair_make(all, beta != 0 ? 7 : 0), want = pair_copy(&c);
    uint16_t *old = halves(all, beta != 0 ? 8 : 0, 1), *wanted = halves(all, 0, 0);
    for (int64_t e = 0; e < all; e++) {
        bool is_there = e % p.ldc < n;
        double before = beta != 0 ? beta * c.d[e] : 0, half = beta != 0 ? beta * value(old[e]) : 0;
        want.d[e] = is_there ? p.want[e] + before : c.d[e];
        wanted[e] = is_there ? round_of(p.want[e] + half) : old[e];
    }
    outputs o = outputs_of(1, &c);
    EVERY_WAY(o, k->gemm_bf16(P(c), 0, p.a, p.b, m, n, depth, p.ta, p.tb, p.lda, p.ldb, p.ldc, 0.5,
                              beta, &ex));
    pair_compare("c", &c, want.d, depth);
    BOTH_TABLES for (int threads = 1; threads <= 3; threads += 2)
    {
        uint16_t *h = halves(all, 0, 0);
        memcpy(h, old, (size_t)all * 2);
        omp_set_num_threads(threads);
        k->gemm_bf16(h, 1, p.a, p.b, m, n, depth, p.ta, p.tb, p.lda, p.ldb, p.ldc, 0.5, beta, &ex);
        same_halves("c in bf16", h, wanted, all, wide);
        MR_FREE(h);
    }
    MR_FREE(old);
    MR_FREE(wanted);
    FREE_ALL(&c, &want);
    product_free(&p);
}

static void test_gemm(void **unused)
{
    (void)unused;
    static const int64_t sizes[][3] = {{1, 1, 1},    {0, 5, 3},     {37, 29, 53},
                                       {64, 64, 64}, {70, 131, 66}, {3, 200, 129}};
    for (int i = 0; i < COUNT(sizes); i++)
        for (int t = 0; t < 8; t++)
            check_gemm(sizes[i][0], sizes[i][1], sizes[i][2], t, t & 4 ? 0.3 : 0.0);
}

/* Rows of v logits, ids from 3 on. Some rows have their target elsewhere. */
static void check_softmax(int64_t n, int64_t v, bool has_cs, double known_max)
{
    enum { LO = 3 };
    const double scale = 2.5;
    int64_t pitch = mr_bf16_pitch(v);
    uint16_t *raw = halves(n * pitch, 9, 2), *want = halves(n * pitch, 0, 0);
    pair cs = pair_make(v, 3);
    int32_t target[8] = {0};
    double st[2][24], want_st[24];
    for (int64_t i = 0; i < v; i++) cs.d[i] = cs.f[i] = fabsf(cs.f[i]) + 0.1f;
    for (int64_t b = 0; b < n; b++) {
        target[b] = LO + (int32_t)((b * 7 + v - 1) % (v + 2));
        double m = known_max, sum = 0, *s = want_st + 3 * b;
        for (int64_t c = v; c < pitch; c++) raw[b * pitch + c] = 0x7FC1;
        for (int64_t c = 0; c < v && isinf(known_max); c++) {
            double l = value(raw[b * pitch + c]) * scale * (has_cs ? cs.d[c] : 1);
            m = c && m > l ? m : l;
        }
        s[2] = 0;
        for (int64_t c = 0; c < pitch; c++) {
            double f = scale * (c < v && has_cs ? cs.d[c] : 1);
            double l = c < v ? value(raw[b * pitch + c]) * f : 0, e = exp(l - m);
            want[b * pitch + c] = c < v && c != target[b] - LO ? round_of(f * e) : 0;
            if (c < v) sum += e;
            if (c < v && c == target[b] - LO) s[2] = l;
        }
        s[0] = v ? m : -HUGE_VAL;
        s[1] = sum;
    }
    BOTH_TABLES for (int threads = 1; threads <= 3; threads += 2)
    {
        uint16_t *q = halves(n * pitch, 0, 0);
        memcpy(q, raw, (size_t)(n * pitch) * 2);
        omp_set_num_threads(threads);
        k->ce_rows_bf16(q, st[wide], target, has_cs ? P(cs) : NULL, n, v, LO, scale, known_max,
                        &ex);
        same_halves("q", q, want, n * pitch, wide);
        assert_int_equal(q[n * pitch], 0x7FC1);
        for (int64_t i = 0; i < 3 * n; i++) {
            double tol = (wide ? 1e-12 : 1e-5) * fmax(1.0, fabs(want_st[i]));
            if (!(st[wide][i] == want_st[i] || fabs(st[wide][i] - want_st[i]) <= tol))
                fail_msg("stats[%lld] of %lld ids: %.12g, reference %.12g", (long long)i,
                         (long long)v, st[wide][i], want_st[i]);
        }
        MR_FREE(q);
    }
    MR_FREE(raw);
    MR_FREE(want);
    pair_free(&cs);
}

static void test_softmax(void **unused)
{
    (void)unused;
    static const int64_t width[] = {0, 1, 7, 8, 13, 1030, 2051};
    for (int i = 0; i < COUNT(width); i++)
        for (int t = 0; t < 4; t++)
            check_softmax(t ? 5 : 1, width[i], t & 1, t & 2 ? 6.0 : INFINITY);
}

/* A score that is not a number is not lost. */
static void test_softmax_nan(void **unused)
{
    (void)unused;
    const int32_t target[1] = {1};
    BOTH_TABLES
    {
        uint16_t *q = halves(8, 9, 1);
        double st[3];
        q[2] = 0x7FC0;
        k->ce_rows_bf16(q, st, target, NULL, 1, 5, 0, 1.0, INFINITY, &ex);
        assert_true(isnan(st[1]) && isnan(mr_bf16_to_float(q[2])));
        MR_FREE(q);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rounding),   cmocka_unit_test(test_nan),
        cmocka_unit_test(test_error),      cmocka_unit_test(test_rows),
        cmocka_unit_test(test_gemm),       cmocka_unit_test(test_softmax),
        cmocka_unit_test(test_softmax_nan)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
