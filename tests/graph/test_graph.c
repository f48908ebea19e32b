/* The tape: gradients through fan-in against float64 differences, shared memory against private
 * poisoned memory bit for bit, placement by brute force, the guard device. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/mem.h"
#include "graph/ops.h"
#include "graph/run.h"

typedef struct fixture {
    mr_device *dev;
    mr_params ps;
    mr_graph *g;
    mr_plan *plan;
    mr_run *run;
    mr_batch batch;
    int32_t zero[8];
    uint32_t rid[8];
    int redone; /* a node whose forward runs again in backward */
} fixture;

enum { ROWS = 5, W = 7, H = 3 };

/* loss = probe(gelu-MLP(x) + V silu(x U) + detach(c) + x), x used three times. */
static void build(fixture *f, const char *device, bool is_private)
{
    memset(f, 0, sizeof *f);
    assert_int_equal(mr_device_open(&f->dev, device, 0), MR_OK);
    mr_graph_dims dims = {.rows_cap = ROWS + 1, .L = 3, .n_items = 4, .n_ranks = 1};
    size_t real = mr_dtype_bytes(f->dev->real);
    assert_int_equal(mr_graph_create(&f->g, &dims, &f->ps, real, true), MR_OK);
    int x = mr_param_declare(&f->ps, "x", 2, (int64_t[]){ROWS + 1, W}, MR_INIT_NORMAL, 1.0, 0);
    int w1 = mr_param_declare(&f->ps, "w1", 2, (int64_t[]){H, W}, MR_INIT_NORMAL, 0.5, 0);
    int b1 = mr_param_declare(&f->ps, "b1", 1, (int64_t[]){H}, MR_INIT_NORMAL, 0.5, 0);
    int w2 = mr_param_declare(&f->ps, "w2", 2, (int64_t[]){W, H}, MR_INIT_NORMAL, 0.5, 0);
    int u = mr_param_declare(&f->ps, "u", 2, (int64_t[]){W, W}, MR_INIT_NORMAL, 0.5, 0);
    int v = mr_param_declare(&f->ps, "v", 2, (int64_t[]){W, W}, MR_INIT_NORMAL, 0.5, 0);
    int c = mr_param_declare(&f->ps, "c", 2, (int64_t[]){ROWS + 1, W}, MR_INIT_NORMAL, 1.0, 0);
    mr_param_declare(&f->ps, "unused", 2, (int64_t[]){2, 2}, MR_INIT_NORMAL, 0.5, 0);
    int leaf = mr_g_leaf(f->g, x, MR_SPACE_ROWS);
    int h = mr_g_linear(f->g, leaf, w1, b1, MR_ACT_GELU);
    int y = mr_g_linear(f->g, h, w2, -1, MR_ACT_NONE);
    f->redone = mr_g_silu(f->g, mr_g_linear(f->g, leaf, u, -1, MR_ACT_NONE));
    int z = mr_g_linear(f->g, f->redone, v, -1, MR_ACT_NONE);
    int s =
        mr_g_add(f->g, mr_g_add(f->g, y, z), mr_g_detach(f->g, mr_g_leaf(f->g, c, MR_SPACE_ROWS)));
    s = mr_g_add(f->g, s, leaf);
    mr_graph_loss(f->g, mr_g_probe(f->g, s), 0.7, "probe");
    mr_graph_output(f->g, s, "sum");
    assert_int_equal(mr_params_alloc(&f->ps, f->dev, 0, 1, true), MR_OK);
    assert_int_equal(mr_params_init(&f->ps, 3), MR_OK);
    assert_int_equal(mr_plan_compile(&f->plan, f->g, true, is_private, 16), MR_OK);
    assert_int_equal(mr_plan_verify(f->plan), MR_OK);
    assert_int_equal(mr_run_create(&f->run, f->plan, f->dev, &f->ps, 3), MR_OK);
    f->batch = (mr_batch){.rows_cap = ROWS + 1, .L = 3, .rows = ROWS, .rows_global = ROWS};
    f->batch.rid = f->rid;
    f->batch.zero_pos = f->batch.user = f->batch.target = f->batch.last = f->zero;
    f->batch.last_id = f->batch.last_slot = f->batch.last_start = f->batch.last_row = f->zero;
    mr_step_state st = {0};
    assert_int_equal(mr_run_set_batch(f->run, &f->batch, &st), MR_OK);
}

static void destroy(fixture *f)
{
    mr_run_free(&f->run);
    mr_plan_free(&f->plan);
    mr_graph_free(&f->g);
    mr_params_free(&f->ps);
    mr_device_close(&f->dev);
}

static double total(fixture *f)
{
    double loss[MR_MAX_LOSSES];
    assert_int_equal(mr_run_forward(f->run), MR_OK);
    assert_int_equal(mr_run_losses(f->run, loss), MR_OK);
    return 0.7 * loss[0];
}

static void test_gradients(void **state)
{
    (void)state;
    fixture f;
    build(&f, "cpu64", false);
    (void)total(&f);
    assert_true(f.plan->again[f.redone].first > f.plan->val[f.redone].last);
    assert_int_equal(mr_run_backward(f.run, NULL, NULL), MR_OK);
    double *v = f.ps.value, *grad = NULL; /* a copy: forward may use the memory of the gradients */
    size_t bytes = (size_t)f.ps.n_total * sizeof *grad;
    assert_int_equal(MR_ALLOC(&grad, f.ps.n_total, "copy"), MR_OK);
    assert_int_equal(f.dev->to_host(f.dev, grad, f.ps.grad, bytes), MR_OK);
    for (int i = 0; i < f.ps.n; i++) {
        const mr_param *p = &f.ps.p[i];
        for (int64_t e = p->offset; e < p->offset + p->count; e++) {
            double keep = v[e], g = grad[e], h = 1e-5;
            v[e] = keep + h;
            double up = total(&f);
            v[e] = keep - h;
            double down = total(&f);
            v[e] = keep;
            double num = (up - down) / (2 * h);
            if (!strcmp(p->name, "c")) num = 0.0; /* detached: no gradient although it matters */
            assert_true(fabs(g - num) <= 5e-6 * (fabs(num) + 1e-3));
        }
    }
    MR_FREE(grad);
    destroy(&f);
}

static void count_ranges(int64_t lo, int64_t hi, int64_t *covered) { *covered += hi - lo; }

static mr_status on_bucket(void *user, int64_t lo, int64_t hi)
{
    count_ranges(lo, hi, user);
    return MR_OK;
}

/* Shared memory, private poisoned memory and the guard device give the same bits. */
static void test_memory_modes(void **state)
{
    (void)state;
    fixture a, b, c;
    build(&a, "cpu", false);
    build(&b, "cpu", true);
    build(&c, "guard", false);
    assert_true(a.plan->ws_bytes < b.plan->ws_bytes);
    fixture *all[] = {&a, &b, &c};
    float *grads[3];
    for (int i = 0; i < 3; i++) {
        int64_t covered = 0;
        assert_int_equal(mr_run_forward(all[i]->run), MR_OK);
        assert_int_equal(mr_run_backward(all[i]->run, on_bucket, &covered), MR_OK);
        assert_int_equal(covered, all[i]->ps.n_dense + MR_LOSS_SLOTS);
        int64_t n = all[i]->ps.n_total;
        assert_int_equal(MR_ALLOC(&grads[i], n, "copy"), MR_OK);
        assert_int_equal(
            all[i]->dev->to_host(all[i]->dev, grads[i], all[i]->ps.grad, (size_t)n * 4), MR_OK);
    }
    size_t bytes = (size_t)a.ps.n_dense * 4;
    assert_memory_equal(grads[0], grads[1], bytes);
    assert_memory_equal(grads[0], grads[2], bytes);
    int64_t unused = a.ps.p[mr_param_find(&a.ps, "unused")].offset;
    for (int i = 0; i < 4; i++) assert_true(grads[2][unused + i] == 0.0f);
    for (int i = 0; i < 3; i++) {
        MR_FREE(grads[i]);
        destroy(all[i]);
    }
}

/* Placement finds an overlap that is planted. */
static void test_verify_fails(void **state)
{
    (void)state;
    fixture f;
    build(&f, "cpu", false);
    for (int i = 0; i < f.g->n_nodes; i++)
        if (f.plan->val[i].first >= 0) f.plan->val[i].offset = 0;
    mr_errors_to_log(false);
    assert_int_equal(mr_plan_verify(f.plan), MR_ERR_INTERNAL);
    mr_errors_to_log(true);
    destroy(&f);
}

/* ---- red zones ---- */

static const mr_kernels *right; /* of the run that is broken */

/* One element more than asked for. */
static void silu_fwd_too_far(void *y, const void *x, int64_t n, const mr_exec *ex)
{
    right->silu_fwd(y, x, n, ex);
    if (right == &mr_kernels_cpu64)
        ((double *)y)[n] = 1.0;
    else
        ((float *)y)[n] = 1.0f;
}

static void silu_bwd_too_far(void *dx, const void *dy, const void *x, int64_t n, int acc,
                             const mr_exec *ex)
{
    right->silu_bwd(dx, dy, x, n, acc, ex);
    if (right == &mr_kernels_cpu64)
        ((double *)dx)[n] = 1.0;
    else
        ((float *)dx)[n] = 1.0f;
}

static void expect_caught(fixture *f, bool in_forward, const char *step, const char *buffer)
{
    mr_errors_to_log(false);
    mr_status st = mr_run_forward(f->run);
    if (!in_forward) {
        assert_int_equal(st, MR_OK);
        st = mr_run_backward(f->run, NULL, NULL);
    }
    mr_errors_to_log(true);
    assert_int_equal(st, MR_ERR_INTERNAL);
    if (!strstr(mr_last_error(), step) || !strstr(mr_last_error(), buffer))
        fail_msg("'%s' names neither '%s' nor '%s'", mr_last_error(), step, buffer);
}

/* In check mode a kernel that writes one element past its tensor is named: behind the used rows of
 * a batch, and behind a full buffer. */
static void test_red_zones(void **state)
{
    (void)state;
    static const char *const devices[] = {"cpu", "cpu64", "guard"};
    for (int i = 0; i < 6; i++) {
        fixture f;
        mr_step_state st = {0};
        build(&f, devices[i % 3], true);
        f.batch.rows = i < 3 ? ROWS : ROWS + 1;
        assert_int_equal(mr_run_set_batch(f.run, &f.batch, &st), MR_OK);
        assert_int_equal(mr_run_forward(f.run), MR_OK);
        assert_int_equal(mr_run_backward(f.run, NULL, NULL), MR_OK);
        mr_kernels broken = *f.run->k;
        right = f.run->k;
        f.run->k = &broken;
        broken.silu_fwd = silu_fwd_too_far;
        expect_caught(&f, true, "(op silu) wrote", "past the end of the value of");
        broken.silu_fwd = right->silu_fwd;
        broken.silu_bwd = silu_bwd_too_far;
        assert_int_equal(mr_run_set_batch(f.run, &f.batch, &st), MR_OK);
        expect_caught(&f, false, "(op silu) wrote", "past the end of the gradient of");
        destroy(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradients),
        cmocka_unit_test(test_memory_modes),
        cmocka_unit_test(test_verify_fails),
        cmocka_unit_test(test_red_zones),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
