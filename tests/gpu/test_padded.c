/* Rows that are rounded up for a device (mr_graph_dims.row_unit): what lies behind the columns that
 * count changes no number and stays 0. On a CPU in float64, whose own rows are not; the CUDA
 * kernels do the same work in the checks on an emulated GPU, where rows of bf16 are. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/mem.h"
#include "train/evaluate.h"
#include "small_main.h"

#define OK(call) assert_int_equal((call), MR_OK)
#define COUNT(a) (sizeof(a) / sizeof *(a))

enum { UNIT = 8 };

static mr_comm *world;
static mr_dataset data;

/* Every op that knows of such columns, in some model. */
static const char *const models[][6] = {
    {"model.name=sasrec"},
    {"model.name=cl4srec"},
    {"model.name=tedrec"},
    {"model.backbone=sasrec"},
    {"model.backbone=tedrec", "diffusion.start=noise", "tcd.dropout=0"},
    {"model.backbone=sasrec", "npd.block=horizon", "npd.detach_target=true"},
    {"model.backbone=sasrec", "npd.enabled=false"},
    {"model.backbone=cl4srec", "tcd.enabled=false", "diffusion.mix=0.3"},
};

static void set(mr_config *c, const char *word)
{
    char key[64];
    const char *value = strchr(word, '=');
    assert_non_null(value);
    memcpy(key, word, (size_t)(value - word));
    key[value - word] = '\0';
    OK(mr_config_set(c, key, value + 1, "test"));
}

/* No width is a multiple of UNIT but the U-Net's. */
static void configure(mr_config *c, const char *const *more)
{
    static const char *const small[] = {
        "model.name=mealrec", "model.hidden=10", "model.inner=18", "tcd.unet_width=16",
        "tcd.heads=3",        "tcd.inner=22",    "npd.inner=20",   "npd.heads=5",
        "diffusion.steps=3",  "train.batch=64"};
    mr_config_defaults(c);
    for (size_t i = 0; i < COUNT(small); i++) set(c, small[i]);
    for (int i = 0; i < 6 && more[i]; i++) set(c, more[i]);
    OK(mr_config_check(c));
}

static mr_trainer *make(const mr_config *c, int64_t unit, bool is_private)
{
    mr_trainer *t = NULL;
    mr_trainer_opts o = {.stochastic = true,
                         .optimizer = true,
                         .is_private = is_private,
                         .device = "cpu64",
                         .row_unit = unit};
    OK(mr_trainer_create(&t, c, &data, world, &o));
    return t;
}

/* A named tensor; the caller frees. */
static double *named(const mr_trainer *t, int i, mr_which which, int64_t *n, char name[64])
{
    mr_named nm;
    double *x = NULL;
    mr_named_at(&t->params, i, &nm);
    *n = (nm.row_hi - nm.row_lo) * nm.dim[1] * nm.dim[2] * nm.dim[3];
    memcpy(name, nm.name, 64);
    OK(MR_ALLOC(&x, *n, "tensor"));
    OK(mr_named_get(&t->params, i, which, x));
    return x;
}

static double norm(const double *x, const double *y, int64_t n)
{
    double s = 0;
    for (int64_t i = 0; i < n; i++) s += (x[i] - (y ? y[i] : 0)) * (x[i] - (y ? y[i] : 0));
    return sqrt(s);
}

static void same_tensors(const mr_trainer *plain, const mr_trainer *t, mr_which which, double bound)
{
    assert_int_equal(mr_named_count(&plain->params), mr_named_count(&t->params));
    double all = 0;
    for (int pass = 0; pass < 2; pass++)
        for (int i = 0; i < mr_named_count(&t->params); i++) {
            int64_t n, m;
            char name[64], other[64];
            double *a = named(plain, i, which, &n, name), *b = named(t, i, which, &m, other);
            assert_int_equal(n, m);
            assert_string_equal(name, other);
            double of = norm(a, NULL, n), off = norm(a, b, n);
            if (pass == 0) all += of * of;
            if (pass == 1 && !(off <= bound * fmax(of, 1e-4 * sqrt(all))))
                fail_msg("%s of norm %.3g is off by %.3g in padded rows", name, of, off);
            MR_FREE(a);
            MR_FREE(b);
        }
}

/* Elements of a flat buffer that belong to no named tensor, as counted; each of them must be 0. */
static int64_t zeros_behind(const mr_params *ps, const double *flat)
{
    int64_t n = 0;
    for (int k = 0; k < ps->n; k++) {
        const mr_param *p = &ps->p[k];
        int64_t inner[3] = {p->dim[1] * p->dim[2] * p->dim[3], p->dim[2] * p->dim[3], p->dim[3]};
        for (int64_t e = 0; e < p->count; e++) {
            int64_t at[4] = {e / inner[0], e % inner[0] / inner[1], e % inner[1] / inner[2],
                             e % inner[2]};
            bool is_behind = false;
            for (int i = 0; i < 4; i++) is_behind |= at[i] >= p->own[i];
            n += is_behind;
            if (is_behind && flat[p->offset + e] != 0.0)
                fail_msg("%s: element %lld is behind its columns and not 0", p->name, (long long)e);
        }
    }
    return n;
}

static void gradients(mr_trainer *t, int64_t i)
{
    double sum, bad;
    OK(mr_trainer_load(t, t->train_run, 0, i));
    OK(mr_trainer_gradients(t));
    OK(mr_trainer_report(t, &sum, &bad));
    assert_true(sum > 0 && bad == 0.0);
}

/* In private memory everything that was not written is NaN, in shared memory it is of others. */
static void test_steps(void **state)
{
    static mr_config c;
    (void)state;
    for (size_t m = 0; m < COUNT(models); m++) {
        configure(&c, models[m]);
        for (int is_private = 0; is_private < 2; is_private++) {
            mr_trainer *plain = make(&c, 0, is_private), *t = make(&c, UNIT, is_private);
            assert_true(t->params.n_total > plain->params.n_total);
            assert_int_equal(mr_params_count(&t->params), mr_params_count(&plain->params));
            same_tensors(plain, t, MR_VALUE, 0);
            for (int64_t i = 0; i < 2; i++) {
                gradients(plain, i);
                gradients(t, i);
                for (int k = 0; k < t->train_graph->n_losses; k++)
                    if (!(fabs(t->losses[k] - plain->losses[k]) <= 1e-11 * fabs(plain->losses[k])))
                        fail_msg("%s: loss %d is %.17g, %.17g in padded rows", models[m][0], k,
                                 plain->losses[k], t->losses[k]);
                same_tensors(plain, t, MR_GRAD, 1e-9);
                assert_true(zeros_behind(&t->params, t->params.grad) > 100);
            }
            OK(mr_trainer_update(t));
            zeros_behind(&t->params, t->params.value);
            mr_trainer_free(&plain);
            mr_trainer_free(&t);
        }
    }
}

/* Outputs have the columns that count, and so has what is ranked. */
static void test_evaluation(void **state)
{
    static mr_config c;
    (void)state;
    for (size_t m = 0; m < COUNT(models); m++) {
        configure(&c, models[m]);
        mr_evaluation what = {.split = MR_SPLIT_VALID};
        static mr_metrics got[2];
        double *x0[2];
        int64_t n = 0;
        for (int k = 0; k < 2; k++) {
            mr_trainer *t = make(&c, k * UNIT, false);
            gradients(t, 1);
            n = t->batch.rows * c.model.hidden;
            OK(MR_ALLOC(&x0[k], n, "rows"));
            OK(mr_run_output(t->train_run, "x0", x0[k]));
            OK(mr_evaluate(t, &what, &got[k]));
            mr_trainer_free(&t);
        }
        assert_true(norm(x0[0], x0[1], n) <= 1e-12 * norm(x0[0], NULL, n));
        assert_int_equal(got[0].rows, 40);
        assert_memory_equal(got[0].at, got[1].at, sizeof got[0].at);
        MR_FREE(x0[0]);
        MR_FREE(x0[1]);
    }
}

/* What was read by name is what was written by name, convolutions permuted, in every buffer. */
static void test_named(void **state)
{
    static mr_config c;
    (void)state;
    configure(&c, models[4]);
    mr_trainer *t = make(&c, UNIT, false);
    for (mr_which which = MR_VALUE; which <= MR_V; which++)
        for (int i = 0; i < mr_named_count(&t->params); i++) {
            int64_t n, m;
            char name[64];
            double *x = named(t, i, which, &n, name);
            for (int64_t e = 0; e < n; e++) x[e] = (double)(e + 3 * i + (int)which) + 0.5;
            OK(mr_named_set(&t->params, i, which, x));
            double *y = named(t, i, which, &m, name);
            assert_memory_equal(x, y, (size_t)n * sizeof *x);
            MR_FREE(x);
            MR_FREE(y);
        }
    assert_true(zeros_behind(&t->params, t->params.m) > 100);
    mr_trainer_free(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_steps),
                                       cmocka_unit_test(test_evaluation),
                                       cmocka_unit_test(test_named)};
    SMALL_MAIN(&world, &data, 320, 18, 10, tests);
}
