/* Recorded steps and blocks that start once more, on the emulated GPU: the same bits as without
 * recording, few recordings, the same counts; a signature that leaves a count out is seen. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/mem.h"
#include "trainer_pair.h"
#include "small_main.h"

#define OK(call) assert_int_equal((call), MR_OK)

static mr_comm *world;
static mr_dataset data;

static void configure(mr_config *c, const char *name, const char *backbone, bool captures)
{
    const char *const words[][2] = {
        {"model.name", name},
        {"model.backbone", backbone},
        {"train.batch", "16"},
        {"train.eval_batch", "12"},
        {"run.device", "cuda"},
        {"data.max_len", "4"},
        {"run.capture", captures ? "true" : "false"},
    };
    pair_small_model(c);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        OK(mr_config_set(c, words[i][0], words[i][1], "test"));
    OK(mr_config_check(c));
}

/* One epoch of both, batch by batch; how many steps differ in losses or counts. */
static int epoch(mr_trainer *t, mr_trainer *eager, int64_t e)
{
    int64_t n = mr_sampler_batches(t->sampler);
    int differ = 0;
    for (int64_t i = 0; i < n; i++) {
        mr_device_counts a = t->dev->counts, b = eager->dev->counts;
        OK(mr_trainer_step_and(t, e, i, i + 1 < n ? i + 1 : -1));
        OK(mr_trainer_step(eager, e, i));
        const mr_device_counts *x = &t->dev->counts, *y = &eager->dev->counts;
        bool is_same = !memcmp(t->losses, eager->losses, sizeof t->losses);
        is_same &= x->calls - a.calls == y->calls - b.calls;
        is_same &= x->launches - a.launches == y->launches - b.launches;
        is_same &= x->waits - a.waits == y->waits - b.waits;
        differ += !is_same;
    }
    return differ;
}

/* At most so many recordings; every other step and block starts one of them again. */
static void run_model(const char *name, const char *backbone, int64_t most_steps,
                      int64_t most_blocks)
{
    static mr_config c, plain;
    configure(&c, name, backbone, true);
    configure(&plain, name, backbone, false);
    mr_trainer *t = pair_trainer(&c, &data, world, NULL),
               *eager = pair_trainer(&plain, &data, world, NULL);
    const mr_device_counts *n = &t->dev->counts;
    assert_int_equal(epoch(t, eager, 0), 0);
    assert_int_equal(n->recorded + n->replayed, t->step - 2);
    print_message("%s on %s: %d steps, %d recorded\n", name, backbone, (int)t->step,
                  (int)n->recorded);
    assert_in_range(n->recorded, 1, most_steps);
    assert_true(n->replayed > 0);
    assert_true(pair_has_same_values(t, eager));
    int64_t before = n->recorded;
    pair_assert_same_scores(t, eager);
    print_message("%d blocks, %d recorded\n", (int)t->done_here[MR_RECORD_BLOCK],
                  (int)(n->recorded - before));
    assert_in_range(n->recorded - before, 1, most_blocks);
    before = n->recorded;
    pair_assert_same_scores(t, eager); /* the same users: all of them are known */
    assert_in_range(n->recorded - before, 0, 1);
    assert_int_equal(eager->dev->counts.recorded + eager->dev->counts.replayed, 0);
    mr_trainer_free(&t);
    mr_trainer_free(&eager);
}

static void test_epoch(void **state)
{
    (void)state;
    run_model("sasrec", "sasrec", 6, 2);
    run_model("mealrec", "tedrec", 6, 2);
}

/* With the number of tokens left out of the signature, a recording for another number is started,
 * and the run goes another way. (That every count is in it is checked in gpu/test_rounding.c.) */
static mr_status (*real_replay)(mr_device *d, mr_recorded kind, const mr_signature *s, bool *done);

static mr_status stale(mr_device *d, mr_recorded kind, const mr_signature *s, bool *done)
{
    enum { TOKENS = 3 };
    mr_signature less = *s;
    less.word[TOKENS] = 0;
    return real_replay(d, kind, &less, done);
}

static void test_stale(void **state)
{
    static mr_config c, plain;
    (void)state;
    configure(&c, "sasrec", "sasrec", true);
    configure(&plain, "sasrec", "sasrec", false);
    mr_trainer *t = pair_trainer(&c, &data, world, NULL),
               *eager = pair_trainer(&plain, &data, world, NULL);
    real_replay = t->dev->replay;
    t->dev->replay = stale;
    assert_true(epoch(t, eager, 0) > 0);
    assert_false(pair_has_same_values(t, eager));
    mr_trainer_free(&t);
    mr_trainer_free(&eager);
}

static void test_little_room(void **state)
{
    static mr_config c, plain;
    (void)state;
    configure(&c, "sasrec", "sasrec", true);
    configure(&plain, "sasrec", "sasrec", false);
    mr_trainer *eager = pair_trainer(&plain, &data, world, NULL);
    pair_little_room(&c, eager);
    mr_trainer_free(&eager);
}

/* ---- what a device keeps ---- */
static mr_device *dev;
static unsigned char *x;

/* x[0] = value, under signature k, recorded unless it was; true: it was. */
static bool put(mr_recorded kind, int64_t k, int value)
{
    mr_signature s = {.word = {k}};
    bool is_done = false;
    OK(dev->replay(dev, kind, &s, &is_done));
    if (is_done) return true;
    OK(dev->capture(dev, kind, MR_CAPTURE_BEGIN));
    OK(dev->fill(dev, x, value, 1));
    OK(dev->capture(dev, kind, MR_CAPTURE_START));
    return false;
}

static int value(void)
{
    unsigned char v = 0;
    OK(dev->to_host(dev, &v, x, 1));
    return v;
}

/* The one that was started longest ago goes; kinds do not know of each other. */
static void test_kept(void **state)
{
    enum { KEPT = 16 };
    (void)state;
    OK(mr_device_open(&dev, "cuda", 0));
    OK(dev->alloc(dev, (void **)&x, 1, "test"));
    for (int k = 0; k < KEPT; k++) assert_false(put(MR_RECORD_STEP, k, 10 + k));
    assert_int_equal(value(), 10 + KEPT - 1);
    assert_true(put(MR_RECORD_STEP, 0, 99));
    assert_int_equal(value(), 10);
    assert_false(put(MR_RECORD_BLOCK, 0, 7));
    assert_int_equal(value(), 7);
    assert_false(put(MR_RECORD_STEP, 50, 60)); /* instead of 1 */
    assert_int_equal(value(), 60);
    assert_true(put(MR_RECORD_STEP, 0, 99));
    assert_int_equal(value(), 10);
    assert_false(put(MR_RECORD_STEP, 1, 61)); /* instead of 2 */
    for (int k = 3; k < KEPT; k++) {
        assert_true(put(MR_RECORD_STEP, k, 99));
        assert_int_equal(value(), 10 + k);
    }
    assert_int_equal(dev->counts.recorded, KEPT + 3);
    assert_int_equal(dev->counts.replayed, 2 + KEPT - 3);
    OK(dev->capture(dev, MR_RECORD_STEP, MR_CAPTURE_FORGET));
    assert_true(put(MR_RECORD_BLOCK, 0, 99));
    assert_int_equal(value(), 7);
    assert_false(put(MR_RECORD_STEP, 0, 62));
    assert_int_equal(value(), 62);
    dev->free(dev, x);
    mr_device_close(&dev);
}

/* What was dropped is not kept, nor what was recorded without a signature. */
static void test_not_kept(void **state)
{
    mr_signature s = {.word = {5}};
    bool is_done = false;
    (void)state;
    OK(mr_device_open(&dev, "cuda", 0));
    OK(dev->alloc(dev, (void **)&x, 1, "test"));
    OK(dev->fill(dev, x, 1, 1));
    OK(dev->replay(dev, MR_RECORD_STEP, &s, &is_done));
    OK(dev->capture(dev, MR_RECORD_STEP, MR_CAPTURE_BEGIN));
    OK(dev->fill(dev, x, 2, 1));
    OK(dev->capture(dev, MR_RECORD_STEP, MR_CAPTURE_DROP));
    OK(dev->capture(dev, MR_RECORD_STEP, MR_CAPTURE_BEGIN));
    OK(dev->fill(dev, x, 3, 1));
    OK(dev->capture(dev, MR_RECORD_STEP, MR_CAPTURE_START));
    assert_int_equal(value(), 3);
    OK(dev->replay(dev, MR_RECORD_STEP, &s, &is_done));
    assert_false(is_done);
    dev->free(dev, x);
    mr_device_close(&dev);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_kept), cmocka_unit_test(test_not_kept),
                                       cmocka_unit_test(test_epoch), cmocka_unit_test(test_stale),
                                       cmocka_unit_test(test_little_room)};
    SMALL_MAIN(&world, &data, 340, 8, 6, tests);
}
