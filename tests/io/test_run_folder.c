/* The folder of a run: made, locked, refused, continued; the record and what resuming drops of it.
 */
#include "support.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/config.h"
#include "base/log.h"
#include "base/mem.h"
#include "train/run_folder.h"

static mr_comm *world;
static char dir[256];
static mr_config cfg;
static mr_run_info info;

static int setup(void **state)
{
    (void)state;
    static const char *const words[] = {"mealrec-dist", "train", "caf\xe9"};
    folder_make(dir, world);
    mr_config_defaults(&cfg);
    snprintf(cfg.run.dir, sizeof cfg.run.dir, "%s/deep/er", dir);
    snprintf(cfg.run.name, sizeof cfg.run.name, "first");
    info = (mr_run_info){
        .device = "cpu", .data_path = "x.h5", .data_checksum = 0xabcdef, .argc = 3, .argv = words};
    mr_log_init(world->rank, MR_LOG_ERROR);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    folder_remove(dir, world);
    return 0;
}

static mr_status open_as(mr_run_folder **f, const mr_config *c)
{
    mr_errors_to_log(false);
    mr_status st = mr_run_folder_open(f, c, &info, world);
    mr_errors_to_log(true);
    return st;
}

/* Refused with this status, and rank 0's sentence holds the text. */
static void refused(const mr_config *c, mr_status want, const char *text)
{
    mr_run_folder *f = NULL;
    assert_int_equal(open_as(&f, c), want);
    assert_null(f);
    if (world->rank == 0 && !strstr(mr_last_error(), text))
        fail_msg("'%s' does not hold '%s'", mr_last_error(), text);
}

static void read_file(const char *name, char *out, size_t bytes)
{
    char path[800];
    snprintf(path, sizeof path, "%s/first/%s", cfg.run.dir, name);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    out[fread(out, 1, bytes - 1, f)] = 0;
    fclose(f);
}

static int count(const char *text, const char *word)
{
    int n = 0;
    for (; (text = strstr(text, word)); text++) n++;
    return n;
}

static void test_life_of_a_folder(void **state)
{
    (void)state;
    static char text[1 << 16];
    mr_run_folder *f = NULL;
    int64_t before = mr_mem_now_bytes();
    assert_int_equal(open_as(&f, &cfg), MR_OK);
    assert_false(f->is_continued);
    assert_int_equal(mr_run_folder_start(f, -1), MR_OK);
    assert_true((f->record != NULL) == (world->rank == 0));
    refused(&cfg, MR_ERR_CONFIG, "is in use by process");
    mr_run_folder_close(&f);
    assert_int_equal(mr_mem_now_bytes(), before);
    assert_int_equal(world->barrier(world), MR_OK);

    mr_config other = cfg;
    other.model.hidden = 64;
    other.train.lr = 0.5;
    snprintf(other.run.device, sizeof other.run.device, "cpu64");
    refused(&other, MR_ERR_CONFIG, "model.hidden is 300 there and 64 here, train.lr is");
    if (world->rank == 0) assert_null(strstr(mr_last_error(), "run.device"));
    other = cfg;
    snprintf(other.checkpoint.resume, sizeof other.checkpoint.resume, "never");
    refused(&other, MR_ERR_CONFIG, "checkpoint.resume is never");
    info.data_checksum++;
    refused(&cfg, MR_ERR_CONFIG, "on other data");
    info.data_checksum--;
    assert_int_equal(world->barrier(world), MR_OK);

    other = cfg; /* where it runs and how often it saves may change */
    snprintf(other.run.device, sizeof other.run.device, "cpu64");
    other.checkpoint.keep = 7;
    assert_int_equal(open_as(&f, &other), MR_OK);
    assert_true(f->is_continued);
    mr_run_folder_close(&f);
    assert_int_equal(world->barrier(world), MR_OK);
    read_file("run.json", text, sizeof text);
    assert_int_equal(count(text, "\"time\""), 2);
    assert_int_equal(count(text, "\"host\""), 2 * world->size);
    assert_int_equal(count(text, "0x0000000000abcdef"), 1);
    assert_int_equal(count(text, "\"hdf5\""), 2);
    assert_int_equal(count(text, "(not UTF-8)"), 2);
    read_file("config.yaml", text, sizeof text);
    assert_non_null(strstr(text, "cpu64"));
    read_file("lock", text, sizeof text);
    assert_non_null(strstr(text, "process "));
}

static void test_foreign_folders(void **state)
{
    (void)state;
    char path[600];
    mr_config other = cfg;
    snprintf(other.run.name, sizeof other.run.name, "foreign");
    snprintf(path, sizeof path, "%s/foreign", cfg.run.dir);
    if (world->rank == 0) {
        assert_int_equal(mkdir(path, 0700), 0);
        char file[620];
        snprintf(file, sizeof file, "%s/thesis.tex", path);
        FILE *f = fopen(file, "w");
        assert_non_null(f);
        fclose(f);
    }
    assert_int_equal(world->barrier(world), MR_OK);
    refused(&other, MR_ERR_CONFIG, "is not the folder of a run");
    snprintf(other.run.name, sizeof other.run.name, "../up");
    mr_errors_to_log(false);
    mr_run_folder *f = NULL;
    assert_int_equal(mr_run_folder_open(&f, &other, &info, world), MR_ERR_CONFIG);
    mr_errors_to_log(true);
    snprintf(other.run.name, sizeof other.run.name, "x");
    snprintf(other.run.dir, sizeof other.run.dir, "/dev/null/runs");
    refused(&other, MR_ERR_IO, "/dev/null/runs");
    snprintf(other.run.dir, sizeof other.run.dir, "/proc");
    refused(&other, MR_ERR_IO, "/proc/x");
}

static void step_line(mr_record *r, int64_t step, double loss)
{
    json_t *o = json_pack("{s:s, s:I, s:I}", "event", "step", "epoch", (json_int_t)(step / 10),
                          "step", (json_int_t)step);
    json_object_set_new(o, "loss", mr_json_real(loss));
    mr_record_event(r, o);
}

static void test_record(void **state)
{
    (void)state;
    static char text[1 << 16];
    char path[700];
    mr_run_folder *f = NULL;
    assert_int_equal(open_as(&f, &cfg), MR_OK);
    assert_int_equal(mr_run_folder_start(f, -1), MR_OK);
    mr_record_event(f->record, json_pack("{s:s, s:s}", "event", "start", "note",
                                         "a \"quoted\" line\nthen more")); /* NULL: nothing */
    for (int64_t step = 1; step <= 20; step++)
        step_line(f->record, step, step == 3 ? 0.0 / 0.0 : step == 4 ? 1e308 * 10 : 1.0 / 3.0);
    mr_record_event(f->record, json_pack("{s:s, s:f}", "event", "valid", "ndcg@10", 0.5));
    mr_run_folder_close(&f);
    assert_int_equal(world->barrier(world), MR_OK);
    read_file("metrics.jsonl", text, sizeof text);
    assert_int_equal(count(text, "\n"), 22);
    assert_int_equal(count(text, "0.333333333,") + count(text, "0.333333333}"), 18);
    assert_int_equal(count(text, "\"loss\":null"), 2);
    assert_null(strstr(text, "nan"));
    assert_null(strstr(text, "inf"));
    assert_int_equal(world->barrier(world), MR_OK);

    snprintf(path, sizeof path, "%s/first/metrics.jsonl", cfg.run.dir);
    if (world->rank == 0) { /* a line that was cut off when the machine stopped */
        FILE *m = fopen(path, "a");
        fputs("{\"event\":\"step\",\"step\":5,", m);
        fclose(m);
    }
    assert_int_equal(open_as(&f, &cfg), MR_OK);
    assert_true(f->is_continued);
    assert_int_equal(mr_run_folder_start(f, 12), MR_OK);
    step_line(f->record, 13, 0.25);
    mr_run_folder_close(&f);
    assert_int_equal(world->barrier(world), MR_OK);
    read_file("metrics.jsonl", text, sizeof text);
    assert_int_equal(count(text, "\n"), 14); /* start, 1..12, 13 */
    assert_int_equal(count(text, "\"step\":13,"), 1);
    assert_null(strstr(text, "\"step\":14"));
    assert_null(strstr(text, "valid")); /* it belonged to step 20 */
    assert_int_equal(text[strlen(text) - 1], '\n');
}

int main(void)
{
    if (getenv("OMPI_COMM_WORLD_SIZE")) {
        if (mr_comm_mpi_world(&world) != MR_OK) return 1;
    } else if (mr_comm_self(&world) != MR_OK) {
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_life_of_a_folder),
        cmocka_unit_test(test_foreign_folders),
        cmocka_unit_test(test_record),
    };
    int failed = cmocka_run_group_tests(tests, setup, teardown);
    mr_comm_destroy(&world);
    mr_comm_finalize();
    return failed;
}
