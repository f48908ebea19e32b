/* Checks of ops against differences, other memory layouts, other precisions. */
#include "op_check.h"
#include "op_rig.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/mem.h"

#define WEIGHT 0.7
#define STEP 1e-5
#define SAMPLE 200

extern const mr_op mr_op_leaf;

int op_param(mr_graph *g, const char *name, int ndim, int64_t d0, int64_t d1, int64_t d2,
             double scale, unsigned flags)
{
    return mr_param_declare(g->params, name, ndim, (int64_t[]){d0, d1, d2}, MR_INIT_NORMAL, scale,
                            flags);
}

int op_leaf(mr_graph *g, const char *name, mr_space space, int ndim, int64_t d1, int64_t d2,
            int64_t d3, double scale)
{
    int64_t dim[4] = {mr_space_cap(g, space), d1, d2, d3};
    int id = mr_param_declare(g->params, name, ndim, dim, MR_INIT_NORMAL, scale, 0);
    for (int i = 0; i < g->n_nodes; i++)
        if (g->node[i].op == &mr_op_leaf && g->node[i].param[0] == id) return i;
    return mr_g_leaf(g, id, space);
}

static void rig_make(op_rig *r, const op_case *c, const char *device, bool is_private, int n_uses)
{
    op_rig_start(r, &c->s, device, !c->is_eval);
    for (int u = 0; u < n_uses; u++) {
        int node = c->build(r->g, c->arg);
        if (!c->is_loss) node = mr_g_probe(r->g, node);
        mr_graph_loss(r->g, node, WEIGHT / (1 + u), u ? "second" : "first");
    }
    if (mr_graph_status(r->g) != MR_OK) fail_msg("%s: the graph does not build", c->name);
    op_rig_compile(r, true, is_private);
}

/* Ops whose forward and backward are one pass give their value in backward only. */
static double rig_loss(op_rig *r, bool backward)
{
    double loss[MR_MAX_LOSSES], total = 0;
    assert_int_equal(mr_run_forward(r->run), MR_OK);
    bool fused = false;
    for (int i = 0; i < r->g->n_losses; i++) fused |= r->g->node[r->g->loss[i].node].op->fused_loss;
    if (backward || fused) assert_int_equal(mr_run_backward(r->run, NULL, NULL), MR_OK);
    assert_int_equal(mr_run_losses(r->run, loss), MR_OK);
    for (int i = 0; i < r->g->n_losses; i++) total += r->g->loss[i].weight * loss[i];
    return total;
}

/* Forward and backward with the gradients poisoned first; returns a host copy of the whole buffer.
 */
static void *rig_gradients(op_rig *r, double *loss)
{
    size_t bytes = (size_t)r->ps.n_total * r->ps.real_bytes;
    void *out = NULL;
    assert_int_equal(mr_alloc(&out, r->ps.n_total, r->ps.real_bytes, "gradients"), MR_OK);
    assert_int_equal(r->dev->fill(r->dev, r->ps.grad, 0xFF, bytes), MR_OK);
    double l = rig_loss(r, true);
    if (loss) *loss = l;
    assert_int_equal(r->dev->to_host(r->dev, out, r->ps.grad, bytes), MR_OK);
    return out;
}

static bool is_named(const char *a, const char *b) { return a && !strcmp(a, b); }

static void check_param(op_rig *r, const op_case *c, const mr_param *p, const double *grad,
                        double loss)
{
    double *v = r->ps.value, square = 0, tol = c->tol > 0 ? c->tol : 5e-6;
    int64_t row = p->count / (p->row_hi - p->row_lo);
    for (int64_t e = 0; e < p->count; e++) square += grad[e] * grad[e];
    double rms = sqrt(square / (double)p->count);
    if (is_named(c->detached, p->name)) {
        if (rms > 0) fail_msg("%s: %s is detached but has a gradient", c->name, p->name);
        return;
    }
    if (!is_named(c->zero_grad, p->name) && !(rms > 1e-6))
        fail_msg("%s: the gradient of %s is zero (rms %g)", c->name, p->name, rms);
    for (int64_t k = 0; k < p->count && k < SAMPLE; k++) {
        int64_t e = k;
        if (p->count > SAMPLE) e = (int64_t)((op_random(50, k) + 1) * 0.5 * (double)p->count);
        if (is_named(c->no_row0, p->name) && e < row) continue;
        double keep = v[p->offset + e];
        v[p->offset + e] = keep + STEP;
        double up = rig_loss(r, false);
        v[p->offset + e] = keep - STEP;
        double down = rig_loss(r, false);
        v[p->offset + e] = keep;
        double num = (up - down) / (2 * STEP), size = fmax(fabs(num), fabs(grad[e]));
        /* The last term is the rounding of the two losses divided by the step. */
        double allowed = tol * fmax(size, 1e-3 * rms) + 1e-10 * fabs(loss) + 1e-11;
        if (!(fabs(num - grad[e]) <= allowed))
            fail_msg("%s (%d uses): %s[%lld]: gradient %.12g, differences %.12g, %.3g of the "
                     "allowed error",
                     c->name, r->g->n_losses, p->name, (long long)e, grad[e], num,
                     fabs(num - grad[e]) / allowed);
    }
}

static void check_differences(const op_case *c, int n_uses)
{
    op_rig r;
    double loss;
    rig_make(&r, c, "cpu64", false, n_uses);
    double *grad = rig_gradients(&r, &loss);
    if (!isfinite(loss)) fail_msg("%s: the loss is %g", c->name, loss);
    for (int i = 0; i < r.ps.n; i++)
        for (int64_t e = 0; e < r.ps.p[i].count; e++)
            if (!isfinite(grad[r.ps.p[i].offset + e]))
                fail_msg("%s: gradient %s[%lld] is %g (not written?)", c->name, r.ps.p[i].name,
                         (long long)e, grad[r.ps.p[i].offset + e]);
    for (int i = 0; i < r.ps.n; i++) check_param(&r, c, &r.ps.p[i], grad + r.ps.p[i].offset, loss);
    MR_FREE(grad);
    op_rig_stop(&r);
}

/* Same bits in two ways of running. */
static void check_same(const op_case *c, const char *dev_a, bool private_a, const char *dev_b,
                       bool private_b)
{
    op_rig a, b;
    rig_make(&a, c, dev_a, private_a, 2);
    rig_make(&b, c, dev_b, private_b, 2);
    if (b.run->rounds != a.run->rounds) { /* a library's bits depend on the number of rows */
        b.run->rounds = a.run->rounds;
        op_world_attach(&b.w, b.run);
    }
    if (!b.dev->host_memory) op_world_spoil(&b.w);
    double la, lb;
    char *ga = rig_gradients(&a, &la), *gb = rig_gradients(&b, &lb);
    if (memcmp(&la, &lb, sizeof la))
        fail_msg("%s: loss %.17g on %s%s, %.17g on %s%s", c->name, la, dev_a,
                 private_a ? " private" : "", lb, dev_b, private_b ? " private" : "");
    for (int i = 0; i < a.ps.n; i++) {
        size_t at = (size_t)a.ps.p[i].offset * a.ps.real_bytes;
        if (memcmp(ga + at, gb + at, (size_t)a.ps.p[i].count * a.ps.real_bytes))
            fail_msg("%s: the gradient of %s differs between %s%s and %s%s", c->name,
                     a.ps.p[i].name, dev_a, private_a ? " private" : "", dev_b,
                     private_b ? " private" : "");
    }
    MR_FREE(ga);
    MR_FREE(gb);
    op_rig_stop(&a);
    op_rig_stop(&b);
}

/* Counts rounded up as on a device that records, rows too as on several ranks: what lies behind the
 * batch's tokens and rows starts as NaN. */
static void round_counts(op_rig *r)
{
    static mr_counts most; /* one rig at a time */
    mr_run_counts(&most, &r->w.batch, r->run->xch);
    r->run->rounds = true;
    r->run->most = &most;
    op_world_attach(&r->w, r->run);
}

/* float32 on a device against float64; also with rounded counts, in private poisoned memory. */
static void check_float(const op_case *c, const char *device, bool rounds)
{
    op_rig a, b;
    rig_make(&a, c, "cpu64", false, 1);
    rig_make(&b, c, device, rounds, 1);
    if (rounds) round_counts(&b);
    if (!b.dev->host_memory) op_world_spoil(&b.w);
    double *ga = rig_gradients(&a, NULL), tol = c->tol32 > 0 ? c->tol32 : 2e-5;
    float *gb = rig_gradients(&b, NULL);
    for (int i = 0; i < a.ps.n; i++) {
        const mr_param *p = &a.ps.p[i];
        if (is_named(c->zero_grad, p->name)) continue;
        double square = 0;
        for (int64_t e = 0; e < p->count; e++) square += ga[p->offset + e] * ga[p->offset + e];
        double rms = sqrt(square / (double)p->count);
        for (int64_t e = p->offset; e < p->offset + p->count; e++)
            if (!(fabs(ga[e] - (double)gb[e]) <= tol * rms))
                fail_msg("%s: %s[%lld]: float64 %.9g, %s%s %.9g, rms %.3g", c->name, p->name,
                         (long long)(e - p->offset), ga[e], device,
                         rounds ? " with rounded counts" : "", (double)gb[e], rms);
    }
    MR_FREE(ga);
    MR_FREE(gb);
    op_rig_stop(&a);
    op_rig_stop(&b);
}

static void check_empty(const op_case *c)
{
    op_rig r;
    double loss;
    rig_make(&r, c, "cpu64", true, 2);
    op_world_empty(&r.w, true);
    op_world_attach(&r.w, r.run);
    double *grad = rig_gradients(&r, &loss);
    if (!isfinite(loss)) fail_msg("%s: the loss of 0 rows is %g", c->name, loss);
    for (int i = 0; i < r.ps.n; i++)
        for (int64_t e = 0; e < r.ps.p[i].count; e++)
            if (!isfinite(grad[r.ps.p[i].offset + e]))
                fail_msg("%s: gradient %s[%lld] of 0 rows is not finite", c->name, r.ps.p[i].name,
                         (long long)e);
    MR_FREE(grad);
    op_rig_stop(&r);
}

void op_check(const op_case *c)
{
    const char *device = getenv("MR_TEST_DEVICE"); /* cuda: what tests/gpu.sh asks for */
    if (device) {
        check_float(c, device, false);
        return;
    }
    check_differences(c, 1);
    check_differences(c, 2);
    check_same(c, "cpu64", false, "cpu64", true);
    check_same(c, "cpu", false, "guard", false);
    check_float(c, "cpu", false);
    check_float(c, "guard", true);
    check_empty(c);
}
