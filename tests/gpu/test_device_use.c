/* What a training step asks of its device, on the guard device: no allocation, one wait, one copy
 * to the host; and that sent memory is left alone until a wait. Holds on a GPU as well, because the
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

#include "base/log.h"
#include "data/synth.h"
#include "train/trainer.h"

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

static mr_trainer *make_trainer(const mr_config *c, const char *device)
{
    mr_trainer *t = NULL;
    mr_trainer_opts o = {
        .stochastic = true, .optimizer = true, .whole_steps = true, .device = device};
    OK(mr_trainer_create(&t, c, &data, world, &o));
    return t;
}

static void test_steps(void **state)
{
    static const char *const models[][2] = {
        {"sasrec", "sasrec"}, {"cl4srec", "sasrec"}, {"tedrec", "sasrec"}, {"mealrec", "tedrec"}};
    static mr_config c;
    (void)state;
    for (size_t m = 0; m < sizeof models / sizeof *models; m++) {
        configure(&c, models[m][0], models[m][1]);
        mr_trainer *t = make_trainer(&c, "guard"), *host = make_trainer(&c, "cpu");
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
            assert_int_equal(b->copies_in, a.copies_in + 3); /* batch, state before and after */
            assert_memory_equal(t->losses, host->losses, sizeof t->losses);
            assert_true(t->grad_norm == host->grad_norm && t->losses[0] > 0);
        }
        mr_trainer_free(&t);
        mr_trainer_free(&host);
    }
}

/* A run that nobody waits for between two batches waits by itself. */
static void test_two_batches(void **state)
{
    static mr_config c;
    (void)state;
    configure(&c, "sasrec", "sasrec");
    mr_trainer *t = make_trainer(&c, "guard");
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

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_steps),
                                       cmocka_unit_test(test_two_batches),
                                       cmocka_unit_test(test_staging)};
    mr_synth_spec s;
    mr_log_init(0, MR_LOG_ERROR);
    if (mr_comm_self(&world) != MR_OK || mr_synth_spec_for("demo", &s) != MR_OK) return 1;
    s.users = 40;
    s.items = 30;
    s.inter = 320;
    s.frames = 3;
    s.width = 16;
    s.text_width = 10;
    if (mr_synth(&data, &s) != MR_OK) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    mr_dataset_free(&data);
    mr_comm_destroy(&world);
    return failed;
}
