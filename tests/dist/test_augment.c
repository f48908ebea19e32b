/* CL4SRec's views obey their rules on thousands of rows, and every operator, position and start
 * really occurs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "data/augment.h"

enum { L = 12, MASK_ID = 9999, ROWS = 6000 };
static const mr_augment aug = {
    .seed = 3, .crop = 0.6, .mask = 0.3, .reorder = 0.6, .mask_id = MASK_ID};

/* What a view is, judged from its content alone; items are distinct. */
enum { UNCHANGED, CROPPED, MASKED, REORDERED, INVALID };

static int ascending(const int32_t *v, int n, int32_t first)
{
    for (int i = 0; i < n; i++)
        if (v[i] != first + i) return 0;
    return 1;
}

/* items are 100, 101, .. 100 + n - 1. */
static int judge(const int32_t *v, int len, int n, int *where)
{
    int hidden = 0, moved_lo = n, moved_hi = -1, seen[L] = {0};
    int shares_crop = n * 6 / 10 > 0 ? n * 6 / 10 : 1, shares_mask = n * 3 / 10;
    if (len < n) {
        *where = v[0] - 100;
        return len == shares_crop && v[0] >= 100 && *where + len <= n && ascending(v, len, v[0])
                   ? CROPPED
                   : INVALID;
    }
    if (len > n) return INVALID;
    for (int i = 0; i < n; i++) {
        if (v[i] == MASK_ID) {
            hidden++;
            *where = i;
            continue;
        }
        if (v[i] < 100 || v[i] >= 100 + n || seen[v[i] - 100]++) return INVALID;
        if (v[i] != 100 + i) {
            if (moved_lo == n) moved_lo = i;
            moved_hi = i;
        }
    }
    if (hidden) return hidden == shares_mask && moved_hi < 0 ? MASKED : INVALID;
    if (moved_hi < 0) return UNCHANGED;
    *where = moved_lo;
    return moved_hi - moved_lo < n * 6 / 10 ? REORDERED : INVALID;
}

static void test_rules(void **state)
{
    (void)state;
    int pairs[INVALID][INVALID] = {{0}}, crop_start[L] = {0}, mask_pos[L] = {0}, first[L] = {0};
    for (int n = 1; n <= L; n++)
        for (uint32_t row = 0; row < ROWS; row++) {
            int32_t items[L], copy[L], a[L], b[L], len[2] = {-1, -1};
            int32_t *view[2] = {a, b};
            int wa = 0, wb = 0;
            for (int i = 0; i < n; i++) copy[i] = items[i] = 100 + i;
            mr_augment_views(&aug, items, n, 17, row, view, len);
            assert_memory_equal(items, copy, (size_t)n * sizeof *items);
            int ka = judge(a, len[0], n, &wa), kb = judge(b, len[1], n, &wb);
            assert_int_not_equal(ka, INVALID);
            assert_int_not_equal(kb, INVALID);
            if (n == 1) assert_true(ka == UNCHANGED && kb == UNCHANGED);
            if (ka == kb) assert_true(ka == UNCHANGED); /* never the same operator twice */
            if (n != L) continue;
            pairs[ka][kb]++;
            if (ka == CROPPED) crop_start[wa]++;
            if (ka == MASKED) mask_pos[wa]++;
            if (ka == REORDERED) first[wa]++;
        }
    /* At n = L: six ordered pairs, each near ROWS / 6 (a reordering is hardly ever the identity).
     */
    for (int a = CROPPED; a <= REORDERED; a++)
        for (int b = CROPPED; b <= REORDERED; b++)
            if (a != b) assert_in_range(pairs[a][b], ROWS / 6 - 150, ROWS / 6 + 150);
    for (int s = 0; s <= L - 7; s++) assert_in_range(crop_start[s], 240, 430);
    for (int p = 2; p < L; p++) assert_true(mask_pos[p] > 0); /* last masked of three */
    assert_true(mask_pos[0] == 0 && mask_pos[1] == 0);
    for (int s = 0; s <= L - 7; s++) assert_true(first[s] > 0);
}

/* Each position is masked equally often, and each item of a full window moves anywhere in it. */
static void test_uniform(void **state)
{
    (void)state;
    int hidden[L] = {0}, masks = 0, place[L][L] = {{0}}, orders = 0;
    mr_augment all = aug;
    all.reorder = 1.0;
    for (uint32_t row = 0; row < ROWS * 4; row++) {
        int32_t items[L], a[L], b[L], len[2], *view[2] = {a, b};
        int where = 0;
        for (int i = 0; i < L; i++) items[i] = 100 + i;
        mr_augment_views(&all, items, L, 5, row, view, len);
        if (judge(a, len[0], L, &where) == MASKED) {
            masks++;
            for (int i = 0; i < L; i++) hidden[i] += a[i] == MASK_ID;
        } else if (len[0] == L) {
            orders++;
            for (int i = 0; i < L; i++) place[a[i] - 100][i]++;
        }
    }
    assert_in_range(masks, 7600, 8400);
    assert_in_range(orders, 7600, 8400);
    for (int i = 0; i < L; i++) assert_in_range(hidden[i], masks / 4 - 200, masks / 4 + 200);
    for (int i = 0; i < L; i++)
        for (int j = 0; j < L; j++)
            assert_in_range(place[i][j], orders / L - 130, orders / L + 130);
}

static void test_pure_function(void **state)
{
    (void)state;
    int changed_by_step = 0, changed_by_row = 0, changed_by_seed = 0;
    mr_augment other = aug;
    other.seed++;
    for (uint32_t row = 0; row < 200; row++) {
        int32_t items[L], v[5][2][L] = {{{0}}}, len[5][2];
        for (int i = 0; i < L; i++) items[i] = 100 + i;
        for (int k = 0; k < 5; k++) {
            int32_t *view[2] = {v[k][0], v[k][1]};
            mr_augment_views(k == 4 ? &other : &aug, items, L, k == 2 ? 8 : 7,
                             k == 3 ? row + 1000 : row, view, len[k]);
        }
        assert_memory_equal(v[0], v[1], sizeof v[0]);
        assert_memory_equal(len[0], len[1], sizeof len[0]);
        changed_by_step += memcmp(v[0], v[2], sizeof v[0]) != 0;
        changed_by_row += memcmp(v[0], v[3], sizeof v[0]) != 0;
        changed_by_seed += memcmp(v[0], v[4], sizeof v[0]) != 0;
    }
    assert_true(changed_by_step > 180 && changed_by_row > 180 && changed_by_seed > 180);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rules),
        cmocka_unit_test(test_uniform),
        cmocka_unit_test(test_pure_function),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
