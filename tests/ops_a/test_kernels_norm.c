/* Kernels of the family norm: masks against their scalar definition, layer normalisation and
 * dropout against plain references, float32 against float64, one thread against several. */
#include <math.h>
#include <omp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "kernel_pair.h"

#define COUNT(a) ((int)(sizeof(a) / sizeof *(a)))

static uint32_t rid[4096];
static int32_t pos[4096];

static mr_drop drop_make(double p, uint32_t purpose, int64_t per_row)
{
    for (int i = 0; i < 4096; i++) {
        rid[i] = (uint32_t)(i * 2654435761u);
        pos[i] = i % 11;
    }
    return (mr_drop){p, purpose, {rid, pos}, per_row};
}

/* The vectorised bits are the scalar ones; the share of dropped elements is p. */
static void test_bits(void **state)
{
    (void)state;
    uint16_t bits[1024 + MR_DROP_CHUNK];
    int64_t widths[] = {1, 7, 8, 127, 128, 129, 300, 768};
    for (int i = 0; i < COUNT(widths); i++) {
        uint32_t first = (uint32_t)(i * 1000003 + 4294967200u); /* wraps around */
        mr_drop_bits(bits, widths[i], 99, 5, 6, 0xdeadbeef, first);
        for (int64_t e = 0; e < widths[i]; e++)
            assert_int_equal(bits[e], mr_drop_bits_at(99, 5, 6, 0xdeadbeef, first, e));
    }
    int64_t dropped = 0, n = 0;
    for (uint32_t row = 0; row < 500; row++) {
        mr_drop_bits(bits, 1024, 99, 5, 6, row, 0);
        for (int e = 0; e < 1024; e++, n++) dropped += bits[e] < mr_drop_threshold(0.3);
    }
    /* standard deviation of the share: 0.00064 */
    assert_true(fabs((double)dropped / (double)n - 0.3) < 0.003);
}

typedef struct norm_case {
    int64_t n, w, per_row;
    double in, out;
    bool res, affine;
    int acc; /* 1: dx, 2: dres, 4: dgamma, 8: dbeta accumulate */
} norm_case;

static const norm_case cases[] = {
    {1, 1, 1, 0, 0, true, true, 0},          {0, 5, 1, 0.5, 0, true, true, 1},
    {3, 7, 1, 0, 0, false, false, 0},        {5, 13, 1, 0.5, 0, true, true, 5},
    {12, 300, 3, 0.1, 0, true, true, 0},     {257, 64, 1, 0, 0.5, false, true, 2},
    {130, 129, 1, 0.3, 0.2, true, true, 10}, {20, 768, 5, 0.1, 0, true, true, 15},
};

/* u, mean, rstd of a row, in double. */
static void reference_row(const norm_case *c, const pair *x, const pair *res, const mr_drop *in,
                          const mr_exec *ex, int64_t i, double *u, double *mean, double *rstd)
{
    double s = 0, q = 0;
    for (int64_t j = 0; j < c->w; j++) {
        int64_t e = i * c->w + j;
        u[j] = x->d[e] * drop_factor(in, ex, i, c->w, j) + (c->res ? res->d[e] : 0);
        s += u[j];
    }
    *mean = s / (double)c->w;
    for (int64_t j = 0; j < c->w; j++) q += (u[j] - *mean) * (u[j] - *mean);
    *rstd = 1 / sqrt(q / (double)c->w + 1e-3);
}

static void check_norm(const norm_case *c)
{
    int64_t n = c->n, w = c->w, nw = n * w;
    mr_drop in = drop_make(c->in, 70, c->per_row), out = drop_make(c->out, 71, c->per_row);
    pair_exec e;
    pair_exec_make(&e, MR_NORM_SCRATCH(w));
    e.ex.state = &e.state;
    pair x = pair_make(nw, 1), res = pair_make(nw, 2), gamma = pair_make(w, 3),
         beta = pair_make(w, 4), dy = pair_make(nw, 5);
    pair y = pair_make(nw, 0), mean = pair_make(n, 0), rstd = pair_make(n, 0);
    pair dx = pair_make(nw, c->acc & 1 ? 6 : 0), dres = pair_make(nw, c->acc & 2 ? 7 : 0);
    pair dg = pair_make(w, c->acc & 4 ? 8 : 0), db = pair_make(w, c->acc & 8 ? 9 : 0);
    pair wy = pair_make(nw, 0), wdx = pair_copy(&dx), wdres = pair_copy(&dres),
         wdg = pair_copy(&dg), wdb = pair_copy(&db);
    for (int64_t j = 0; j < w; j++) {
        if (!(c->acc & 4)) wdg.d[j] = 0;
        if (!(c->acc & 8)) wdb.d[j] = 0;
    }
    for (int64_t i = 0; i < n; i++) {
        double u[768], g[768], mu, rs, s1 = 0, s2 = 0;
        reference_row(c, &x, &res, &in, &e.ex, i, u, &mu, &rs);
        for (int64_t j = 0; j < w; j++) {
            double m = drop_factor(&out, &e.ex, i, w, j), xh = (u[j] - mu) * rs;
            double ga = c->affine ? gamma.d[j] : 1, d = dy.d[i * w + j] * m;
            wy.d[i * w + j] = (xh * ga + (c->affine ? beta.d[j] : 0)) * m;
            wdg.d[j] += d * xh;
            wdb.d[j] += d;
            g[j] = d * ga;
            s1 += g[j] / (double)w;
            s2 += g[j] * xh / (double)w;
        }
        for (int64_t j = 0; j < w; j++) {
            double du = rs * (g[j] - s1 - (u[j] - mu) * rs * s2), *a = &wdx.d[i * w + j],
                   *b = &wdres.d[i * w + j];
            *a = (c->acc & 1 ? *a : 0) + du * drop_factor(&in, &e.ex, i, w, j);
            *b = (c->acc & 2 ? *b : 0) + du;
        }
    }
    BOTH_TABLES
    {
        void *r = c->res ? P(res) : NULL, *ga = c->affine ? P(gamma) : NULL,
             *be = c->affine ? P(beta) : NULL;
        k->layer_norm_fwd(P(y), P(mean), P(rstd), P(x), r, ga, be, n, w, w, 1e-3, &in, &out, &e.ex);
        k->layer_norm_bwd(P(dx), P(dres), P(dg), P(db), P(dy), P(x), r, ga, P(mean), P(rstd), n, w,
                          w, c->acc & 1, c->acc & 2, c->acc & 4, c->acc & 8, &in, &out, &e.ex);
    }
    pair_compare("y", &y, wy.d, w);
    pair_compare("dx", &dx, wdx.d, w);
    pair_compare("dres", &dres, wdres.d, w);
    pair_compare("dgamma", &dg, wdg.d, n);
    pair_compare("dbeta", &db, wdb.d, n);
    pair *all[] = {&x,    &res, &gamma, &beta, &dy,  &y,     &mean, &rstd, &dx,
                   &dres, &dg,  &db,    &wy,   &wdx, &wdres, &wdg,  &wdb};
    for (int i = 0; i < COUNT(all); i++) pair_free(all[i]);
    pair_exec_free(&e);
}

static void test_layer_norm(void **state)
{
    (void)state;
    for (int i = 0; i < COUNT(cases); i++) check_norm(&cases[i]);
}

static void test_dropout(void **state)
{
    (void)state;
    struct {
        int64_t n, w, per_row;
        double p;
        int acc;
    } a[] = {{0, 3, 1, 0.5, 0},   {1, 1, 1, 0.5, 1},  {7, 1031, 1, 0.25, 1},
             {9, 130, 3, 0.9, 0}, {4, 17, 1, 0.0, 0}, {4, 17, 1, 0.0, 1}};
    for (int i = 0; i < COUNT(a); i++) {
        int64_t n = a[i].n, w = a[i].w;
        mr_drop d = drop_make(a[i].p, 80, a[i].per_row);
        pair_exec e;
        pair_exec_make(&e, 0);
        e.ex.state = &e.state;
        pair x = pair_make(n * w, 1), y = pair_make(n * w, a[i].acc ? 2 : 0), want = pair_copy(&y);
        for (int64_t t = 0; t < n * w; t++)
            want.d[t] =
                (a[i].acc ? want.d[t] : 0) + x.d[t] * drop_factor(&d, &e.ex, t / w, w, t % w);
        BOTH_TABLES k->dropout(P(y), P(x), n, w, a[i].acc, &d, &e.ex);
        pair_compare("dropout", &y, want.d, 1);
        pair_free(&x);
        pair_free(&y);
        pair_free(&want);
    }
}

/* Sums over rows have the same bits whatever the number of threads. */
static void test_threads(void **state)
{
    (void)state;
    enum { N = 1000, W = 37 };
    mr_drop in = drop_make(0.2, 70, 1), off = {0};
    pair_exec e;
    pair_exec_make(&e, MR_NORM_SCRATCH(W));
    e.ex.state = &e.state;
    pair x = pair_make(N * W, 1), dy = pair_make(N * W, 2), y = pair_make(N * W, 0);
    pair mean = pair_make(N, 0), rstd = pair_make(N, 0), dx = pair_make(N * W, 0);
    float dg[2][W];
    int before = omp_get_max_threads();
    const mr_kernels *k = &mr_kernels_cpu32;
    for (int t = 0; t < 2; t++) {
        omp_set_num_threads(t ? 3 : 1);
        k->layer_norm_fwd(y.f, mean.f, rstd.f, x.f, NULL, NULL, NULL, N, W, W, 1e-12, &in, &off,
                          &e.ex);
        k->layer_norm_bwd(dx.f, NULL, dg[t], NULL, dy.f, x.f, NULL, NULL, mean.f, rstd.f, N, W, W,
                          0, 0, 0, 0, &in, &off, &e.ex);
    }
    omp_set_num_threads(before);
    assert_memory_equal(dg[0], dg[1], sizeof dg[0]);
    pair *all[] = {&x, &dy, &y, &mean, &rstd, &dx};
    for (int i = 0; i < COUNT(all); i++) pair_free(all[i]);
    pair_exec_free(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bits),
        cmocka_unit_test(test_layer_norm),
        cmocka_unit_test(test_dropout),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
