/* Facts compared over ranks: what the sentence says, that it is the same everywhere, and that equal
 * facts pass. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/mem.h"
#include "dist/agree.h"
#include "ranks_main.h"

static mr_comm *world;
static mr_fact fact[9];

static void set_facts(int n)
{
    static const char *const names[] = {"a", "b", "c", "d", "e", "f", "g", "h", "i"};
    for (int i = 0; i < n; i++) {
        fact[i].name = names[i];
        snprintf(fact[i].text, sizeof fact[i].text, "value %d", i);
    }
}

/* The same refusal on all ranks, with this text. */
static void refused(int n, const char *text)
{
    char first[1024];
    mr_errors_to_log(false);
    mr_status st = mr_agree_facts(world, fact, n, "do this");
    mr_errors_to_log(true);
    assert_int_equal(st, MR_ERR_CONFIG);
    if (!strstr(mr_last_error(), text)) fail_msg("%s instead of %s", mr_last_error(), text);
    snprintf(first, sizeof first, "%s", mr_last_error());
    assert_int_equal(world->bcast(world, first, sizeof first, MR_U8, 0), MR_OK);
    assert_string_equal(first, mr_last_error());
}

static void test_equal(void **state)
{
    (void)state;
    int64_t before = mr_mem_now_bytes();
    set_facts(9);
    assert_int_equal(mr_agree_facts(world, fact, 9, "do this"), MR_OK);
    assert_int_equal(mr_agree_facts(world, fact, 0, "do this"), MR_OK);
    assert_int_equal(mr_mem_now_bytes(), before);
}

static void test_different(void **state)
{
    (void)state;
    if (world->size != 4) return;
    set_facts(9);
    if (world->rank == 3) snprintf(fact[4].text, sizeof fact[4].text, "odd");
    refused(9, "e is value 4 on ranks 0-2 and odd on rank 3; do this");
    for (int odd = 0; odd < 4; odd++) { /* whichever rank it is */
        static const char *const others[] = {"1-3", "0, 2, 3", "0, 1, 3", "0-2"};
        char text[80];
        set_facts(9);
        if (world->rank == odd) snprintf(fact[8].text, sizeof fact[8].text, "odd");
        snprintf(text, sizeof text,
                 odd ? "i is value 8 on ranks %s and odd on rank %d; do this"
                     : "odd on rank 0 and value 8 on ranks %s; do this",
                 others[odd], odd);
        refused(9, text);
    }
    set_facts(9);
    if (world->rank % 2) fact[0].text[0] = 0;
    refused(9, "a is value 0 on ranks 0, 2 and empty on ranks 1, 3; do this");
    set_facts(9);
    snprintf(fact[1].text, sizeof fact[1].text, "%d", world->rank * world->rank);
    snprintf(fact[8].text, sizeof fact[8].text, "%d", world->rank > 1);
    refused(9, "b is 0 on rank 0 and 1 on rank 1 and 4 on rank 2 and 9 on rank 3; "
               "i is 0 on ranks 0, 1 and 1 on ranks 2, 3; do this");
    for (int i = 0; i < 9; i++) fact[i].text[0] = (char)('a' + world->rank);
    refused(9, "; and 4 more; do this");
    set_facts(9); /* only the last character of a long text */
    memset(fact[2].text, 'x', sizeof fact[2].text - 1);
    fact[2].text[sizeof fact[2].text - 2] = world->rank == 2 ? 'y' : 'x';
    refused(9, " on ranks 0, 1, 3 and xxxx");
    set_facts(9);
    refused(world->rank == 1 ? 8 : 9, "from 8 to 9 facts; do this");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equal),
        cmocka_unit_test(test_different),
    };
    RANKS_MAIN(&world, tests);
}
