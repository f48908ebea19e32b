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
    static const int64_t want[][3] = {{600, 800, 4800},
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

/* ---- does content predict the next item? ---- */

enum { ROWS_MAX = 4000 };

typedef struct rows_of {
    int64_t n;
    int32_t last[ROWS_MAX], target[ROWS_MAX]; /* item ids */
} rows_of;

static void make_rows(rows_of *r, const mr_dataset *d, mr_split split)
{
    mr_rows rows;
    assert_int_equal(mr_rows_make(&rows, d, split), MR_OK);
    assert_true(rows.n <= ROWS_MAX);
    r->n = rows.n;
    for (int64_t i = 0; i < rows.n; i++) {
        r->target[i] = d->items[rows.target[i]];
        r->last[i] = d->items[rows.target[i] - 1];
    }
    mr_rows_free(&rows);
}

static bool is_hit(const float *score, int64_t items, int32_t target)
{
    int better = 0;
    for (int64_t i = 1; i <= items; i++)
        better += score[i] > score[target] || (score[i] == score[target] && i < target);
    return better < 10;
}

/* Hit@10 of counts: popularity (weight 0), or what followed the last item, popularity as a
 * tie-break. */
static double hit_counts(const mr_dataset *d, const rows_of *train, const rows_of *test,
                         float weight)
{
    int64_t w = d->n_items + 1, hits = 0;
    float *score = NULL, *pair = NULL, *pop = NULL;
    assert_int_equal(MR_ALLOC(&score, w, "score"), MR_OK);
    assert_int_equal(MR_ALLOC(&pop, w, "pop"), MR_OK);
    assert_int_equal(MR_ALLOC(&pair, w * w, "pairs"), MR_OK);
    for (int64_t i = 0; i < train->n; i++) {
        pop[train->target[i]] += 1;
        pair[train->last[i] * w + train->target[i]] += 1;
    }
    for (int64_t i = 0; i < test->n; i++) {
        for (int64_t k = 1; k < w; k++) score[k] = pop[k] + weight * pair[test->last[i] * w + k];
        hits += is_hit(score, d->n_items, test->target[i]);
    }
    MR_FREE(score);
    MR_FREE(pair);
    MR_FREE(pop);
    return (double)hits / (double)test->n;
}

/* x [items, D]: mean frame of item item_of[i], minus the mean over items, scaled to length 1. */
static float *features_of(const mr_dataset *d, const int32_t *item_of)
{
    int64_t K = d->frames.count, D = d->frames.width, I = d->n_items;
    const float *frames = d->frames.data;
    float *x = NULL;
    assert_int_equal(MR_ALLOC(&x, I * D, "features"), MR_OK);
    for (int64_t i = 0; i < I; i++)
        for (int64_t k = 0; k < K; k++)
            for (int64_t j = 0; j < D; j++) x[i * D + j] += frames[(item_of[i] * K + k) * D + j];
    for (int64_t j = 0; j < D; j++) {
        float sum = 0;
        for (int64_t i = 0; i < I; i++) sum += x[i * D + j];
        for (int64_t i = 0; i < I; i++) x[i * D + j] -= sum / (float)I;
    }
    for (int64_t i = 0; i < I; i++) {
        float square = 0;
        for (int64_t j = 0; j < D; j++) square += x[i * D + j] * x[i * D + j];
        for (int64_t j = 0; j < D; j++) x[i * D + j] /= sqrtf(square);
    }
    return x;
}

/* Hit@10 of a vote of the training rows whose last item looks like this one; no ids, no training.
 */
static double hit_content(const mr_dataset *d, const rows_of *train, const rows_of *test,
                          const int32_t *item_of)
{
    int64_t I = d->n_items, D = d->frames.width, hits = 0;
    float *x = features_of(d, item_of), *alike = NULL, *score = NULL;
    assert_int_equal(MR_ALLOC(&alike, I, "similarity"), MR_OK);
    assert_int_equal(MR_ALLOC(&score, I + 1, "score"), MR_OK);
    for (int64_t r = 0; r < test->n; r++) {
        const float *mine = x + (test->last[r] - 1) * D;
        for (int64_t i = 0; i < I; i++) {
            float dot = 0;
            for (int64_t j = 0; j < D; j++) dot += mine[j] * x[i * D + j];
            alike[i] = expf(8 * dot);
        }
        for (int64_t i = 0; i <= I; i++) score[i] = 0;
        for (int64_t i = 0; i < train->n; i++) score[train->target[i]] += alike[train->last[i] - 1];
        hits += is_hit(score, I, test->target[r]);
    }
    MR_FREE(x);
    MR_FREE(alike);
    MR_FREE(score);
    return (double)hits / (double)test->n;
}

static void test_planted(void **state)
{
    (void)state;
    static rows_of train, test;
    static int32_t item_of[1000], other[1000];
    mr_synth_spec s;
    mr_dataset d;
    assert_int_equal(mr_synth_spec_for("demo", &s), MR_OK);
    assert_int_equal(mr_synth(&d, &s), MR_OK);
    make_rows(&train, &d, MR_SPLIT_TRAIN);
    make_rows(&test, &d, MR_SPLIT_TEST);
    for (int32_t i = 0; i < d.n_items; i++) {
        item_of[i] = i;
        other[i] = (int32_t)((i * 7 + 113) % d.n_items);
    }
    double pop = hit_counts(&d, &train, &test, 0), ids = hit_counts(&d, &train, &test, 1000);
    double content = hit_content(&d, &train, &test, item_of);
    double control = hit_content(&d, &train, &test, other);
    print_message("hit@10: popularity %.3f, ids %.3f, content %.3f, content of another item %.3f\n",
                  pop, ids, content, control);
    assert_true(ids > pop);
    assert_true(content > 1.25 * ids);
    assert_true(content > 1.5 * pop);
    assert_true(content > 1.25 * control);
    mr_dataset_free(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts),
        cmocka_unit_test(test_same_seed),
        cmocka_unit_test(test_planted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
