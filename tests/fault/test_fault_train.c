/* A whole small training job while calls fail: it ends with the right status or goes on; what it
 * leaves is continued by the same job without failures, to the same weights bit for bit. */
#include "walk.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../data/support.h"
#include "base/log.h"
#include "base/mem.h"
#include "data/synth.h"
#include "io/file.h"
#include "io/h5_dataset.h"
#include "train/job.h"

static mr_config cfg;
static char dir[300], want[MR_XXH_HEX];

#define OK(call) assert_int_equal((call), MR_OK)

static void set(const char *key, const char *value) { OK(mr_config_set(&cfg, key, value, "test")); }

static void configure(void)
{
    static const char *const keys[][2] = {
        {"model.name", "sasrec"}, {"model.hidden", "8"},  {"model.inner", "8"},
        {"train.batch", "64"},    {"train.epochs", "2"},  {"checkpoint.every_epochs", "1"},
        {"checkpoint.keep", "2"}, {"run.name", "r"},      {"run.device", "cpu"},
        {"train.log_every", "1"}, {"data.max_len", "10"}, {"model.layers", "1"},
        {"dist.comm", "self"}};
    mr_synth_spec s;
    mr_dataset d = {0};
    OK(mr_synth_spec_for("demo", &s));
    s.users = 30;
    s.items = 30;
    s.inter = 220;
    s.frames = 2;
    s.width = 4;
    s.text_width = 4;
    OK(mr_synth(&d, &s));
    snprintf(dir, sizeof dir, "%s", tmp_path("runs"));
    mr_config_defaults(&cfg);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) set(keys[i][0], keys[i][1]);
    set("data.path", tmp_path("d.h5"));
    set("run.dir", dir);
    OK(mr_config_check(&cfg));
    OK(mr_h5_dataset_write(&d, tmp_path("d.h5"), true));
    mr_dataset_free(&d);
}

static void prepare(void)
{
    char command[400];
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    assert_int_equal(system(command), 0);
}

static mr_status train(void)
{
    mr_session s = {0};
    mr_comm *inner = NULL;
    mr_job *j = NULL;
    MR_TRY(mr_comm_self(&inner));
    MR_TRY(inject_comm(inner, &s.world));
    mr_status st = MR_ALLOC(&j, 1, "job");
    if (st == MR_OK) st = mr_session_load(&s, &cfg);
    if (st == MR_OK) {
        *j = (mr_job){.cfg = &cfg, .session = &s};
        st = mr_job_run(j);
    }
    MR_FREE(j);
    mr_session_close(&s);
    return st;
}

/* Checksum of the last weights and moments. */
static void last_weights(char hex[MR_XXH_HEX])
{
    char top[500], path[700], name[64] = "";
    int64_t bytes;
    int fd;
    snprintf(top, sizeof top, "%s/r/checkpoints", dir);
    snprintf(path, sizeof path, "%s/latest", top);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%63s", name), 1);
    fclose(f);
    snprintf(path, sizeof path, "%s/%s", top, name);
    OK(mr_folder_open(path, &fd));
    OK(mr_file_hash(fd, path, "shard-00000.safetensors", &bytes, hex));
    close(fd);
}

/* Every line of the record has the keys that its kind of event has in an undisturbed run. */
static void check_record(bool is_model)
{
    static json_t *kinds;
    char path[500], line[4000];
    snprintf(path, sizeof path, "%s/r/metrics.jsonl", dir);
    if (is_model) kinds = json_object();
    FILE *f = fopen(path, "r");
    if (!f) return; /* it failed before */
    while (fgets(line, sizeof line, f)) {
        json_t *o = json_loads(line, 0, NULL), *v;
        const char *key, *kind = json_string_value(json_object_get(o, "event"));
        json_t *keys = json_object();
        json_object_foreach(o, key, v) json_object_set_new(keys, key, json_true());
        if (!kind) fail_msg("a damaged line: %s", line);
        if (is_model)
            json_object_set(kinds, kind, keys);
        else if (!json_equal(keys, json_object_get(kinds, kind)))
            fail_msg("a line lacks a key: %s", line);
        json_decref(keys);
        json_decref(o);
    }
    fclose(f);
}

static void judge(mr_status st)
{
    char hex[MR_XXH_HEX];
    (void)st;
    check_record(false);
    mr_status again = train();
    if (again != MR_OK) fail_msg("the next start does not go on: %s", mr_last_error());
    last_weights(hex);
    assert_string_equal(hex, want);
}

static void test_train(void **state)
{
    (void)state;
    walk_job job = {"train", prepare, train, judge,
                    1u << MR_ERR_MEMORY | 1u << MR_ERR_IO | 1u << MR_ERR_DATA | 1u << MR_ERR_COMM};
    prepare();
    OK(train());
    last_weights(want);
    check_record(true);
    /* Sparse here; tests/soak.sh takes every one. */
    walk(&job, INJECT_ALLOC, 47);
    walk(&job, INJECT_FILE, 11);
    walk(&job, INJECT_COMM, 5);
    walk(&job, INJECT_HDF5, 31);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_train)};
    mr_errors_to_log(false);
    mr_log_init(1, MR_LOG_ERROR);
    configure();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
