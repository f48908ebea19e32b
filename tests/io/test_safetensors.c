/* Safetensors: what is written is read back, wrong headers are refused one by one, and no mutation
 * of a file makes the reader crash or read outside the file. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <cmocka.h>

#include "base/mem.h"
#include "base/rng.h"
#include "io/safetensors.h"

static char dir[64] = "/tmp/mr-st-XXXXXX", path[128];
static int dir_fd;

static int setup(void **state)
{
    (void)state;
    if (!mkdtemp(dir)) return 1;
    snprintf(path, sizeof path, "%s/t.safetensors", dir);
    return mr_folder_open(dir, &dir_fd) != MR_OK;
}

static int teardown(void **state)
{
    (void)state;
    char command[160];
    close(dir_fd);
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command) != 0;
}

static void put_file(const void *data, size_t bytes)
{
    unlink(path); /* truncating instead makes some file systems flush at close */
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, data, bytes), (ssize_t)bytes);
    close(fd);
}

/* A file from a header's text and n bytes of data (0, 1, 2, ...). */
static size_t build(unsigned char *file, const char *header, size_t n)
{
    uint64_t length = strlen(header);
    memcpy(file, &length, 8);
    memcpy(file + 8, header, length);
    for (size_t i = 0; i < n; i++) file[8 + length + i] = (unsigned char)i;
    return 8 + length + n;
}

static mr_status open_built(const char *header, size_t n)
{
    unsigned char file[4096];
    mr_st_file *f = NULL;
    put_file(file, build(file, header, n));
    mr_errors_to_log(false);
    mr_status st = mr_st_open(&f, path);
    mr_errors_to_log(true);
    mr_st_close(&f);
    return st;
}

static void test_round_trip(void **state)
{
    (void)state;
    int64_t before = mr_mem_now_bytes(), bytes, dims[3] = {5, 2, 3}, none[2] = {0, 7};
    double a[5][2][3];
    float scalar = 3.5f;
    unsigned char u8[3] = {1, 2, 3};
    char hex[MR_XXH_HEX], again[MR_XXH_HEX];
    mr_st_writer *w = NULL;
    mr_st_file *f = NULL;
    for (int i = 0; i < 30; i++) ((double *)a)[i] = i / 7.0;
    assert_int_equal(mr_st_create(&w, dir_fd, dir, "t.safetensors"), MR_OK);
    assert_int_equal(mr_st_declare(w, "odd", MR_U8, 1, (int64_t[]){3}), MR_OK);
    assert_int_equal(mr_st_declare(w, "a.\"x\"", MR_F64, 3, dims), MR_OK);
    assert_int_equal(mr_st_declare(w, "scalar", MR_F32, 0, NULL), MR_OK);
    assert_int_equal(mr_st_declare(w, "none", MR_I64, 2, none), MR_OK);
    mr_errors_to_log(false);
    assert_int_equal(mr_st_declare(w, "odd", MR_U8, 1, dims), MR_ERR_INTERNAL);
    mr_errors_to_log(true);
    assert_int_equal(mr_st_set_metadata(w, "config", "{\"k\": \"\xc3\xa9\"}"), MR_OK);
    assert_int_equal(mr_st_write(w, u8, 3), MR_OK);
    assert_int_equal(mr_st_write(w, a, 100), MR_OK);
    assert_int_equal(mr_st_write(w, (char *)a + 100, sizeof a - 100), MR_OK);
    assert_int_equal(mr_st_write(w, &scalar, 4), MR_OK);
    assert_int_equal(mr_st_finish(&w, &bytes, hex), MR_OK);
    int64_t length;
    assert_int_equal(mr_file_hash(dir_fd, dir, "t.safetensors", &length, again), MR_OK);
    assert_int_equal(length, bytes);
    assert_string_equal(hex, again);

    assert_int_equal(mr_st_open(&f, path), MR_OK);
    assert_int_equal(f->n, 4);
    assert_int_equal(f->data_at % 8, 0);
    assert_string_equal(mr_st_metadata(f, "config"), "{\"k\": \"\xc3\xa9\"}");
    assert_null(mr_st_metadata(f, "absent"));
    assert_int_equal(mr_st_find(f, "absent"), -1);
    int i = mr_st_find(f, "a.\"x\"");
    double got[2][2][3];
    assert_int_equal(mr_st_read(f, i, 3, 2, got), MR_OK);
    assert_memory_equal(got, a[3], sizeof got);
    mr_errors_to_log(false);
    assert_int_equal(mr_st_read(f, i, 4, 2, got), MR_ERR_DATA);
    assert_int_equal(mr_st_read(f, i, -1, 1, got), MR_ERR_DATA);
    assert_int_equal(mr_st_read(f, i, 1, INT64_MAX, got), MR_ERR_DATA);
    mr_errors_to_log(true);
    float back = 0;
    assert_int_equal(mr_st_read(f, mr_st_find(f, "scalar"), 0, 1, &back), MR_OK);
    assert_true(back == scalar);
    assert_int_equal(f->tensor[mr_st_find(f, "none")].dim[1], 7);
    mr_st_close(&f);
    assert_int_equal(mr_mem_now_bytes(), before);
}

/* A writer that does not come to its end leaves no file. */
static void test_unfinished(void **state)
{
    (void)state;
    mr_st_writer *w = NULL;
    int64_t dim = 10;
    float x[10] = {0};
    unlink(path);
    mr_errors_to_log(false);
    assert_int_equal(mr_st_create(&w, dir_fd, dir, "t.safetensors"), MR_OK);
    assert_int_equal(mr_st_declare(w, "x", MR_F32, 1, &dim), MR_OK);
    assert_int_equal(mr_st_write(w, x, sizeof x - 4), MR_OK);
    assert_int_equal(mr_st_write(w, x, 8), MR_ERR_INTERNAL);
    assert_int_equal(mr_st_finish(&w, NULL, NULL), MR_ERR_INTERNAL);
    assert_null(w);
    assert_int_not_equal(access(path, F_OK), 0);
    assert_int_equal(mr_st_create(&w, dir_fd, dir, "t.safetensors"), MR_OK);
    mr_st_writer *second = NULL;
    assert_int_equal(mr_st_create(&second, dir_fd, dir, "t.safetensors"), MR_ERR_IO);
    mr_st_cancel(&w);
    mr_errors_to_log(true);
    assert_int_not_equal(access(path, F_OK), 0);
}

#define T(shape, a, b) "{\"dtype\":\"F32\",\"shape\":[" shape "],\"data_offsets\":[" a "," b "]}"

static void test_headers(void **state)
{
    (void)state;
    assert_int_equal(open_built("{\"x\":" T("2,2", "0", "16") "}", 16), MR_OK);
    assert_int_equal(open_built("{\"x\":" T("2,2", "0", "16") "}   ", 16), MR_OK);
    assert_int_equal(open_built("{}", 0), MR_OK);
    assert_int_equal(open_built("{\"b\":" T("2", "8", "16") ",\"a\":" T("2", "0", "8") "}", 16),
                     MR_OK);
    static const struct {
        const char *what, *header;
        size_t n;
    } bad[] = {
        {"more data than described", "{\"x\":" T("2,2", "0", "16") "}", 17},
        {"less data", "{\"x\":" T("2,2", "0", "16") "}", 15},
        {"duplicate name", "{\"x\":" T("2", "0", "8") ",\"x\":" T("2", "8", "16") "}", 16},
        {"duplicate key in an entry",
         "{\"x\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4},
        {"overlap", "{\"x\":" T("2", "0", "8") ",\"y\":" T("2", "4", "12") "}", 12},
        {"same place twice", "{\"x\":" T("2", "0", "8") ",\"y\":" T("2", "0", "8") "}", 8},
        {"gap", "{\"x\":" T("2", "0", "8") ",\"y\":" T("2", "12", "20") "}", 20},
        {"gap at the start", "{\"x\":" T("2", "4", "12") "}", 12},
        {"shape against offsets", "{\"x\":" T("3", "0", "8") "}", 8},
        {"negative size", "{\"x\":" T("-2", "0", "8") "}", 8},
        {"two negative sizes", "{\"x\":" T("-2,-1", "0", "8") "}", 8},
        {"product overflows to 0", "{\"x\":" T("4294967296,4294967296", "0", "0") "}", 0},
        {"product overflows to 8", "{\"x\":" T("4611686018427387906,1", "0", "8") "}", 8},
        {"size beyond 64 bits", "{\"x\":" T("99999999999999999999", "0", "8") "}", 8},
        {"real size", "{\"x\":" T("2.0", "0", "8") "}", 8},
        {"offsets descend", "{\"x\":" T("2", "8", "0") "}", 8},
        {"three offsets", "{\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8,8]}}", 8},
        {"unknown type", "{\"x\":{\"dtype\":\"F31\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8},
        {"no type", "{\"x\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8},
        {"one key more", "{\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8],\"z\":1}}",
         8},
        {"nine dimensions", "{\"x\":" T("1,1,1,1,1,1,1,1,2", "0", "8") "}", 8},
        {"list", "[1]", 0},
        {"space in front", " {}", 0},
        {"cut off", "{\"x\":", 0},
        {"text behind", "{} x", 0},
        {"metadata with a number", "{\"__metadata__\":{\"a\":1}}", 0},
        {"metadata as list", "{\"__metadata__\":[]}", 0},
        {"bad UTF-8", "{\"\xff\":" T("2", "0", "8") "}", 8},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        if (open_built(bad[i].header, bad[i].n) != MR_ERR_DATA)
            fail_msg("'%s' was not refused", bad[i].what);
}

static void test_lengths(void **state)
{
    (void)state;
    static const uint64_t lengths[] = {
        0, 1, 3, 100, 100000001, UINT64_MAX, (uint64_t)1 << 63, UINT64_MAX - 7};
    unsigned char file[64];
    mr_st_file *f = NULL;
    mr_errors_to_log(false);
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        size_t n = build(file, "{}", 0);
        memcpy(file, &lengths[i], 8);
        put_file(file, n);
        assert_int_equal(mr_st_open(&f, path), MR_ERR_DATA);
    }
    for (size_t n = 0; n < 10; n++) {
        put_file(file, n);
        assert_int_equal(mr_st_open(&f, path), MR_ERR_DATA);
    }
    assert_int_equal(mr_st_open(&f, "/nonexistent/x.safetensors"), MR_ERR_NO_INPUT);
    assert_int_equal(mr_st_open(&f, dir), MR_ERR_DATA);
    mr_errors_to_log(true);
}

/* Mutations of a valid file. A refused file leaves nothing allocated; an accepted one can be read.
 */
static void test_fuzz(void **state)
{
    (void)state;
    unsigned char good[2048], file[2048];
    size_t n = build(
        good,
        "{\"__metadata__\":{\"format\":\"pt\",\"config\":\"{\\\"a\\\": [1, 2]}\"},"
        "\"item.weight\":" T(
            "3,2", "0", "24") ",\"b\":{\"dtype\":\"I64\",\"shape\":[2],"
                              "\"data_offsets\":[24,40]},\"c\":{\"dtype\":\"F16\",\"shape\":[],"
                              "\"data_offsets\":[40,42]}}",
        42);
    int refused = 0;
    static const char alphabet[] = "0123456789{}[]\",:-.eE\\u\x00\xff nt";
    mr_errors_to_log(false);
    int64_t before = mr_mem_now_bytes();
    for (uint32_t i = 0; i < 3000; i++) {
        size_t bytes = n;
        memcpy(file, good, n);
        uint32_t changes = 1 + mr_philox(5, 1, 0, i, 99).v[0] % 4;
        for (uint32_t k = 0; k < changes; k++) {
            mr_u32x4 r = mr_philox(5, 1, 0, i, k);
            size_t at = r.v[0] % bytes;
            switch (r.v[1] % 5) {
            case 0: file[at] ^= (unsigned char)(1u << r.v[2] % 8); break;
            case 1: file[at] = (unsigned char)alphabet[r.v[2] % (sizeof alphabet - 1)]; break;
            case 2: /* cut */ bytes -= r.v[2] % 9; break;
            case 3: /* delete a run */ {
                size_t m = r.v[2] % 8;
                if (at + m > bytes) m = bytes - at;
                memmove(file + at, file + at + m, bytes - at - m);
                bytes -= m;
                break;
            }
            default: /* repeat a run */ {
                size_t m = r.v[2] % 40;
                if (at + m > bytes || bytes + m > sizeof file) break;
                memmove(file + at + m, file + at, bytes - at);
                bytes += m;
            }
            }
        }
        put_file(file, bytes);
        mr_st_file *f = NULL;
        mr_status st = mr_st_open(&f, path);
        if (st != MR_OK) {
            assert_int_equal(st, MR_ERR_DATA);
            refused++;
        }
        for (int t = 0; f && t < f->n; t++) {
            unsigned char out[2048];
            const mr_st_tensor *x = &f->tensor[t];
            assert_true(x->end <= (int64_t)bytes);
            assert_int_equal(mr_st_read(f, t, 0, x->ndim ? x->dim[0] : 1, out), MR_OK);
        }
        mr_st_close(&f);
        assert_int_equal(mr_mem_now_bytes(), before);
    }
    mr_errors_to_log(true);
    assert_true(refused > 1500 && refused < 3000);
}

/* Plain file names only: what stands in a manifest must not lead out of its folder. */
static void test_names_and_replacement(void **state)
{
    (void)state;
    static const char *const good[] = {"a", "A-b_c.9", "shard-00000.safetensors", "x..y"};
    static const char *const bad[] = {"",        ".",   "..",  "../x",        "a/b", "/x",
                                      ".hidden", "a b", "a\n", "caf\xc3\xa9", "a:b"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) assert_true(mr_file_name_ok(good[i]));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_false(mr_file_name_ok(bad[i]));
    char *text = NULL;
    size_t bytes;
    assert_int_equal(mr_file_replace(dir_fd, dir, "note", "one", 3), MR_OK);
    assert_int_equal(mr_file_replace(dir_fd, dir, "note", "second", 6), MR_OK);
    assert_int_equal(mr_file_read_text(dir_fd, dir, "note", 6, &text, &bytes), MR_OK);
    assert_string_equal(text, "second");
    MR_FREE(text);
    mr_errors_to_log(false);
    assert_int_equal(mr_file_read_text(dir_fd, dir, "note", 5, &text, &bytes), MR_ERR_DATA);
    assert_int_equal(mkfifoat(dir_fd, "pipe", 0600), 0);
    assert_int_equal(mr_file_read_text(dir_fd, dir, "pipe", 5, &text, &bytes), MR_ERR_DATA);
    assert_int_equal(symlinkat("note", dir_fd, "link"), 0);
    assert_int_equal(mr_file_read_text(dir_fd, dir, "link", 9, &text, &bytes), MR_ERR_DATA);
    assert_int_equal(mr_file_read_text(dir_fd, dir, "gone", 9, &text, &bytes), MR_ERR_NO_INPUT);
    mr_errors_to_log(true);
    char hex[MR_XXH_HEX]; /* the published value for empty input (xxh128sum of an empty file) */
    mr_hash_text("", 0, hex);
    assert_string_equal(hex, "99aa06d3014798d86001c324468d497f");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_unfinished),
        cmocka_unit_test(test_headers),    cmocka_unit_test(test_lengths),
        cmocka_unit_test(test_fuzz),       cmocka_unit_test(test_names_and_replacement),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
