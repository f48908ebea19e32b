/* The CUDA device on the emulated GPU: what it counts of its memory, and moments among its work, in
 * recordings too. What it is not: a test of copies and kernels (every other check does those). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <math.h>

#include "tensor/device.h"

#define OK(call) assert_int_equal((call), MR_OK)

static mr_device *opened(void)
{
    mr_device *d = NULL;
    OK(mr_device_open(&d, "cuda", 0));
    return d;
}

static void memory_is_counted(void **state)
{
    mr_device *d = opened();
    void *p[300] = {NULL};
    int64_t before = d->counts.bytes, most = d->counts.most_bytes;
    (void)state;
    assert_true(before > 0 && most == before); /* workspaces of its own */
    for (int i = 0; i < 300; i++) OK(d->alloc(d, &p[i], (size_t)(i + 1), "a test"));
    assert_int_equal(d->counts.bytes, before + 300 * 301 / 2);
    for (int i = 0; i < 300; i += 2) d->free(d, p[i]);
    assert_int_equal(d->counts.bytes, before + 150 * 151); /* 2 + 4 + ... + 300 */
    assert_int_equal(d->counts.most_bytes, before + 300 * 301 / 2);
    OK(d->alloc(d, &p[0], 1 << 20, "a test"));
    assert_int_equal(d->counts.most_bytes, before + 150 * 151 + (1 << 20));
    d->free(d, NULL);
    d->free(d, p[0]);
    for (int i = 1; i < 300; i += 2) d->free(d, p[i]);
    assert_int_equal(d->counts.bytes, before);
    mr_device_close(&d);
}

static mr_status work(mr_device *d, void *p)
{
    for (int i = 0; i < 3; i++) {
        MR_TRY(d->stamp(d, i));
        MR_TRY(d->fill(d, p, i, (size_t)1 << 20));
    }
    return d->stamp(d, 3);
}

static void check_moments(mr_device *d, double *out)
{
    double s[3], all, back;
    OK(d->sync(d));
    for (int i = 0; i < 3; i++) OK(d->stamped(d, i, i + 1, &s[i]));
    OK(d->stamped(d, 0, 3, &all));
    OK(d->stamped(d, 3, 0, &back));
    assert_true(s[0] > 0 && s[1] > 0 && s[2] > 0 && back == -all);
    assert_true(fabs(s[0] + s[1] + s[2] - all) < 1e-6 && all < 60);
    *out = all;
}

static void moments_in_order(void **state)
{
    mr_device *d = opened();
    void *p = NULL;
    double s, again;
    (void)state;
    OK(d->alloc(d, &p, (size_t)1 << 20, "a test"));
    OK(work(d, p));
    check_moments(d, &s);
    for (int turn = 0; turn < 3; turn++) { /* a graph, then the same one with what it takes over */
        OK(d->capture(d, MR_RECORD_STEP, MR_CAPTURE_BEGIN));
        OK(work(d, p));
        OK(d->capture(d, MR_RECORD_STEP, MR_CAPTURE_START));
        check_moments(d, &again);
        assert_true(again != s); /* noted anew */
        s = again;
    }
    d->free(d, p);
    mr_device_close(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(memory_is_counted),
                                       cmocka_unit_test(moments_in_order)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
