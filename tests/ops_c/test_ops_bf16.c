/* The item loss in bf16 (graph/op_softmax_bf16.c): against a plain loop in double that rounds where
 * it rounds, against the float64 op within a bound, in chunks of rows, and with 0 rows. A CPU takes
 * bf16 here and nowhere else; with MR_TEST_DEVICE=cuda the bound is checked on a GPU.
 *
 * The bound. R rounds to bf16: R(a) = a (1 + d) with |d| <= u = 2^-8.
 *
 * Scores are l_bc = f_c sum_j x_bj e_cj with f_c = 1 or, for cosines, 1 / (temperature |e_c|)
 * (x is of length 1 then). The head takes f_c R(sum_j R(x_bj) R(e_cj)), which is off by at most
 *
 *     D_bc = f_c ((1 + u)^3 - 1) sum_j |x_bj e_cj|,   D_b = max_c D_bc.
 *
 * Shares of the softmax p_bc = exp(l_bc) / Z_b are then right up to a factor between
 * exp(-(D_bc + D_b)) and exp(D_bc + D_b), since log Z_b moves by at most D_b; and the loss of a row
 * by at most D_b + D_bt. With k = weight / rows the gradients are, for the target t of row b,
 *
 *     dx_b = k (sum over c != t of f_c p_bc e_c - f_t (1 - p_bt) e_t)
 *     de_c = k f_c (sum over b with t != c of p_bc x_b - sum over b with t = c of (1 - p_bt) x_b).
 *
 * In a term c != t two factors are rounded, (f p) and (e) or (k x), so it is off by at most
 *
 *     E_bc = exp(D_bc + D_b) (1 + u)^2 - 1
 *
 * of itself. A target's term is not rounded, and 1 - p_bt is the sum of the other shares:
 *
 *     T_b = sum over c != t of p_bc (exp(D_bc + D_b) - 1).
 *
 * That is small where the model is sure, as the gradient is; with the target's share rounded among
 * the others the error would stay at u. For cosines both gradients are projected, h - y (y . h)
 * with a y of length 1: an error B of h becomes at most B_j + |y_j| sum_i |y_i| B_i.
 *
 * This is the worst case of every element. Roundings go both ways, so over all elements together
 * (root mean square) a tenth of it is allowed. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/mem.h"
#include "graph/op_softmax.h"
#include "graph/ops.h"
#include "kernels/shared/bf16.h"
#include "op_check.h"
#include "op_rig.h"
#include "train/volume.h"

#define U (1.0 / 256)
static const double weights[] = {0.7, 0.3};

typedef struct head_case {
    int64_t rows, n_items, d, more_rows; /* more_rows: of the table, behind the items and PAD */
    bool is_cosine, is_twice, is_sure;   /* twice: two losses; sure: rows lie near their targets */
    double temperature;
} head_case;

/* ---- the op ---- */

typedef struct job {
    op_rig r;
    int64_t n_x, n_e; /* elements that are compared */
    double *x, *e, *dx, *de, loss;
    int32_t *target;
} job;

/* Elements [at, at + n) of a flat buffer, as doubles. */
static void fetch(op_rig *r, double *out, const void *flat, int64_t at, int64_t n)
{
    size_t real = r->ps.real_bytes;
    void *host = NULL;
    assert_int_equal(mr_alloc(&host, n, real, "copy"), MR_OK);
    assert_int_equal(
        r->dev->to_host(r->dev, host, (const char *)flat + (size_t)at * real, (size_t)n * real),
        MR_OK);
    for (int64_t i = 0; i < n; i++)
        out[i] = real == 8 ? ((double *)host)[i] : (double)((float *)host)[i];
    MR_FREE(host);
}

static void store(op_rig *r, void *flat, int64_t at, const double *in, int64_t n)
{
    size_t real = r->ps.real_bytes;
    void *host = NULL;
    assert_int_equal(mr_alloc(&host, n, real, "copy"), MR_OK);
    for (int64_t i = 0; i < n; i++)
        if (real == 8)
            ((double *)host)[i] = in[i];
        else
            ((float *)host)[i] = (float)in[i];
    assert_int_equal(
        r->dev->to_device(r->dev, (char *)flat + (size_t)at * real, host, (size_t)n * real), MR_OK);
    MR_FREE(host);
}

/* Rows near their targets: shares of nearly 1. */
static void make_sure(job *j, const head_case *c)
{
    for (int64_t b = 0; b < c->rows; b++)
        for (int64_t i = 0; i < c->d; i++)
            j->x[b * c->d + i] =
                (float)(0.02 * j->x[b * c->d + i] + 0.3 * j->e[j->target[b] * c->d + i]);
    store(&j->r, j->r.ps.value, j->r.ps.p[0].offset, j->x, j->n_x);
}

static void start(job *j, const head_case *c, const char *device, mr_precision precision)
{
    op_sizes s = {.rows = c->rows,
                  .L = 2,
                  .n_items = c->n_items,
                  .whole_products = true,
                  .precision = precision};
    memset(j, 0, sizeof *j);
    op_rig_start(&j->r, &s, device, true);
    mr_graph *g = j->r.g;
    int x = op_leaf(g, "x", MR_SPACE_ROWS, 2, c->d, 1, 1, 1.0);
    int t = op_param(g, "table", 2, c->n_items + 1 + c->more_rows, c->d, 1, 0.8, MR_PARAM_SHARDED);
    for (int i = 0; i < 1 + c->is_twice; i++)
        mr_graph_loss(g, mr_g_item_loss(g, x, t, c->is_cosine, c->temperature), weights[i],
                      i ? "b" : "a");
    op_rig_compile(&j->r, true, false);
    j->n_x = c->rows * c->d;
    j->n_e = (c->n_items + 1) * c->d;
    assert_int_equal(MR_ALLOC(&j->target, c->rows, "targets"), MR_OK);
    assert_int_equal(MR_ALLOC(&j->x, j->n_x, "x"), MR_OK);
    assert_int_equal(MR_ALLOC(&j->e, j->n_e, "e"), MR_OK);
    assert_int_equal(MR_ALLOC(&j->dx, j->n_x, "dx"), MR_OK);
    assert_int_equal(MR_ALLOC(&j->de, j->n_e, "de"), MR_OK);
    memcpy(j->target, j->r.w.batch.target, (size_t)c->rows * sizeof *j->target);
    fetch(&j->r, j->x, j->r.ps.value, j->r.ps.p[0].offset, j->n_x);
    fetch(&j->r, j->e, j->r.ps.value, j->r.ps.p[1].offset, j->n_e);
    if (c->is_sure) make_sure(j, c);
    if (!j->r.dev->host_memory) op_world_spoil(&j->r.w);
}

/* The gradients were NaN before. */
static void run(job *j)
{
    op_rig *r = &j->r;
    double loss[MR_MAX_LOSSES];
    size_t bytes = (size_t)r->ps.n_total * r->ps.real_bytes;
    assert_int_equal(r->dev->fill(r->dev, r->ps.grad, 0xFF, bytes), MR_OK);
    assert_int_equal(mr_run_forward(r->run), MR_OK);
    assert_int_equal(mr_run_backward(r->run, NULL, NULL), MR_OK);
    assert_int_equal(mr_run_losses(r->run, loss), MR_OK);
    j->loss = loss[0];
    if (r->w.batch.rows > 0) fetch(r, j->dx, r->ps.grad, r->ps.p[0].offset, j->n_x);
    fetch(r, j->de, r->ps.grad, r->ps.p[1].offset, j->n_e);
    /* rows of the table that are no items get no gradient */
    int64_t rest = r->ps.p[1].count - j->n_e;
    double *tail = NULL;
    assert_int_equal(MR_ALLOC(&tail, rest, "tail"), MR_OK);
    fetch(r, tail, r->ps.grad, r->ps.p[1].offset + j->n_e, rest);
    for (int64_t i = 0; i < rest; i++) assert_true(tail[i] == 0);
    MR_FREE(tail);
}

static void stop(job *j)
{
    op_rig_stop(&j->r);
    MR_FREE(j->x);
    MR_FREE(j->e);
    MR_FREE(j->dx);
    MR_FREE(j->de);
    MR_FREE(j->target);
}

/* ---- the same in plain loops ---- */

static double rounded(double x) { return (double)mr_bf16_to_float(mr_float_to_bf16((float)x)); }

static double dot(const double *a, const double *b, int64_t n)
{
    double s = 0;
    for (int64_t i = 0; i < n; i++) s += a[i] * b[i];
    return s;
}

static double *numbers(int64_t n)
{
    double *p = NULL;
    assert_int_equal(MR_ALLOC(&p, n, "numbers"), MR_OK);
    return p;
}

/* The formulas above. l, p, D [V] are of one row at a time; x and f as in the formulas. */
typedef struct plain {
    const job *j;
    int64_t B, V, d;
    bool is_cosine;
    double k, scale, known_max, *x, *f, *l, *p, *D;
    double *dx, *de, *bx, *be, loss, loss_bound; /* gradients, and bounds of their errors */
} plain;

static plain plain_of(const job *j, const head_case *c, double weight)
{
    plain q = {.j = j, .B = c->rows, .V = c->n_items + 1, .d = c->d, .is_cosine = c->is_cosine};
    double **all[] = {&q.x, &q.dx, &q.bx, &q.de, &q.be, &q.f, &q.l, &q.p, &q.D};
    for (int i = 0; i < 9; i++) *all[i] = numbers(i < 3 ? j->n_x : i < 5 ? j->n_e : q.V);
    q.k = weight / (double)c->rows;
    q.scale = c->is_cosine ? 1 / c->temperature : 1;
    q.known_max = c->is_cosine && q.scale <= MR_SOFTMAX_KNOWN_MAX ? q.scale : INFINITY;
    for (int64_t b = 0; b < q.B; b++) {
        const double *x = j->x + b * q.d;
        double length = c->is_cosine ? 1 / sqrt(dot(x, x, q.d)) : 1;
        for (int64_t i = 0; i < q.d; i++) q.x[b * q.d + i] = length * x[i];
    }
    for (int64_t v = 0; v < q.V; v++) {
        const double *e = j->e + v * q.d;
        q.f[v] = q.scale * (c->is_cosine ? 1 / sqrt(dot(e, e, q.d)) : 1);
    }
    return q;
}

static void plain_free(plain *q)
{
    double **all[] = {&q->x, &q->f, &q->l, &q->p, &q->D, &q->dx, &q->de, &q->bx, &q->be};
    for (int i = 0; i < 9; i++) MR_FREE(*all[i]);
}

/* h of a row y -> times (h - y (y . h) / |y|^2), and its bound. */
static void project(double *h, double *bound, const double *y, int64_t d, double times)
{
    double unit = 1 / sqrt(dot(y, y, d)), along = dot(y, h, d) * unit, sum = 0;
    for (int64_t i = 0; i < d; i++) sum += fabs(y[i]) * unit * bound[i];
    for (int64_t i = 0; i < d; i++) {
        h[i] = times * (h[i] - y[i] * unit * along);
        bound[i] = times * (bound[i] + fabs(y[i]) * unit * sum);
    }
}

static void finish(plain *q)
{
    for (int64_t b = 0; q->is_cosine && b < q->B; b++) {
        const double *x = q->j->x + b * q->d;
        project(q->dx + b * q->d, q->bx + b * q->d, x, q->d, 1 / sqrt(dot(x, x, q->d)));
    }
    for (int64_t v = 0; q->is_cosine && v < q->V; v++)
        project(q->de + v * q->d, q->be + v * q->d, q->j->e + v * q->d, q->d, 1);
}

/* What row b and column v get of each other when the derivative of their score is g for x and h
 * for e. */
static void add_pair(const plain *q, double *dx, double *de, int64_t b, int64_t v, double g,
                     double h, const double *x, const double *e)
{
    for (int64_t i = 0; i < q->d; i++) {
        dx[b * q->d + i] += g * e[i];
        de[v * q->d + i] += h * x[i];
    }
}

/* The head as it is: rounded where it rounds, in double otherwise. */
static void rounded_head(plain *q)
{
    double *x = numbers(q->d), *e = numbers(q->d * q->V), *xs = numbers(q->d);
    for (int64_t i = 0; i < q->d * q->V; i++) e[i] = rounded(q->j->e[i]);
    for (int64_t b = 0; b < q->B; b++) {
        const double *own = q->x + b * q->d;
        double m = q->known_max, z = 0;
        int64_t t = q->j->target[b];
        for (int64_t i = 0; i < q->d; i++) x[i] = rounded(own[i]);
        for (int64_t v = 0; v < q->V; v++) {
            q->l[v] = rounded(dot(x, e + v * q->d, q->d)) * q->f[v];
            if (isinf(q->known_max)) m = v ? fmax(m, q->l[v]) : q->l[v];
        }
        for (int64_t v = 0; v < q->V; v++) z += exp(q->l[v] - m);
        double ce = m + log(z) - q->l[t], coef = q->k / z, own_part = q->k * q->f[t] * expm1(-ce);
        q->loss += ce / (double)q->B;
        for (int64_t i = 0; i < q->d; i++) xs[i] = rounded(coef * own[i]);
        for (int64_t v = 0; v < q->V; v++) {
            double s = rounded(q->f[v] * exp(q->l[v] - m));
            if (v != t) add_pair(q, q->dx, q->de, b, v, coef * s, s, xs, e + v * q->d);
        }
        add_pair(q, q->dx, q->de, b, t, own_part, own_part, own, q->j->e + t * q->d);
    }
    finish(q);
    MR_FREE(x);
    MR_FREE(e);
    MR_FREE(xs);
}

/* The bounds of row b, whose logits and shares are there. */
static void row_bounds(plain *q, int64_t b)
{
    int64_t t = q->j->target[b];
    double D_b = 0, T = 0, *x = numbers(q->d), *e = numbers(q->d);
    for (int64_t i = 0; i < q->d; i++) x[i] = fabs(q->x[b * q->d + i]);
    for (int64_t v = 0; v < q->V; v++) D_b = fmax(D_b, q->D[v]);
    for (int64_t v = 0; v < q->V; v++)
        if (v != t) T += q->p[v] * expm1(q->D[v] + D_b);
    for (int64_t v = 0; v < q->V; v++) {
        double E = exp(q->D[v] + D_b) * (1 + U) * (1 + U) - 1;
        double g = q->k * q->f[v] * (v == t ? T : q->p[v] * E);
        for (int64_t i = 0; i < q->d; i++) e[i] = fabs(q->j->e[v * q->d + i]);
        add_pair(q, q->bx, q->be, b, v, g, g, x, e);
    }
    q->loss_bound += (D_b + q->D[t]) / (double)q->B;
    MR_FREE(x);
    MR_FREE(e);
}

/* Nothing rounded, and the bounds. */
static void exact_head(plain *q)
{
    for (int64_t b = 0; b < q->B; b++) {
        const double *x = q->x + b * q->d;
        double m = -INFINITY, z = 0;
        int64_t t = q->j->target[b];
        for (int64_t v = 0; v < q->V; v++) {
            const double *e = q->j->e + v * q->d;
            double size = 0;
            for (int64_t i = 0; i < q->d; i++) size += fabs(x[i] * e[i]);
            q->l[v] = q->f[v] * dot(x, e, q->d);
            q->D[v] = q->f[v] * (pow(1 + U, 3) - 1) * size;
            m = fmax(m, q->l[v]);
        }
        for (int64_t v = 0; v < q->V; v++) z += q->p[v] = exp(q->l[v] - m);
        for (int64_t v = 0; v < q->V; v++) q->p[v] /= z;
        q->loss += (m + log(z) - q->l[t]) / (double)q->B;
        row_bounds(q, b);
        for (int64_t v = 0; v < q->V; v++) {
            double g = q->k * q->f[v] * (q->p[v] - (v == t));
            add_pair(q, q->dx, q->de, b, v, g, g, x, q->j->e + v * q->d);
        }
    }
    finish(q);
}

/* ---- comparisons ---- */

static double rms_of(const double *a, int64_t n) { return sqrt(dot(a, a, n) / (double)n); }

/* |got - want| <= bound + rest rms; bound may be NULL. Returns the rms of the differences by that
 * of want. */
static double near(const char *what, const double *got, const double *want, const double *bound,
                   double rest, int64_t n)
{
    double rms = rms_of(want, n), sum = 0;
    for (int64_t i = 0; i < n; i++) {
        double allowed = (bound ? bound[i] : 0) + rest * rms;
        if (!(fabs(got[i] - want[i]) <= allowed))
            fail_msg("%s[%lld]: %.12g, %.12g expected, %.3g of the allowed difference", what,
                     (long long)i, got[i], want[i], fabs(got[i] - want[i]) / allowed);
        sum += (got[i] - want[i]) * (got[i] - want[i]);
    }
    return sqrt(sum / (double)n) / rms;
}

/* All losses of a case added up in `to`. */
static plain both(const job *j, const head_case *c, void (*head)(plain *))
{
    plain sum = plain_of(j, c, weights[0]);
    head(&sum);
    if (!c->is_twice) return sum;
    plain more = plain_of(j, c, weights[1]);
    head(&more);
    for (int64_t i = 0; i < j->n_x; i++) {
        sum.dx[i] += more.dx[i];
        sum.bx[i] += more.bx[i];
    }
    for (int64_t i = 0; i < j->n_e; i++) {
        sum.de[i] += more.de[i];
        sum.be[i] += more.be[i];
    }
    plain_free(&more);
    return sum;
}

static const head_case cases[] = {
    {.rows = 5, .n_items = 11, .d = 6},
    {.rows = 37, .n_items = 23, .d = 13, .more_rows = 1, .is_twice = true},
    {.rows = 5, .n_items = 11, .d = 8, .is_cosine = true, .temperature = 0.3},
    {.rows = 37,
     .n_items = 30,
     .d = 13,
     .more_rows = 3,
     .is_cosine = true,
     .is_twice = true,
     .temperature = 0.07},
    {.rows = 7, .n_items = 19, .d = 5, .is_cosine = true, .temperature = 0.02}, /* no known max */
    {.rows = 300, .n_items = 23, .d = 7, .is_cosine = true, .temperature = 0.07},
    {.rows = 5, .n_items = 1100, .d = 6},
    {.rows = 20, .n_items = 15, .d = 24, .is_cosine = true, .is_sure = true, .temperature = 0.1},
    {.rows = 20, .n_items = 15, .d = 40, .is_sure = true}};
enum { CASES = sizeof cases / sizeof *cases };

static const char *device_under_test(void) { return getenv("MR_TEST_DEVICE"); }

/* Double with the same roundings: nothing but the order of sums is left. */
static void test_roundings(void **state)
{
    (void)state;
    for (int i = 0; i < CASES && !device_under_test(); i++) {
        job j;
        start(&j, &cases[i], "cpu64", MR_BF16_PRODUCTS);
        run(&j);
        plain q = both(&j, &cases[i], rounded_head);
        near("dx", j.dx, q.dx, NULL, 1e-10, j.n_x);
        near("de", j.de, q.de, NULL, 1e-10, j.n_e);
        assert_true(fabs(j.loss - q.loss) <= 1e-12);
        plain_free(&q);
        stop(&j);
    }
}

/* The bf16 head on a device against the float64 op. The loops above are the op where they do not
 * round, which the first comparison shows. */
static void check_bound(const head_case *c, const char *device)
{
    job j, exact;
    start(&exact, c, "cpu64", MR_FP32);
    start(&j, c, device, MR_BF16_PRODUCTS);
    run(&exact);
    run(&j);
    plain q = both(&exact, c, exact_head);
    near("dx of the op", exact.dx, q.dx, NULL, 1e-10, j.n_x);
    near("de of the op", exact.de, q.de, NULL, 1e-10, j.n_e);
    double rest = !strcmp(device, "cpu64") ? 1e-10 : 2e-5; /* sums in float32 */
    double off_x = near("dx", j.dx, exact.dx, q.bx, rest, j.n_x);
    double off_e = near("de", j.de, exact.de, q.be, rest, j.n_e);
    assert_true(fabs(j.loss - exact.loss) <= q.loss_bound + 1e-5 * fabs(exact.loss));
    if (!(off_x > 1e-4 && off_e > 1e-4)) fail_msg("as exact as float32: %g, %g", off_x, off_e);
    double most_x = 0.1 * rms_of(q.bx, j.n_x) / rms_of(q.dx, j.n_x);
    double most_e = 0.1 * rms_of(q.be, j.n_e) / rms_of(q.de, j.n_e);
    if (!(off_x <= most_x && off_e <= most_e))
        fail_msg("dx is off by %g of its size, de by %g; allowed %g, %g", off_x, off_e, most_x,
                 most_e);
    plain_free(&q);
    stop(&exact);
    stop(&j);
}

static void test_bound(void **state)
{
    (void)state;
    static const char *const devices[] = {"cpu64", "cpu", "guard"};
    for (int i = 0; i < CASES; i++)
        for (int k = 0; k < 3; k++)
            if (!device_under_test() || k == 0)
                check_bound(&cases[i], device_under_test() ? device_under_test() : devices[k]);
}

/* A table with so many rows behind its items that a chunk holds 128 rows of the batch: rows have
 * the same loss and gradient, bit for bit, and the table's gradient is added up in other parts. */
static void test_chunks(void **state)
{
    (void)state;
    if (device_under_test()) return;
    head_case c = {.rows = 300, .n_items = 20, .d = 6, .is_cosine = true, .temperature = 0.07};
    for (int i = 0; i < 2; i++, c.is_cosine = false) {
        job one, parts;
        start(&one, &c, "cpu64", MR_BF16_PRODUCTS);
        c.more_rows = 400000;
        start(&parts, &c, "cpu64", MR_BF16_PRODUCTS);
        assert_int_equal(mr_softmax_chunk(c.n_items + 1, c.d, 8, MR_SOFTMAX_BF16) > c.rows, 1);
        assert_int_equal(mr_softmax_chunk(c.n_items + 1 + c.more_rows, c.d, 8, MR_SOFTMAX_BF16),
                         128);
        run(&one);
        run(&parts);
        assert_memory_equal(one.x, parts.x, one.n_x * 8);
        assert_memory_equal(one.dx, parts.dx, one.n_x * 8);
        assert_true(one.loss == parts.loss);
        near("de", parts.de, one.de, NULL, 1e-13, one.n_e);
        stop(&one);
        stop(&parts);
        c.more_rows = 0;
    }
}

/* The sizes that are stored whole, the rows of a chunk beyond, and the memory for it. */
static void test_sizes(void **state)
{
    (void)state;
    static const int64_t want[][3] = {/* ids, width, rows */
                                      {8266, 300, 8064},    {18701, 300, 3584}, {122846, 6, 512},
                                      {122846, 300, 2304},  {1 << 19, 6, 128},  {1 << 20, 6, 64},
                                      {1 << 20, 300, 2304}, {1 << 27, 2, 16},   {0, 300, 8388608}};
    for (int i = 0; i < (int)(sizeof want / sizeof *want); i++) {
        int64_t ids = want[i][0], most = 16 * ids * want[i][1];
        int64_t rows = mr_softmax_chunk(ids, want[i][1], 4, MR_SOFTMAX_BF16);
        assert_int_equal(rows, want[i][2]);
        if (most < MR_SOFTMAX_BF16_BYTES) most = MR_SOFTMAX_BF16_BYTES;
        assert_true(rows * mr_bf16_pitch(ids) * 2 <= most);
    }
    assert_int_equal(mr_softmax_chunk(122846, 300, 4, MR_SOFTMAX_WHOLE), 1200);
    assert_int_equal(mr_softmax_chunk(18701, 300, 4, MR_SOFTMAX_WHOLE), 3584);
    int64_t work = mr_softmax_work(2048, 18701, 300, 1, 4, MR_SOFTMAX_BF16);
    int64_t logits = 2048 * 18704 * 2, copies = (18704 + 2048) * 304 * 2, rest = 2048 * (4 + 48);
    assert_in_range(work, logits + copies + rest, logits + copies + rest + 5 * 64);
    assert_int_equal(mr_softmax_way_of(true, MR_TF32), MR_SOFTMAX_WHOLE);
    assert_int_equal(mr_softmax_way_of(false, MR_FP32), MR_SOFTMAX_PIECES);
    assert_int_equal(mr_softmax_way_of(true, MR_BF16_PRODUCTS), MR_SOFTMAX_BF16);
}

/* Collectives are one a chunk, in the formula as well. */
static void test_volume(void **state)
{
    (void)state;
    mr_step_shape s = {.ranks = 2,
                       .group = 2,
                       .real_bytes = 4,
                       .whole_products = true,
                       .table_rows = 2 * 8266,
                       .width = 300,
                       .n_item_loss = 1};
    mr_step_rows rows = {0};
    mr_count out[MR_FOR_COUNT];
    assert_int_equal(mr_step_rows_alloc(&rows, &s), MR_OK);
    rows.rows[0] = rows.rows[1] = 4050; /* 8,100: above 8,064, below 8,112 */
    mr_volume_of_rank(out, &s, &rows, 0);
    assert_int_equal(out[MR_FOR_LOSS_PARTIALS].calls, 1);
    s.precision = MR_BF16_PRODUCTS;
    mr_volume_of_rank(out, &s, &rows, 0);
    assert_int_equal(out[MR_FOR_LOSS_PARTIALS].calls, 2);
    mr_step_rows_free(&rows);
}

static void test_no_rows(void **state)
{
    (void)state;
    const char *device = device_under_test() ? device_under_test() : "guard";
    for (int i = 0; i < 4; i++) {
        job j;
        start(&j, &cases[i], device, MR_BF16_PRODUCTS);
        op_world_empty(&j.r.w, true);
        op_world_attach(&j.r.w, j.r.run);
        run(&j);
        assert_true(j.loss == 0);
        for (int64_t e = 0; e < j.n_e; e++) assert_true(j.de[e] == 0);
        stop(&j);
    }
}

/* A graph for one precision does not run in another: its scratch would be too small. */
static void test_mixed(void **state)
{
    (void)state;
    job j;
    mr_run *run = NULL;
    const char *device = device_under_test() ? device_under_test() : "cpu";
    start(&j, &cases[0], device, MR_FP32);
    j.r.dev->precision = MR_BF16_PRODUCTS;
    assert_int_equal(mr_run_create(&run, j.r.plan, j.r.dev, &j.r.ps, 1), MR_ERR_INTERNAL);
    assert_null(run);
    stop(&j);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_roundings), cmocka_unit_test(test_bound),
        cmocka_unit_test(test_chunks),    cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_volume),    cmocka_unit_test(test_no_rows),
        cmocka_unit_test(test_mixed)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
