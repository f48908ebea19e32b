/* Every kernel of the U-Net and diffusion families, in float64 and float32, against the reference
 * loops of naive_b.c over odd, prime and empty sizes, with both values of each accumulate bit, the
 * scratch exactly as large as the contract says (with a guard word behind it), and 1 and 3 threads.
 */
#include <math.h>
#include <omp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "kernels/shared/draw.h"
#include "naive_b.h"

enum { MAX_BUF = 256, PAD = 16 };

static const mr_kernels *K;
static size_t rb; /* bytes of an element */
static char label[128];
static struct {
    void *p;
} owned[MAX_BUF];
static int n_owned;
static char seen[32][32]; /* kernels that had a case */
static int n_seen;

static void *own(size_t bytes)
{
    assert_true(n_owned < MAX_BUF);
    void *p = calloc(1, bytes + 64);
    assert_non_null(p);
    return owned[n_owned++].p = p;
}

static void release(void)
{
    while (n_owned) free(owned[--n_owned].p);
}

static void mark(const char *name)
{
    for (int i = 0; i < n_seen; i++)
        if (!strcmp(seen[i], name)) return;
    snprintf(seen[n_seen++], sizeof seen[0], "%s", name);
}

#define CALL(name, ...) (mark(#name), K->name(__VA_ARGS__))

static double rnd(uint32_t stream, int64_t i)
{
    return (double)mr_philox(stream, 0, 0, (uint32_t)i, 0).v[0] / 2147483648.0 - 1.0;
}

/* n random numbers that float holds exactly; always at least one element of room. */
static double *data(uint32_t stream, int64_t n)
{
    double *x = own((size_t)(n + 1) * sizeof *x);
    for (int64_t i = 0; i < n; i++) x[i] = (double)(float)rnd(stream, i);
    return x;
}

static double *blank(int64_t n) { return own((size_t)(n + 1) * sizeof(double)); }

/* A copy in the element type under test, with PAD sentinel elements behind. */
static void *dev(const double *x, int64_t n)
{
    if (!x) return NULL;
    char *d = own((size_t)(n + PAD) * rb);
    for (int64_t i = 0; i < n; i++) {
        if (rb == 8)
            ((double *)(void *)d)[i] = x[i];
        else
            ((float *)(void *)d)[i] = (float)x[i];
    }
    memset(d + (size_t)n * rb, 0x5A, PAD * rb);
    return d;
}

static void whole(const char *what, const void *d, int64_t n)
{
    const unsigned char *p = (const unsigned char *)d + (size_t)n * rb;
    for (size_t i = 0; i < PAD * rb; i++)
        if (p[i] != 0x5A) fail_msg("%s: %s was written behind its end", label, what);
}

static double get(const void *d, int64_t i)
{
    return rb == 8 ? ((const double *)d)[i] : (double)((const float *)d)[i];
}

/* got = before * acc + want, relative to the largest element of want. */
static void near(const char *what, const void *got, const double *want, const double *before,
                 int64_t n, int acc)
{
    double size = 1e-3, tol = rb == 8 ? 1e-12 : 4e-6;
    for (int64_t i = 0; i < n; i++) size = fmax(size, fabs(want[i]));
    for (int64_t i = 0; i < n; i++) {
        double w = want[i] + (acc ? before[i] : 0);
        if (!(fabs(get(got, i) - w) <= tol * (size + acc)))
            fail_msg("%s acc %d: %s[%lld] is %.9g, not %.9g", label, acc, what, (long long)i,
                     get(got, i), w);
    }
    whole(what, got, n);
}

static mr_step_state state = {.step = 7};
static uint32_t *rids(int64_t n)
{
    uint32_t *r = own((size_t)(n + 1) * 4);
    for (int64_t i = 0; i < n; i++) r[i] = (uint32_t)(1000 + 7 * i);
    return r;
}

static mr_exec exec_with(int64_t scratch)
{
    double *none = blank(scratch);
    for (int64_t i = 0; i < scratch; i++) none[i] = NAN;
    return (mr_exec){.seed = 77,
                     .state = &state,
                     .scratch = dev(none, scratch),
                     .scratch_bytes = (size_t)scratch * rb};
}

/* Run a case in both precisions, with 1 and with 3 threads. */
static void both(void (*run)(const void *), const void *arg, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static void both(void (*run)(const void *), const void *arg, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    char text[80];
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    for (int i = 0; i < 4; i++) {
        K = i & 1 ? &mr_kernels_cpu32 : &mr_kernels_cpu64;
        rb = i & 1 ? 4 : 8;
        omp_set_num_threads(i & 2 ? 3 : 1);
        snprintf(label, sizeof label, "%s float%d", text, i & 1 ? 32 : 64);
        run(arg);
        release();
    }
}

/* ---- convolution ---- */
/* Backward in two parts: what it begins with, then the products. */
static void run_begun(mr_conv cv, const double *x, const double *w, const double *dy,
                      const double *dx, const double *dw, const double *old, bool is_framed)
{
    cv.x_framed = is_framed;
    int64_t rows = mr_conv_rows(&cv), nx = cv.n * cv.S * cv.ci, ny = cv.n * cv.So * cv.co,
            nw = 3 * cv.co * cv.ci, nu = rows * cv.co * 3, sums = mr_conv_sums(&cv);
    double *unfolded = blank(nu), *xs = blank(rows * cv.ci), *db = blank(cv.co);
    naive_rows(xs, x, cv.ci, &cv);
    naive_unfold(unfolded, db, dy, &cv);
    mr_exec ex = exec_with(0);
    for (int acc = 0; acc < 2; acc++, cv.is_begun = false) {
        void *DX = dev(old, nx), *DW = dev(old, nw);
        mr_conv_acc a = {acc, !acc, acc, !acc, 0};
        mr_conv_begin q = {cv,           a,    dev(data(8, nu), nu),    dev(old, cv.co),
                           dev(old, ny), NULL, dev(data(9, sums), sums)};
        CALL(conv3_bwd_begin, &q, dev(dy, ny), &ex);
        whole("scratch", q.scratch, sums);
        near("unfolded", q.unfolded, unfolded, NULL, nu, 0);
        near("dbias, begun", q.dbias, db, old, cv.co, acc);
        near("dres, begun", q.dres, dy, old, ny, !acc);
        cv.is_begun = true;
        CALL(conv3_bwd, DX, DW, NULL, NULL, NULL, q.unfolded, dev(xs, rows * cv.ci), dev(w, nw),
             &cv, &a, &ex);
        near("dx, begun", DX, dx, old, nx, acc);
        near("dw, begun", DW, dw, old, nw, !acc);
    }
}

static void run_conv(const void *arg)
{
    const mr_conv *cv = arg;
    int64_t nx = cv->n * cv->S * cv->ci, ny = cv->n * cv->So * cv->co, nw = 3 * cv->co * cv->ci;
    double *x = data(1, nx), *w = data(2, nw), *b = data(3, cv->co), *q = data(4, ny);
    double *c = data(5, cv->n * cv->ctx_ld), *dy = data(6, ny), *y = blank(ny), *dx = blank(nx);
    int64_t nc = cv->n * cv->ctx_ld;
    double *dw = blank(nw), *old = data(7, nx + nw + ny + nc + cv->co);
    int64_t want = mr_conv_scratch(cv, false, 1, 1);
    mr_exec ex = exec_with(want);
    void *X = dev(x, nx), *W = dev(w, nw), *G = dev(dy, ny), *out = dev(old, ny);
    for (int t = 0; t < 8; t++) {
        const double *bb = t & 1 ? b : NULL, *qq = t & 2 ? q : NULL, *cc = t & 4 ? c : NULL;
        naive_conv(y, x, w, bb, qq, cc, cv);
        CALL(conv3_fwd, out, X, W, dev(bb, cv->co), dev(qq, ny), dev(cc, cv->n * cv->ctx_ld), cv,
             &ex);
        near("y", out, y, NULL, ny, 0);
    }
    naive_conv_bwd(dx, dw, dy, x, w, cv);
    for (int framed = 0; framed < 2; framed++) run_begun(*cv, x, w, dy, dx, dw, old, framed);
    for (int acc = 0; acc < 2; acc++) {
        void *DX = dev(old, nx), *DW = dev(old, nw);
        mr_conv_acc a = {.x = acc, .w = acc};
        CALL(conv3_bwd, DX, NULL, NULL, NULL, NULL, G, NULL, W, cv, &a, &ex);
        CALL(conv3_bwd, NULL, DW, NULL, NULL, NULL, G, X, NULL, cv, &a, &ex);
        near("dx", DX, dx, old, nx, acc);
        near("dw", DW, dw, old, nw, acc);
    }
    double *db = blank(cv->co), *dc = blank(nc);
    for (int64_t i = 0; i < ny; i++) {
        db[i % cv->co] += dy[i];
        dc[i / (cv->So * cv->co) * cv->ctx_ld + i % cv->co] += dy[i];
    }
    for (int t = 0; t < 16; t++) {
        int acc = t & 1;
        void *DB = t & 2 ? dev(old, cv->co) : NULL, *DR = t & 4 ? dev(old, ny) : NULL;
        void *DC = t & 8 ? dev(old, nc) : NULL;
        /* what lies between the rows is left alone */
        for (int64_t i = 0; i < nc; i++)
            if (i % cv->ctx_ld >= cv->co) dc[i] = acc ? 0 : old[i];
        CALL(conv3_bwd_add, DB, DR, DC, G, cv->n, cv->So, cv->co, cv->ctx_ld, acc, acc, acc, &ex);
        if (DB) near("dbias", DB, db, old, cv->co, acc);
        if (DR) near("dres", DR, dy, old, ny, acc);
        if (DC) near("dctx", DC, dc, old, nc, acc);
    }
    for (int acc = 0; acc < 2; acc++) { /* all together */
        void *DX = dev(old, nx), *DW = dev(old, nw), *DB = dev(old, cv->co), *DR = dev(old, ny);
        void *DC = dev(old, nc);
        mr_conv_acc a = {acc, !acc, acc, !acc, acc};
        for (int64_t i = 0; i < nc; i++)
            if (i % cv->ctx_ld >= cv->co) dc[i] = acc ? 0 : old[i];
        CALL(conv3_bwd, DX, DW, DB, DR, DC, G, X, W, cv, &a, &ex);
        near("dx", DX, dx, old, nx, acc);
        near("dw", DW, dw, old, nw, !acc);
        near("dbias", DB, db, old, cv->co, acc);
        near("dres", DR, dy, old, ny, !acc);
        near("dctx", DC, dc, old, nc, acc);
        if (nx != ny) continue; /* the residual is x */
        void *DS = dev(old, nx);
        for (int64_t i = 0; i < nx; i++) dx[i] += dy[i];
        a.res = 1;
        CALL(conv3_bwd, DS, NULL, NULL, DS, NULL, G, X, W, cv, &a, &ex);
        near("dx + dres", DS, dx, old, nx, acc);
        for (int64_t i = 0; i < nx; i++) dx[i] -= dy[i];
    }
    whole("scratch", ex.scratch, want);
}

static void test_conv(void **unused)
{
    (void)unused;
    static const int64_t size[][4] = {/* n, S, ci, co */
                                      {1, 5, 1, 1},  {3, 5, 7, 5}, {2, 3, 13, 3}, {131, 2, 3, 4},
                                      {5, 7, 2, 11}, {2, 1, 3, 2}, {0, 5, 3, 2},  {67, 5, 17, 19},
                                      {2, 4, 31, 1}, {3, 6, 1, 5}, {0, 3, 2, 2},  {1, 11, 3, 3},
                                      {67, 4, 6, 6}};
    for (size_t i = 0; i < sizeof size / sizeof *size; i++)
        for (int stride = 1; stride <= 2; stride++) {
            mr_conv cv = {size[i][0], size[i][1], (size[i][1] + stride - 1) / stride, size[i][2],
                          size[i][3], stride,     size[i][3] + (int64_t)(i % 3),      false,
                          false};
            both(run_conv, &cv, "conv n %lld S %lld %lld->%lld stride %d", (long long)cv.n,
                 (long long)cv.S, (long long)cv.ci, (long long)cv.co, stride);
        }
}

/* ---- group norm ---- */
typedef struct gn_case {
    int64_t n, S, c, groups;
    int film; /* 0 none, 1 a row a sample, 2 one row for all, 3 as 1 with other columns behind */
    double drop;
} gn_case;

/* The norm and a convolution in one: y, framed rows with their zeros, and dw from those rows. */
static void run_gn_conv(const mr_gn *gn, const double *u, void *X, void *GA, void *BE, void *FI)
{
    enum { CO = 3 };
    int64_t n = gn->n, S = gn->S, c = gn->c, nr = mr_framed_rows(n, S) * c;
    mr_conv cv = {n, S, S, c, CO, 1, CO, true, false};
    mr_conv_acc acc = {0};
    double *w = data(11, 3 * c * CO), *bias = data(12, CO), *res = data(13, n * S * CO);
    double *ctx = data(14, n * CO), *dy = data(15, n * S * CO), *dw = blank(3 * c * CO);
    double *y = blank(n * S * CO), *rows = blank(nr), *dx = blank(n * S * c);
    naive_conv(y, u, w, bias, res, ctx, &cv);
    naive_conv_bwd(dx, dw, dy, u, w, &cv);
    naive_rows(rows, u, c, &cv);
    int64_t want = mr_conv_scratch(&cv, false, 1, 1);
    mr_exec ex = exec_with(want);
    void *Y = dev(dy, n * S * CO), *R = dev(data(16, nr), nr), *W = dev(w, 3 * c * CO);
    void *MU = dev(data(17, n * gn->groups), n * gn->groups);
    void *RS = dev(data(17, n * gn->groups), n * gn->groups);
    CALL(group_norm_conv3_fwd, Y, R, MU, RS, X, GA, BE, FI, gn, W, dev(bias, CO),
         dev(res, n * S * CO), dev(ctx, n * CO), &cv, &ex);
    near("y of norm and convolution", Y, y, NULL, n * S * CO, 0);
    near("framed rows", R, rows, NULL, nr, 0);
    void *DW = dev(w, 3 * c * CO);
    CALL(conv3_bwd, NULL, DW, NULL, NULL, NULL, dev(dy, n * S * CO), R, W, &cv, &acc, &ex);
    near("dw from framed rows", DW, dw, NULL, 3 * c * CO, 0);
    CALL(conv3_fwd, Y, R, W, dev(bias, CO), dev(res, n * S * CO), dev(ctx, n * CO), &cv, &ex);
    near("y from framed rows", Y, y, NULL, n * S * CO, 0);
    whole("scratch", ex.scratch, want);
}

static void run_gn(const void *arg)
{
    const gn_case *c = arg;
    int64_t nx = c->n * c->S * c->c, ns = c->n * c->groups,
            ld = c->film == 1   ? 2 * c->c
                 : c->film == 3 ? 2 * c->c + 5
                                : 0,
            nf = ld ? ld * c->n : 2 * c->c;
    int32_t *pos = own((size_t)(c->n + 1) * 4);
    mr_gn gn = {.n = c->n, .S = c->S, .c = c->c, .groups = c->groups, .eps = 1e-6, .film_ld = ld};
    if (c->drop > 0)
        gn.drop =
            (mr_drop){.p = c->drop, .purpose = 65600, .rows = {rids(c->n), pos}, .per_row = 1};
    double *x = data(1, nx), *ga = data(2, c->c), *be = data(3, c->c),
           *fi = c->film ? data(4, nf) : NULL;
    double *dy = data(5, nx), *old = data(6, nx + nf), *y = blank(nx), *mu = blank(ns),
           *rs = blank(ns);
    double *dx = blank(nx), *dg = blank(c->c), *db = blank(c->c), *df = ld ? blank(nf) : NULL;
    for (int64_t i = 0; i < nx; i++) x[i] = (double)(float)(x[i] + 3.0); /* a mean to be removed */
    double *m = blank(nx);
    naive_mask(m, &gn, 77, state.step);
    naive_gn(y, mu, rs, x, ga, be, fi, m, &gn);
    naive_gn_bwd(dx, dg, db, df, dy, x, ga, be, fi, m, &gn);
    int64_t want = mr_gn_scratch(c->n, c->S, c->c);
    mr_exec ex = exec_with(want);
    void *X = dev(x, nx), *GA = dev(ga, c->c), *BE = dev(be, c->c), *FI = dev(fi, nf);
    void *Y = dev(old, nx), *MU = dev(old, ns), *RS = dev(old, ns), *G = dev(dy, nx);
    CALL(group_norm_fwd, Y, MU, RS, X, GA, BE, FI, &gn, &ex);
    near("y", Y, y, NULL, nx, 0);
    near("mean", MU, mu, NULL, ns, 0);
    near("rstd", RS, rs, NULL, ns, 0);
    run_gn_conv(&gn, y, X, GA, BE, FI);
    for (int acc = 0; acc < 2; acc++) {
        void *DX = dev(old, nx), *DG = dev(old, c->c), *DB = dev(old, c->c),
             *DF = df ? dev(old, nf) : NULL;
        for (int64_t i = 0; df && i < nf; i++)
            if (i % ld >= 2 * c->c) df[i] = acc ? 0 : old[i];
        CALL(group_norm_bwd, DX, DG, DB, DF, G, X, MU, RS, GA, BE, FI, &gn, acc, acc, acc, acc,
             NULL, &ex);
        near("dx", DX, dx, old, nx, acc);
        near("dgamma", DG, dg, old, c->c, acc);
        near("dbeta", DB, db, old, c->c, acc);
        if (df) near("dfilm", DF, df, old, nf, acc);
    }
    /* dx in place of dy, and dx not wanted */
    void *D = dev(dy, nx), *DG = dev(old, c->c), *DB = dev(old, c->c);
    CALL(group_norm_bwd, NULL, DG, DB, NULL, D, X, MU, RS, GA, BE, FI, &gn, 0, 0, 0, 0, NULL, &ex);
    CALL(group_norm_bwd, D, DG, DB, NULL, D, X, MU, RS, GA, BE, FI, &gn, 0, 0, 0, 0, NULL, &ex);
    near("dx in place", D, dx, NULL, nx, 0);
    whole("scratch", ex.scratch, want);
}

static void test_group_norm(void **unused)
{
    (void)unused;
    static const gn_case c[] = {
        {1, 5, 16, 8, 1, 0},   {3, 3, 16, 8, 1, 0.1},  {17, 5, 24, 8, 1, 0.1},
        {2, 2, 15, 3, 0, 0.5}, {33, 7, 5, 1, 2, 0},    {2, 5, 130, 1, 1, 0.3},
        {0, 5, 8, 8, 1, 0.1},  {4, 3, 134, 2, 2, 0.2}, {3, 11, 7, 7, 1, 0.1},
        {2, 1, 64, 2, 0, 0},   {19, 3, 10, 2, 3, 0.1}, {3, 5, 131, 1, 3, 0}};
    for (size_t i = 0; i < sizeof c / sizeof *c; i++)
        both(run_gn, &c[i], "group norm n %lld S %lld c %lld/%lld film %d drop %g",
             (long long)c[i].n, (long long)c[i].S, (long long)c[i].c, (long long)c[i].groups,
             c[i].film, c[i].drop);
}

/* ---- moving things ---- */
static void run_move(const void *arg)
{
    const int64_t *a = arg, n = a[0], S = a[1], S2 = a[2], c = a[3], wb = a[4];
    double *x = data(1, n * S * c), *v = data(2, n * c), *b = data(3, n * wb),
           *bias = data(4, c + wb);
    double *dy = data(5, n * S2 * c), *old = data(6, n * (S + S2) * c + n * wb),
           *y = blank(n * S * c);
    mr_exec ex = exec_with(1);
    for (int64_t i = 0; i < n * S * c; i++) y[i] = x[i] + v[i / (S * c) * c + i % c];
    void *Y = dev(old, n * S * c), *X = dev(x, n * S * c);
    CALL(frame_add, Y, X, dev(v, n * c), n, S, c, &ex);
    near("frame_add", Y, y, NULL, n * S * c, 0);

    double *up = blank(n * S2 * c), *down = blank(n * S * c);
    for (int64_t i = 0; i < n * S2 * c; i++) {
        int64_t from = (i / (S2 * c) * S + i / c % S2 * S / S2) * c + i % c;
        up[i] = x[from];
        down[from] += dy[i];
    }
    void *U = dev(old, n * S2 * c), *G = dev(dy, n * S2 * c);
    CALL(upsample_fwd, U, X, n, S, S2, c, &ex);
    near("upsample", U, up, NULL, n * S2 * c, 0);
    double *cat = blank(n * (c + wb)), *av = data(7, n * c), *g = data(8, n * (c + wb));
    double *ga = blank(n * c), *gb = blank(n * wb);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < c + wb; j++) {
            cat[i * (c + wb) + j] = j < c ? av[i * c + j] : b[i * wb + j - c];
            *(j < c ? &ga[i * c + j] : &gb[i * wb + j - c]) = g[i * (c + wb) + j];
        }
    void *C = dev(old, n * (c + wb));
    CALL(concat_fwd, C, dev(av, n * c), wb ? dev(b, n * wb) : NULL, NULL, n, c, wb, &ex);
    near("concat", C, cat, NULL, n * (c + wb), 0);
    for (int64_t i = 0; i < n * (c + wb); i++) cat[i] += bias[i % (c + wb)];
    CALL(concat_fwd, C, dev(av, n * c), wb ? dev(b, n * wb) : NULL, dev(bias, c + wb), n, c, wb,
         &ex);
    near("concat + bias", C, cat, NULL, n * (c + wb), 0);
    for (int acc = 0; acc < 2; acc++) {
        void *DX = dev(old, n * S * c), *DA = dev(old, n * c), *DB = wb ? dev(old, n * wb) : NULL;
        CALL(upsample_bwd, DX, G, n, S, S2, c, acc, NULL, &ex);
        near("upsample dx", DX, down, old, n * S * c, acc);
        void *GG = dev(g, n * (c + wb));
        CALL(concat_bwd, DA, DB, GG, n, c, wb, acc, acc, NULL, &ex);
        near("concat da", DA, ga, old, n * c, acc);
        if (wb) near("concat db", DB, gb, old, n * wb, acc);
        CALL(concat_bwd, NULL, NULL, GG, n, c, wb, acc, acc, NULL, &ex);
    }
}

static void run_silu(const void *arg)
{
    int64_t n = *(const int64_t *)arg;
    double *x = data(1, n), *dy = data(2, n), *old = data(3, n), *y = blank(n), *dx = blank(n);
    for (int64_t i = 0; i < n; i++) {
        x[i] = (double)(float)(x[i] * 12);
        double s = 1 / (1 + exp(-x[i]));
        y[i] = x[i] * s;
        dx[i] = dy[i] * (s + x[i] * s * (1 - s));
    }
    mr_exec ex = exec_with(1);
    void *Y = dev(old, n), *X = dev(x, n);
    CALL(silu_fwd, Y, X, n, &ex);
    near("silu", Y, y, NULL, n, 0);
    for (int acc = 0; acc < 2; acc++) {
        void *DX = dev(old, n);
        CALL(silu_bwd, DX, dev(dy, n), X, n, acc, &ex);
        near("silu dx", DX, dx, old, n, acc);
    }
}

static void test_moves(void **unused)
{
    (void)unused;
    static const int64_t size[][5] = {{1, 3, 5, 1, 1},  {3, 3, 5, 7, 4}, {2, 1, 2, 5, 0},
                                      {67, 2, 3, 3, 2}, {0, 3, 5, 4, 4}, {2, 4, 7, 65, 1},
                                      {2, 5, 3, 3, 3},  {1, 5, 5, 2, 2}};
    for (size_t i = 0; i < sizeof size / sizeof *size; i++)
        both(run_move, size[i], "moves n %lld S %lld->%lld c %lld", (long long)size[i][0],
             (long long)size[i][1], (long long)size[i][2], (long long)size[i][3]);
    static const int64_t n[] = {0, 1, 17, 64, 1009};
    for (int i = 0; i < 5; i++) both(run_silu, &n[i], "silu n %lld", (long long)n[i]);
    /* 5 frames from 3: 0,0,1,1,2 */
    float x[3] = {10, 11, 12}, y[5];
    mr_exec ex = {0};
    mr_kernels_cpu32.upsample_fwd(y, x, 1, 3, 5, 1, &ex);
    const float want[5] = {10, 10, 11, 11, 12};
    assert_memory_equal(y, want, sizeof y);
}

/* ---- diffusion ---- */
typedef struct noise_case {
    int64_t n, w, t;
    bool pure, set;
} noise_case;

static void run_noise(const void *arg)
{
    const noise_case *c = arg;
    int64_t n = c->n, w = c->w;
    const double abar[6] = {1, .9, .7, .5, .3, .1};
    const mr_int_list set = {2, {2, 5}};
    const uint32_t *rid = rids(n);
    mr_noise nz = {MR_RNG_T_NPD, MR_RNG_EPS_NPD, c->t, 5, c->set ? &set : NULL, c->pure, 0, 0};
    double *x = data(1, n * w), *y = blank(n * w), *dx = blank(n * w), *old = data(2, n * w);
    double *xt = data(3, n * w), *post = blank(n * w), *last = blank(n * w);
    for (int64_t i = 0; i < n * w; i++) {
        uint32_t r = rid[i / w];
        int64_t t = c->t ? c->t : mr_draw_t(77, MR_RNG_T_NPD, 7, r, 5, nz.t_set);
        double e = mr_draw_normal(77, MR_RNG_EPS_NPD, 7, r, i % w);
        y[i] = c->pure ? e : sqrt(abar[t]) * x[i] + sqrt(1 - abar[t]) * e;
        dx[i] = sqrt(abar[t]) * x[i];
        post[i] =
            .4 * x[i] + .6 * xt[i] + .3 * mr_draw_normal(77, MR_RNG_POST_NPD + 3, 7, r, i % w);
        last[i] = x[i];
    }
    mr_exec ex = exec_with(1);
    void *X = dev(x, n * w), *Y = dev(old, n * w), *T = dev(xt, n * w);
    CALL(noise_fwd, Y, X, abar, rid, n, w, &nz, &ex);
    near("noise", Y, y, NULL, n * w, 0);
    for (int acc = 0; acc < 2 && !c->pure; acc++) {
        void *DX = dev(old, n * w);
        CALL(noise_bwd, DX, X, abar, rid, n, w, &nz, acc, &ex);
        near("noise dx0", DX, dx, old, n * w, acc);
    }
    void *P = dev(old, n * w);
    CALL(posterior, P, X, T, rid, n, w, w, w, .4, .6, .3, MR_RNG_POST_NPD + 3, &ex);
    near("posterior", P, post, NULL, n * w, 0);
    CALL(posterior, P, X, T, rid, n, w, w, w, 1.0, 0.0, 0.0, MR_RNG_POST_NPD + 1, &ex);
    for (int64_t i = 0; i < n * w; i++) assert_true(get(P, i) == get(X, i)); /* exactly xhat */
    near("posterior, last step", P, last, NULL, n * w, 0);
}

static void run_pool(const void *arg)
{
    const int64_t *a = arg, n = a[0], F = a[1], d = a[2];
    double *x = data(1, n * d), *f = data(2, n * F * d), *t = data(3, n * d), *y = blank(n * 3 * d);
    double *g = data(4, n * 3 * d), *old = data(5, n * F * d + n * d);
    double *gx = blank(n * d), *gf = blank(n * F * d), *gt = blank(n * d);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < d; j++) {
            double sum = 0;
            for (int64_t k = 0; k < F; k++) sum += f[(i * F + k) * d + j];
            y[i * 3 * d + j] = x[i * d + j];
            y[i * 3 * d + d + j] = sum / (double)F;
            y[i * 3 * d + 2 * d + j] = t[i * d + j];
            gx[i * d + j] = g[i * 3 * d + j];
            gt[i * d + j] = g[i * 3 * d + 2 * d + j];
            for (int64_t k = 0; k < F; k++)
                gf[(i * F + k) * d + j] = g[i * 3 * d + d + j] / (double)F;
        }
    mr_exec ex = exec_with(1);
    void *Y = dev(g, n * 3 * d), *G = dev(g, n * 3 * d);
    CALL(pool_concat_fwd, Y, dev(x, n * d), dev(f, n * F * d), dev(t, n * d), n, F, d, d, 3 * d,
         &ex);
    near("pool", Y, y, NULL, n * 3 * d, 0);
    for (int acc = 0; acc < 2; acc++) {
        void *DX = dev(old, n * d), *DF = dev(old, n * F * d), *DT = dev(old, n * d);
        CALL(pool_concat_bwd, DX, DF, DT, G, n, F, d, d, 3 * d, acc, acc, acc, &ex);
        near("pool dx0", DX, gx, old, n * d, acc);
        near("pool dframes", DF, gf, old, n * F * d, acc);
        near("pool dtext", DT, gt, old, n * d, acc);
        CALL(pool_concat_bwd, NULL, NULL, NULL, G, n, F, d, d, 3 * d, acc, acc, acc, &ex);
    }
}

static void run_time(const void *arg)
{
    const int64_t *a = arg, n = a[0], C = a[1], h = C / 2;
    const mr_int_list set = {3, {5, 10, 25}};
    const uint32_t *rid = rids(n);
    mr_exec ex = exec_with(1);
    for (int mode = 0; mode < 3; mode++) { /* all steps; drawn; drawn from a set */
        double *y = blank(n * C), *old = data(1, n * C);
        const mr_int_list *s = mode == 2 ? &set : NULL;
        for (int64_t i = 0; i < n * C; i++) {
            double t =
                (double)(mode ? mr_draw_t(77, MR_RNG_T_TCD, 7, rid[i / C], 25, s) : i / C + 1);
            double e = h > 1 ? (double)(i % C % h) / ((double)C / 2 - 1) : 0;
            y[i] = i % C < h ? sin(t * pow(10000, -e)) : cos(t * pow(10000, -e));
        }
        void *Y = dev(old, n * C);
        CALL(time_embed, Y, mode ? rid : NULL, n, C, MR_RNG_T_TCD, 25, s, &ex);
        near("time", Y, y, NULL, n * C, 0);
    }
}

static void test_diffusion(void **unused)
{
    (void)unused;
    static const noise_case c[] = {{1, 1, 0, false, false},  {3, 63, 0, false, true},
                                   {5, 64, 3, false, false}, {2, 65, 5, true, false},
                                   {0, 7, 0, false, false},  {67, 130, 0, false, false}};
    for (size_t i = 0; i < sizeof c / sizeof *c; i++)
        both(run_noise, &c[i], "noise n %lld w %lld t %lld", (long long)c[i].n, (long long)c[i].w,
             (long long)c[i].t);
    static const int64_t p[][3] = {{1, 1, 1}, {3, 5, 7}, {2, 2, 300}, {0, 3, 4}, {67, 7, 3}};
    for (int i = 0; i < 5; i++)
        both(run_pool, p[i], "pool n %lld K %lld", (long long)p[i][0], (long long)p[i][1]);
    static const int64_t t[][2] = {{1, 2}, {25, 8}, {7, 128}, {0, 4}};
    for (int i = 0; i < 4; i++)
        both(run_time, t[i], "time n %lld C %lld", (long long)t[i][0], (long long)t[i][1]);
}

static void test_every_kernel_has_a_case(void **unused)
{
    (void)unused;
    static const char *const all[] = {
#define X(name, args) #name,
        MR_KERNELS_UNET(X) MR_KERNELS_DIFFUSION(X)
#undef X
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        bool found = false;
        for (int j = 0; j < n_seen; j++) found |= !strcmp(seen[j], all[i]);
        if (!found) fail_msg("no case calls %s", all[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_conv),
        cmocka_unit_test(test_group_norm),
        cmocka_unit_test(test_moves),
        cmocka_unit_test(test_diffusion),
        cmocka_unit_test(test_every_kernel_has_a_case),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
