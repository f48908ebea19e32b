/* The sampler for 1, 2, 3, 4 and 8 ranks, all in this process: the same global batches for every
 * number of ranks, every row once an epoch, histories against brute force. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/mem.h"
#include "base/rng.h"
#include "data/batch.h"

enum { USERS = 173, ITEMS = 60, L = 5, MAX_RANKS = 8 };
static mr_dataset data;
static int64_t evaluated; /* users with at least 3 interactions */

/* Users of 0 to 22 interactions, a few much longer; items at random. */
static void make_data(void)
{
    int64_t n = 0;
    data = (mr_dataset){.name = "made up", .n_users = USERS, .n_items = ITEMS};
    assert_int_equal(MR_ALLOC(&data.offset, USERS + 1, "offset"), MR_OK);
    for (int u = 0; u < USERS; u++) {
        uint32_t w = mr_philox(1, MR_RNG_SYNTH, 0, (uint32_t)u, 0).v[0];
        n += u % 50 == 7 ? 60 : mr_below(w, 23);
        evaluated += n - data.offset[u] >= 3;
        data.offset[u + 1] = n;
    }
    data.n_inter = n;
    assert_int_equal(MR_ALLOC(&data.items, n, "items"), MR_OK);
    for (int64_t i = 0; i < n; i++)
        data.items[i] =
            1 + (int32_t)mr_below(mr_philox(1, MR_RNG_SYNTH, 1, (uint32_t)i, 0).v[1], ITEMS);
}

typedef struct job {
    int n;
    mr_sampler *sampler[MAX_RANKS];
    mr_batch batch[MAX_RANKS];
} job;

static void open_job(job *j, int n_ranks, mr_sampler_spec spec)
{
    *j = (job){.n = n_ranks};
    for (int r = 0; r < n_ranks; r++) {
        spec.rank = r;
        spec.n_ranks = n_ranks;
        assert_int_equal(mr_sampler_make(&j->sampler[r], &spec), MR_OK);
        assert_int_equal(mr_batch_alloc(&j->batch[r], mr_sampler_rows_cap(j->sampler[r]), L,
                                        spec.augment ? 3 : 1, n_ranks),
                         MR_OK);
    }
}

static void close_job(job *j)
{
    for (int r = 0; r < j->n; r++) {
        mr_sampler_free(&j->sampler[r]);
        mr_batch_free(&j->batch[r]);
    }
}

static int64_t get_all(job *j, int64_t epoch, int64_t i, uint32_t step)
{
    int64_t sum = 0;
    for (int r = 0; r < j->n; r++) mr_sampler_get(j->sampler[r], epoch, i, step, &j->batch[r]);
    for (int r = 0; r < j->n; r++) {
        assert_int_equal(j->batch[r].rows_global, j->batch[0].rows_global);
        for (int q = 0; q < j->n; q++) assert_int_equal(j->batch[r].rank_rows[q], j->batch[q].rows);
        sum += j->batch[r].rows;
    }
    assert_int_equal(sum, j->batch[0].rows_global);
    return sum;
}

static mr_sampler_spec train_spec(int64_t batch)
{
    return (mr_sampler_spec){.data = &data,
                             .split = MR_SPLIT_TRAIN,
                             .batch = batch,
                             .max_len = L,
                             .virtual_shards = 16,
                             .seed = 5};
}

/* Global batches with one rank are the reference: as sets they are those of any number of ranks. */
static void test_same_sets(void **state)
{
    (void)state;
    static const int ranks[] = {1, 2, 3, 4, 8};
    mr_sampler_spec spec = train_spec(128);
    job one;
    open_job(&one, 1, spec);
    int64_t n = mr_sampler_rows(one.sampler[0]), batches = mr_sampler_batches(one.sampler[0]);
    int64_t want_rows = 0;
    for (int u = 0; u < USERS; u++) {
        int64_t len = data.offset[u + 1] - data.offset[u];
        want_rows += len > 3 ? len - 3 : 0;
    }
    assert_int_equal(n, want_rows);
    assert_int_equal(batches, (n + 127) / 128);
    char *in_batch = NULL, *seen = NULL;
    assert_int_equal(MR_ALLOC(&in_batch, n, "marks"), MR_OK);
    assert_int_equal(MR_ALLOC(&seen, n, "marks"), MR_OK);
    for (int k = 0; k < 5; k++) {
        job many;
        int64_t most[MAX_RANKS] = {0};
        open_job(&many, ranks[k], spec);
        for (int64_t epoch = 0; epoch < 3; epoch++) {
            memset(seen, 0, (size_t)n);
            for (int64_t i = 0; i < batches; i++) {
                int64_t rows = get_all(&many, epoch, i, 0);
                assert_int_equal(rows, i + 1 < batches ? 128 : n - 128 * (batches - 1));
                assert_int_equal(get_all(&one, epoch, i, 0), rows);
                memset(in_batch, 0, (size_t)n);
                for (int64_t r = 0; r < rows; r++) in_batch[one.batch[0].rid[r]] = 1;
                for (int p = 0; p < many.n; p++) {
                    mr_batch *b = &many.batch[p];
                    if (b->rows > most[p]) most[p] = b->rows;
                    for (int64_t r = 0; r < b->rows; r++) {
                        assert_true(b->rid[r] < n);
                        assert_int_equal(in_batch[b->rid[r]], 1);
                        assert_int_equal(seen[b->rid[r]]++, 0);
                    }
                }
            }
            for (int64_t r = 0; r < n; r++) assert_int_equal(seen[r], 1);
        }
        for (int p = 0; p < many.n; p++) {
            assert_int_equal(mr_sampler_rows_cap(many.sampler[p]), most[p]);
            assert_true(most[p] > 0);
        }
        close_job(&many);
    }
    MR_FREE(in_batch);
    MR_FREE(seen);
    close_job(&one);
}

/* Against all batches of an epoch; a rank has room for 3 rows more than it ever has. */
static void test_tokens_most(void **state)
{
    (void)state;
    for (int n_ranks = 1; n_ranks <= 3; n_ranks += 2) {
        job j;
        open_job(&j, n_ranks, train_spec(32));
        for (int64_t epoch = 0; epoch < 3; epoch++)
            for (int r = 0; r < n_ranks; r++) {
                mr_batch *b = &j.batch[r];
                int64_t most = 0, room = b->rows_cap + 3;
                int64_t found = mr_sampler_tokens_most(j.sampler[r], epoch, room);
                for (int64_t i = 0; i < mr_sampler_batches(j.sampler[r]); i++) {
                    mr_sampler_get(j.sampler[r], epoch, i, 0, b);
                    int64_t n = b->seq[0].tokens + room - b->rows;
                    most = n > most ? n : most;
                }
                assert_int_equal(found, most);
            }
        close_job(&j);
    }
}

/* Every row's history, target and packing from the data set alone. */
static void check_row(const mr_batch *b, int64_t r, int64_t target, int32_t user)
{
    const mr_seq *s = &b->seq[0];
    int64_t first = data.offset[user], n = target - first < L ? target - first : L;
    assert_int_equal(b->user[r], user);
    assert_int_equal(b->target[r], data.items[target]);
    assert_int_equal(s->len[r], n);
    for (int64_t p = 0; p < L; p++)
        assert_int_equal(s->ids[r * L + p], p < n ? data.items[target - n + p] : 0);
    assert_int_equal(b->last[r], data.items[target - 1]);
    assert_int_equal(s->start[r + 1] - s->start[r], n);
    for (int64_t p = 0; p < n; p++) {
        int64_t at = s->start[r] + p;
        assert_int_equal(s->tok_id[at], s->ids[r * L + p]);
        assert_int_equal(s->tok_pos[at], p);
        assert_int_equal(s->tok_row[at], r);
        assert_int_equal(s->tok_rid[at], b->rid[r]);
    }
}

/* Interaction index of the target of training row rid: user by user, j = 2 .. n - 2. */
static int64_t training_target(uint32_t rid, int32_t *user_p)
{
    uint32_t at = 0;
    for (int32_t u = 0; u < USERS; u++)
        for (int64_t j = 2; j <= data.offset[u + 1] - data.offset[u] - 2; j++, at++)
            if (at == rid) {
                *user_p = u;
                return data.offset[u] + j - 1;
            }
    fail_msg("row %u does not exist", rid);
    return -1;
}

static void test_history(void **state)
{
    (void)state;
    job j;
    open_job(&j, 3, train_spec(100));
    for (int64_t i = 0; i < mr_sampler_batches(j.sampler[0]); i++) {
        get_all(&j, 1, i, 0);
        for (int p = 0; p < j.n; p++) {
            assert_int_equal(j.batch[p].seq[0].start[0], 0);
            assert_int_equal(j.batch[p].seq[0].start[j.batch[p].rows], j.batch[p].seq[0].tokens);
            for (int64_t r = 0; r < j.batch[p].rows; r++) {
                int32_t user = -1;
                int64_t target = training_target(j.batch[p].rid[r], &user);
                check_row(&j.batch[p], r, target, user);
            }
        }
    }
    close_job(&j);
}

static void test_evaluation(void **state)
{
    (void)state;
    for (int split = MR_SPLIT_VALID; split <= MR_SPLIT_TEST; split++)
        for (int P = 1; P <= 8; P += 7) {
            job j;
            int times[USERS] = {0};
            mr_sampler_spec spec = train_spec(40);
            spec.split = (mr_split)split;
            open_job(&j, P, spec);
            assert_int_equal(mr_sampler_rows(j.sampler[0]), evaluated);
            for (int64_t i = 0; i < mr_sampler_batches(j.sampler[0]); i++) {
                get_all(&j, i, i, 0);
                for (int p = 0; p < P; p++)
                    for (int64_t r = 0; r < j.batch[p].rows; r++) {
                        int32_t u = (int32_t)j.batch[p].rid[r];
                        int64_t back = split == MR_SPLIT_VALID ? 2 : 1;
                        check_row(&j.batch[p], r, data.offset[u + 1] - back, u);
                        times[u]++;
                    }
            }
            for (int u = 0; u < USERS; u++)
                assert_int_equal(times[u], data.offset[u + 1] - data.offset[u] >= 3);
            assert_true(evaluated < USERS);
            close_job(&j);
        }
}

/* Epochs differ, returning to one brings back its order, and another seed gives another one. */
static void test_order(void **state)
{
    (void)state;
    job j, other;
    uint32_t first[3][64];
    mr_sampler_spec spec = train_spec(64);
    open_job(&j, 1, spec);
    spec.seed++;
    open_job(&other, 1, spec);
    static const int64_t epochs[] = {0, 1, 0};
    for (int k = 0; k < 3; k++) {
        get_all(&j, epochs[k], 2, 0);
        memcpy(first[k], j.batch[0].rid, sizeof first[k]);
    }
    assert_memory_equal(first[0], first[2], sizeof first[0]);
    int same_epoch = 0, same_seed = 0;
    get_all(&other, 0, 2, 0);
    for (int a = 0; a < 64; a++)
        for (int b = 0; b < 64; b++) {
            same_epoch += first[0][a] == first[1][b];
            same_seed += first[0][a] == other.batch[0].rid[b];
        }
    assert_true(same_epoch < 20 && same_seed < 20); /* about 64 * 64 / 1700 rows by chance */
    close_job(&j);
    close_job(&other);
}

/* Batches take from all shards evenly: with equal shards the ranks differ by at most one row a
 * shard, and with the real ones nobody has twice the average. */
static void test_balance(void **state)
{
    (void)state;
    job j;
    open_job(&j, 8, train_spec(256));
    for (int64_t i = 0; i + 1 < mr_sampler_batches(j.sampler[0]); i++) {
        get_all(&j, 0, i, 0);
        for (int p = 0; p < 8; p++) assert_in_range(j.batch[p].rows, 24, 40);
    }
    close_job(&j);
}

/* The views are those of augment.c for (step, rid), whatever the number of ranks. */
static void test_views(void **state)
{
    (void)state;
    static mr_config config;
    config.cl4srec.crop = 0.6;
    config.cl4srec.mask = 0.3;
    config.cl4srec.reorder = 0.6;
    mr_sampler_spec spec = train_spec(100);
    spec.augment = &config;
    job one, many;
    open_job(&one, 1, spec);
    open_job(&many, 4, spec);
    int masked = 0, shorter = 0;
    for (uint32_t step = 3; step < 6; step++) {
        get_all(&one, 0, step, step);
        get_all(&many, 0, step, step);
        for (int p = 0; p < 4; p++)
            for (int64_t r = 0; r < many.batch[p].rows; r++) {
                int64_t o = 0;
                while (one.batch[0].rid[o] != many.batch[p].rid[r]) o++;
                for (int q = 0; q < 3; q++) {
                    mr_seq *a = &one.batch[0].seq[q], *b = &many.batch[p].seq[q];
                    assert_int_equal(a->len[o], b->len[r]);
                    assert_memory_equal(a->ids + o * L, b->ids + r * L, L * sizeof(int32_t));
                    if (q == 0) continue;
                    assert_in_range(b->len[r], 1, many.batch[p].seq[0].len[r]);
                    shorter += b->len[r] < many.batch[p].seq[0].len[r];
                    for (int k = 0; k < L; k++) {
                        assert_in_range(b->ids[r * L + k], k < b->len[r] ? 1 : 0,
                                        k < b->len[r] ? ITEMS + 1 : 0);
                        masked += b->ids[r * L + k] == ITEMS + 1;
                    }
                }
            }
    }
    assert_true(masked > 50 && shorter > 50);
    close_job(&one);
    close_job(&many);
}

static void test_bad_specs(void **state)
{
    (void)state;
    mr_sampler *s = NULL;
    mr_sampler_spec spec = train_spec(64);
    int64_t before = mr_mem_now_bytes(), n;
    mr_errors_to_log(false);
    spec.n_ranks = 17;
    assert_int_equal(mr_sampler_make(&s, &spec), MR_ERR_CONFIG);
    assert_non_null(strstr(mr_last_error(), "virtual_shards"));
    spec.n_ranks = 1;
    spec.batch = 0;
    assert_int_equal(mr_sampler_make(&s, &spec), MR_ERR_CONFIG);
    spec.batch = 64;
    int64_t offset[] = {0, 3};
    mr_dataset tiny = {.name = "tiny",
                       .n_users = 1,
                       .n_items = ITEMS,
                       .n_inter = 3,
                       .offset = offset,
                       .items = data.items};
    spec.data = &tiny;
    assert_int_equal(mr_sampler_make(&s, &spec), MR_ERR_DATA); /* 3 interactions: no training row */
    spec.data = &data;
    for (n = 1; n < 100; n++) {
        mr_mem_fail_at(n);
        mr_status st = mr_sampler_make(&s, &spec);
        if (st == MR_OK) break;
        assert_int_equal(st, MR_ERR_MEMORY);
        assert_null(s);
        assert_int_equal(mr_mem_now_bytes(), before);
    }
    mr_mem_fail_at(0);
    assert_in_range(n, 8, 30);
    mr_sampler_free(&s);
    mr_batch b = {0};
    for (n = 1; n < 100; n++) {
        mr_mem_fail_at(n);
        mr_status st = mr_batch_alloc(&b, 4, L, 3, 2);
        if (st == MR_OK) break;
        assert_int_equal(st, MR_ERR_MEMORY);
        assert_int_equal(mr_mem_now_bytes(), before);
    }
    mr_mem_fail_at(0);
    assert_int_equal(n, 33);
    mr_batch_free(&b);
    assert_int_equal(mr_batch_alloc(&b, INT32_MAX / 2, 3, 1, 1), MR_ERR_CONFIG);
    mr_errors_to_log(true);
    assert_int_equal(mr_mem_now_bytes(), before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_sets),  cmocka_unit_test(test_history),
        cmocka_unit_test(test_evaluation), cmocka_unit_test(test_order),
        cmocka_unit_test(test_balance),    cmocka_unit_test(test_views),
        cmocka_unit_test(test_bad_specs),  cmocka_unit_test(test_tokens_most),
    };
    make_data();
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    MR_FREE(data.offset);
    MR_FREE(data.items);
    return failed;
}
