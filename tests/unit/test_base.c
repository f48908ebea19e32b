/* base: status, memory accounting and fault injection, the random number generator. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include <Random123/philox.h>

#include "base/mem.h"
#include "base/rng.h"
#include "base/status.h"

static void test_exit_codes(void **state)
{
    (void)state;
    assert_int_equal(mr_exit_code(MR_OK), 0);
    assert_int_equal(mr_exit_code(MR_ERR_USAGE), 2);
    assert_int_equal(mr_exit_code(MR_ERR_DATA), 65);
    assert_int_equal(mr_exit_code(MR_ERR_NO_INPUT), 66);
    assert_int_equal(mr_exit_code(MR_ERR_IO), 74);
    assert_int_equal(mr_exit_code(MR_STOPPED), 75);
    assert_int_equal(mr_exit_code(MR_ERR_WATCHDOG), 76);
    assert_int_equal(mr_exit_code(MR_ERR_DIVERGED), 77);
    assert_int_equal(mr_exit_code(MR_ERR_CONFIG), 78);
}

/* Raised again, perhaps in other words, by those that it passes. */
static void test_last_error(void **state)
{
    (void)state;
    mr_errors_to_log(false);
    assert_int_equal(MR_RAISE(MR_ERR_IO, "disk %d is full", 7), MR_ERR_IO);
    assert_int_equal(MR_RAISE(MR_ERR_COMM, "%s", mr_last_error()), MR_ERR_COMM);
    assert_string_equal(mr_last_error(), "disk 7 is full");
    (void)MR_RAISE(MR_ERR_COMM, "saving: %s", mr_last_error());
    assert_string_equal(mr_last_error(), "saving: disk 7 is full");
    mr_errors_to_log(true);
}

static void test_memory(void **state)
{
    (void)state;
    int64_t before = mr_mem_now_bytes();
    double *x = NULL;
    assert_int_equal(MR_ALLOC(&x, 1000, "x"), MR_OK);
    assert_int_equal((uintptr_t)x % 64, 0);
    for (int i = 0; i < 1000; i++) assert_true(x[i] == 0.0);
    assert_int_equal(mr_mem_now_bytes() - before, 8000);
    MR_FREE(x);
    assert_null(x);
    assert_int_equal(mr_mem_now_bytes(), before);
    mr_errors_to_log(false);
    mr_mem_fail_at(2);
    double *y = NULL, *z = NULL;
    assert_int_equal(MR_ALLOC(&y, 10, "y"), MR_OK);
    assert_int_equal(MR_ALLOC(&z, 10, "z"), MR_ERR_MEMORY);
    assert_null(z);
    assert_int_equal(MR_ALLOC(&z, -1, "negative"), MR_ERR_MEMORY);
    mr_errors_to_log(true);
    MR_FREE(y);
}

/* Ours against the reference implementation of the published generator. */
static void test_philox(void **state)
{
    (void)state;
    uint32_t x = 1;
    for (int i = 0; i < 20000; i++) {
        uint32_t w[6];
        for (int j = 0; j < 6; j++) w[j] = x = x * 1664525u + 1013904223u;
        philox4x32_ctr_t c = {{w[0], w[1], w[2], w[3]}};
        philox4x32_key_t k = {{w[4], w[5]}};
        philox4x32_ctr_t r = philox4x32(c, k);
        mr_u32x4 o = mr_philox((uint64_t)w[5] << 32 | w[4], w[3], w[2], w[1], w[0]);
        for (int j = 0; j < 4; j++) assert_int_equal(o.v[j], r.v[j]);
    }
}

static void test_normals(void **state)
{
    (void)state;
    double sum = 0, square = 0;
    int n = 200000;
    for (int i = 0; i < n / 2; i++) {
        mr_u32x4 r = mr_philox(7, 1, 0, 0, (uint32_t)i);
        double a, b;
        mr_normal2(r.v[0], r.v[1], &a, &b);
        sum += a + b;
        square += a * a + b * b;
    }
    assert_true(fabs(sum / n) < 0.01);
    assert_true(fabs(square / n - 1.0) < 0.02);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exit_codes), cmocka_unit_test(test_last_error),
        cmocka_unit_test(test_memory),     cmocka_unit_test(test_philox),
        cmocka_unit_test(test_normals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
