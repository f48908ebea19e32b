/* Data set files: round trip, refusal to overwrite, damage of every kind. */
#include "support.h"

#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/mem.h"
#include "data/check.h"
#include "data/half.h"
#include "io/h5_checksum.h"
#include "io/h5_dataset.h"

/* $MR_DAMAGE times as many trials; tests/soak.sh sets it. */
static int many(void)
{
    const char *said = getenv("MR_DAMAGE");
    return said ? atoi(said) : 1;
}

static mr_status read_quietly(mr_dataset *d, const char *path)
{
    mr_errors_to_log(false);
    mr_status st = mr_h5_dataset_read(d, path, NULL);
    mr_errors_to_log(true);
    return st;
}

static void to_half(mr_feature *f, int64_t items)
{
    int64_t n = items * f->count * f->width;
    float *x = f->data;
    uint16_t *h = f->data;
    for (int64_t i = 0; i < n; i++) h[i] = mr_float_to_half(x[i]);
    f->dtype = MR_F16;
}

static void test_round_trip(void **state)
{
    (void)state;
    int64_t before = mr_mem_now_bytes();
    for (int variant = 0; variant < 4; variant++) {
        mr_dataset a, b = {0};
        tiny_dataset(&a, 1);
        if (variant == 1) to_half(&a.frames, a.n_items);
        if (variant == 2) MR_FREE(a.frames.data);
        if (variant == 3) {
            MR_FREE(a.frames.data);
            MR_FREE(a.visual.data);
            MR_FREE(a.text.data);
            a.is_synthetic = false;
        }
        char name[32];
        snprintf(name, sizeof name, "round%d.h5", variant);
        assert_int_equal(mr_h5_dataset_write(&a, tmp_path(name), false), MR_OK);
        assert_true(mr_h5_is_hdf5(tmp_path(name)));
        assert_int_equal(mr_h5_dataset_read(&b, tmp_path(name), NULL), MR_OK);
        if (variant == 1) assert_int_equal(b.frames.dtype, MR_F16);
        if (variant == 2) assert_null(b.frames.data);
        assert_true(same_dataset(&a, &b));
        mr_dataset_free(&a);
        mr_dataset_free(&b);
    }
    assert_int_equal(mr_mem_now_bytes(), before);
}

static void test_never_overwrites(void **state)
{
    (void)state;
    mr_dataset a, b, c = {0};
    tiny_dataset(&a, 1);
    tiny_dataset(&b, 2);
    const char *path = tmp_path("over.h5");
    assert_int_equal(mr_h5_dataset_write(&a, path, false), MR_OK);
    mr_errors_to_log(false);
    assert_int_equal(mr_h5_dataset_write(&b, path, false), MR_ERR_USAGE);
    assert_non_null(strstr(mr_last_error(), "--force"));
    mr_errors_to_log(true);
    assert_int_equal(mr_h5_dataset_read(&c, path, NULL), MR_OK);
    assert_true(same_dataset(&a, &c));
    mr_dataset_free(&c);
    assert_int_equal(mr_h5_dataset_write(&b, path, true), MR_OK);
    assert_int_equal(mr_h5_dataset_read(&c, path, NULL), MR_OK);
    assert_true(same_dataset(&b, &c));
    mr_dataset_free(&a);
    mr_dataset_free(&b);
    mr_dataset_free(&c);
}

static void test_missing_and_foreign(void **state)
{
    (void)state;
    mr_dataset d = {0};
    assert_int_equal(read_quietly(&d, tmp_path("no-such.h5")), MR_ERR_NO_INPUT);
    write_text(tmp_path("text.h5"), "user,item\n1,2\n");
    assert_int_equal(read_quietly(&d, tmp_path("text.h5")), MR_ERR_DATA);
    write_text(tmp_path("empty.h5"), "");
    assert_int_equal(read_quietly(&d, tmp_path("empty.h5")), MR_ERR_DATA);
    assert_int_equal(read_quietly(&d, "/tmp"), MR_ERR_DATA);
    assert_null(d.offset);
}

/* Every byte of the file is under a checksum, ours or HDF5's: each flipped bit is refused. */
static void test_bit_flips(void **state)
{
    (void)state;
    mr_dataset a;
    tiny_dataset(&a, 3);
    const char *path = tmp_path("flip.h5");
    assert_int_equal(mr_h5_dataset_write(&a, path, false), MR_OK);
    size_t n;
    unsigned char *bytes = read_bytes(path, &n);
    uint64_t rng = 11;
    for (int i = 0; i < 300 * many(); i++) {
        size_t at = next_random(&rng) % n;
        unsigned char bit = (unsigned char)(1u << (next_random(&rng) % 8));
        bytes[at] ^= bit;
        write_bytes(tmp_path("flipped.h5"), bytes, n);
        bytes[at] ^= bit;
        mr_dataset d = {0};
        mr_status st = read_quietly(&d, tmp_path("flipped.h5"));
        if (st == MR_OK) print_message("bit %d of byte %zu is not covered\n", bit, at);
        assert_int_equal(st, MR_ERR_DATA);
        assert_null(d.offset);
    }
    free(bytes);
    mr_dataset_free(&a);
}

/* HDF5's own checksums are compared before HDF5 reads the file. */
static void test_header_checksums(void **state)
{
    static const uint8_t text[] = "Four score and seven years ago";
    (void)state;
    assert_int_equal(mr_h5_checksum(text, 30), 0x17770551); /* from lookup3's own test */
    assert_int_equal(mr_h5_checksum(text, 0), 0xdeadbeef);
    mr_dataset a;
    tiny_dataset(&a, 3);
    const char *path = tmp_path("sums.h5");
    assert_int_equal(mr_h5_dataset_write(&a, path, false), MR_OK);
    size_t n, found = 0;
    unsigned char *bytes = read_bytes(path, &n);
    for (size_t at = 0; at + 8 < n; at++) {
        if (at && memcmp(bytes + at, "OHDR", 4) != 0) continue;
        size_t flip = at ? at + 7 : 44; /* a time stamp or length; the superblock's sum */
        bytes[flip] ^= 1;
        write_bytes(tmp_path("sum.h5"), bytes, n);
        bytes[flip] ^= 1;
        mr_dataset d = {0};
        assert_int_equal(read_quietly(&d, tmp_path("sum.h5")), MR_ERR_DATA);
        found += strstr(mr_last_error(), "checksum") != NULL;
    }
    assert_true(found >= 3);
    free(bytes);
    mr_dataset_free(&a);
}

static void test_truncation(void **state)
{
    (void)state;
    mr_dataset a;
    tiny_dataset(&a, 3);
    const char *path = tmp_path("trunc.h5");
    assert_int_equal(mr_h5_dataset_write(&a, path, false), MR_OK);
    size_t n;
    unsigned char *bytes = read_bytes(path, &n);
    uint64_t rng = 5;
    for (int i = 0; i < 100 * many(); i++) {
        size_t keep = i == 0 ? n - 1 : next_random(&rng) % n;
        write_bytes(tmp_path("cut.h5"), bytes, keep);
        mr_dataset d = {0};
        assert_int_equal(read_quietly(&d, tmp_path("cut.h5")), MR_ERR_DATA);
    }
    free(bytes);
    mr_dataset_free(&a);
}

/* Many changed bytes at once, biased to the metadata: no crash, no wrong data. */
static void test_mutations(void **state)
{
    (void)state;
    mr_dataset a;
    tiny_dataset(&a, 4);
    const char *path = tmp_path("mut.h5");
    assert_int_equal(mr_h5_dataset_write(&a, path, false), MR_OK);
    size_t n;
    unsigned char *bytes = read_bytes(path, &n), *copy = malloc(n);
    uint64_t rng = 17;
    int64_t before = mr_mem_now_bytes();
    for (int i = 0; i < 2000 * many(); i++) {
        memcpy(copy, bytes, n);
        int changes = 1 + (int)(next_random(&rng) % 8);
        for (int c = 0; c < changes; c++) {
            size_t range = next_random(&rng) % 2 ? n : (n < 2048 ? n : 2048);
            copy[next_random(&rng) % range] = (unsigned char)next_random(&rng);
        }
        write_bytes(tmp_path("mutated.h5"), copy, n);
        mr_dataset d = {0};
        if (read_quietly(&d, tmp_path("mutated.h5")) == MR_OK) assert_true(same_dataset(&a, &d));
        mr_dataset_free(&d);
    }
    assert_int_equal(mr_mem_now_bytes(), before);
    free(bytes);
    free(copy);
    mr_dataset_free(&a);
}

/* A full disk: a limit on the size of files stands in for it. */
static void test_write_failure(void **state)
{
    (void)state;
    mr_dataset a;
    tiny_dataset(&a, 1);
    struct rlimit old, small = {1000, RLIM_INFINITY};
    getrlimit(RLIMIT_FSIZE, &old);
    small.rlim_max = old.rlim_max;
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    mr_errors_to_log(false);
    mr_status st = mr_h5_dataset_write(&a, tmp_path("full.h5"), false);
    mr_errors_to_log(true);
    setrlimit(RLIMIT_FSIZE, &old);
    signal(SIGXFSZ, handler);
    assert_int_equal(st, MR_ERR_IO);
    assert_int_not_equal(access(tmp_path("full.h5"), F_OK), 0);
    char tmp[600];
    snprintf(tmp, sizeof tmp, "%s.tmp-%ld", tmp_path("full.h5"), (long)getpid());
    assert_int_not_equal(access(tmp, F_OK), 0);
    mr_dataset_free(&a);
}

/* Meaning: each broken rule of a data set is refused before anything is written. */
static void test_checks(void **state)
{
    (void)state;
    for (int rule = 0; rule < 9; rule++) {
        mr_dataset a;
        tiny_dataset(&a, 1);
        switch (rule) {
        case 0: a.items[7] = 0; break;
        case 1: a.items[7] = (int32_t)a.n_items + 1; break;
        case 2: a.offset[3] = a.offset[4] + 1; break;
        case 3: a.offset[a.n_users]--; break;
        case 4: ((float *)a.visual.data)[3] = NAN; break;
        case 5: ((float *)a.text.data)[0] = -INFINITY; break;
        case 6: a.frames.count = 1; break;
        case 7: memcpy(a.item_ids, a.item_ids + a.item_id_bytes, (size_t)a.item_id_bytes); break;
        case 8: memset(a.user_ids, 0, (size_t)a.user_id_bytes); break;
        }
        mr_errors_to_log(false);
        assert_int_equal(mr_h5_dataset_write(&a, tmp_path("rule.h5"), false), MR_ERR_DATA);
        mr_errors_to_log(true);
        assert_int_not_equal(access(tmp_path("rule.h5"), F_OK), 0);
        mr_dataset_free(&a);
    }
}

/* mr_rows_make against the sentence of model.md §1, user by user. */
static void test_rows(void **state)
{
    (void)state;
    uint64_t rng = 23;
    for (int trial = 0; trial < 50; trial++) {
        enum { U = 9 };
        int64_t offset[U + 1] = {0};
        for (int u = 0; u < U; u++) offset[u + 1] = offset[u] + (int64_t)(next_random(&rng) % 7);
        int32_t items[64];
        mr_dataset d = {
            .n_users = U, .n_items = 5, .n_inter = offset[U], .offset = offset, .items = items};
        for (int split = 0; split < 3; split++) {
            mr_rows r;
            assert_int_equal(mr_rows_make(&r, &d, (mr_split)split), MR_OK);
            int64_t at = 0;
            for (int u = 0; u < U; u++) {
                int64_t n = offset[u + 1] - offset[u];
                int64_t lo = split == MR_SPLIT_TRAIN ? 2 : split == MR_SPLIT_VALID ? n - 1 : n;
                int64_t hi = split == MR_SPLIT_TRAIN ? n - 2 : lo;
                for (int64_t j = lo; n >= 3 && j <= hi; j++, at++) { /* s_j, counted from 1 */
                    assert_true(at < r.n);
                    assert_int_equal(r.user[at], u);
                    assert_int_equal(r.target[at], offset[u] + j - 1);
                }
            }
            assert_int_equal(at, r.n);
            mr_rows_free(&r);
        }
    }
}

static void test_half(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float f = mr_half_to_float((uint16_t)h);
        int e = (int)(h >> 10) & 31, m = (int)h & 1023;
        double want = e == 31 ? (m ? NAN : INFINITY) : ldexp(e ? 1024 + m : m, (e ? e : 1) - 25);
        if (h & 0x8000u) want = -want;
        if (isnan(want)) {
            assert_true(isnan(f) && isnan(mr_half_to_float(mr_float_to_half(f))));
            continue;
        }
        assert_true((double)f == want);
        assert_int_equal(mr_float_to_half(f), h);
        /* Between two neighbours: nearest, ties to even. */
        if (h < 0x7BFFu) {
            float g = mr_half_to_float((uint16_t)(h + 1)), mid = (f + g) / 2;
            assert_int_equal(mr_float_to_half(mid), (h & 1) ? h + 1 : h);
            assert_int_equal(mr_float_to_half(nextafterf(mid, g)), h + 1);
            assert_int_equal(mr_float_to_half(nextafterf(mid, f)), h);
        }
    }
    assert_int_equal(mr_float_to_half(65519.996f), 0x7BFF);
    assert_int_equal(mr_float_to_half(65520.0f), 0x7C00);
    assert_int_equal(mr_float_to_half(1e30f), 0x7C00);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_never_overwrites),
        cmocka_unit_test(test_missing_and_foreign),
        cmocka_unit_test(test_bit_flips),
        cmocka_unit_test(test_header_checksums),
        cmocka_unit_test(test_truncation),
        cmocka_unit_test(test_mutations),
        cmocka_unit_test(test_write_failure),
        cmocka_unit_test(test_checks),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_half),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
