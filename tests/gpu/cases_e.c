/* Cases of the item head in bf16: rows that do and do not fill vectors, one warp and several, more
 * columns than a block takes at once, rows that begin anywhere. */
#include "twin.h"

#include <math.h>

#include "kernels/shared/bf16.h"

/* The same bits on both sides, so that what follows starts alike. */
static void resend(twin_world *w, const twin *t)
{
    w->dev->to_device(w->dev, t->dev, t->host, (size_t)t->n * t->width);
}

static void rounding(twin_world *w, int64_t n, int64_t width, bool has_s)
{
    int64_t all = mr_bf16_pitch(n) * mr_bf16_pitch(width);
    twin *x = twin_reals(w, n * width + 1), *s = twin_reals(w, n), *inv = twin_reals(w, n);
    twin *y = twin_halves(w, all, 1.0);
    for (int64_t i = 0; i < n * width; i += 97) ((float *)x->host)[i] = 1e-40f; /* subnormal */
    resend(w, x);
    BOTH(rows_to_bf16, A(y), A(inv), A(x), has_s ? A(s) : NULL, n, width, EX);
    twin_equal(w, "rows_to_bf16", "y", y);
    twin_same(w, "rows_to_bf16", "inv", inv, width);
    /* from an address that is no multiple of 16 bytes, without norms */
    BOTH(rows_to_bf16, A(y), NULL, (float *)A(x) + 1, A(s), n, width, EX);
    twin_equal(w, "rows_to_bf16, shifted", "y", y);
    twin_release(w);
}

static void products(twin_world *w, int64_t m, int64_t n, int64_t k)
{
    for (int t = 0; t < 8; t++) {
        int64_t pm = mr_bf16_pitch(m), pn = mr_bf16_pitch(n), pk = mr_bf16_pitch(k);
        twin *a = twin_halves(w, pm * pk, 1.0), *b = twin_halves(w, pn * pk, 1.0);
        twin *c = twin_reals(w, m * n), *h = twin_halves(w, m * pn, 1.0);
        int64_t lda = t & 1 ? pm : pk, ldb = t & 2 ? pk : pn;
        BOTH(gemm_bf16, A(c), 0, A(a), A(b), m, n, k, t & 1, t >> 1 & 1, lda, ldb, n, 0.5,
             t & 4 ? 0.3 : 0.0, EX);
        twin_same(w, "gemm_bf16", "c", c, k);
        BOTH(gemm_bf16, A(h), 1, A(a), A(b), m, n, k, t & 1, t >> 1 & 1, lda, ldb, pn, 0.5,
             t & 4 ? 0.3 : 0.0, EX);
        twin_near(w, "gemm_bf16", "c in bf16", h);
        twin_release(w);
    }
}

/* Targets inside and outside of the ids, the last column among them. */
static void softmax(twin_world *w, int64_t n, int64_t v)
{
    enum { LO = 3 };
    for (int t = 0; t < 4; t++) {
        twin *raw = twin_halves(w, n * mr_bf16_pitch(v), 2.0), *stats = twin_doubles(w, 3 * n);
        twin *target = twin_ints(w, n, 11, LO + v - 1, v + 6), *cs = twin_positive(w, v);
        BOTH(ce_rows_bf16, A(raw), A(stats), A(target), t & 1 ? A(cs) : NULL, n, v, LO, 2.5,
             t & 2 ? 6.0 : (double)INFINITY, EX);
        twin_near(w, "ce_rows_bf16", "q", raw);
        twin_same(w, "ce_rows_bf16", "stats", stats, v);
        twin_release(w);
    }
}

/* The target's share of the softmax, of rows that share targets. */
static void shares(twin_world *w)
{
    enum { N = 37, V = 11, D = 30 };
    twin *x = twin_reals(w, N * D), *dx = twin_reals(w, N * D), *table = twin_reals(w, V * D);
    twin *dtable = twin_reals(w, V * D), *ce = twin_doubles(w, N), *cs = twin_positive(w, V);
    twin *target = twin_ints(w, N, 7, 0, V + 2);
    BOTH(ce_target, A(dtable), A(dx), A(table), A(x), A(target), A(cs), A(ce), NULL, N, V, D, 1,
         2.0, 0.5, EX);
    twin_same(w, "ce_target with shares", "dtable", dtable, N);
    twin_same(w, "ce_target with shares", "dx", dx, 1);
    twin_release(w);
}

static void nothing(twin_world *w)
{
    twin *h = twin_halves(w, 8, 1.0), *x = twin_reals(w, 8), *d = twin_doubles(w, 3);
    twin *i = twin_ints(w, 1, 0, 2, 3);
    BOTH(rows_to_bf16, A(h), NULL, A(x), NULL, 0, 5, EX);
    BOTH(gemm_bf16, A(h), 1, A(h), A(h), 0, 8, 8, 0, 0, 8, 8, 8, 1.0, 0.0, EX);
    BOTH(ce_rows_bf16, A(h), A(d), A(i), NULL, 0, 5, 0, 1.0, (double)INFINITY, EX);
    twin_equal(w, "bf16 of no rows", "h", h);
    BOTH(ce_rows_bf16, A(h), A(d), A(i), NULL, 1, 0, 0, 1.0, 3.0, EX);
    twin_equal(w, "ce_rows_bf16 of no ids", "stats", d);
    twin_release(w);
}

void cases_e(twin_world *w)
{
    static const int64_t size[][2] = {{1, 1}, {3, 7}, {9, 8}, {37, 300}, {16, 301}, {5, 1028}};
    for (int i = 0; i < 6; i++) rounding(w, size[i][0], size[i][1], i & 1);
    products(w, 37, 29, 53);
    products(w, 64, 128, 304);
    products(w, 1, 8, 5);
    for (int i = 0; i < 6; i++) softmax(w, size[i][0], size[i][1]);
    softmax(w, 2, 2051); /* more than a block takes at once */
    shares(w);
    nothing(w);
}
