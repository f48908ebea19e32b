/* Import: formats, order of ids and times, k-core against brute force, streams, CSV, bad input. */
#include "support.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mem.h"
#include "data/ids.h"
#include "data/import.h"
#include "data/inter_log.h"
#include "data/npy.h"
#include "data/open_stream.h"

static mr_import_spec spec_of(const char *path)
{
    return (mr_import_spec){.interactions = path, .feature_dtype = MR_IMPORT_DTYPE_KEEP};
}

static mr_status import_quietly(const mr_import_spec *s)
{
    mr_dataset d = {0};
    mr_import_report r;
    mr_errors_to_log(false);
    mr_status st = mr_import(&d, &r, s);
    mr_errors_to_log(true);
    mr_dataset_free(&d);
    return st;
}

/* Fails unless import refuses `text` with this status and a sentence that holds `part`. */
static void expect_log(const char *text, mr_status want, const char *part)
{
    write_text(tmp_path("bad.log"), text);
    mr_import_spec s = spec_of(tmp_path("bad.log"));
    mr_status st = import_quietly(&s);
    if (st != want || (part && !strstr(mr_last_error(), part)))
        fail_msg("status %d (expected %d) and \"%s\" (expected ...%s...) for:\n%.200s", st, want,
                 mr_last_error(), part ? part : "", text);
}

#define GOOD "1\t10 20 30 40\n2\t20 30 40 10\n"

static void test_bad_logs(void **state)
{
    (void)state;
    expect_log(GOOD, MR_OK, NULL);
    expect_log("", MR_ERR_DATA, "empty");
    expect_log("\n" GOOD, MR_ERR_DATA, "empty line");
    expect_log("user,item,timestamp\n", MR_ERR_DATA, "no interactions");
    expect_log("hello world\n", MR_ERR_DATA, "no known format");
    expect_log(GOOD "3\n", MR_ERR_DATA, "line 3");
    expect_log(GOOD "3\t\n", MR_ERR_DATA, "without items");
    expect_log(GOOD "\t5 6\n", MR_ERR_DATA, "user id has 0 bytes");
    expect_log("1\t10 20 30 40\n", MR_ERR_DATA, "1 user");
    expect_log("1\t5 5 5 5\n2\t5 5\n", MR_ERR_DATA, "1 item");
    expect_log("1\t5 6 7\n2\t5 6 7\n", MR_ERR_DATA, "nothing to train on");
    expect_log("user,item,timestamp\n1,2\n", MR_ERR_DATA, "2 fields");
    expect_log("user,item,timestamp\n1,2,3,4\n", MR_ERR_DATA, "4 fields");
    expect_log("user,item,timestamp\n1,2,soon\n", MR_ERR_DATA, "\"soon\" is not a timestamp");
    expect_log("user,item,timestamp\n1,2,nan\n", MR_ERR_DATA, "not a timestamp");
    expect_log("user,item,timestamp\n1,2,\n", MR_ERR_DATA, "no timestamp");
    expect_log("user,item\n\"1\",2\n", MR_ERR_DATA, "quote");
    expect_log("user,thing\n1,2\n", MR_ERR_DATA, "header must name");
    expect_log("user,item,item_id\n1,2,3\n", MR_ERR_DATA, "two columns");
    expect_log("user_id:float\titem_id:token\n1\t2\n", MR_ERR_DATA, "type token");
    expect_log("user_id:token\titem_id:token\n1\n", MR_ERR_DATA, "1 fields");
    char text[600] = GOOD;
    memset(text + strlen(GOOD), 'x', 300);
    memcpy(text + strlen(GOOD) + 300, "\t10\n", sizeof "\t10\n");
    expect_log(text, MR_ERR_DATA, "300 bytes");
    write_bytes(tmp_path("nul.log"), "1\t10 \0 20\n", 10);
    mr_import_spec s = spec_of(tmp_path("nul.log"));
    assert_int_equal(import_quietly(&s), MR_ERR_DATA);
    s = spec_of(tmp_path("missing.log"));
    assert_int_equal(import_quietly(&s), MR_ERR_NO_INPUT);
    write_text(tmp_path("good.log"), GOOD);
    s = spec_of(tmp_path("good.log"));
    s.k_core = 5;
    assert_int_equal(import_quietly(&s), MR_ERR_DATA);
    assert_non_null(strstr(mr_last_error(), "nothing is left"));
    s = spec_of(NULL);
    assert_int_equal(import_quietly(&s), MR_ERR_USAGE);
    s = spec_of(tmp_path("good.log"));
    s.glove = "x";
    assert_int_equal(import_quietly(&s), MR_ERR_USAGE);
    s.titles = s.text = "y";
    assert_int_equal(import_quietly(&s), MR_ERR_USAGE);
    s = spec_of(tmp_path("good.log"));
    s.feature_ids = "x";
    assert_int_equal(import_quietly(&s), MR_ERR_USAGE);
}

/* One feature file against a log of 4 items (10, 20, 30, 40), and the start of the sentence. */
static void expect_feature(mr_dtype t, int rank, const int64_t *dims, const void *x, bool as_frames,
                           int dtype, const char *part)
{
    write_text(tmp_path("feature.log"), GOOD);
    assert_int_equal(mr_npy_write(tmp_path("feature.npy"), t, rank, dims, x), MR_OK);
    mr_import_spec s = spec_of(tmp_path("feature.log"));
    if (as_frames)
        s.frames = tmp_path("feature.npy");
    else
        s.visual = tmp_path("feature.npy");
    s.feature_dtype = dtype;
    mr_status st = import_quietly(&s);
    if (st != (part ? MR_ERR_DATA : MR_OK) || (part && !strstr(mr_last_error(), part)))
        fail_msg("status %d, \"%s\", expected ...%s...", st, mr_last_error(), part ? part : "");
}

static void test_bad_features(void **state)
{
    (void)state;
    float x[24];
    int32_t ints[8] = {0};
    for (int i = 0; i < 24; i++) x[i] = (float)i;
    const int keep = MR_IMPORT_DTYPE_KEEP;
    expect_feature(MR_F32, 2, (int64_t[]){4, 2}, x, false, keep, NULL);
    expect_feature(MR_F32, 3, (int64_t[]){4, 2, 3}, x, true, keep, NULL);
    expect_feature(MR_F32, 2, (int64_t[]){5, 2}, x, false, keep, "5 rows but there are 4");
    expect_feature(MR_F32, 2, (int64_t[]){3, 2}, x, false, keep, "3 rows but there are 4");
    expect_feature(MR_F32, 3, (int64_t[]){4, 2, 3}, x, false, keep, "3 dimensions");
    expect_feature(MR_F32, 2, (int64_t[]){4, 2}, x, true, keep, "2 dimensions");
    expect_feature(MR_F32, 3, (int64_t[]){4, 1, 3}, x, true, keep, "1 frames per item");
    expect_feature(MR_F32, 2, (int64_t[]){4, 0}, x, false, keep, "0 wide");
    expect_feature(MR_I32, 2, (int64_t[]){4, 2}, ints, false, keep, "integers");
    x[5] = 70000.0f;
    expect_feature(MR_F32, 2, (int64_t[]){4, 2}, x, false, keep, NULL);
    expect_feature(MR_F32, 2, (int64_t[]){4, 2}, x, false, MR_F16, "1 numbers are too large");
    x[5] = NAN;
    x[2] = INFINITY;
    expect_feature(MR_F32, 2, (int64_t[]){4, 2}, x, false, keep,
                   "2 numbers are NaN or infinite, the first of them in row 1 (");
    double big[8] = {1e300};
    expect_feature(MR_F64, 2, (int64_t[]){4, 2}, big, false, keep, "too large for float32");
    size_t n;
    unsigned char *bytes = read_bytes(tmp_path("feature.npy"), &n);
    write_bytes(tmp_path("short.npy"), bytes, n - 1);
    free(bytes);
    mr_import_spec s = spec_of(tmp_path("feature.log"));
    s.visual = tmp_path("short.npy");
    assert_int_equal(import_quietly(&s), MR_ERR_DATA);
    assert_non_null(strstr(mr_last_error(), "truncated"));
    s.visual = tmp_path("none.npy");
    assert_int_equal(import_quietly(&s), MR_ERR_NO_INPUT);
}

/* k-core by the plainest reading: look for any offender, remove it, start again. */
static void brute_core(int users, int items, int n, const int *user, const int *item, bool *out,
                       int k, int user_min)
{
    for (;;) {
        int du[16] = {0}, di[16] = {0}, worst_user = -1, worst_item = -1;
        for (int i = 0; i < n; i++) {
            if (out[i]) continue;
            du[user[i]]++;
            di[item[i]]++;
        }
        for (int u = users - 1; u >= 0; u--)
            if (du[u] && du[u] < user_min) worst_user = u;
        for (int i = items - 1; i >= 0; i--)
            if (di[i] && di[i] < k) worst_item = i;
        if (worst_user < 0 && worst_item < 0) return;
        for (int i = 0; i < n; i++)
            if (worst_user >= 0 ? user[i] == worst_user : item[i] == worst_item) out[i] = true;
    }
}

static void test_k_core(void **state)
{
    (void)state;
    uint64_t rng = 7;
    int non_empty = 0;
    for (int trial = 0; trial < 400; trial++) {
        int users = 2 + (int)(next_random(&rng) % 10), items = 2 + (int)(next_random(&rng) % 8);
        int n = 1 + (int)(next_random(&rng) % 70), user[80], item[80];
        int k = 1 + (int)(next_random(&rng) % 5), min_len = (int)(next_random(&rng) % 7);
        bool out[80] = {false};
        mr_inter_log log = {0};
        mr_stream s = {.path = "test"};
        for (int i = 0; i < n; i++) {
            char a[8], b[8];
            user[i] = (int)(next_random(&rng) % (uint64_t)users);
            item[i] = (int)(next_random(&rng) % (uint64_t)items);
            int la = snprintf(a, sizeof a, "%d", user[i]),
                lb = snprintf(b, sizeof b, "%d", item[i]);
            assert_int_equal(mr_log_add(&log, &s, a, la, b, lb, 0), MR_OK);
        }
        mr_sequences q;
        assert_int_equal(mr_log_sort(&q, &log), MR_OK);
        brute_core(users, items, n, user, item, out, k, k > min_len ? k : (min_len ? min_len : 1));
        int left = 0;
        for (int i = 0; i < n; i++) left += !out[i];
        mr_errors_to_log(false);
        mr_status st = mr_sequences_k_core(&q, k, min_len, "log");
        mr_errors_to_log(true);
        assert_int_equal(st, left ? MR_OK : MR_ERR_DATA);
        assert_int_equal(q.n, left);
        non_empty += left > 0;
        /* The survivors: users ascending, each in the order of the log. */
        int64_t at = 0, seen_users = 0;
        for (int u = 0; u < users && left; u++) {
            int64_t before = at;
            for (int i = 0; i < n; i++) {
                if (user[i] != u || out[i]) continue;
                assert_int_equal(atoi(mr_id_text(&log.items, q.item_id[q.item[at]])), item[i]);
                at++;
            }
            if (at == before) continue;
            assert_int_equal(atoi(mr_id_text(&log.users, q.user_id[seen_users])), u);
            assert_int_equal(q.offset[seen_users], before);
            assert_int_equal(q.offset[++seen_users], at);
        }
        assert_int_equal(at, q.n);
        if (left) assert_int_equal(seen_users, q.users);
        mr_sequences_free(&q);
        mr_log_free(&log);
    }
    assert_true(non_empty > 100);
}

static void test_id_order(void **state)
{
    (void)state;
    static const char *const numbers[] = {"-12",
                                          "-3",
                                          "-0",
                                          "0",
                                          "00",
                                          "1",
                                          "2",
                                          "02",
                                          "9",
                                          "10",
                                          "99999999999999999999",
                                          "100000000000000000000"};
    /* The order of equal numbers is bytewise: "-0" < "0" < "00"; "02" < "2". */
    static const char *const sorted[] = {"-12",
                                         "-3",
                                         "-0",
                                         "0",
                                         "00",
                                         "1",
                                         "02",
                                         "2",
                                         "9",
                                         "10",
                                         "99999999999999999999",
                                         "100000000000000000000"};
    assert_false(mr_id_is_integer("-"));
    assert_false(mr_id_is_integer(""));
    assert_false(mr_id_is_integer("1a"));
    for (int i = 0; i < 12; i++) {
        assert_true(mr_id_is_integer(numbers[i]));
        for (int j = 0; j < 12; j++) {
            int c = mr_id_compare(sorted[i], sorted[j], true);
            assert_int_equal((c > 0) - (c < 0), (i > j) - (i < j));
        }
    }
    assert_true(mr_id_compare("10", "9", false) < 0);
    /* One id that is no number makes the whole set bytewise. */
    write_text(tmp_path("order.log"), "9\tb10 b9 c 10\n10\t9 c b9 10\n1x\t10 c b9 9\n");
    mr_import_spec s = spec_of(tmp_path("order.log"));
    mr_dataset d;
    mr_import_report r;
    assert_int_equal(mr_import(&d, &r, &s), MR_OK);
    assert_memory_equal(d.user_ids,
                        "10"
                        "1x"
                        "9\0",
                        6);
    assert_memory_equal(d.item_ids,
                        "10\0"
                        "9\0\0"
                        "b10"
                        "b9\0"
                        "c\0\0",
                        15);
    assert_memory_equal(d.items, ((int32_t[]){2, 5, 4, 1, 1, 5, 4, 2, 3, 4, 5, 1}), 48);
    assert_int_equal(mr_id_find(d.item_ids, d.n_items, d.item_id_bytes, "b9"), 3);
    assert_int_equal(mr_id_find(d.item_ids, d.n_items, d.item_id_bytes, "b1"), -1);
    mr_dataset_free(&d);
}

/* Time decides, the order of the file breaks ties, negative and fractional times count. */
static void test_times(void **state)
{
    (void)state;
    write_text(tmp_path("time.inter"),
               "rating:float\ttimestamp:float\titem_id:token\tuser_id:token\n"
               "1\t5\t1\t7\n1\t5\t2\t7\n1\t-1.5\t3\t7\r\n1\t5\t4\t7\n1\t1e3\t1\t8\n1\t4.25\t2\t8\n"
               "1\t4.5\t3\t8\n1\t4.25\t1\t8\n");
    mr_import_spec s = spec_of(tmp_path("time.inter"));
    mr_dataset d;
    mr_import_report r;
    assert_int_equal(mr_import(&d, &r, &s), MR_OK);
    assert_memory_equal(d.items, ((int32_t[]){3, 1, 2, 4, 2, 1, 3, 1}), 32);
    assert_string_equal(d.name, "time");
    mr_dataset_free(&d);
}

static void run_tool(const char *tool, const char *in, const char *out)
{
    pid_t pid = fork();
    if (pid == 0) {
        if (!freopen(in, "rb", stdin) || !freopen(out, "wb", stdout)) _exit(9);
        execlp(tool, tool, "-c", (char *)NULL);
        _exit(9);
    }
    int status;
    waitpid(pid, &status, 0);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void test_compressed(void **state)
{
    (void)state;
    static const char *const tools[] = {"xz", "gzip"};
    /* Long enough that a cut loses lines and the pipe is read in several pieces. */
    FILE *f = fopen(tmp_path("big.tsv"), "w");
    uint64_t rng = 1;
    for (int u = 0; u < 20000; u++)
        fprintf(f, "%d\t%d %d %d %d\n", u, (int)(next_random(&rng) % 9999), u % 7, u % 11, u % 13);
    fclose(f);
    mr_import_spec s = spec_of(tmp_path("big.tsv"));
    mr_dataset a, b;
    mr_import_report r;
    assert_int_equal(mr_import(&a, &r, &s), MR_OK);
    for (int t = 0; t < 2; t++) {
        run_tool(tools[t], tmp_path("big.tsv"), tmp_path("big.packed"));
        s.interactions = tmp_path("big.packed");
        s.name = "big";
        assert_int_equal(mr_import(&b, &r, &s), MR_OK);
        assert_true(same_dataset(&a, &b));
        mr_dataset_free(&b);
        size_t n;
        unsigned char *bytes = read_bytes(tmp_path("big.packed"), &n);
        for (int cut = 1; cut < 5; cut++) {
            write_bytes(tmp_path("cut.packed"), bytes, n * (size_t)cut / 5);
            s.interactions = tmp_path("cut.packed");
            assert_int_equal(import_quietly(&s), MR_ERR_DATA);
            assert_non_null(strstr(mr_last_error(), tools[t]));
        }
        bytes[n / 2] ^= 1;
        write_bytes(tmp_path("cut.packed"), bytes, n);
        assert_int_equal(import_quietly(&s), MR_ERR_DATA);
        free(bytes);
    }
    mr_dataset_free(&a);
    /* No decompressor on the path. (Static: valgrind takes it for lost in the child otherwise.) */
    static char *path;
    path = strdup(getenv("PATH"));
    setenv("PATH", "/nowhere", 1);
    s.interactions = tmp_path("big.packed");
    assert_int_equal(import_quietly(&s), MR_ERR_IO);
    /* Where the library starts programs in two steps (valgrind), only its end tells. */
    assert_true(strstr(mr_last_error(), "cannot be started") || strstr(mr_last_error(), "run"));
    setenv("PATH", path, 1);
    free(path);
}

static void expect_csv(const char *text, mr_status want, int n, const char *const *fields)
{
    mr_stream s;
    mr_csv r = {0};
    write_text(tmp_path("c.csv"), text);
    assert_int_equal(mr_stream_open(&s, tmp_path("c.csv")), MR_OK);
    mr_errors_to_log(false);
    assert_int_equal(mr_csv_record(&r, &s), want);
    mr_errors_to_log(true);
    if (want == MR_OK) assert_int_equal(r.n, n);
    for (int i = 0; i < n; i++) assert_string_equal(r.field[i], fields[i]);
    mr_csv_free(&r);
    mr_stream_close(&s);
}

static void test_csv(void **state)
{
    (void)state;
    expect_csv("a,b\n", MR_OK, 2, (const char *[]){"a", "b"});
    expect_csv("a,b", MR_OK, 2, (const char *[]){"a", "b"});
    expect_csv("\xEF\xBB\xBF"
               "a,,\r\n",
               MR_OK, 3, (const char *[]){"a", "", ""});
    expect_csv("1,\"x, \"\"y\"\"\nz\"\n", MR_OK, 2, (const char *[]){"1", "x, \"y\"\nz"});
    expect_csv("\"\",\"\"\"\"\n", MR_OK, 2, (const char *[]){"", "\""});
    expect_csv("", MR_OK, 0, NULL);
    expect_csv("1,\"x\n2,y\n", MR_ERR_DATA, 0, NULL);
    expect_csv("1,\"x\"y\n", MR_ERR_DATA, 0, NULL);
    expect_csv("1,x\"y\"\n", MR_ERR_DATA, 0, NULL);
}

static mr_status glove_with(const char *titles, const char *glove, float **x, int64_t *w,
                            mr_title_report *rep)
{
    static const char *const ids[] = {"10", "20", "30", "40"};
    write_text(tmp_path("t.csv"), titles);
    write_text(tmp_path("g.txt"), glove);
    mr_errors_to_log(false);
    mr_status st = mr_titles_glove(x, w, rep, ids, 4, tmp_path("t.csv"), tmp_path("g.txt"));
    mr_errors_to_log(true);
    return st;
}

static void test_glove(void **state)
{
    (void)state;
    float *x = NULL;
    int64_t w;
    mr_title_report rep;
    const char *titles =
        "item,title\n10,\"Cat, DOG cat!\"\n20,unknown\n99,extra cat\n40,dog-fish\n";
    assert_int_equal(
        glove_with(titles, "cat 1 2\nbird 9 9\ndog -2 0.5\n. . 3 3\ncat 7 7\n", &x, &w, &rep),
        MR_OK);
    assert_int_equal(w, 2);
    /* 10: (cat + dog + cat) / 3; 40: dog; 20 and 30: the mean of those two. */
    const double want[8] = {0.0, 1.5, -1.0, 1.0, -1.0, 1.0, -2.0, 0.5};
    for (int i = 0; i < 8; i++) assert_true(fabs((double)x[i] - want[i]) < 1e-6);
    assert_int_equal(rep.without_title, 1);
    assert_int_equal(rep.without_word, 1);
    assert_int_equal(rep.words, 4);
    assert_int_equal(rep.known_words, 2);
    MR_FREE(x);
    /* word2vec's header line is no vector. */
    assert_int_equal(glove_with(titles, "2 2\ncat 1 2\ndog 3 4\n", &x, &w, &rep), MR_OK);
    MR_FREE(x);
    assert_int_equal(glove_with(titles, "cat 1 2\ndog 3\n", &x, &w, &rep), MR_ERR_DATA);
    assert_int_equal(glove_with(titles, "cat 1 2\ndog 3 four\n", &x, &w, &rep), MR_ERR_DATA);
    assert_int_equal(glove_with(titles, "cat 1 inf\n", &x, &w, &rep), MR_ERR_DATA);
    assert_int_equal(glove_with(titles, "mouse 1 2\n", &x, &w, &rep), MR_ERR_DATA);
    assert_int_equal(glove_with(titles, "", &x, &w, &rep), MR_ERR_DATA);
    assert_int_equal(glove_with("10,cat\n", "cat 1 2\n", &x, &w, &rep), MR_ERR_DATA);
    assert_int_equal(glove_with("item,title\n10,cat\n10,dog\n", "cat 1 2\n", &x, &w, &rep),
                     MR_ERR_DATA);
    assert_int_equal(glove_with("item,title\n10\n", "cat 1 2\n", &x, &w, &rep), MR_ERR_DATA);
    assert_null(x);
}

/* The published log: counts before and after the 4-core. */
static void test_microlens(void **state)
{
    (void)state;
    const char *root = getenv("MR_DATA"), *source = getenv("MR_SOURCE");
    char path[600];
    if (root)
        snprintf(path, sizeof path, "%s", root);
    else
        snprintf(path, sizeof path, "%s/../shared/data", source ? source : ".");
    strncat(path, "/microlens-50k/MicroLens-50k_pairs.tsv.xz", sizeof path - strlen(path) - 1);
    if (access(path, R_OK) != 0) skip();
    mr_import_spec s = spec_of(path);
    mr_dataset d;
    mr_import_report r;
    s.k_core = 4;
    assert_int_equal(mr_import(&d, &r, &s), MR_OK);
    assert_int_equal(r.before.users, 50000);
    assert_int_equal(r.before.items, 19220);
    assert_int_equal(r.before.inter, 359708);
    assert_int_equal(r.before.train_rows, 209708);
    assert_int_equal(r.after.users, 49744);
    assert_int_equal(r.after.items, 15647);
    assert_int_equal(r.after.inter, 351798);
    assert_int_equal(d.n_inter, 351798);
    mr_dataset_free(&d);
}

/* Every allocation may fail: the status says so and nothing leaks. */
static void test_out_of_memory(void **state)
{
    (void)state;
    write_text(tmp_path("mem.log"), GOOD);
    write_text(tmp_path("mem.csv"), "item,title\n10,cat\n");
    write_text(tmp_path("mem.txt"), "cat 1 2\n");
    float x[24] = {0};
    assert_int_equal(mr_npy_write(tmp_path("mem.npy"), MR_F32, 3, (int64_t[]){4, 2, 3}, x), MR_OK);
    mr_import_spec s = spec_of(tmp_path("mem.log"));
    s.frames = tmp_path("mem.npy");
    s.titles = tmp_path("mem.csv");
    s.glove = tmp_path("mem.txt");
    s.k_core = 2;
    int64_t before = mr_mem_now_bytes(), n = 1;
    mr_status st;
    do {
        mr_mem_fail_at(n++);
        st = import_quietly(&s);
        assert_true(st == MR_OK || st == MR_ERR_MEMORY);
        assert_int_equal(mr_mem_now_bytes(), before);
    } while (st != MR_OK);
    mr_mem_fail_at(0);
    assert_true(n > 30);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_logs),  cmocka_unit_test(test_bad_features),
        cmocka_unit_test(test_k_core),    cmocka_unit_test(test_id_order),
        cmocka_unit_test(test_times),     cmocka_unit_test(test_compressed),
        cmocka_unit_test(test_csv),       cmocka_unit_test(test_glove),
        cmocka_unit_test(test_microlens), cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
