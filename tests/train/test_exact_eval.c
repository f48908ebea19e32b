/* dist.deterministic=world: evaluation gives every user the same lists and the same bits of scores
 * on any number of ranks, for every placement, with features whole or spread, on the guard device
 * too. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/log.h"
#include "base/mem.h"
#include "data/synth.h"
#include "train/evaluate.h"

enum { K = 7, USERS = 80, ITEMS = 60 };

static mr_comm *world;

#define OK(call) assert_int_equal((call), MR_OK)

typedef struct lists {
    int32_t rank[USERS], id[USERS * K];
    double score[USERS * K];
    mr_metrics metrics;
} lists;

static void make_data(mr_dataset *d)
{
    mr_synth_spec spec;
    OK(mr_synth_spec_for("demo", &spec));
    spec.users = USERS;
    spec.items = ITEMS;
    spec.inter = 640;
    spec.frames = 3;
    spec.width = 32;
    spec.text_width = 24;
    OK(mr_synth(d, &spec));
}

static void set(mr_config *c, const char *const (*pairs)[2], int n)
{
    static const char *const all[][2] = {
        {"model.hidden", "20"},       {"model.inner", "24"},
        {"tcd.unet_width", "16"},     {"tcd.heads", "4"},
        {"npd.inner", "24"},          {"diffusion.steps", "3"},
        {"train.batch", "64"},        {"train.eval_batch", "45"},
        {"dist.virtual_shards", "8"}, {"dist.deterministic", "world"}};
    mr_config_defaults(c);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        OK(mr_config_set(c, all[i][0], all[i][1], "test"));
    for (int i = 0; i < n; i++) OK(mr_config_set(c, pairs[i][0], pairs[i][1], "test"));
}

/* Two steps, so that the table is no longer as it began, then both lists. */
static lists *evaluate(const mr_config *c, mr_comm *comm, bool is_spread)
{
    mr_dataset d;
    mr_trainer *t = NULL;
    mr_trainer_opts o = {.stochastic = true, .optimizer = true, .whole_steps = true};
    lists *l = NULL;
    make_data(&d);
    if (is_spread) OK(mr_dataset_spread(&d, comm->rank, comm->size));
    OK(mr_trainer_create(&t, c, &d, comm, &o));
    for (int i = 0; i < 2; i++) OK(mr_trainer_step(t, 0, i));
    OK(MR_ALLOC(&l, 1, "lists"));
    mr_topk top = {.k = K, .id = l->id, .score = l->score};
    mr_evaluation what = {
        .split = MR_SPLIT_TEST, .exclude_seen = true, .user_rank = l->rank, .topk = &top};
    OK(mr_evaluate(t, &what, &l->metrics));
    mr_trainer_free(&t);
    mr_dataset_free(&d);
    return l;
}

static void compare(const char *const (*pairs)[2], int n, bool is_spread)
{
    mr_config c, alone;
    mr_comm *self = NULL;
    set(&c, pairs, n);
    set(&alone, pairs, n);
    OK(mr_config_set(&alone, "dist.item_shard", "auto", "test"));
    OK(mr_comm_self(&self));
    lists *one = evaluate(&alone, self, false), *many = evaluate(&c, world, is_spread);
    assert_true(one->metrics.rows > 60 && one->metrics.rows == many->metrics.rows);
    assert_memory_equal(one->rank, many->rank, sizeof one->rank);
    assert_memory_equal(one->id, many->id, sizeof one->id);
    assert_memory_equal(one->score, many->score, sizeof one->score);
    assert_memory_equal(&one->metrics, &many->metrics, sizeof one->metrics);
    MR_FREE(one);
    MR_FREE(many);
    mr_comm_destroy(&self);
}

static void test_models(void **state)
{
    (void)state;
    static const char *const of[][3] = {
        {"mealrec", "tedrec", "all"}, {"mealrec", "cl4srec", "1"}, {"sasrec", "tedrec", "all"}};
    for (int m = 0; m < 3; m++) {
        const char *const pairs[][2] = {
            {"model.name", of[m][0]}, {"model.backbone", of[m][1]}, {"dist.item_shard", of[m][2]}};
        compare(pairs, 3, m == 0 && world->size > 1);
    }
}

static void test_guard(void **state)
{
    (void)state;
    const char *const guard[][2] = {{"run.device", "guard"}, {"model.name", "cl4srec"}};
    compare(guard, 2, false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_models), cmocka_unit_test(test_guard)};
    if (mr_comm_mpi_world(&world) != MR_OK) return 1;
    mr_log_init(world->rank, MR_LOG_ERROR);
    int bad = cmocka_run_group_tests(tests, NULL, NULL);
    mr_comm_destroy(&world);
    mr_comm_finalize();
    return bad;
}
