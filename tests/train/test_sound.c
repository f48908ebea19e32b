/* Numbers that go wrong on one rank: NaN and infinity are seen by all in the same step and named
 * alike; a flipped bit in a copy is found and its rank named. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/log.h"
#include "base/mem.h"
#include "data/synth.h"
#include "train/sound.h"

static mr_comm *world;
static mr_dataset data;
static mr_config cfg;

#define OK(call) assert_int_equal((call), MR_OK)

static mr_trainer *make_trainer(const char *item_shard)
{
    static const char *const small[][2] = {{"model.name", "sasrec"}, {"model.hidden", "12"},
                                           {"model.inner", "16"},    {"model.layers", "1"},
                                           {"train.batch", "64"},    {"model.dropout", "0.2"},
                                           {"train.lr", "0.01"},     {"dist.check_every", "1"}};
    mr_trainer *t = NULL;
    mr_trainer_opts o = {.stochastic = true, .optimizer = true};
    mr_config_defaults(&cfg);
    for (size_t i = 0; i < sizeof small / sizeof *small; i++)
        OK(mr_config_set(&cfg, small[i][0], small[i][1], "test"));
    OK(mr_config_set(&cfg, "dist.item_shard", item_shard, "test"));
    OK(mr_trainer_create(&t, &cfg, &data, world, &o));
    return t;
}

static float *value_of(mr_trainer *t, const char *name)
{
    int i = mr_param_find(&t->params, name);
    assert_true(i >= 0);
    return (float *)t->params.value + t->params.p[i].offset;
}

/* The last error, which must be the same sentence on all ranks. */
static const char *same_sentence(void)
{
    static char first[1024];
    snprintf(first, sizeof first, "%s", mr_last_error());
    OK(world->bcast(world, first, sizeof first, MR_U8, 0));
    assert_string_equal(first, mr_last_error());
    return first;
}

static void diverges(const char *tensor, float bad, const char *says)
{
    mr_trainer *t = make_trainer("all");
    int last = world->size - 1;
    OK(mr_trainer_step(t, 0, 0));
    int64_t n = t->params.p[mr_param_find(&t->params, tensor)].count;
    float *v = value_of(t, tensor), good = v[n / 2], before = v[0];
    /* On one rank alone; twice, then healed, so that counting starts again. */
    if (world->rank == last) v[n / 2] = bad;
    for (int i = 1; i <= 2; i++) {
        OK(mr_trainer_step(t, 0, i));
        assert_int_equal(t->skipped_in_row, i);
        assert_true(t->train_run->state_host.skip);
    }
    assert_true(v[0] == before);
    if (world->rank == last) v[n / 2] = good;
    OK(mr_trainer_step(t, 0, 3));
    assert_int_equal(t->skipped_in_row, 0);
    assert_true(v[0] != before);
    if (world->rank == last) v[n / 2] = bad;
    for (int i = 4; i <= 6; i++) OK(mr_trainer_step(t, 0, i));
    mr_errors_to_log(false);
    assert_int_equal(mr_trainer_step(t, 0, 7), MR_ERR_DIVERGED);
    mr_errors_to_log(true);
    if (!strstr(same_sentence(), says)) fail_msg("%s instead of %s", mr_last_error(), says);
    mr_trainer_free(&t);
}

static void test_not_finite(void **state)
{
    (void)state;
    mr_log_init(world->rank, MR_LOG_ERROR);
    diverges("item.weight", NAN, "step 7: the gradient of ");
    diverges("item.weight", INFINITY, "step 7: the gradient of ");
    diverges("position.weight", NAN, "step 7: the gradient of ");
    diverges("encoder.0.norm2.bias", NAN, "the 4th step in a row");
    diverges("encoder.0.fc2.weight", -INFINITY, "step 7: ");
}

/* The first bad element is the first over all ranks, wherever it is. */
static void test_named(void **state)
{
    (void)state;
    mr_trainer *t = make_trainer("all");
    OK(mr_trainer_step(t, 0, 0));
    OK(mr_trainer_load(t, t->train_run, 0, 1));
    OK(mr_trainer_gradients(t));
    const mr_param *p = &t->params.p[mr_param_find(&t->params, "item.weight")];
    float *g = (float *)t->params.grad + p->offset;
    if (world->rank == world->size - 1) g[2 * 12 + 5] = -INFINITY;
    char says[100];
    int64_t row = p->row_lo + 2;
    OK(world->bcast(world, &row, 1, MR_I64, world->size - 1));
    t->skipped_in_row = 3;
    mr_errors_to_log(false);
    assert_int_equal(mr_trainer_update(t), MR_ERR_DIVERGED);
    mr_errors_to_log(true);
    snprintf(says, sizeof says, "the gradient of item.weight (element %lld) is not finite",
             (long long)row * 12 + 5);
    if (!strstr(same_sentence(), says)) fail_msg("%s instead of %s", mr_last_error(), says);
    mr_trainer_free(&t);
}

static void flip(void *buffer, int64_t element, int bit)
{
    uint32_t x;
    char *at = (char *)buffer + 4 * element;
    memcpy(&x, at, 4);
    x ^= 1u << bit;
    memcpy(at, &x, 4);
}

static void found(mr_trainer *t, int who, const char *tensor)
{
    char says[100], other[100];
    mr_errors_to_log(false);
    assert_int_equal(mr_sound_replicas(t), MR_ERR_INTERNAL);
    mr_errors_to_log(true);
    snprintf(says, sizeof says, world->size > 2 ? "rank %d (" : "rank 0, 1 (", who);
    snprintf(other, sizeof other, " other values of %s than", tensor);
    /* Ranks without the tensor learn the status alone. */
    int64_t knows = strstr(mr_last_error(), says) && strstr(mr_last_error(), other);
    OK(world->allreduce(world, &knows, 1, MR_I64, MR_MAX));
    if (!knows) fail_msg("%s instead of %s and %s", mr_last_error(), says, other);
}

static void test_flipped_bit(void **state)
{
    (void)state;
    if (world->size == 1) return;
    for (int copies = 0; copies < 2; copies++) {
        mr_trainer *t = make_trainer(copies ? "1" : "all");
        for (int i = 0; i < 3; i++) OK(mr_trainer_step(t, 0, i));
        OK(mr_sound_replicas(t));
        const mr_param *p = &t->params.p[mr_param_find(&t->params, "encoder.0.fc1.weight")];
        const mr_param *table = &t->params.p[mr_param_find(&t->params, "item.weight")];
        void *const buffer[] = {t->params.value, t->params.m, t->params.v};
        for (int k = 0; k < 3; k++)
            for (int who = 0; who < world->size; who++) {
                int64_t e = p->offset + (17 * k + who) % p->count;
                if (world->rank == who) flip(buffer[k], e, 3 * k);
                found(t, who, "encoder.0.fc1.weight");
                if (world->rank == who) flip(buffer[k], e, 3 * k);
                if (!copies) continue;
                if (world->rank == who) flip(buffer[k], table->offset + table->count - 1, 0);
                found(t, who, "item.weight");
                if (world->rank == who) flip(buffer[k], table->offset + table->count - 1, 0);
            }
        OK(mr_sound_replicas(t));
        OK(mr_trainer_step(t, 0, 3));
        OK(mr_sound_replicas(t));
        mr_trainer_free(&t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_named),
        cmocka_unit_test(test_flipped_bit),
    };
    if (mr_comm_mpi_world(&world) != MR_OK) return 1;
    mr_synth_spec s;
    OK(mr_synth_spec_for("demo", &s));
    s.users = 150;
    s.items = 90;
    s.inter = 1500;
    s.frames = 3;
    s.width = 16;
    s.text_width = 10;
    OK(mr_synth(&data, &s));
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (failed) mr_comm_abort(1);
    mr_dataset_free(&data);
    mr_comm_destroy(&world);
    mr_comm_finalize();
    return failed;
}
