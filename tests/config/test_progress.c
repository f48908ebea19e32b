/* The progress line, with a clock that the test moves. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/progress.h"

static double clock_now;
static double fake_clock(void) { return clock_now; }

static char *text;
static size_t n_text;

static void start(mr_progress *p, bool is_terminal, bool uses_colour, int64_t first, int64_t total,
                  int rank)
{
    mr_progress_start(p, "train", "rows", first, total, rank);
    p->out = open_memstream(&text, &n_text);
    p->now = fake_clock;
    p->is_terminal = is_terminal;
    p->uses_colour = uses_colour;
    clock_now = p->started = p->shown = 100.0;
}

static int count(const char *what)
{
    int n = 0;
    for (const char *p = text; (p = strstr(p, what)) != NULL; p++) n++;
    return n;
}

static void finish(mr_progress *p)
{
    fclose(p->out);
    free(text);
}

static void test_text(void **state)
{
    (void)state;
    mr_progress p;
    char line[256];
    start(&p, false, false, 0, 500, 0);
    p.done = 120;
    mr_progress_text(&p, 102.0, NULL, line, sizeof line);
    assert_string_equal(line, "train  120/500 rows  24%  60.0 rows/s  0:06 left");
    mr_progress_text(&p, 100.0 + 120.0 * 10, "loss 3.2", line, sizeof line);
    assert_string_equal(line, "train  120/500 rows  24%  0.1 rows/s  1:03:20 left  loss 3.2");
    p.total = 0;
    p.done = 1234567;
    mr_progress_text(&p, 110.0, NULL, line, sizeof line);
    assert_string_equal(line, "train  1234567 rows  123 krows/s");
    p.total = 2000;
    p.first = 1000;
    p.done = 1500;
    mr_progress_text(&p, 110.0, NULL, line, sizeof line);
    assert_string_equal(line, "train  1500/2000 rows  75%  50.0 rows/s  0:10 left");
    p.done = p.first;
    mr_progress_text(&p, 100.0, NULL, line, sizeof line);
    assert_string_equal(line, "train  1000/2000 rows  50%");
    char small[12];
    mr_progress_text(&p, 110.0, "note", small, sizeof small);
    assert_int_equal(strlen(small), 11);
    finish(&p);
}

static void run_20_seconds(mr_progress *p)
{
    for (int i = 1; i <= 2000; i++) {
        clock_now = 100.0 + 0.01 * i;
        mr_progress_to(p, i, NULL);
    }
}

static void test_plain(void **state)
{
    (void)state;
    mr_progress p;
    start(&p, false, false, 0, 2000, 0);
    run_20_seconds(&p);
    fflush(p.out);
    assert_in_range(count("\n"), 3, 4); /* every 5 s */
    assert_int_equal(count("\r") + count("\033"), 0);
    mr_progress_end(&p);
    fflush(p.out);
    assert_non_null(strstr(text, "train  2000 rows  100 rows/s  0:20\n"));
    int lines = count("\n");
    mr_progress_to(&p, 3000, NULL); /* after the end: silent */
    mr_progress_end(&p);
    fflush(p.out);
    assert_int_equal(count("\n"), lines);
    finish(&p);
}

static void test_terminal(void **state)
{
    (void)state;
    mr_progress p;
    for (int colour = 0; colour < 2; colour++) {
        start(&p, true, colour, 0, 2000, 0);
        run_20_seconds(&p);
        fflush(p.out);
        assert_in_range(count("\r"), 150, 201); /* ten a second */
        assert_int_equal(count("\n"), 0);
        assert_int_equal(count("\033[2m") > 0, colour);
        size_t n = n_text;
        mr_progress_clear(&p);
        fflush(p.out);
        assert_string_equal(text + n, "\r\033[K");
        mr_progress_clear(&p);
        mr_progress_end(&p);
        fflush(p.out);
        assert_int_equal(count("\n"), 1);
        assert_int_equal(text[n_text - 1], '\n');
        finish(&p);
    }
}

static void test_other_ranks_are_silent(void **state)
{
    (void)state;
    mr_progress p;
    start(&p, true, true, 0, 2000, 1);
    run_20_seconds(&p);
    mr_progress_end(&p);
    fflush(p.out);
    assert_int_equal(n_text, 0);
    finish(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_text), cmocka_unit_test(test_plain),
                                       cmocka_unit_test(test_terminal),
                                       cmocka_unit_test(test_other_ranks_are_silent)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
