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

mr_trainer *pair_trainer(const mr_config *c, const mr_dataset *data, mr_comm *world,
                         const char *device)
{
    mr_trainer *t = NULL;
    mr_trainer_opts o = {
        .stochastic = true, .optimizer = true, .whole_steps = true, .device = device};
    OK(mr_trainer_create(&t, c, data, world, &o));
    return t;
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
