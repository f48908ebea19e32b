/* npy files: write and read back, every refused kind, random damage. */
#include "support.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "data/npy.h"

static size_t make_npy(unsigned char *out, int version, const char *dict, const void *data,
                       size_t n)
{
    size_t start = version == 1 ? 10 : 12, len = strlen(dict);
    memcpy(out, "\x93NUMPY", 6);
    out[6] = (unsigned char)version;
    out[7] = 0;
    out[8] = (unsigned char)len;
    out[9] = (unsigned char)(len >> 8);
    out[10] = out[11] = 0;
    memcpy(out + start, dict, len);
    memcpy(out + start + len, data, n);
    return start + len + n;
}

static mr_status open_quietly(mr_npy *f, const char *path)
{
    mr_errors_to_log(false);
    mr_status st = mr_npy_open(f, path);
    mr_errors_to_log(true);
    return st;
}

static void test_write_read(void **state)
{
    (void)state;
    float x[24], row[12];
    for (int i = 0; i < 24; i++) x[i] = (float)i - 7.5f;
    static const int64_t dims[4][4] = {{24}, {8, 3}, {4, 2, 3}, {2, 2, 3, 2}};
    for (int rank = 1; rank <= 4; rank++) {
        mr_npy f;
        const char *path = tmp_path("w.npy");
        assert_int_equal(mr_npy_write(path, MR_F32, rank, dims[rank - 1], x), MR_OK);
        assert_int_equal(mr_npy_open(&f, path), MR_OK);
        assert_int_equal(f.rank, rank);
        assert_int_equal(f.data_at % 64, 0);
        int64_t n = mr_npy_row_elems(&f);
        for (int64_t r = 0; r < f.dims[0]; r++) {
            assert_int_equal(f.dims[0] * n, 24);
            assert_int_equal(mr_npy_row(&f, r, row), MR_OK);
            assert_memory_equal(row, x + r * n, sizeof(float) * (size_t)n);
        }
        mr_npy_close(&f);
    }
}

static void test_headers(void **state)
{
    (void)state;
    static const struct {
        const char *dict;
        int version;
        bool ok;
        const char *sentence; /* part of it */
    } cases[] = {
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n", 1, true, ""},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n", 2, true, ""},
        {"{\"shape\":(2,3),\"descr\":\"<f4\",\"fortran_order\":False}", 1, true, ""},
        {"{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }", 1, true, ""},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n", 3, false, "version"},
        {"{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }", 1, false, "Fortran"},
        {"{'descr': '|O', 'fortran_order': False, 'shape': (2, 3), }", 1, false, "pickle"},
        {"{'descr': '>f4', 'fortran_order': False, 'shape': (2, 3), }", 1, false, "little-endian"},
        {"{'descr': '<c8', 'fortran_order': False, 'shape': (3,), }", 1, false, "element type"},
        {"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (6,), }", 1, false, "damaged"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 4), }", 1, false, "truncated"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }", 1, false, "24"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 4), }", 1, false,
         "truncated"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,), }", 1, false,
         "damaged"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 1, 2, 3), }", 1, false,
         "damaged"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (-2, -3), }", 1, false, "damaged"},
        {"{'descr': '<f4', 'shape': (2, 3), }", 1, false, "damaged"},
        {"{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", 1, false,
         "damaged"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), } x", 1, false, "damaged"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), 'x': 1}", 1, false, "damaged"},
        {"", 1, false, "damaged"},
    };
    unsigned char file[512];
    float x[6] = {1, 2, 3, 4, 5, 6};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t n = make_npy(file, cases[i].version, cases[i].dict, x, sizeof x);
        write_bytes(tmp_path("h.npy"), file, n);
        mr_npy f;
        mr_status st = open_quietly(&f, tmp_path("h.npy"));
        assert_int_equal(st, cases[i].ok ? MR_OK : MR_ERR_DATA);
        if (st == MR_OK)
            mr_npy_close(&f);
        else if (!strstr(mr_last_error(), cases[i].sentence))
            fail_msg("case %zu: \"%s\" does not say %s", i, mr_last_error(), cases[i].sentence);
    }
    mr_npy f;
    assert_int_equal(open_quietly(&f, tmp_path("none.npy")), MR_ERR_NO_INPUT);
    write_text(tmp_path("xz.npy"), "\xFD"
                                   "7zXZ and more bytes");
    assert_int_equal(open_quietly(&f, tmp_path("xz.npy")), MR_ERR_DATA);
}

/* Changed bytes and cuts: never a crash; what opens can be read to its last row. */
static void test_fuzz(void **state)
{
    (void)state;
    unsigned char file[512], copy[512];
    float x[6] = {1, 2, 3, 4, 5, 6};
    const char *dict = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n";
    uint64_t rng = 99;
    int opened = 0;
    for (int i = 0; i < 20000; i++) {
        size_t n = make_npy(file, 1 + (int)(next_random(&rng) % 2), dict, x, sizeof x);
        memcpy(copy, file, n);
        for (uint64_t c = next_random(&rng) % 4; c > 0; c--)
            copy[next_random(&rng) % n] = (unsigned char)(next_random(&rng) % 128);
        size_t keep = next_random(&rng) % 4 ? n : next_random(&rng) % n;
        write_bytes(tmp_path("f.npy"), copy, keep);
        mr_npy f;
        if (open_quietly(&f, tmp_path("f.npy")) != MR_OK) continue;
        opened++;
        double row[64];
        int64_t bytes = mr_npy_row_elems(&f) * (int64_t)mr_dtype_bytes(f.dtype);
        assert_true(f.rank == 0 || f.dims[0] * bytes <= 24 + 128);
        if (f.rank && f.dims[0] > 0 && bytes <= (int64_t)sizeof row)
            assert_int_equal(mr_npy_row(&f, f.dims[0] - 1, row), MR_OK);
        mr_npy_close(&f);
    }
    assert_true(opened > 1000 && opened < 19000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_write_read),
        cmocka_unit_test(test_headers),
        cmocka_unit_test(test_fuzz),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
