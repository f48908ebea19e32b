/* Mutated configuration files: each is either read or refused with a sentence, and what is read can
 * be written and read again. Most use under the sanitizers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/config_table.h"
#include "base/mem.h"
#include "base/rng.h"

enum { TRIALS = 2000, MAX_BYTES = 1 << 14 };

static char path[64];

static uint32_t draw(uint32_t trial, uint32_t i, uint32_t n)
{
    return mr_below(mr_philox(7, MR_RNG_SYNTH, trial, i, 0).v[0], n);
}

/* Pieces that mean something to YAML or to our reader. */
static const char *const pieces[] = {"\n",
                                     ":",
                                     ": ",
                                     "- ",
                                     "[",
                                     "]",
                                     "{",
                                     "}",
                                     ",",
                                     "&a ",
                                     "*a",
                                     "!!int ",
                                     "---\n",
                                     "...\n",
                                     "\"",
                                     "'",
                                     "|\n",
                                     ">\n",
                                     "? ",
                                     "#",
                                     "\t",
                                     "%TAG ! x\n",
                                     "1e999",
                                     "-1",
                                     "nan",
                                     "true",
                                     "train:\n",
                                     "  lr: 1\n",
                                     "topk: [1, 2]",
                                     "\\u0000",
                                     "\xff",
                                     "\xc3\xa9",
                                     "999999999999999999999",
                                     "<<: ",
                                     "~",
                                     "  ",
                                     "x"};

static size_t mutate(char *text, size_t n, uint32_t trial)
{
    uint32_t edits = 1 + draw(trial, 0, 3);
    for (uint32_t e = 0; e < edits; e++) {
        uint32_t at = draw(trial, 4 * e + 1, (uint32_t)n + 1), what = draw(trial, 4 * e + 2, 5);
        uint32_t r = draw(trial, 4 * e + 3, 1u << 16);
        const char *piece = pieces[r % (sizeof pieces / sizeof pieces[0])];
        size_t len = strlen(piece), cut = r % 40;
        if (what == 0 && at < n) {
            text[at] = (char)r;
        } else if (what == 1 && n + len < MAX_BYTES) {
            memmove(text + at + len, text + at, n - at);
            memcpy(text + at, piece, len);
            n += len;
        } else if (what == 2 && at + cut <= n) {
            memmove(text + at, text + at + cut, n - at - cut);
            n -= cut;
        } else if (what == 3 && at + cut <= n && n + cut < MAX_BYTES) {
            memmove(text + at + cut, text + at, n - at);
            n += cut;
        } else if (what == 4 && r % 4 == 0) {
            n = at;
        }
    }
    return n;
}

static void write_file(const char *text, size_t n)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, n, f), n);
    fclose(f);
}

static void test_mutations(void **state)
{
    (void)state;
    char *base = NULL, text[MAX_BYTES];
    size_t n_base = 0;
    int n_read = 0, n_refused = 0;
    mr_config c, standard, back;
    mr_config_defaults(&standard);
    FILE *f = open_memstream(&base, &n_base);
    mr_config_write_yaml(&standard, f);
    fclose(f);
    for (uint32_t trial = 0; trial < TRIALS; trial++) {
        memcpy(text, base, n_base);
        size_t n = mutate(text, n_base, trial);
        write_file(text, n);
        c = standard;
        mr_status st = mr_config_load(&c, path);
        assert_int_equal(mr_mem_now_bytes(), 0);
        if (st != MR_OK) {
            assert_int_equal(st, MR_ERR_CONFIG);
            assert_true(strncmp(mr_last_error(), path, strlen(path)) == 0);
            assert_int_equal(memcmp(&c, &standard, sizeof c), 0);
            n_refused++;
            continue;
        }
        n_read++;
        f = fopen(path, "w");
        mr_config_write_yaml(&c, f);
        fclose(f);
        back = standard;
        if (mr_config_load(&back, path) != MR_OK) fail_msg("not read back: %s", mr_last_error());
        assert_true(mr_config_hash(&back) == mr_config_hash(&c));
        assert_string_equal(back.run.name, c.run.name);
        assert_string_equal(back.data.path, c.data.path);
    }
    free(base);
    print_message("%d read, %d refused\n", n_read, n_refused);
    /* The mutations are worth something only if both ends happen. */
    assert_true(n_read > TRIALS / 20 && n_refused > TRIALS / 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_mutations)};
    snprintf(path, sizeof path, "/tmp/mr_config_fuzz_%d.yaml", (int)getpid());
    mr_errors_to_log(false);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    return failed;
}
