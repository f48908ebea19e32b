/* Configuration: every way to be wrong gives one sentence with place, value and what is accepted.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/mem.h"
#include "config_test.h"

/* text: the file; where: "" or ":LINE"; says: the rest of the message, both must occur in it. */
typedef struct bad_file {
    const char *text, *where, *says;
} bad_file;

static const bad_file files[] = {
    {"model:\n  hidden: 1.5\n", ":2",
     "model.hidden = '1.5' is not an integer; accepted: an integer, "
     "1 <= n <= 8192"},
    {"model:\n  hidden: 1e3\n", ":2", "model.hidden = '1e3' is not an integer"},
    {"model:\n\n  hidden: 0\n", ":3",
     "model.hidden = '0' is out of range; accepted: an integer, 1 <= "
     "n <= 8192"},
    {"run: {seed: -1}", ":1", "run.seed = '-1' is out of range; accepted: an integer, n >= 0"},
    {"run: {seed: 99999999999999999999}", ":1", "out of range"},
    {"model: {dropout: 1}", ":1",
     "model.dropout = '1' is out of range; accepted: a number, 0 <= x < 1"},
    {"model: {dropout: nan}", ":1", "model.dropout = 'nan' is not a number"},
    {"model: {dropout: .inf}", ":1", "is not a number"},
    {"model: {dropout: 0x1p-2}", ":1", "is not a number"},
    {"train: {lr: 1e-3x}", ":1", "train.lr = '1e-3x' is not a number"},
    {"train: {lr: '1 '}", ":1", "is not a number"},
    {"train: {lr: 1e999}", ":1", "train.lr = '1e999' is out of range"},
    {"train: {eps: 0}", ":1", "train.eps = '0' is out of range; accepted: a number, 0 < x <= 1"},
    {"train: {lr: }", ":1", "train.lr has no value; accepted: a number, 0 <= x <= 10"},
    {"data:\n  path:\n", ":2", "data.path has no value; accepted: a path"},
    {"tcd: {enabled: yes}", ":1",
     "tcd.enabled = 'yes' is not a truth value; accepted: true or false"},
    {"run: {device: gpu}", ":1", "run.device = 'gpu' is not a known word"},
    {"run: {device: cdua}", ":1",
     "did you mean 'cuda'?; accepted: one of auto, cpu, cpu64, guard, cuda"},
    {"diffusion: {schedule: Linear}", ":1", "did you mean 'linear'?"},
    {"train: {topk: [10, a]}", ":1",
     "train.topk = 'a' is not an integer; accepted: a list of at most 32 "
     "integers, each 1 <= n <= 10000"},
    {"train:\n  topk:\n    - 10\n    - 0\n", ":3", "train.topk = '0' is out of range"},
    {"train: {topk: [[10]]}", ":1", "train.topk must be a single word or number"},
    {"train: {topk: ['1,2']}", ":1", "an element of train.topk is not an integer: '1,2'"},
    {"train: {topk: '[1, 2'}", ":1", "lacks the closing bracket"},
    {"train: {topk: '1,,2'}", ":1", "has an empty element"},
    {"diffusion: {t_set: "
     "[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,"
     "29,30,31,32,33]}",
     ":1", "has too many elements"},
    {"diffusion: {t_set: [4096]}", ":1", "each 1 <= n <= 4095"},
    {"train: {lr: [1]}", ":1", "train.lr is given a list or a section"},
    {"train: {lr: {a: 1}}", ":1", "train.lr is given a list or a section"},
    {"train: 5", ":1", "train is a section; write its keys below it"},
    {"train: [lr]", ":1", "train is a section"},
    {"- train", ":1", "a configuration is made of sections"},
    {"just words", ":1", "a configuration is made of sections"},
    {"model:\n  hiden: 3\n", ":2", "unknown key 'model.hiden'; did you mean 'model.hidden'?"},
    {"modle:\n  hidden: 3\n", ":1",
     "unknown key 'modle'; known sections: run, data, model, tcd, npd, "
     "cl4srec, tedrec, diffusion, train, dist, checkpoint"},
    {"hidden: 3\n", ":1", "unknown key 'hidden'; did you mean 'model.hidden'?"},
    {"tedrec: {foo_bar_baz: 1}", ":1", "known keys of tedrec: experts, temperature, dropout"},
    {"model.hidden: 3\n", ":1",
     "unknown key 'model.hidden'; in a file a key stands below its section: `model: {hidden: "
     "...}`"},
    {"train:\n  lr: 1\n  batch: 2\n  lr: 2\n", ":4", "train.lr is given twice, first in line 2"},
    {"train: {lr: 1}\nmodel: {}\ntrain: {batch: 1}\n", ":3",
     "section train is given twice, first in line 1"},
    {"run: {name: &a x}", ":1", "anchors (&a) are not accepted"},
    {"run: &r {name: x}", ":1", "anchors (&r) are not accepted"},
    {"run: {name: x, dir: *a}", ":1", "aliases (*a) are not accepted"},
    {"run: {name: !!str x}", ":1", "tags (tag:yaml.org,2002:str) are not accepted"},
    {"run: !mine {name: x}", ":1", "tags (!mine) are not accepted"},
    {"train: {topk: !!seq [1]}", ":1", "tags"},
    {"run: {name: x}\n---\nrun: {name: y}\n", ":2", "a second document starts here"},
    {"run: {name: x\n", ":2", "not valid YAML"},
    {"run:\n\tname: x\n", ":2", "not valid YAML: the line begins with a tab; indent with blanks"},
    {"run:\n  \tname: x\n", ":2", "the line begins with a tab"},
    {"run:\n  name: @x\n", ":2", "not valid YAML: found character"},
    {"run: {name: \"x", ":1", "not valid YAML"},
    {"run: {name: \"a\\0b\"}", ":1", "run.name holds a NUL byte"},
    {"run: {name: \"a\\nb\"}", ":1", "run.name holds control characters"},
    {"run: {name: \"a\\u2028b\"}", ":1", "run.name holds control characters"},
    {"run: {name: \"a\\u0085b\"}", ":1", "run.name holds control characters"},
    {"run: {name: \"\xff\"}", "", "not a YAML text"},
    {"[a]: 1", ":1", "a section's name must be a single word"},
    {"run: {[a]: 1}", ":1", "a key must be a single word"},
};

static void test_bad_files(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        mr_config c, before;
        char where[96];
        mr_config_defaults(&c);
        before = c;
        mr_status st = config_test_load(&c, files[i].text);
        snprintf(where, sizeof where, "%s%s:", config_test_path, files[i].where);
        if (st != MR_ERR_CONFIG) fail_msg("accepted: %s", files[i].text);
        if (strncmp(mr_last_error(), where, strlen(where)) != 0)
            fail_msg("%s: place not named: %s", files[i].text, mr_last_error());
        if (!strstr(mr_last_error(), files[i].says))
            fail_msg("%s: expected '%s', said '%s'", files[i].text, files[i].says, mr_last_error());
        if (memcmp(&c, &before, sizeof c) != 0) fail_msg("changed by: %s", files[i].text);
        for (int k = 0; k < mr_config_count(); k++)
            assert_string_equal(mr_config_origin(k), "default");
    }
}

/* Settings (key, value pairs up to a NULL) that are fine each but not together. */
typedef struct bad_set {
    const char *set[7], *says;
} bad_set;

static const bad_set sets[] = {
    {{"model.heads", "7"},
     "model.hidden = 300 (default) is not a multiple of model.heads = 7 (test)"},
    {{"npd.heads", "7"}, "model.hidden = 300 (default) is not a multiple of npd.heads = 7 (test)"},
    {{"tcd.unet_width", "20"}, "tcd.unet_width = 20 (test) is not a multiple of 8"},
    {{"diffusion.beta_start", "0.5"},
     "diffusion.beta_start = 0.5 (test) exceeds diffusion.beta_end"},
    {{"diffusion.schedule", "scaled"}, "gives beta = 1 >= 1 over 20 steps (diffusion.steps = 20"},
    {{"diffusion.schedule", "scaled", "diffusion.t_set", "5,10"},
     "gives beta = 2 >= 1 over 10 steps (diffusion.t_set = [5, 10] (test))"},
    {{"diffusion.schedule", "trunc_lin", "diffusion.beta_start", "0.02", "diffusion.steps", "10"},
     "gives beta = 2.01 >= 1 over 10 steps"},
    {{"diffusion.t_set", "10,5"}, "is not ascending: 5 comes after 10"},
    {{"diffusion.t_set", "5,5"}, "is not ascending: 5 comes after 5"},
    {{"train.topk", "20,10"}, "is not ascending: 10 comes after 20"},
    {{"train.topk", "[]"}, "train.topk = [] (test) is empty"},
    {{"train.valid_metric", "ndcg@5"},
     "train.valid_metric = ndcg@5 (test) is not known; accepted: hit@k, "
     "ndcg@k or mrr@k with k in train.topk = [10, 20]"},
    {{"train.valid_metric", "recall@10"}, "is not known"},
    {{"train.valid_metric", "ndcg"}, "is not known"},
    {{"train.valid_metric", "ndcg@"}, "is not known"},
    {{"train.valid_metric", "ndcg@10 "}, "is not known"},
    {{"train.valid_metric", ""}, "is not known"},
    {{"dist.item_shard", "0"},
     "dist.item_shard = 0 (test); accepted: auto, all, or a number of ranks"},
    {{"dist.item_shard", "2x"}, "dist.item_shard"},
    {{"dist.item_shard", "-1"}, "dist.item_shard"},
    {{"dist.item_shard", ""}, "dist.item_shard"},
    {{"run.name", ""}, "run.name =  (test) is not the name of a folder"},
    {{"run.name", "a/b"}, "is not the name of a folder"},
    {{"run.name", ".."}, "is not the name of a folder"},
    {{"run.dir", ""}, "run.dir"},
    {{"checkpoint.resume", ""}, "checkpoint.resume"},
    {{"run.device", "cpu", "run.precision", "bf16"},
     "run.precision = bf16 (test) needs a GPU but run.device "
     "= cpu (test)"},
    {{"run.device", "cpu", "run.capture", "true"},
     "run.capture = true (test) needs a GPU but run.device = cpu (test)"},
    {{"run.device", "cpu64", "dist.comm", "nccl"}, "dist.comm = nccl (test) needs GPUs"},
};

static void test_bad_relations(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof sets / sizeof sets[0]; i++) {
        mr_config c;
        mr_config_defaults(&c);
        for (int k = 0; sets[i].set[k]; k += 2)
            assert_int_equal(mr_config_set(&c, sets[i].set[k], sets[i].set[k + 1], "test"), MR_OK);
        if (mr_config_check(&c) != MR_ERR_CONFIG) fail_msg("accepted: %s", sets[i].says);
        if (!strstr(mr_last_error(), sets[i].says))
            fail_msg("expected '%s', said '%s'", sets[i].says, mr_last_error());
    }
}

/* The neighbours of the refused values are accepted. */
static void test_good_relations(void **state)
{
    (void)state;
    static const char *const good[][7] = {
        {"model.heads", "3"},
        {"npd.heads", "7", "npd.block", "horizon"},
        {"npd.heads", "7", "npd.enabled", "false"},
        {"npd.heads", "7", "model.name", "sasrec"},
        {"diffusion.schedule", "scaled", "diffusion.steps", "21"},
        {"diffusion.schedule", "scaled", "diffusion.steps", "1"},
        {"diffusion.schedule", "trunc_lin", "diffusion.steps", "5"},
        {"diffusion.schedule", "trunc_lin", "diffusion.steps", "25"},
        {"diffusion.schedule", "cosine", "diffusion.beta_end", "0.9"},
        {"train.valid_metric", "mrr@20"},
        {"train.valid_metric", "hit@10"},
        {"dist.item_shard", "all"},
        {"dist.item_shard", "12"},
        {"run.device", "cuda", "run.precision", "tf32", "dist.comm", "nccl"},
    };
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        mr_config c;
        mr_config_defaults(&c);
        for (int k = 0; good[i][k]; k += 2)
            assert_int_equal(mr_config_set(&c, good[i][k], good[i][k + 1], "test"), MR_OK);
        if (mr_config_check(&c) != MR_OK) fail_msg("refused: %s", mr_last_error());
    }
}

static void test_command_line_values(void **state)
{
    (void)state;
    mr_config c;
    char long_text[MR_STR + 1];
    mr_config_defaults(&c);
    assert_int_equal(mr_config_set(&c, "train.epocs", "3", "command line"), MR_ERR_CONFIG);
    assert_string_equal(mr_last_error(),
                        "command line: unknown key 'train.epocs'; did you mean 'train.epochs'?");
    assert_int_equal(mr_config_set(&c, "train.epochs", "x", "command line"), MR_ERR_CONFIG);
    assert_string_equal(mr_last_error(),
                        "command line: train.epochs = 'x' is not an integer; accepted: "
                        "an integer, 0 <= n <= 1000000");
    assert_int_equal(c.train.epochs, 300);
    memset(long_text, 'x', MR_STR);
    long_text[MR_STR] = 0;
    assert_int_equal(mr_config_set(&c, "run.dir", long_text, "command line"), MR_ERR_CONFIG);
    assert_non_null(strstr(mr_last_error(), "is 512 bytes long; accepted: at most 511 bytes"));
    long_text[MR_STR - 1] = 0;
    assert_int_equal(mr_config_set(&c, "run.dir", long_text, "command line"), MR_OK);
    assert_string_equal(c.run.dir, long_text);
    static const char *const bad_text[] = {"a\x01",
                                           "\x7f",
                                           "\xc3",
                                           "\xc3(",
                                           "\xc0\xaf",
                                           "\xed\xa0\x80",
                                           "\xf4\x90\x80\x80",
                                           "\xe2\x80\xa8",
                                           "\xef\xbb\xbf",
                                           "\x80",
                                           "\xf8\x88\x80\x80\x80"};
    for (size_t i = 0; i < sizeof bad_text / sizeof bad_text[0]; i++)
        if (mr_config_set(&c, "run.name", bad_text[i], "test") != MR_ERR_CONFIG)
            fail_msg("accepted text %zu", i);
    assert_int_equal(mr_config_set(&c, "run.name", "é €  \xf0\x9f\x98\x80", "test"), MR_OK);
}

static void test_missing_files(void **state)
{
    (void)state;
    mr_config c;
    mr_config_defaults(&c);
    assert_int_equal(mr_config_load(&c, "/nowhere/x.yaml"), MR_ERR_NO_INPUT);
    assert_string_equal(mr_last_error(),
                        "/nowhere/x.yaml: cannot open the configuration: No such file "
                        "or directory");
    assert_int_equal(mr_config_load(&c, "/tmp"), MR_ERR_NO_INPUT);
    assert_string_equal(mr_last_error(), "/tmp: cannot read the configuration: Is a directory");
    assert_int_equal(mr_config_load(&c, "/dev/zero"), MR_ERR_CONFIG);
    assert_string_equal(mr_last_error(), "/dev/zero: a configuration of more than 1048576 bytes");
}

static void test_no_memory(void **state)
{
    (void)state;
    mr_config c;
    mr_config_defaults(&c);
    int64_t before = mr_mem_now_bytes();
    int failures = 0;
    for (int n = 1; n < 10; n++) {
        mr_mem_fail_at(n);
        mr_status st = config_test_load(&c, "run: {name: x}\n");
        mr_mem_fail_at(0);
        assert_int_equal(mr_mem_now_bytes(), before);
        if (st == MR_OK) break;
        assert_int_equal(st, MR_ERR_MEMORY);
        failures++;
    }
    assert_int_equal(failures, 2);
    assert_string_equal(c.run.name, "x");
}

static int quiet(void **state)
{
    (void)state;
    mr_errors_to_log(false);
    return 0;
}

int config_error_tests(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_files),      cmocka_unit_test(test_bad_relations),
        cmocka_unit_test(test_good_relations), cmocka_unit_test(test_command_line_values),
        cmocka_unit_test(test_missing_files),  cmocka_unit_test(test_no_memory)};
    return cmocka_run_group_tests(tests, quiet, NULL);
}
