/* Two trainers and what must be alike. */
#include "trainer_pair.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/mem.h"
#include "train/evaluate.h"

#define OK(call) assert_int_equal((call), MR_OK)

void pair_small_model(mr_config *c)
{
    static const char *const words[][2] = {{"model.hidden", "8"},    {"model.inner", "8"},
                                           {"tcd.unet_width", "16"}, {"tcd.heads", "2"},
                                           {"npd.inner", "8"},       {"diffusion.steps", "2"}};
    mr_config_defaults(c);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        OK(mr_config_set(c, words[i][0], words[i][1], "test"));
}

static mr_trainer *make(const mr_config *c, const mr_dataset *data, mr_comm *world,
                        const char *device, int64_t tokens)
{
    mr_trainer *t = NULL;
    mr_trainer_opts o = {.stochastic = true,
                         .optimizer = true,
                         .whole_steps = true,
                         .device = device,
                         .tokens = tokens};
    OK(mr_trainer_create(&t, c, data, world, &o));
    return t;
}

mr_trainer *pair_trainer(const mr_config *c, const mr_dataset *data, mr_comm *world,
                         const char *device)
{
    return make(c, data, world, device, 0);
}

bool pair_has_same_values(mr_trainer *a, mr_trainer *b)
{
    mr_trainer *who[2] = {a, b};
    char *x[2] = {NULL, NULL};
    size_t n = (size_t)a->params.n_total * a->params.real_bytes;
    assert_int_equal(a->params.n_total, b->params.n_total);
    for (int i = 0; i < 2; i++) {
        OK(MR_ALLOC(&x[i], (int64_t)n, "values"));
        OK(who[i]->dev->to_host(who[i]->dev, x[i], who[i]->params.value, n));
    }
    bool same = !memcmp(x[0], x[1], n);
    MR_FREE(x[0]);
    MR_FREE(x[1]);
    return same;
}

void pair_assert_same_scores(mr_trainer *a, mr_trainer *b)
{
    enum { K = 5 };
    mr_topk top[2] = {{.k = K}, {.k = K}};
    mr_metrics m[2];
    mr_trainer *who[2] = {a, b};
    int64_t n = a->data->n_users * K;
    for (int i = 0; i < 2; i++) {
        OK(MR_ALLOC(&top[i].id, n, "ids"));
        OK(MR_ALLOC(&top[i].score, n, "scores"));
        mr_evaluation what = {.split = MR_SPLIT_TEST, .topk = &top[i]};
        OK(mr_evaluate(who[i], &what, &m[i]));
    }
    assert_memory_equal(top[0].id, top[1].id, (size_t)n * sizeof *top[0].id);
    assert_memory_equal(top[0].score, top[1].score, (size_t)n * sizeof *top[0].score);
    for (int i = 0; i < 2; i++) {
        MR_FREE(top[i].id);
        MR_FREE(top[i].score);
    }
}

/* Tokens that all ranks compute with for batch i of epoch 0. */
static int64_t tokens_of(mr_trainer *t, int64_t i)
{
    mr_batch *b = &t->batch;
    mr_sampler_get(t->sampler, 0, i, 0, b);
    int64_t n = b->seq[0].tokens + b->rows_cap - b->rows;
    OK(t->world->allreduce(t->world, &n, 1, MR_I64, MR_MAX));
    return mr_run_rounded(n, b->rows_cap * b->L);
}

void pair_little_room(const mr_config *c, mr_trainer *other)
{
    enum { SHORT = 4, STEPS = 8 };
    int64_t few = 0, many = 0, room[2];
    for (int64_t i = 1; i < mr_sampler_batches(other->sampler); i++) {
        int64_t n = tokens_of(other, i);
        if (n < tokens_of(other, few)) few = i;
        if (n > tokens_of(other, many)) many = i;
    }
    room[0] = tokens_of(other, few);
    room[1] = tokens_of(other, many);
    assert_true(room[0] < room[1] && room[1] < other->train_graph->dims.tokens_cap);
    mr_trainer *t = make(c, other->data, other->world, NULL, room[0]);
    for (int64_t i = 0; i < STEPS; i++) {
        int64_t number = t->train_run->number, batch = i >= SHORT && i % 2 == 0 ? many : few;
        if (i == SHORT) pair_assert_same_scores(t, other);
        if (i == SHORT) assert_true(t->dev->counts.replayed > 0);
        OK(mr_trainer_step_and(t, 0, batch, i + 1 < SHORT ? few : many));
        OK(mr_trainer_step(other, 0, batch));
        assert_memory_equal(t->losses, other->losses, sizeof t->losses);
        assert_int_equal(t->train_graph->dims.tokens_cap, room[i >= SHORT]);
        assert_int_equal(t->train_run->number != number, i == SHORT);
    }
    assert_true(pair_has_same_values(t, other));
    pair_assert_same_scores(t, other);
    mr_trainer_free(&t);
}
