/* Configuration: defaults, round trips, priority, hash, relations. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include <jansson.h>

#include "base/config_table.h"
#include "config_test.h"

char config_test_path[64];

mr_status config_test_load_bytes(mr_config *c, const void *bytes, size_t n)
{
    FILE *f = fopen(config_test_path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
    return mr_config_load(c, config_test_path);
}

mr_status config_test_load(mr_config *c, const char *text)
{
    return config_test_load_bytes(c, text, strlen(text));
}

bool config_test_equal(const mr_config *a, const mr_config *b)
{
    char x[MR_OPT_TEXT], y[MR_OPT_TEXT];
    for (int i = 0; i < mr_config_count(); i++) {
        mr_config_format(a, i, x, sizeof x);
        mr_config_format(b, i, y, sizeof y);
        if (strcmp(x, y) != 0) return false;
    }
    return true;
}

int config_test_index(const char *key)
{
    for (int i = 0; i < mr_config_count(); i++)
        if (strcmp(mr_config_key(i), key) == 0) return i;
    fail_msg("no key %s", key);
    return -1;
}

/* Values that differ from the defaults and satisfy mr_config_check all together. */
static const char *const other_values[][2] = {{"run.name", "a \"b\" \\ c: #d é"},
                                              {"run.dir", "/tmp/x y"},
                                              {"run.seed", "9007199254740993"},
                                              {"run.device", "cuda"},
                                              {"run.precision", "bf16"},
                                              {"run.capture", "true"},
                                              {"data.path", "a/b.h5"},
                                              {"data.read", "rank0"},
                                              {"data.features", "shard"},
                                              {"data.max_len", "50"},
                                              {"data.frames_noise", "0.3"},
                                              {"model.name", "tedrec"},
                                              {"model.backbone", "cl4srec"},
                                              {"model.hidden", "64"},
                                              {"model.layers", "3"},
                                              {"model.heads", "4"},
                                              {"model.inner", "128"},
                                              {"model.dropout", "0.1"},
                                              {"model.attention_dropout", "0"},
                                              {"tcd.enabled", "false"},
                                              {"tcd.heads", "4"},
                                              {"tcd.inner", "512"},
                                              {"tcd.dropout", "0.25"},
                                              {"tcd.unet_width", "64"},
                                              {"tcd.gamma", "0.333333333333333315"},
                                              {"tcd.lambda", "0.7"},
                                              {"tcd.detach_target", "true"},
                                              {"npd.enabled", "false"},
                                              {"npd.heads", "8"},
                                              {"npd.inner", "64"},
                                              {"npd.dropout", "0.05"},
                                              {"npd.block", "horizon"},
                                              {"npd.lambda", "1e-2"},
                                              {"npd.detach_target", "true"},
                                              {"cl4srec.weight", "0.2"},
                                              {"cl4srec.temperature", "0.5"},
                                              {"cl4srec.crop", "1"},
                                              {"cl4srec.mask", "0"},
                                              {"cl4srec.reorder", "0.2"},
                                              {"tedrec.experts", "4"},
                                              {"tedrec.temperature", "0.1"},
                                              {"tedrec.dropout", "0.3"},
                                              {"diffusion.steps", "25"},
                                              {"diffusion.schedule", "cosine"},
                                              {"diffusion.beta_start", "2.5e-4"},
                                              {"diffusion.beta_end", "0.03"},
                                              {"diffusion.t_set", "[5, 10, 15]"},
                                              {"diffusion.noise", "false"},
                                              {"diffusion.start", "x0"},
                                              {"diffusion.mix", "0.1"},
                                              {"train.batch", "512"},
                                              {"train.epochs", "3"},
                                              {"train.max_steps", "100"},
                                              {"train.lr", "3.0000000000000004e-5"},
                                              {"train.beta1", "0.8"},
                                              {"train.beta2", "0.99"},
                                              {"train.eps", "1e-9"},
                                              {"train.weight_decay", "0.01"},
                                              {"train.clip", "1"},
                                              {"train.patience", "3"},
                                              {"train.valid_metric", "mrr@5"},
                                              {"train.topk", "[5, 50]"},
                                              {"train.log_every", "1"},
                                              {"train.mask_seen", "true"},
                                              {"train.eval_batch", "128"},
                                              {"dist.comm", "nccl"},
                                              {"dist.bind", "cores"},
                                              {"dist.item_shard", "4"},
                                              {"dist.exchange", "fixed"},
                                              {"dist.exchange_rows", "77"},
                                              {"dist.virtual_shards", "128"},
                                              {"dist.bucket_mb", "0.5"},
                                              {"dist.deterministic", "world"},
                                              {"dist.hang_limit", "60"},
                                              {"dist.check_every", "10"},
                                              {"dist.exchange", "fixed"},
                                              {"checkpoint.every_epochs", "5"},
                                              {"checkpoint.every_minutes", "10"},
                                              {"checkpoint.async", "false"},
                                              {"checkpoint.stop_before", "300"},
                                              {"checkpoint.keep", "7"},
                                              {"checkpoint.resume", "runs/a/checkpoints/latest"},
                                              {"checkpoint.max_restarts", "2"}};

static const char *other_value(const char *key)
{
    for (size_t i = 0; i < sizeof other_values / sizeof other_values[0]; i++)
        if (strcmp(other_values[i][0], key) == 0) return other_values[i][1];
    fail_msg("add a value for the new key %s to this test", key);
    return NULL;
}

static void set_all(mr_config *c)
{
    mr_config_defaults(c);
    for (int i = 0; i < mr_config_count(); i++)
        assert_int_equal(mr_config_set(c, mr_config_key(i), other_value(mr_config_key(i)), "test"),
                         MR_OK);
}

static void test_defaults(void **state)
{
    (void)state;
    mr_config c;
    mr_config_defaults(&c);
    assert_int_equal(mr_config_check(&c), MR_OK);
    assert_string_equal(c.run.name, "demo");
    assert_int_equal(c.run.seed, 2020);
    assert_int_equal(c.model.name, MR_MODEL_MEALREC);
    assert_int_equal(c.model.backbone, MR_BACKBONE_TEDREC);
    assert_int_equal(c.model.hidden, 300);
    assert_true(c.tcd.enabled && c.npd.enabled && !c.npd.detach_target && c.diffusion.noise);
    assert_int_equal(c.npd.block, MR_NPD_TRANSFORMER);
    assert_true(c.train.lr == 1e-3 && c.diffusion.beta_start == 1e-4 && c.tcd.gamma == 0.9);
    assert_int_equal(c.train.topk.n, 2);
    assert_int_equal(c.train.topk.v[1], 20);
    assert_int_equal(c.diffusion.t_set.n, 0);
    assert_int_equal(c.diffusion.schedule, MR_SCHED_LINEAR);
    assert_int_equal(c.diffusion.start, MR_START_CORRUPTED);
    assert_int_equal(c.dist.deterministic, MR_DET_RUN);
    assert_string_equal(c.dist.item_shard, "auto");
    assert_string_equal(mr_config_origin(0), "default");
}

/* The words of options.def in the order of the enums in config.h. */
static void test_words(void **state)
{
    (void)state;
    static const struct {
        const char *key, *word;
        int value;
    } known[] = {{"model.name", "sasrec", MR_MODEL_SASREC},
                 {"model.name", "cl4srec", MR_MODEL_CL4SREC},
                 {"model.name", "tedrec", MR_MODEL_TEDREC},
                 {"model.backbone", "sasrec", MR_BACKBONE_SASREC},
                 {"model.backbone", "cl4srec", MR_BACKBONE_CL4SREC},
                 {"npd.block", "horizon", MR_NPD_HORIZON},
                 {"diffusion.schedule", "cosine", MR_SCHED_COSINE},
                 {"diffusion.schedule", "sqrt", MR_SCHED_SQRT},
                 {"diffusion.schedule", "trunc_lin", MR_SCHED_TRUNC_LIN},
                 {"diffusion.schedule", "scaled", MR_SCHED_SCALED},
                 {"diffusion.start", "noise", MR_START_NOISE},
                 {"diffusion.start", "x0", MR_START_X0},
                 {"dist.deterministic", "fast", MR_DET_FAST},
                 {"dist.deterministic", "world", MR_DET_WORLD}};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        mr_config c;
        mr_config_defaults(&c);
        assert_int_equal(mr_config_set(&c, known[i].key, known[i].word, "test"), MR_OK);
        const mr_opt *o = &mr_opt_table[config_test_index(known[i].key)];
        assert_int_equal(*(int *)((char *)&c + o->offset_bytes), known[i].value);
    }
}

/* yaml -> struct -> yaml, by both writers, for defaults and for all values changed. */
static void check_round_trip(const mr_config *c, void (*write)(const mr_config *, FILE *))
{
    char *text = NULL, *again = NULL;
    size_t n = 0, m = 0;
    FILE *f = open_memstream(&text, &n);
    write(c, f);
    fclose(f);
    mr_config back;
    mr_config_defaults(&back);
    assert_int_equal(config_test_load(&back, text), MR_OK);
    assert_true(config_test_equal(c, &back));
    assert_true(mr_config_hash(c) == mr_config_hash(&back));
    assert_int_equal(memcmp(&c->train.lr, &back.train.lr, sizeof(double)), 0);
    assert_int_equal(c->run.seed, back.run.seed);
    f = open_memstream(&again, &m);
    mr_config_write_yaml(&back, f);
    fclose(f);
    if (write == mr_config_write_yaml) assert_string_equal(text, again);
    free(text);
    free(again);
}

static void test_round_trip(void **state)
{
    (void)state;
    mr_config c, standard;
    mr_config_defaults(&c);
    check_round_trip(&c, mr_config_write_yaml);
    standard = c;
    set_all(&c);
    check_round_trip(&c, mr_config_write_yaml);
    check_round_trip(&c, mr_config_show);
    for (int i = 0; i < mr_config_count(); i++) {
        char x[MR_OPT_TEXT], y[MR_OPT_TEXT];
        mr_config_format(&c, i, x, sizeof x);
        mr_config_format(&standard, i, y, sizeof y);
        if (strcmp(x, y) == 0) fail_msg("%s is not changed by this test", mr_config_key(i));
    }
}

static void test_json(void **state)
{
    (void)state;
    mr_config c;
    set_all(&c);
    char *text = mr_config_json(&c);
    json_error_t e;
    json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, &e);
    if (!root) fail_msg("%s in %s", e.text, text);
    size_t n = 0;
    const char *section;
    json_t *keys;
    json_object_foreach(root, section, keys) n += json_object_size(keys);
    assert_int_equal(n, mr_config_count());
    json_t *train = json_object_get(root, "train"), *run = json_object_get(root, "run");
    assert_true(json_real_value(json_object_get(train, "lr")) == c.train.lr);
    assert_int_equal(json_integer_value(json_array_get(json_object_get(train, "topk"), 1)), 50);
    assert_string_equal(json_string_value(json_object_get(run, "name")), c.run.name);
    assert_int_equal(json_integer_value(json_object_get(run, "seed")), c.run.seed);
    assert_true(json_is_false(json_object_get(json_object_get(root, "npd"), "enabled")));
    json_decref(root);
    free(text);
}

static void test_styles(void **state)
{
    (void)state;
    mr_config c;
    mr_config_defaults(&c);
    assert_int_equal(config_test_load(&c,
                                      "train: {lr: 1e-3, topk: [5, 10], valid_metric: 'hit@5'}\n"
                                      "model:\n  hidden: 64\n  dropout: \"0.25\"\n"
                                      "diffusion:\n  t_set:\n    - 5\n    - 25\n"
                                      "npd:\n"
                                      "tcd: {}\n"),
                     MR_OK);
    assert_true(c.train.lr == 1e-3 && c.model.dropout == 0.25);
    assert_int_equal(c.train.topk.n, 2);
    assert_int_equal(c.diffusion.t_set.v[1], 25);
    assert_int_equal(c.model.hidden, 64);
    assert_string_equal(c.train.valid_metric, "hit@5");
    char origin[96];
    snprintf(origin, sizeof origin, "%s:3", config_test_path);
    assert_string_equal(mr_config_origin(config_test_index("model.hidden")), origin);
    snprintf(origin, sizeof origin, "%s:6", config_test_path);
    assert_string_equal(mr_config_origin(config_test_index("diffusion.t_set")), origin);
    assert_int_equal(config_test_load(&c, "# nothing\n"), MR_OK);
    assert_int_equal(config_test_load(&c, ""), MR_OK);
    assert_int_equal(config_test_load(&c, "%YAML 1.1\n---\nrun: {name: on}\n...\n"), MR_OK);
    assert_string_equal(c.run.name, "on");
    assert_int_equal(mr_config_set(&c, "train.topk", "7", "test"), MR_OK);
    assert_int_equal(c.train.topk.v[0], 7);
    assert_int_equal(mr_config_set(&c, "train.topk", "1,2 , 3", "test"), MR_OK);
    assert_int_equal(c.train.topk.n, 3);
}

static void test_priority(void **state)
{
    (void)state;
    mr_config c;
    mr_config_defaults(&c);
    assert_int_equal(config_test_load(&c, "train: {lr: 0.1, epochs: 1}\n"), MR_OK);
    assert_int_equal(config_test_load(&c, "\ntrain: {epochs: 2, patience: 2}\n"), MR_OK);
    assert_int_equal(mr_config_set(&c, "train.patience", "3", "command line"), MR_OK);
    assert_true(c.train.lr == 0.1);
    assert_int_equal(c.train.epochs, 2);
    assert_int_equal(c.train.patience, 3);
    assert_int_equal(c.train.batch, 2048);
    const char *origin = mr_config_origin(config_test_index("train.epochs"));
    assert_string_equal(origin + strlen(origin) - 2, ":2");
    assert_string_equal(mr_config_origin(config_test_index("train.patience")), "command line");
    assert_string_equal(mr_config_origin(config_test_index("train.batch")), "default");
}

/* The keys that may differ between a checkpoint and the run that continues it; all others are part
 * of the run's identity. */
static void test_hash(void **state)
{
    (void)state;
    static const char *const free_keys[] = {"run.name",
                                            "run.dir",
                                            "run.device",
                                            "data.path",
                                            "train.epochs",
                                            "train.max_steps",
                                            "train.patience",
                                            "train.log_every",
                                            "train.eval_batch",
                                            "run.capture",
                                            "data.read",
                                            "data.features",
                                            "dist.comm",
                                            "dist.bind",
                                            "dist.item_shard",
                                            "dist.exchange",
                                            "dist.exchange_rows",
                                            "data.features",
                                            "dist.bucket_mb",
                                            "dist.deterministic",
                                            "dist.hang_limit",
                                            "dist.check_every",
                                            "dist.exchange",
                                            "checkpoint.every_epochs",
                                            "checkpoint.every_minutes",
                                            "checkpoint.async",
                                            "checkpoint.stop_before",
                                            "checkpoint.keep",
                                            "checkpoint.resume",
                                            "checkpoint.max_restarts"};
    mr_config standard, c;
    mr_config_defaults(&standard);
    uint64_t base = mr_config_hash(&standard), seen[128];
    int n = 0;
    for (int i = 0; i < mr_config_count(); i++) {
        const char *key = mr_config_key(i);
        bool is_free = false;
        for (size_t k = 0; k < sizeof free_keys / sizeof free_keys[0]; k++)
            is_free |= strcmp(free_keys[k], key) == 0;
        c = standard;
        assert_int_equal(mr_config_set(&c, key, other_value(key), "test"), MR_OK);
        uint64_t h = mr_config_hash(&c);
        if ((h == base) != is_free) fail_msg("%s: wrong effect on the hash", key);
        if (is_free) continue;
        for (int k = 0; k < n; k++) assert_true(seen[k] != h);
        seen[n++] = h;
    }
    c = standard;
    assert_int_equal(mr_config_set(&c, "train.lr", "0.001", "test"), MR_OK);
    assert_int_equal(mr_config_set(&c, "data.frames_noise", "-0", "test"), MR_OK);
    assert_true(mr_config_hash(&c) == base);
}

static void test_nearest(void **state)
{
    (void)state;
    static const char *const words[] = {"train", "eval", "export", "recommend"};
    assert_string_equal(mr_nearest_word("trian", words, 4), "train");
    assert_string_equal(mr_nearest_word("recomend", words, 4), "recommend");
    assert_string_equal(mr_nearest_word("xport", words, 4), "export");
    assert_null(mr_nearest_word("frobnicate", words, 4));
    assert_null(mr_nearest_word("", words, 4));
    char long_word[300];
    memset(long_word, 'x', sizeof long_word - 1);
    long_word[299] = 0;
    assert_null(mr_nearest_word(long_word, words, 4));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),   cmocka_unit_test(test_words),
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_json),
        cmocka_unit_test(test_styles),     cmocka_unit_test(test_priority),
        cmocka_unit_test(test_hash),       cmocka_unit_test(test_nearest)};
    snprintf(config_test_path, sizeof config_test_path, "/tmp/mr_config_%d.yaml", (int)getpid());
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    failed += config_error_tests();
    unlink(config_test_path);
    return failed;
}
