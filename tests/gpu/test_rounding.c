/* Counts that are rounded up for a device that records: which ones, and that the tokens and items
 * behind those of a batch change nothing. On the guard device with CPU kernels, whose runs are told
 * to round; the CUDA kernels do the same work in the checks on an emulated GPU. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/mem.h"
#include "data/synth.h"
#include "train/trainer.h"
#include "small_main.h"

#define OK(call) assert_int_equal((call), MR_OK)
#define COUNT(a) (sizeof(a) / sizeof *(a))

static mr_comm *world;
static mr_dataset data;
static const char *const models[][2] = {{"sasrec", "sasrec"},
                                        {"cl4srec", "sasrec"},
                                        {"tedrec", "sasrec"},
                                        {"mealrec", "sasrec"},
                                        {"mealrec", "tedrec"}};

static void configure(mr_config *c, const char *name, const char *backbone)
{
    const char *const words[][2] = {
        {"model.name", name},  {"model.backbone", backbone}, {"model.hidden", "12"},
        {"model.inner", "16"}, {"tcd.unet_width", "16"},     {"tcd.heads", "4"},
        {"npd.inner", "16"},   {"diffusion.steps", "3"},     {"train.batch", "64"},
    };
    mr_config_defaults(c);
    for (size_t i = 0; i < COUNT(words); i++)
        OK(mr_config_set(c, words[i][0], words[i][1], "test"));
    OK(mr_config_check(c));
}

static void test_counts(void **state)
{
    (void)state;
    assert_int_equal(mr_run_rounded(0, 20480), 0);
    assert_int_equal(mr_run_rounded(1, 20480), 640);
    assert_int_equal(mr_run_rounded(640, 20480), 640);
    assert_int_equal(mr_run_rounded(641, 20480), 1280);
    assert_int_equal(mr_run_rounded(20479, 20480), 20480);
    assert_int_equal(mr_run_rounded(20480, 20480), 20480);
    assert_int_equal(mr_run_rounded(3, 5), 5);
    assert_int_equal(mr_run_rounded(9, 100), 16);
}

enum { RANKS = 8, MOST = 64, WORDS = 5 };

/* The part of every rank of one batch, and what they are planned with. */
typedef struct parts {
    int n;
    int64_t L, cap, pair, table_rows; /* pair: rows of every two ranks */
    mr_sampler *sampler[RANKS];
    mr_batch batch[RANKS];
    int32_t *seen, *asked; /* [table_rows] with which mark */
    int32_t mark;
} parts;

static void make_parts(parts *p, const mr_dataset *d, int64_t B, int64_t L, int ranks)
{
    *p = (parts){.n = ranks, .L = L, .table_rows = d->n_items + 1};
    for (int r = 0; r < ranks; r++) {
        mr_sampler_spec spec = {.data = d,
                                .split = MR_SPLIT_TRAIN,
                                .batch = B,
                                .max_len = L,
                                .virtual_shards = 64,
                                .rank = r,
                                .n_ranks = ranks,
                                .seed = 2020};
        OK(mr_sampler_make(&p->sampler[r], &spec));
        p->cap = mr_sampler_rows_most(p->sampler[r]);
        OK(mr_batch_alloc(&p->batch[r], p->cap, L, 1, ranks));
    }
    OK(MR_ALLOC(&p->seen, p->table_rows, "ids"));
    OK(MR_ALLOC(&p->asked, p->table_rows, "ids"));
}

static void free_parts(parts *p)
{
    for (int r = 0; r < p->n; r++) {
        mr_batch_free(&p->batch[r]);
        mr_sampler_free(&p->sampler[r]);
    }
    MR_FREE(p->seen);
    MR_FREE(p->asked);
}

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

/* Largest counts of any rank for batch i: rows, tokens, last items, distinct ids, distinct rows to
 * give; *pair: the most ids that a rank wants of one. */
static void count_parts(parts *p, int64_t i, int64_t most[WORDS], int64_t *pair)
{
    int64_t block = (p->table_rows + p->n - 1) / p->n, own[RANKS] = {0};
    int32_t all = ++p->mark;
    memset(most, 0, WORDS * sizeof *most);
    for (int r = 0; r < p->n; r++) {
        mr_batch *b = &p->batch[r];
        int64_t unique = 0, want[RANKS] = {0};
        mr_sampler_get(p->sampler[r], 0, i, 0, b);
        p->mark++;
        for (int64_t k = 0; k <= b->seq[0].tokens; k++) {
            int32_t id = k < b->seq[0].tokens ? b->seq[0].tok_id[k] : 0;
            if (p->seen[id] == p->mark) continue;
            p->seen[id] = p->mark;
            unique++;
            *pair = larger(*pair, ++want[id / block]);
            own[id / block] += p->asked[id] != all;
            p->asked[id] = all;
        }
        int64_t behind = p->n > 1 ? p->cap - b->rows : 0;
        most[0] = larger(most[0], b->rows);
        most[1] = larger(most[1], b->seq[0].tokens + behind);
        most[2] = larger(most[2], b->n_last);
        most[3] = larger(most[3], unique);
    }
    for (int r = 0; r < p->n && p->n > 1; r++) most[4] = larger(most[4], own[r]);
}

/* Signatures of an epoch on so many ranks, which share the table. */
static int64_t signatures(const char *shape, int64_t B, int64_t L, int ranks)
{
    mr_synth_spec s;
    mr_dataset d;
    parts p;
    int64_t seen[MOST][WORDS], now[WORDS], n = 0, pair = 0, unused = 0;
    OK(mr_synth_spec_for(shape, &s));
    s.frames = 2; /* features do not matter */
    s.width = s.text_width = 1;
    OK(mr_synth(&d, &s));
    make_parts(&p, &d, B, L, ranks);
    int64_t batches = mr_sampler_batches(p.sampler[0]);
    for (int64_t i = 0; i < 8; i++) count_parts(&p, i, now, &pair);
    pair = (pair + (pair + 3) / 4 + 31) / 32 * 32;
    for (int64_t i = 0; i < batches; i++) {
        int64_t cap[WORDS] = {p.cap, p.cap * L, p.cap, p.cap * L + 1, ranks * pair}, k = 0;
        count_parts(&p, i, now, &unused);
        for (int w = ranks > 1 ? 0 : 1; w < WORDS; w++) now[w] = mr_run_rounded(now[w], cap[w]);
        while (k < n && memcmp(seen[k], now, sizeof now) != 0) k++;
        assert_in_range(k, 0, MOST - 1);
        if (k == n) memcpy(seen[n++], now, sizeof now);
    }
    assert_true(unused <= pair); /* every list fits */
    free_parts(&p);
    mr_dataset_free(&d);
    return n;
}

/* Full batches have few signatures: what docs/gpu.md tells. */
static void test_few(void **state)
{
    (void)state;
    assert_int_equal(signatures("microlens-big", 2048, 10, 1), 6);
    assert_int_equal(signatures("microlens-big", 2048, 10, 2), 13);
    assert_int_equal(signatures("microlens-big", 2048, 10, 4), 11);
    assert_int_equal(signatures("microlens-big", 2048, 10, 8), 15);
    assert_int_equal(signatures("demo", 128, 10, 1), 12);
}

/* Exact counts; rounded ones; and rows up to the capacity too, as beside a rank that has them. */
typedef enum way { EXACT, ROUNDED, FILLED } way;

static void fill_rows(mr_trainer *t)
{
    static mr_counts most; /* one run at a time */
    mr_run *r = t->train_run;
    const mr_step_state state = r->state_host;
    mr_run_counts(&most, &t->batch, r->xch);
    most.rows = t->batch.rows_cap;
    r->most = &most;
    OK(mr_run_set_batch(r, &t->batch, &state));
    assert_int_equal(r->count[MR_SPACE_ROWS], 64);
}

/* Gradients and losses of one batch; *grad on the host, owned by the caller. */
static mr_trainer *one_batch(const mr_config *c, way how, bool is_private, int64_t i, float **grad)
{
    mr_trainer *t = NULL;
    double sum, bad;
    mr_trainer_opts o = {
        .stochastic = true, .optimizer = true, .is_private = is_private, .device = "guard"};
    OK(mr_trainer_create(&t, c, &data, world, &o));
    t->train_run->rounds = how != EXACT;
    OK(mr_trainer_load(t, t->train_run, 0, i));
    if (how == FILLED) fill_rows(t);
    OK(mr_trainer_gradients(t));
    OK(mr_trainer_report(t, &sum, &bad));
    assert_true(sum > 0 && bad == 0.0);
    OK(MR_ALLOC(grad, t->params.n_total, "gradients"));
    OK(t->dev->to_host(t->dev, *grad, t->params.grad, (size_t)t->params.n_total * sizeof **grad));
    return t;
}

static double norm(const float *x, const float *y, int64_t n)
{
    double s = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = (double)x[i] - (y ? (double)y[i] : 0);
        s += d * d;
    }
    return sqrt(s);
}

/* Is something rounded, and nothing more than one step? */
static void check_counts(const mr_run *r)
{
    int64_t more = 0;
    for (int s = MR_SPACE_TOK0; s < MR_SPACE_TOK0 + r->host->n_seq; s++) {
        more += r->count[s] - r->rows[s];
        assert_int_equal(r->count[s], mr_run_rounded(r->rows[s], 64 * r->g->dims.L));
    }
    assert_int_equal(r->count[MR_SPACE_LAST], mr_run_rounded(r->rows[MR_SPACE_LAST], 64));
    assert_int_equal(r->count[MR_SPACE_ROWS], r->host->rows);
    more += r->count[MR_SPACE_LAST] - r->rows[MR_SPACE_LAST];
    assert_true(more > 0);
}

static void compare(const mr_config *c, way how, bool is_private, int64_t i)
{
    float *a, *b;
    mr_trainer *plain = one_batch(c, EXACT, is_private, i, &a);
    mr_trainer *t = one_batch(c, how, is_private, i, &b);
    const mr_params *ps = &t->params;
    double tol = how == FILLED ? 4e-6 : 1e-6; /* sums over rows are cut at other rows */
    double all = norm(a, NULL, ps->n_total) / sqrt((double)ps->n_total);
    if (how == ROUNDED) check_counts(t->train_run);
    for (int k = 0; k < t->train_graph->n_losses; k++)
        if (!(fabs(t->losses[k] - plain->losses[k]) <= 1e-6 * fabs(plain->losses[k])))
            fail_msg("%s: loss %d is %.9g, %.9g with rounded counts", c->model.name, k,
                     plain->losses[k], t->losses[k]);
    for (int k = 0; k < ps->n; k++) {
        const mr_param *p = &ps->p[k];
        double of = norm(a + p->offset, NULL, p->count), n = sqrt((double)p->count);
        double off = norm(a + p->offset, b + p->offset, p->count);
        if (!(off <= tol * fmax(of, 0.01 * all * n)))
            fail_msg("%s: the gradient of %s, of norm %.3g, is off by %.3g with rounded counts",
                     c->model.name, p->name, of, off);
    }
    MR_FREE(a);
    MR_FREE(b);
    mr_trainer_free(&plain);
    mr_trainer_free(&t);
}

/* In private memory everything that was not written is NaN, in shared memory it is of others. */
static void test_gradients(void **state)
{
    static mr_config c;
    (void)state;
    for (size_t m = 0; m < COUNT(models); m++) {
        configure(&c, models[m][0], models[m][1]);
        for (int64_t i = 0; i < 4; i++) compare(&c, ROUNDED, i & 1, i);
        for (int p = 0; p < 2; p++) compare(&c, FILLED, p, 3); /* the last batch has few rows */
    }
}

/* Every number that launch arguments follow from, changed alone, makes another signature. */
static void test_signature(void **state)
{
    static mr_config c;
    (void)state;
    configure(&c, "cl4srec", "sasrec");
    mr_trainer_opts o = {.optimizer = true, .device = "guard"};
    mr_trainer *t = NULL;
    OK(mr_trainer_create(&t, &c, &data, world, &o));
    mr_run *r = t->train_run;
    r->rounds = true;
    OK(mr_trainer_load(t, r, 0, 0));
    int64_t *number[] = {&r->number,
                         &r->count[MR_SPACE_ROWS],
                         &r->count[MR_SPACE_TOK0],
                         &r->count[MR_SPACE_TOK1],
                         &r->count[MR_SPACE_TOK2],
                         &r->count[MR_SPACE_LAST],
                         &r->lists[0].n_unique,
                         &r->lists[1].n_unique,
                         &r->lists[2].n_unique,
                         &r->lists[0].n_own,
                         &r->lists[1].n_own,
                         &r->lists[2].n_own,
                         &r->ids[MR_FEATURE_VISUAL].n,
                         &r->ids[MR_FEATURE_FRAMES].n,
                         &r->ids[MR_FEATURE_TEXT].n};
    mr_signature a, b;
    mr_run_signature(r, &a);
    mr_run_signature(r, &b);
    assert_memory_equal(&a, &b, sizeof a);
    for (size_t i = 0; i < COUNT(number); i++) {
        ++*number[i];
        mr_run_signature(r, &b);
        --*number[i];
        assert_true(memcmp(&a, &b, sizeof a) != 0);
    }
    void *block = r->block;
    r->block = NULL;
    mr_run_signature(r, &b);
    r->block = block;
    assert_true(memcmp(&a, &b, sizeof a) != 0);
    /* with several ranks: where things lie is for this one alone, but not how often they moved */
    mr_counts most = {.places = 3};
    r->most = &most;
    mr_run_signature(r, &a);
    assert_int_equal(a.here[0], r->number);
    r->block = NULL;
    mr_run_signature(r, &b);
    r->block = block;
    assert_memory_equal(a.word, b.word, sizeof a.word);
    assert_true(a.here[1] != b.here[1]);
    most.places++;
    mr_run_signature(r, &b);
    assert_true(memcmp(a.word, b.word, sizeof a.word) != 0);
    r->most = NULL;
    mr_run_signature(r, &a);
    /* the same counts of another batch are the same signature */
    OK(mr_trainer_load(t, r, 0, 0));
    mr_run_signature(r, &b);
    assert_memory_equal(&a, &b, sizeof a);
    mr_trainer_free(&t);
}

/* Evaluation: the users' vectors. */
static void test_forward(void **state)
{
    static mr_config c;
    (void)state;
    for (size_t m = 0; m < COUNT(models); m++) {
        mr_trainer *t = NULL;
        mr_trainer_opts o = {.device = "guard"};
        mr_feed feed;
        float *x[2];
        configure(&c, models[m][0], models[m][1]);
        OK(mr_trainer_create(&t, &c, &data, world, &o));
        OK(mr_trainer_eval_ready(t, 64));
        OK(mr_feed_create(&feed, 64, c.data.max_len, 3, 1));
        mr_sampler_get(t->sampler, 0, 1, 0, &t->batch);
        size_t n = (size_t)(t->batch.rows * t->params.p[t->table].dim[1]);
        for (int k = 0; k < 2; k++) {
            t->eval_run->rounds = k;
            OK(MR_ALLOC(&x[k], (int64_t)n, "users"));
            OK(mr_trainer_set_batch(t, t->eval_run, &feed, &t->batch));
            OK(mr_run_forward(t->eval_run));
            OK(mr_run_output(t->eval_run, "user", x[k]));
        }
        check_counts(t->eval_run);
        assert_true(norm(x[0], NULL, (int64_t)n) > 0);
        assert_true(norm(x[0], x[1], (int64_t)n) <= 1e-6 * norm(x[0], NULL, (int64_t)n));
        MR_FREE(x[0]);
        MR_FREE(x[1]);
        mr_feed_free(&feed);
        mr_trainer_free(&t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts), cmocka_unit_test(test_few), cmocka_unit_test(test_gradients),
        cmocka_unit_test(test_signature), cmocka_unit_test(test_forward)};
    SMALL_MAIN(&world, &data, 320, 16, 10, tests);
}
