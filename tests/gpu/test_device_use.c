/* What a training step asks of its device, on the guard device: no allocation, one wait, one copy
 * to the host; that sent memory is left alone until a wait; what it says about memory and failures,
 * and what a profiler sees. Holds on a GPU as well, because the
 * step is the same program. */
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/mem.h"
#include "train/evaluate.h"
#include "train/need.h"
#include "train/own_device.h"
#include "trainer_pair.h"
#include "small_main.h"

#define OK(call) assert_int_equal((call), MR_OK)

static mr_comm *world;
static mr_dataset data;

static void configure(mr_config *c, const char *name, const char *backbone)
{
    const char *const words[][2] = {
        {"model.name", name},  {"model.backbone", backbone}, {"model.hidden", "12"},
        {"model.inner", "16"}, {"tcd.unet_width", "16"},     {"tcd.heads", "4"},
        {"npd.inner", "16"},   {"diffusion.steps", "3"},     {"train.batch", "64"},
        {"train.clip", "0.5"},
    };
    mr_config_defaults(c);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        OK(mr_config_set(c, words[i][0], words[i][1], "test"));
    OK(mr_config_check(c));
}

static void test_steps(void **state)
{
    static const char *const models[][2] = {
        {"sasrec", "sasrec"}, {"cl4srec", "sasrec"}, {"tedrec", "sasrec"}, {"mealrec", "tedrec"}};
    static mr_config c;
    (void)state;
    for (size_t m = 0; m < sizeof models / sizeof *models; m++) {
        configure(&c, models[m][0], models[m][1]);
        mr_trainer *t = pair_trainer(&c, &data, world, "guard"),
                   *host = pair_trainer(&c, &data, world, "cpu");
        OK(mr_trainer_step(t, 0, 0));
        OK(mr_trainer_step(host, 0, 0));
        for (int i = 1; i < 5; i++) {
            mr_device_counts a = t->dev->counts;
            OK(mr_trainer_step(t, 0, i % 3));
            OK(mr_trainer_step(host, 0, i % 3));
            const mr_device_counts *b = &t->dev->counts;
            assert_int_equal(b->allocs, a.allocs);
            assert_int_equal(b->waits, a.waits + 1);
            assert_int_equal(b->copies_out, a.copies_out + 1);
            assert_int_equal(b->copies_in, a.copies_in + 2); /* batch, state */
            assert_memory_equal(t->losses, host->losses, sizeof t->losses);
            assert_true(t->grad_norm == host->grad_norm && t->losses[0] > 0);
        }
        mr_trainer_free(&t);
        mr_trainer_free(&host);
    }
}

/* Batches that are prepared during the step before give the same bits, and one that was prepared
 * for another step than it turns out to be is not used. */
static void test_ahead(void **state)
{
    static const char *const models[][2] = {
        {"sasrec", "sasrec"}, {"cl4srec", "sasrec"}, {"tedrec", "sasrec"}, {"mealrec", "tedrec"}};
    static const struct {
        int64_t epoch, i, next, is_used;
    } order[] = {{0, 0, 1, 0}, {0, 1, 2, 1}, {0, 2, -1, 1}, {1, 0, 1, 0},
                 {1, 2, 0, 0}, {2, 0, 1, 0}, {2, 1, 0, 1},  {2, 0, -1, 1}};
    static mr_config c;
    (void)state;
    for (size_t m = 0; m < sizeof models / sizeof *models; m++) {
        configure(&c, models[m][0], models[m][1]);
        mr_trainer *t = pair_trainer(&c, &data, world, "guard"),
                   *plain = pair_trainer(&c, &data, world, "guard");
        t->train_run->rounds = plain->train_run->rounds = m % 2;
        for (size_t k = 0; k < sizeof order / sizeof *order; k++) {
            const int32_t *prepared = t->ahead.batch.target;
            mr_device_counts a = t->dev->counts;
            OK(mr_trainer_step_and(t, order[k].epoch, order[k].i, order[k].next));
            OK(mr_trainer_step(plain, order[k].epoch, order[k].i));
            assert_int_equal(t->batch.target == prepared, order[k].is_used);
            assert_int_equal(t->ahead.is_ready, order[k].next >= 0);
            assert_ptr_equal(t->train_run->staged, order[k].next >= 0 ? t->ahead.batch.rid : NULL);
            assert_int_equal(t->dev->counts.waits, a.waits + 1);
            assert_memory_equal(t->losses, plain->losses, sizeof t->losses);
            assert_memory_equal(t->batch.target, plain->batch.target,
                                (size_t)plain->batch.rows * sizeof *plain->batch.target);
        }
        mr_trainer_free(&t);
        mr_trainer_free(&plain);
    }
}

/* Blocks of users too, and an evaluation that comes once more is the same. */
static void test_blocks_ahead(void **state)
{
    static mr_config c;
    (void)state;
    configure(&c, "mealrec", "tedrec");
    OK(mr_config_set(&c, "train.eval_batch", "9", "test"));
    mr_trainer *t = pair_trainer(&c, &data, world, "guard"),
               *plain = pair_trainer(&c, &data, world, "cpu");
    OK(mr_trainer_step(t, 0, 0));
    OK(mr_trainer_step(plain, 0, 0));
    for (int times = 1; times <= 2; times++) {
        pair_assert_same_scores(t, plain);
        int64_t blocks = mr_sampler_batches(t->eval_sampler[MR_SPLIT_TEST]);
        assert_true(blocks > 2);
        assert_int_equal(t->n_ahead, times * (blocks - 1));
        assert_int_equal(plain->n_ahead, 0);
    }
    mr_trainer_free(&t);
    mr_trainer_free(&plain);
}

/* A run that nobody waits for between two batches waits by itself. */
static void test_two_batches(void **state)
{
    static mr_config c;
    (void)state;
    configure(&c, "sasrec", "sasrec");
    mr_trainer *t = pair_trainer(&c, &data, world, "guard");
    int64_t waits = t->dev->counts.waits;
    OK(mr_trainer_load(t, t->train_run, 0, 0));
    assert_int_equal(t->dev->counts.waits, waits);
    OK(mr_trainer_load(t, t->train_run, 0, 1));
    assert_int_equal(t->dev->counts.waits, waits + 1);
    mr_trainer_free(&t);
}

/* Does writing to p end the program? */
static bool faults(char *p)
{
    int status = 0;
    pid_t child = fork();
    if (child == 0) {
        struct rlimit none = {0, 0};
        setrlimit(RLIMIT_CORE, &none);
        signal(SIGSEGV, SIG_DFL);
        *(volatile char *)p = 1;
        _exit(0);
    }
    waitpid(child, &status, 0);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV;
}

static void test_staging(void **state)
{
    mr_device *d = NULL;
    char *out = NULL, *other = NULL, *on_device = NULL, back[8] = "";
    (void)state;
    OK(mr_device_open(&d, "guard", 0));
    OK(d->alloc_host(d, (void **)&out, 8, "test"));
    OK(d->alloc_host(d, (void **)&other, 8, "test"));
    OK(d->alloc(d, (void **)&on_device, 8, "test"));
    assert_int_equal(out[7], 0);
    memcpy(out, "abcdefg", 8);
    assert_false(faults(out));
    assert_true(faults(on_device));
    OK(d->send(d, on_device, out, 8));
    assert_true(faults(out));
    assert_false(faults(other));
    OK(d->to_host(d, back, on_device, 8));
    assert_string_equal(back, "abcdefg");
    assert_false(faults(out));
    OK(d->send(d, on_device, out, 8));
    OK(d->sync(d));
    assert_false(faults(out));
    mr_errors_to_log(false);
    assert_int_equal(d->send(d, on_device, back, 8), MR_ERR_INTERNAL);
    mr_errors_to_log(true);
    d->free_host(d, out);
    d->free_host(d, other);
    d->free(d, on_device);
    mr_device_close(&d);
}

static mr_status fail_it(mr_trainer *t)
{
    assert_true(t->dev->recording > 0);
    return MR_RAISE(MR_ERR_INTERNAL, "on purpose");
}

/* What fails inside a recording ends it, and the next step is as ever. */
static void test_failed_recording(void **state)
{
    static mr_config c;
    (void)state;
    configure(&c, "sasrec", "sasrec");
    OK(mr_config_set(&c, "run.capture", "true", "test"));
    mr_trainer *t = pair_trainer(&c, &data, world, "guard");
    for (int i = 0; i < 2; i++) OK(mr_trainer_step(t, 0, i));
    mr_errors_to_log(false);
    assert_int_equal(mr_trainer_recorded(t, MR_RECORD_STEP, fail_it), MR_ERR_INTERNAL);
    assert_string_equal(mr_last_error(), "on purpose");
    mr_errors_to_log(true);
    assert_int_equal(t->dev->recording, 0);
    OK(mr_trainer_step(t, 0, 2));
    assert_int_equal(t->dev->recording, 0);
    mr_trainer_free(&t);
}

/* A recorded step asks for nothing that a recording cannot hold, and gives the same bits. */
static void test_capture(void **state)
{
    static const char *const models[][2] = {
        {"sasrec", "sasrec"}, {"cl4srec", "sasrec"}, {"tedrec", "sasrec"}, {"mealrec", "tedrec"}};
    static mr_config c, plain;
    mr_device *d = NULL;
    void *p = NULL;
    (void)state;
    for (size_t m = 0; m < sizeof models / sizeof *models; m++) {
        configure(&plain, models[m][0], models[m][1]);
        OK(mr_config_set(&plain, "train.eval_batch", "9", "test"));
        c = plain;
        OK(mr_config_set(&c, "run.capture", "true", "test"));
        mr_trainer *t = pair_trainer(&c, &data, world, "guard"),
                   *eager = pair_trainer(&plain, &data, world, "guard");
        for (int i = 0; i < 5; i++) {
            OK(mr_trainer_step(t, 0, i % 3));
            OK(mr_trainer_step(eager, 0, i % 3));
            assert_memory_equal(t->losses, eager->losses, sizeof t->losses);
        }
        assert_int_equal(t->done_here[MR_RECORD_STEP], 5);
        assert_int_equal(eager->done_here[MR_RECORD_STEP], 0);
        pair_assert_same_scores(t, eager);
        assert_true(t->done_here[MR_RECORD_BLOCK] > 2);
        assert_int_equal(eager->done_here[MR_RECORD_BLOCK], 0);
        mr_trainer_free(&t);
        mr_trainer_free(&eager);
    }
    OK(mr_device_open(&d, "guard", 0));
    mr_errors_to_log(false);
    OK(d->capture(d, MR_RECORD_STEP, MR_CAPTURE_BEGIN));
    assert_int_equal(d->alloc(d, &p, 8, "test"), MR_ERR_INTERNAL);
    assert_int_equal(d->sync(d), MR_ERR_INTERNAL);
    assert_int_equal(d->capture(d, MR_RECORD_STEP, MR_CAPTURE_BEGIN), MR_ERR_INTERNAL);
    OK(d->capture(d, MR_RECORD_STEP, MR_CAPTURE_START));
    OK(d->sync(d));
    mr_errors_to_log(true);
    mr_device_close(&d);
}

/* ---- sentences about memory and failures ---- */
static void says(mr_status st, mr_status want, const char *const *parts)
{
    assert_int_equal(st, want);
    for (int i = 0; parts[i]; i++)
        if (!strstr(mr_last_error(), parts[i]))
            fail_msg("'%s' is not in: %s", parts[i], mr_last_error());
}

static int64_t bytes_taken;
static mr_status (*real_alloc)(mr_device *d, void **out_p, size_t bytes, const char *what);
static mr_status counted_alloc(mr_device *d, void **out_p, size_t bytes, const char *what)
{
    bool is_list = bytes == 1; /* of no items */
    if (!is_list && !strcmp(what, "ranking")) bytes_taken += (int64_t)bytes;
    return real_alloc(d, out_p, bytes, what);
}

/* Device memory of an evaluation that comes on top of its plan. */
static int64_t taken_by_ranking(mr_trainer *t)
{
    mr_evaluation what = {.split = MR_SPLIT_TEST};
    mr_metrics m;
    bytes_taken = 0;
    real_alloc = t->dev->alloc;
    t->dev->alloc = counted_alloc;
    OK(mr_evaluate(t, &what, &m));
    t->dev->alloc = real_alloc;
    return bytes_taken;
}

static mr_status one_mib(mr_device *d, int64_t *free_p, int64_t *total_p)
{
    (void)d;
    *free_p = 1 << 20;
    *total_p = 2 << 20;
    return MR_OK;
}

static void test_need(void **state)
{
    static mr_config c;
    const int64_t gib = 1 << 30;
    mr_need n = {.params = gib,
                 .features = gib,
                 .step = 4 * gib,
                 .eval = 2 * gib,
                 .rows = 7,
                 .eval_rows = 9};
    (void)state;
    mr_errors_to_log(false);
    mr_device_set_owner(3);
    OK(mr_need_check(&n, "cuda:0 X", 8 * gib, 9 * gib));
    says(mr_need_check(&n, "cuda:0 X", 8 * gib - 1, 9 * gib), MR_ERR_MEMORY,
         (const char *[]){"rank 3 on ", "needs 8.000 GiB on cuda:0 X",
                          "8.000 of 9.000 GiB are free", "a step of 7 rows 4.000",
                          "evaluation of 9 rows 2.000", "lower train.batch", NULL});
    n.eval = 5 * gib;
    says(mr_need_check(&n, "x", 0, gib), MR_ERR_MEMORY,
         (const char *[]){"lower train.eval_batch", NULL});
    n.params = 6 * gib;
    says(mr_need_check(&n, "x", 0, gib), MR_ERR_MEMORY, (const char *[]){"dist.item_shard", NULL});
    n.features = 7 * gib;
    says(mr_need_check(&n, "x", 0, gib), MR_ERR_MEMORY, (const char *[]){"float16", NULL});
    n.may_spread = true;
    says(mr_need_check(&n, "x", 0, gib), MR_ERR_MEMORY,
         (const char *[]){"data.features=shard", NULL});

    configure(&c, "mealrec", "tedrec");
    mr_trainer *t = pair_trainer(&c, &data, world, "guard");
    OK(mr_need_of(&n, t, true));
    assert_int_equal(n.params, 16 * t->params.n_total);
    assert_int_equal(n.step, t->train_plan->ws_bytes);
    assert_int_equal(n.features, 30 * (10 + 16 + 3 * 16) * 4);
    OK(mr_trainer_eval_ready(t, n.eval_rows));
    assert_true(t->eval_run->borrows_ws && t->eval_plan->ws_bytes <= t->train_plan->ws_bytes);
    assert_int_equal(n.eval, taken_by_ranking(t));
    /* exchange lists of one rank and the schedule are the rest of the block */
    assert_true(n.batch > t->train_run->block_bytes / 2);
    OK(mr_need_fits(t, true));
    t->dev->memory = one_mib;
    int64_t allocs = t->dev->counts.allocs;
    says(mr_need_fits(t, true), MR_ERR_MEMORY,
         (const char *[]){"rank 0 on ", "GiB on guard", "0.001 of 0.002 GiB", NULL});
    assert_int_equal(t->dev->counts.allocs, allocs);
    mr_trainer_free(&t);
    mr_errors_to_log(true);
}

static void test_failures(void **state)
{
    (void)state;
    mr_errors_to_log(false);
    mr_device_set_owner(5);
    says(mr_device_failed("cuda:1 X", "a copy", "boom (E)", false), MR_ERR_DEVICE,
         (const char *[]){"rank 5 on ", ": a copy failed on cuda:1 X: boom (E)", NULL});
    says(mr_device_failed("cuda:1 X", "a copy", "boom (E)", true), MR_ERR_DEVICE,
         (const char *[]){"rank 5 on ", " lost its GPU (cuda:1 X): a copy failed: boom (E)",
                          "start again from the last checkpoint", NULL});
    says(mr_device_wrong_chip(2, "Tesla", 75, 80), MR_ERR_DEVICE,
         (const char *[]){"rank 5 on ", "GPU 2, Tesla, of compute capability 7.5", "needs 8.0",
                          NULL});
    mr_errors_to_log(true);
}

/* ---- precision and marks ---- */
static void test_precision(void **state)
{
    static mr_config c;
    mr_run *run = NULL;
    (void)state;
    configure(&c, "sasrec", "sasrec");
    assert_int_equal(mr_own_device_precision(&c), MR_FP32); /* auto */
    mr_trainer *t = pair_trainer(&c, &data, world, "guard");
    assert_int_equal(t->train_run->ex.precision, MR_FP32);
    t->dev->precision = t->train_graph->dims.precision = MR_BF16_PRODUCTS;
    OK(mr_trainer_run(t, &run, t->train_plan));
    assert_int_equal(run->ex.precision, MR_BF16_PRODUCTS);
    mr_run_free(&run);
    mr_trainer_free(&t);
    OK(mr_config_set(&c, "run.precision", "tf32", "test"));
    assert_int_equal(mr_own_device_precision(&c), MR_TF32);
    OK(mr_config_set(&c, "run.precision", "bf16", "test"));
    assert_int_equal(mr_own_device_precision(&c), MR_BF16_PRODUCTS);
    mr_errors_to_log(false);
    mr_trainer_opts o = {.optimizer = true, .device = "guard"};
    says(mr_trainer_create(&t, &c, &data, world, &o), MR_ERR_CONFIG,
         (const char *[]){"run.precision=bf16 needs a GPU and this run computes on guard", NULL});
    mr_errors_to_log(true);
}

static int depth, marks, deepest;

static void take_mark(mr_device *d, const char *name)
{
    (void)d;
    depth += name ? 1 : -1;
    marks += name != NULL;
    if (depth > deepest) deepest = depth;
    assert_true(depth >= 0);
}

/* A profiler sees every node of the plan, once in each direction, inside the parts of a step. */
static void test_marks(void **state)
{
    static mr_config c;
    (void)state;
    configure(&c, "mealrec", "tedrec");
    mr_trainer *t = pair_trainer(&c, &data, world, "guard");
    t->dev->mark = take_mark;
    OK(mr_trainer_step(t, 0, 0));
    int again = 0;
    for (int i = 0; i < t->train_graph->n_nodes; i++) again += t->train_plan->again[i].first >= 0;
    assert_int_equal(depth, 0);
    assert_int_equal(deepest, 2);
    assert_int_equal(marks, 2 + t->train_plan->n_fwd + t->train_plan->n_bwd + again);
    mr_trainer_free(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_steps),
                                       cmocka_unit_test(test_ahead),
                                       cmocka_unit_test(test_blocks_ahead),
                                       cmocka_unit_test(test_two_batches),
                                       cmocka_unit_test(test_staging),
                                       cmocka_unit_test(test_capture),
                                       cmocka_unit_test(test_failed_recording),
                                       cmocka_unit_test(test_need),
                                       cmocka_unit_test(test_failures),
                                       cmocka_unit_test(test_precision),
                                       cmocka_unit_test(test_marks)};
    SMALL_MAIN(&world, &data, 320, 16, 10, tests);
}
