/* Synthetic sets: exact counts, determinism, and the planted structure itself. */
#include "support.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "data/check.h"
#include "data/synth.h"

/* The published counts, and rules that hold for every shape; features shrunk to keep it quick. */
static void test_counts(void **state)
{
    (void)state;
    static const int64_t want[][3] = {{600, 300, 4800},
                                      {8694, 8265, 50838},
                                      {86073, 18700, 597104},
                                      {3460, 84192, 240843},
                                      {7584, 122845, 533381}};
    assert_int_equal(mr_synth_n_shapes, 5);
    for (int k = 0; k < mr_synth_n_shapes; k++) {
        mr_synth_spec s;
        assert_int_equal(mr_synth_spec_for(mr_synth_shapes[k], &s), MR_OK);
        if (k) {
            assert_int_equal(s.frames, 5);
            assert_int_equal(s.width, 768);
            s.width = 4;
            s.text_width = 3;
        }
        mr_dataset d;
        assert_int_equal(mr_synth(&d, &s), MR_OK);
        assert_int_equal(mr_dataset_check(&d, s.name), MR_OK);
        assert_true(d.is_synthetic);
        assert_int_equal(d.n_users, want[k][0]);
        assert_int_equal(d.n_items, want[k][1]);
        assert_int_equal(d.n_inter, want[k][2]);
        int64_t *seen = NULL;
        assert_int_equal(MR_ALLOC(&seen, d.n_items + 1, "seen"), MR_OK);
        int64_t distinct = 0, short_users = 0;
        for (int64_t u = 0; u < d.n_users; u++) {
            short_users += d.offset[u + 1] - d.offset[u] < 4;
            for (int64_t j = d.offset[u]; j < d.offset[u + 1]; j++) {
                assert_true(seen[d.items[j]] != u + 1); /* no item twice for a user */
                distinct += seen[d.items[j]] == 0;
                seen[d.items[j]] = u + 1;
            }
        }
        assert_int_equal(distinct, d.n_items);
        assert_int_equal(short_users, 0);
        MR_FREE(seen);
        mr_dataset_free(&d);
    }
}

static void test_same_seed(void **state)
{
    (void)state;
    mr_synth_spec s;
    mr_dataset a, b, c;
    assert_int_equal(mr_synth_spec_for("demo", &s), MR_OK);
    assert_int_equal(mr_synth(&a, &s), MR_OK);
    assert_int_equal(mr_synth(&b, &s), MR_OK);
    s.seed++;
    assert_int_equal(mr_synth(&c, &s), MR_OK);
    assert_true(same_dataset(&a, &b));
    assert_false(same_dataset(&a, &c));
    assert_true(memcmp(a.items, c.items, sizeof(int32_t) * (size_t)a.n_inter) != 0);
    mr_dataset_free(&a);
    mr_dataset_free(&b);
    mr_dataset_free(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts),
        cmocka_unit_test(test_same_seed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
