/* Damage: every flipped byte and every truncation of a checkpoint is found before use; a run that
 * is killed while it writes leaves the last complete checkpoint usable. */
#include "support.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "io/manifest.h"

static mr_comm *self;
static char dir[256];
static toy model;

static const char *const files[] = {"shard-00000.safetensors", "MANIFEST.json"};

/* $MR_DAMAGE times as many trials; tests/soak.sh sets it. */
static uint32_t many(void)
{
    const char *said = getenv("MR_DAMAGE");
    return said ? (uint32_t)atoi(said) : 1;
}

static uint32_t draw(uint32_t i, uint32_t k) { return mr_philox(11, 1, 0, i, k).v[0]; }

static void path_of(char path[600], int file)
{
    snprintf(path, 600, "%s/step-000000010/%s", dir, files[file]);
}

static mr_status open_it(void)
{
    mr_checkpoint *c = NULL;
    char path[600];
    snprintf(path, sizeof path, "%s/step-000000010", dir);
    mr_status st = mr_checkpoint_open(&c, path, MR_CHECKPOINT_LATEST, self);
    mr_checkpoint_close(&c);
    return st;
}

static int setup(void **state)
{
    (void)state;
    mr_comm_self(&self);
    folder_make(dir, self);
    toy_open(&model, MR_F32, 0, 1, true, 0);
    toy_fill(&model, 1);
    return toy_save(&model, dir, 10, self, true, 5) != MR_OK;
}

static int teardown(void **state)
{
    (void)state;
    toy_close(&model);
    folder_remove(dir, self);
    mr_comm_destroy(&self);
    return 0;
}

static void test_flips(void **state)
{
    (void)state;
    mr_errors_to_log(false);
    for (uint32_t i = 0; i < 400 * many(); i++) {
        char path[600];
        struct stat s;
        path_of(path, i & 1);
        assert_int_equal(stat(path, &s), 0);
        off_t at = (off_t)(draw(i, 0) % (uint32_t)s.st_size);
        unsigned char byte, changed;
        int fd = open(path, O_RDWR);
        assert_int_equal(pread(fd, &byte, 1, at), 1);
        changed = (unsigned char)(byte ^ (1u << draw(i, 1) % 8));
        assert_int_equal(pwrite(fd, &changed, 1, at), 1);
        assert_int_equal(open_it(), MR_ERR_DATA);
        assert_non_null(strstr(mr_last_error(), files[i & 1]));
        assert_int_equal(pwrite(fd, &byte, 1, at), 1);
        close(fd);
    }
    mr_errors_to_log(true);
    assert_int_equal(open_it(), MR_OK);
}

static void test_truncations(void **state)
{
    (void)state;
    mr_errors_to_log(false);
    for (uint32_t i = 0; i < 100 * many(); i++) {
        char path[600], kept[620], command[1300];
        struct stat s;
        path_of(path, i & 1);
        snprintf(kept, sizeof kept, "%s.kept", path);
        assert_int_equal(stat(path, &s), 0);
        snprintf(command, sizeof command, "cp '%s' '%s'", path, kept);
        assert_int_equal(system(command), 0);
        off_t n = i < 20 ? (off_t)(i / 2) : (off_t)(draw(i, 2) % (uint32_t)s.st_size);
        assert_int_equal(truncate(path, n), 0);
        assert_int_equal(open_it(), MR_ERR_DATA);
        assert_int_equal(rename(kept, path), 0);
    }
    mr_errors_to_log(true);
    assert_int_equal(open_it(), MR_OK);
}

/* A manifest with a right checksum and a wrong content: names that leave the folder, gaps. */
static void test_evil_manifests(void **state)
{
    (void)state;
    static const char *const names[] = {"../../etc/passwd", "/etc/passwd", "a/b", "..", ".", "",
                                        ".hidden",          "a b",         "a\nb"};
    mr_manifest_file f = {.name = "shard-00000.safetensors", .bytes = 5};
    mr_manifest_part p[2] = {{0, 0, 4}, {0, 4, 6}};
    mr_manifest_tensor t = {
        .name = "item.weight", .ndim = 2, .dim = {10, 3, 1, 1}, .n_parts = 2, .part = p};
    mr_manifest m = {.state = toy_state(1),
                     .world = 1,
                     .dtype = MR_F32,
                     .n_files = 1,
                     .file = &f,
                     .n_tensors = 1,
                     .tensor = &t};
    mr_manifest got;
    char *text = NULL;
    size_t bytes;
    snprintf(f.xxh3, sizeof f.xxh3, "%032d", 0);
    mr_errors_to_log(false);
#define TRY(expect)                                                                                \
    do {                                                                                           \
        assert_int_equal(mr_manifest_text(&m, &text, &bytes), MR_OK);                              \
        mr_status st_ = mr_manifest_parse(&got, text, bytes, "MANIFEST.json");                     \
        assert_int_equal(st_, (expect));                                                           \
        if (st_ == MR_OK) mr_manifest_free(&got);                                                  \
        mr_free_ptr((void **)&text);                                                               \
    } while (0)
    TRY(MR_OK);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        snprintf(f.name, sizeof f.name, "%s", names[i]);
        TRY(MR_ERR_DATA);
    }
    snprintf(f.name, sizeof f.name, "shard-00000.safetensors");
    p[1].row0 = 5; /* a gap */
    TRY(MR_ERR_DATA);
    p[1].row0 = 3; /* an overlap */
    TRY(MR_ERR_DATA);
    p[1] = (mr_manifest_part){0, 4, 5}; /* a row too few */
    TRY(MR_ERR_DATA);
    p[1] = (mr_manifest_part){1, 4, 6}; /* no such file */
    TRY(MR_ERR_DATA);
    p[1] = (mr_manifest_part){0, 4, 6};
    t.dim[1] = -3;
    TRY(MR_ERR_DATA);
    t.dim[1] = 3;
    TRY(MR_OK);
#undef TRY
    mr_errors_to_log(true);
}

/* Mutations of a manifest whose checksum is right again: refused or whole, never a crash or a leak.
 */
static void test_manifest_fuzz(void **state)
{
    (void)state;
    enum { TAIL = 60 }; /* ,\n"manifest_xxh3_128": "<32 digits>"\n}\n */
    static const char alphabet[] = "0123456789{}[]\",:-.eE\\u nt/";
    char path[600], *good = NULL, *text;
    size_t n;
    int refused = 0;
    snprintf(path, sizeof path, "%s/step-000000010", dir);
    int fd;
    assert_int_equal(mr_folder_open(path, &fd), MR_OK);
    assert_int_equal(mr_file_read_text(fd, path, MR_MANIFEST_NAME, 1 << 20, &good, &n), MR_OK);
    close(fd);
    text = malloc(n + 64);
    assert_non_null(text);
    mr_errors_to_log(false);
    int64_t before = mr_mem_now_bytes();
    for (uint32_t i = 0; i < 3000; i++) {
        char hex[MR_XXH_HEX];
        mr_manifest m;
        size_t body = n - TAIL;
        memcpy(text, good, n);
        for (uint32_t k = 0; k < 1 + draw(i, 90) % 3; k++) {
            size_t at = draw(i, 10 + 3 * k) % body;
            text[at] = alphabet[draw(i, 11 + 3 * k) % (sizeof alphabet - 1)];
        }
        mr_hash_text(text, body, hex);
        memcpy(text + n - 36, hex, 32);
        mr_status st = mr_manifest_parse(&m, text, n, "MANIFEST.json");
        assert_true(st == MR_OK || st == MR_ERR_DATA);
        if (st == MR_OK) mr_manifest_free(&m);
        refused += st != MR_OK;
        assert_int_equal(mr_mem_now_bytes(), before);
    }
    mr_errors_to_log(true);
    assert_true(refused > 1000 && refused < 3000); /* some change a number and stay valid */
    free(text);
    mr_free_ptr((void **)&good);
}

static int has_leftover(void)
{
    int n = 0;
    DIR *d = opendir(dir);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) n += strstr(e->d_name, ".tmp-") != NULL;
    closedir(d);
    return n > 0;
}

/* Child: saves for ever. Killed at a random moment, 40 times. */
static void test_kill_while_writing(void **state)
{
    (void)state;
    int64_t before = 10;
    int interrupted = 0;
    mr_log_init(-1, MR_LOG_ERROR);
    for (uint32_t i = 0; i < 40; i++) {
        pid_t child = fork();
        if (child == 0) {
            for (int64_t step = before + 1;; step++) {
                toy_fill(&model, (int)step);
                if (toy_save(&model, dir, step, self, false, 2) != MR_OK) _exit(1);
            }
        }
        usleep(2000 + draw(i, 3) % 120000);
        kill(child, SIGKILL);
        int how;
        assert_int_equal(waitpid(child, &how, 0), child);
        assert_true(WIFSIGNALED(how));
        interrupted += has_leftover();
        mr_train_state s;
        toy_fill(&model, 0);
        assert_int_equal(mr_checkpoint_load(dir, &model.ps, &s, self), MR_OK);
        assert_true(s.step >= before);
        assert_int_equal(toy_differs(&model, s.step == 10 ? 1 : (int)s.step), 0);
        before = s.step;
    }
    mr_log_init(-1, MR_LOG_INFO);
    assert_true(before > 10); /* otherwise nothing was ever written */
    assert_true(interrupted > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_flips),
        cmocka_unit_test(test_truncations),
        cmocka_unit_test(test_evil_manifests),
        cmocka_unit_test(test_manifest_fuzz),
        cmocka_unit_test(test_kill_while_writing),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
