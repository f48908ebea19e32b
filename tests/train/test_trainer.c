/* The trainer as a whole: shared against private memory, overfitting, what the reverse chain's
 * mixture means, the loop's stop at the end of an epoch. Tiny widths, synthetic data. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/log.h"
#include "base/mem.h"
#include "data/synth.h"
#include "train/loop.h"

static mr_comm *world;

#define OK(call) assert_int_equal((call), MR_OK)

static void set(mr_config *c, const char *key, const char *value)
{
    OK(mr_config_set(c, key, value, "test"));
}

/* Small widths; NULL ends the list of further keys and values. */
static void configure(mr_config *c, ...)
{
    static const char *const small[][2] = {
        {"model.hidden", "12"},   {"model.inner", "16"},
        {"model.dropout", "0.2"}, {"model.attention_dropout", "0.2"},
        {"tcd.unet_width", "16"}, {"tcd.heads", "4"},
        {"npd.inner", "16"},      {"diffusion.steps", "3"},
        {"train.batch", "64"}};
    va_list ap;
    mr_config_defaults(c);
    for (size_t i = 0; i < sizeof small / sizeof *small; i++) set(c, small[i][0], small[i][1]);
    va_start(ap, c);
    for (const char *key; (key = va_arg(ap, const char *));) set(c, key, va_arg(ap, const char *));
    va_end(ap);
    OK(mr_config_check(c));
}

static void make_data(mr_dataset *d, int64_t users, int64_t items, int64_t inter)
{
    mr_synth_spec s;
    OK(mr_synth_spec_for("demo", &s));
    s.users = users;
    s.items = items;
    s.inter = inter;
    s.frames = 3;
    s.width = 16;
    s.text_width = 10;
    OK(mr_synth(d, &s));
}

static mr_trainer *make_trainer(const mr_config *c, const mr_dataset *d, const char *device,
                                bool is_private)
{
    mr_trainer *t = NULL;
    mr_trainer_opts o = {
        .stochastic = true, .optimizer = true, .is_private = is_private, .device = device};
    OK(mr_trainer_create(&t, c, d, world, &o));
    return t;
}

/* ---- shared buffers of the plan ---- */
typedef struct model {
    const char *name, *backbone, *tcd, *npd, *block;
} model;

static const model models[] = {
    {"sasrec", "sasrec", "true", "true", "transformer"},
    {"cl4srec", "sasrec", "true", "true", "transformer"},
    {"tedrec", "sasrec", "true", "true", "transformer"},
    {"mealrec", "sasrec", "true", "true", "transformer"},
    {"mealrec", "cl4srec", "true", "true", "transformer"},
    {"mealrec", "tedrec", "true", "true", "transformer"},
    {"mealrec", "tedrec", "false", "true", "transformer"},
    {"mealrec", "tedrec", "true", "false", "transformer"},
    {"mealrec", "tedrec", "false", "false", "transformer"},
    {"mealrec", "sasrec", "true", "true", "horizon"},
};

static void configure_model(mr_config *c, const model *m, const char *more, const char *value)
{
    configure(c, "model.name", m->name, "model.backbone", m->backbone, "tcd.enabled", m->tcd,
              "npd.enabled", m->npd, "npd.block", m->block, more, value, NULL);
}

/* The same steps with every buffer of its own, poisoned, and with the shared workspace: same bits.
 */
static void private_memory_changes_nothing(void **state)
{
    static mr_config c;
    mr_dataset d = {0};
    (void)state;
    make_data(&d, 40, 30, 320);
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        configure_model(&c, &models[i], "train.weight_decay", "0.01");
        mr_trainer *shared = make_trainer(&c, &d, "cpu", false);
        mr_trainer *private = make_trainer(&c, &d, "cpu", true);
        assert_true(private->train_plan->ws_bytes > shared->train_plan->ws_bytes);
        for (int s = 0; s < 4; s++) {
            OK(mr_trainer_step(shared, 0, s % 3));
            OK(mr_trainer_step(private, 0, s % 3));
            assert_memory_equal(shared->losses, private->losses, sizeof shared->losses);
            assert_true(isfinite(mr_trainer_total_loss(shared)));
        }
        size_t bytes = (size_t)shared->params.n_total * shared->params.real_bytes;
        assert_memory_equal(shared->params.value, private->params.value, bytes);
        mr_trainer_free(&shared);
        mr_trainer_free(&private);
    }
    mr_dataset_free(&d);
}

/* No gradient of what was read from frozen features is ever made. */
static void frozen_features_have_no_gradient(void **state)
{
    static mr_config c;
    mr_dataset d = {0};
    int seen = 0;
    (void)state;
    make_data(&d, 40, 30, 320);
    configure_model(&c, &models[5], NULL, NULL);
    mr_trainer *t = make_trainer(&c, &d, "cpu", false);
    for (int i = 0; i < t->train_graph->n_nodes; i++) {
        const char *op = t->train_graph->node[i].op->name;
        if (strcmp(op, "frames") && strcmp(op, "context") && strncmp(op, "text_", 5)) continue;
        assert_false(t->train_plan->needs_grad[i]);
        assert_true(t->train_plan->grad[i].offset < 0);
        seen++;
    }
    assert_int_equal(seen, 4);
    mr_trainer_free(&t);
    mr_dataset_free(&d);
}

/* ---- draws go by these numbers: where layers are joined, dropout stays what it was ---- */
static void draws_keep_their_numbers(void **state)
{
    static const struct {
        const char *label;
        int number;
    } nodes[] = {{"encoder.0.attention", 5},
                 {"encoder.1.attention", 14},
                 {"tcd.encoder.attention", 25},
                 {"npd.block.attention", 100}};
    static mr_config c;
    mr_dataset d = {0};
    (void)state;
    make_data(&d, 8, 20, 56);
    configure(&c, "model.backbone", "sasrec", NULL);
    mr_trainer *t = make_trainer(&c, &d, "cpu", false);
    for (size_t k = 0; k < sizeof nodes / sizeof *nodes; k++) {
        int found = 0;
        for (int id = 0; id < t->train_graph->n_nodes; id++) {
            const mr_node *n = mr_node_at(t->train_graph, id);
            if (strcmp(n->label, nodes[k].label)) continue;
            assert_int_equal(n->number, nodes[k].number);
            found++;
        }
        assert_int_equal(found, 1);
    }
    mr_trainer_free(&t);
    mr_dataset_free(&d);
}

/* ---- 32 rows can be learnt by heart ---- */
static void overfits_one_batch(void **state)
{
    static mr_config c;
    mr_dataset d = {0};
    (void)state;
    make_data(&d, 8, 20, 56); /* 56 - 3 * 8 = 32 rows */
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        configure_model(&c, &models[i], "model.dropout", "0");
        set(&c, "model.attention_dropout", "0");
        set(&c, "tedrec.dropout", "0");
        set(&c, "tcd.dropout", "0");
        set(&c, "npd.dropout", "0");
        set(&c, "train.lr", "0.01");
        set(&c, "cl4srec.weight", "0.01");
        mr_trainer *t = make_trainer(&c, &d, "cpu", false);
        int rank = mr_trainer_loss_index(t, "rank");
        assert_true(rank >= 0);
        assert_int_equal(mr_sampler_rows(t->sampler), 32);
        OK(mr_trainer_step(t, 0, 0));
        double first = t->losses[rank];
        double least = first; /* at this learning rate a loss jumps up again now and then */
        for (int s = 1; s < 400; s++) {
            OK(mr_trainer_step(t, s, 0));
            if (t->losses[rank] < least) least = t->losses[rank];
        }
        print_message("%s on %s, tcd %s, npd %s %s: %.4f -> %.5f\n", models[i].name,
                      models[i].backbone, models[i].tcd, models[i].npd, models[i].block, first,
                      least);
        assert_true(first > 2.0 && least < 0.1);
        mr_trainer_free(&t);
    }
    mr_dataset_free(&d);
}

/* ---- mix = 1: the user vector is the backbone's ---- */
static int32_t *ranks_of(mr_trainer *t, mr_split split, mr_metrics *m)
{
    int32_t *rank = NULL;
    OK(MR_ALLOC(&rank, t->data->n_users, "ranks"));
    mr_evaluation what = {.split = split, .user_rank = rank};
    OK(mr_evaluate(t, &what, m));
    return rank;
}

/* Parameters of `to` from those of the same name in `from`, both in host memory. */
static void copy_parameters(mr_trainer *to, const mr_trainer *from)
{
    size_t real = to->params.real_bytes;
    for (int i = 0; i < to->params.n; i++) {
        const mr_param *p = &to->params.p[i];
        int k = mr_param_find(&from->params, p->name);
        assert_true(k >= 0 && from->params.p[k].count == p->count);
        memcpy((char *)to->params.value + p->offset * (int64_t)real,
               (char *)from->params.value + from->params.p[k].offset * (int64_t)real,
               (size_t)p->count * real);
    }
}

static void whole_mixture_is_the_backbone(void **state)
{
    static mr_config full, alone;
    static mr_metrics a, b, other;
    mr_dataset d = {0};
    static const char *const backbones[] = {"sasrec", "cl4srec", "tedrec"};
    (void)state;
    make_data(&d, 80, 60, 700);
    for (int i = 0; i < 3; i++) {
        configure(&full, "model.backbone", backbones[i], "tcd.lambda", "0", "npd.lambda", "0",
                  "diffusion.mix", "1", NULL);
        configure(&alone, "model.name", backbones[i], NULL);
        mr_trainer *m = make_trainer(&full, &d, "cpu64", false);
        mr_trainer *s = make_trainer(&alone, &d, "cpu64", false);
        for (int k = 0; k < 20; k++) OK(mr_trainer_step(m, 0, k % 5));
        copy_parameters(s, m);
        for (mr_split split = MR_SPLIT_VALID; split <= MR_SPLIT_TEST; split++) {
            int32_t *x = ranks_of(m, split, &a), *y = ranks_of(s, split, &b);
            assert_memory_equal(x, y, (size_t)d.n_users * sizeof *x);
            assert_memory_equal(&a, &b, sizeof a);
            assert_int_equal(a.rows, d.n_users);
            MR_FREE(x);
            MR_FREE(y);
        }
        /* And the reverse chain does matter without the mixture. */
        set(&full, "diffusion.mix", "0");
        mr_trainer *z = make_trainer(&full, &d, "cpu64", false);
        copy_parameters(z, m);
        int32_t *x = ranks_of(z, MR_SPLIT_TEST, &other);
        assert_memory_not_equal(&other, &b, sizeof b);
        MR_FREE(x);
        mr_trainer_free(&z);
        mr_trainer_free(&m);
        mr_trainer_free(&s);
    }
    mr_dataset_free(&d);
}

/* ---- a stop that comes when an epoch has just been checkpointed ---- */
static mr_status loop_in(mr_trainer *t, const char *dir, bool is_resumed,
                         volatile sig_atomic_t *stop, mr_train_state *end)
{
    mr_loop *l = NULL;
    char *json = mr_config_json(t->cfg);
    OK(MR_ALLOC(&l, 1, "loop"));
    *l = (mr_loop){
        .t = t, .checkpoint_dir = dir, .config_json = json, .title = "test", .stop = stop};
    l->state = mr_loop_state(t->cfg, t->data);
    if (is_resumed) OK(mr_checkpoint_load(dir, &t->params, &l->state, world));
    mr_status st = mr_loop_run(l);
    *end = l->state;
    MR_FREE(l);
    free(json);
    return st;
}

static void stops_at_the_end_of_an_epoch(void **state)
{
    static mr_config c;
    mr_dataset d = {0};
    mr_train_state end;
    char dir[] = "/tmp/mealrec-loop-XXXXXX", command[80];
    volatile sig_atomic_t go = 0, stop = 1;
    (void)state;
    assert_non_null(mkdtemp(dir));
    make_data(&d, 40, 30, 320); /* 200 rows: 4 batches an epoch */
    configure(&c, "model.name", "sasrec", "train.epochs", "1", NULL);
    mr_trainer *t = make_trainer(&c, &d, "cpu", false);
    OK(loop_in(t, dir, false, &go, &end));
    assert_int_equal(end.step, 4);
    assert_int_equal(end.epoch, 1);
    mr_trainer_free(&t);
    /* Raised limit, stopped before the first step: the checkpoint of step 4 is there already. */
    set(&c, "train.epochs", "3");
    t = make_trainer(&c, &d, "cpu", false);
    assert_int_equal(loop_in(t, dir, true, &stop, &end), MR_STOPPED);
    assert_int_equal(end.step, 4);
    mr_trainer_free(&t);
    t = make_trainer(&c, &d, "cpu", false);
    OK(loop_in(t, dir, true, &go, &end));
    assert_int_equal(end.step, 12);
    mr_trainer_free(&t);
    /* Where no checkpoint can be written a stop is an error, not "checkpoint complete". */
    set(&c, "train.epochs", "4");
    t = make_trainer(&c, &d, "cpu", false);
    mr_errors_to_log(false);
    OK(mr_checkpoint_load(dir, &t->params, NULL, world));
    assert_int_equal(loop_in(t, "/dev/null", false, &stop, &end), MR_ERR_IO);
    mr_errors_to_log(true);
    mr_trainer_free(&t);
    mr_dataset_free(&d);
    snprintf(command, sizeof command, "rm -r %s", dir);
    assert_int_equal(system(command), 0);
}

/* checkpoint.every_minutes: the last checkpoint is long ago, so one is due after the first step. */
static void saves_by_the_clock(void **state)
{
    static mr_config c;
    mr_dataset d = {0};
    static const char *const minutes[] = {"0", "1"};
    (void)state;
    make_data(&d, 40, 30, 320); /* 4 batches an epoch */
    for (int i = 0; i < 2; i++) {
        char dir[] = "/tmp/mealrec-loop-XXXXXX", path[80];
        assert_non_null(mkdtemp(dir));
        configure(&c, "model.name", "sasrec", "train.epochs", "1", "checkpoint.every_minutes",
                  minutes[i], NULL);
        mr_trainer *t = make_trainer(&c, &d, "cpu", false);
        mr_loop *l = NULL;
        OK(MR_ALLOC(&l, 1, "loop"));
        *l = (mr_loop){.t = t, .checkpoint_dir = dir, .title = "test", .saved_at = -1e9};
        l->state = mr_loop_state(&c, &d);
        OK(mr_loop_run(l));
        MR_FREE(l);
        mr_trainer_free(&t);
        snprintf(path, sizeof path, "%s/step-000000001", dir);
        assert_int_equal(access(path, F_OK) == 0, i == 1);
        snprintf(path, sizeof path, "%s/step-000000002", dir);
        assert_int_not_equal(access(path, F_OK), 0);
        snprintf(path, sizeof path, "rm -r %s", dir);
        assert_int_equal(system(path), 0);
    }
    mr_dataset_free(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frozen_features_have_no_gradient),
        cmocka_unit_test(private_memory_changes_nothing),
        cmocka_unit_test(draws_keep_their_numbers),
        cmocka_unit_test(overfits_one_batch),
        cmocka_unit_test(whole_mixture_is_the_backbone),
        cmocka_unit_test(stops_at_the_end_of_an_epoch),
        cmocka_unit_test(saves_by_the_clock),
    };
    mr_log_init(-1, MR_LOG_ERROR);
    if (mr_comm_self(&world) != MR_OK) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    mr_comm_destroy(&world);
    return failed;
}
