/* Kernels of the family attention against a plain reference over all modes, float32 against
 * float64. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "kernel_pair.h"

#define COUNT(a) ((int)(sizeof(a) / sizeof *(a)))
enum { MAX_B = 8, BEHIND = 3 }; /* packed rows behind those of the batch; columns behind */

typedef struct att_case {
    int mode;
    int64_t B, S, H, dh;
    bool first;
    double p, spread; /* spread: factor on the queries, for extreme scores */
    int acc;          /* 1: dq, 2: dkv, 4: dkv_first accumulate */
} att_case;

static const att_case cases[] = {
    {MR_ATT_CAUSAL, 1, 1, 1, 1, false, 0, 1, 0},
    {MR_ATT_CAUSAL, 0, 5, 2, 4, false, 0.5, 1, 1},
    {MR_ATT_CAUSAL, 6, 10, 2, 150, false, 0.5, 1, 0},
    {MR_ATT_CAUSAL, 5, 7, 3, 11, false, 0, 1, 3},
    {MR_ATT_CAUSAL, 4, 50, 2, 32, false, 0.2, 1, 2},
    {MR_ATT_CAUSAL, 3, 9, 1, 5, false, 0.1, 300, 0},
    {MR_ATT_CAUSAL, 3, 37, 2, 5, false, 0.1, 1, 0},
    {MR_ATT_FULL, 2, 33, 1, 20, false, 0.1, 1, 0},
    {MR_ATT_LAST, 6, 10, 2, 150, false, 0.5, 1, 0},
    {MR_ATT_LAST, 5, 13, 1, 7, false, 0, 1, 1},
    {MR_ATT_FULL, 4, 5, 8, 96, false, 0.1, 1, 0},
    {MR_ATT_FULL, 3, 1, 2, 3, false, 0, 1, 1},
    {MR_ATT_FULL, 2, 40, 5, 8, false, 0.3, 1, 2},
    {MR_ATT_ONE, 5, 7, 2, 150, true, 0.1, 1, 4},
    {MR_ATT_ONE, 4, 3, 1, 31, false, 0, 1, 1},
    {MR_ATT_ONE, 3, 4, 2, 4, true, 0, 1, 3},
    {MR_ATT_ONE, 3, 1, 2, 4, true, 0, 1, 7},
};

typedef struct world {
    const att_case *c;
    int32_t start[MAX_B + 1], len[MAX_B];
    uint32_t rid[MAX_B];
    int32_t zero[MAX_B];
    int64_t n_q, n_kv, d;
    mr_att_shape shape;
    mr_drop drop;
    pair_exec e;
    pair q, kv, first, dout, out, prob, dq, dkv, dfirst;
} world;

static void world_make(world *w, const att_case *c)
{
    memset(w, 0, sizeof *w);
    w->c = c;
    bool ragged = c->mode == MR_ATT_CAUSAL || c->mode == MR_ATT_LAST;
    for (int64_t b = 0; b < c->B; b++) {
        w->rid[b] = (uint32_t)(b * 77 + 3);
        w->len[b] = (int32_t)(b == 0 ? c->S : 1 + b * 5 % c->S);
        w->start[b + 1] = w->start[b] + w->len[b];
    }
    int64_t tokens = w->start[c->B] + BEHIND, rest = c->S - (c->first ? 1 : 0);
    w->d = c->H * c->dh;
    w->n_kv = ragged ? tokens : c->B * rest;
    w->n_q = c->mode == MR_ATT_CAUSAL ? tokens : c->mode == MR_ATT_FULL ? c->B * c->S : c->B;
    if (c->B == 0) w->n_q = w->n_kv = 0;
    w->shape = (mr_att_shape){.mode = c->mode, .B = c->B, .S = c->S, .heads = c->H, .d = w->d};
    if (ragged) {
        w->shape.start = w->start;
        w->shape.len = w->len;
        w->shape.N = w->n_kv;
    }
    w->drop = (mr_drop){c->p, 90, {w->rid, w->zero}, 1};
    pair_exec_make(&w->e, 0);
    w->e.ex.state = &w->e.state;
    w->q = pair_make(w->n_q * w->d, 1);
    for (int64_t i = 0; i < w->q.n; i++) {
        w->q.f[i] *= (float)c->spread;
        w->q.d[i] = (double)w->q.f[i];
    }
    w->kv = pair_make(w->n_kv * 2 * w->d, 2);
    w->first = pair_make(c->first ? c->B * 2 * w->d : 0, 3);
    w->dout = pair_make(w->n_q * w->d, 4);
    w->out = pair_make(w->n_q * w->d, 0);
    w->prob = pair_make(w->n_q * c->H * c->S, 0);
    w->dq = pair_make(w->q.n, c->acc & 1 ? 5 : 0);
    w->dkv = pair_make(w->kv.n, c->acc & 2 ? 6 : 0);
    w->dfirst = pair_make(w->first.n, c->acc & 4 ? 7 : 0);
}

static void world_free(world *w)
{
    pair *all[] = {&w->q,    &w->kv, &w->first, &w->dout,  &w->out,
                   &w->prob, &w->dq, &w->dkv,   &w->dfirst};
    for (int i = 0; i < COUNT(all); i++) pair_free(all[i]);
    pair_exec_free(&w->e);
}

/* Element (key j of batch row b, column c of 2d) in kv or in first. */
static double *key(const world *w, const pair *kv, const pair *first, int64_t b, int64_t j,
                   int64_t c)
{
    int64_t at = w->shape.start ? w->start[b] : b * (w->c->S - w->c->first);
    if (w->c->first && j == 0) return &first->d[b * 2 * w->d + c];
    return &kv->d[(at + j - w->c->first) * 2 * w->d + c];
}

/* One query of one head, written straight from the formula; gradients are added. */
static void reference_query(const world *w, int64_t b, int64_t h, int64_t row, int64_t i, int64_t n,
                            pair *out, pair *dq, pair *dkv, pair *dfirst)
{
    int64_t dh = w->c->dh, d = w->d, S = w->c->S, o = h * dh, S8 = (S + 7) / 8;
    double p[64], t[64], m[64], top = -INFINITY, sum = 0, dot = 0, scale = 1 / sqrt((double)dh);
    for (int64_t j = 0; j < n; j++) {
        uint32_t bits = mr_drop_bits_at(w->e.ex.seed, 90, w->e.state.step, w->rid[b],
                                        (uint32_t)((h * S + i) * S8), j);
        m[j] = 1;
        if (w->c->p > 0) m[j] = bits >= mr_drop_threshold(w->c->p) ? mr_drop_scale(w->c->p) : 0;
        p[j] = t[j] = 0;
        for (int64_t c = 0; c < dh; c++) {
            p[j] += w->q.d[row * d + o + c] * *key(w, &w->kv, &w->first, b, j, o + c) * scale;
            t[j] += w->dout.d[row * d + o + c] * *key(w, &w->kv, &w->first, b, j, d + o + c) * m[j];
        }
        top = fmax(top, p[j]);
    }
    for (int64_t j = 0; j < n; j++) sum += p[j] = exp(p[j] - top);
    for (int64_t j = 0; j < n; j++) dot += (p[j] /= sum) * t[j];
    for (int64_t j = 0; j < n; j++)
        for (int64_t c = 0; c < dh; c++) {
            double ds = p[j] * (t[j] - dot) * scale;
            int64_t at = row * d + o + c;
            out->d[at] += m[j] * p[j] * *key(w, &w->kv, &w->first, b, j, d + o + c);
            dq->d[at] += ds * *key(w, &w->kv, &w->first, b, j, o + c);
            *key(w, dkv, dfirst, b, j, o + c) += ds * w->q.d[at];
            *key(w, dkv, dfirst, b, j, d + o + c) += m[j] * p[j] * w->dout.d[at];
        }
}

static pair start_of(const pair *p, bool acc)
{
    pair q = pair_copy(p);
    for (int64_t i = 0; !acc && i < q.n; i++) q.d[i] = 0;
    return q;
}

/* Rows of `from` [n,w] to columns at .. of rows W wide. */
static void put_columns(pair *to, int64_t W, int64_t at, const pair *from, int64_t w)
{
    for (int64_t e = 0; e < from->n; e++) {
        to->d[e / w * W + at + e % w] = from->d[e];
        to->f[e / w * W + at + e % w] = from->f[e];
    }
}

/* Columns from `at` on of the first n rows. */
static void clear_columns(pair *x, int64_t n, int64_t W, int64_t at)
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = at; j < W; j++) x->f[i * W + j] = 0, x->d[i * W + j] = 0;
}

static void assert_same_bits(const pair *a, const pair *b)
{
    if (a->n) assert_memory_equal(a->f, b->f, (size_t)a->n * sizeof *a->f);
    if (a->n) assert_memory_equal(a->d, b->d, (size_t)a->n * sizeof *a->d);
}

/* q and kv are columns of one matrix, and behind the last of them are columns that count for
 * nothing: the bits of matrices of their own (done), 0 behind, and nothing else is written. */
static void check_columns(const att_case *c, const world *done, bool q_is_last)
{
    world w;
    world_make(&w, c);
    int64_t d = w.d, W = 3 * d + BEHIND, at_q = q_is_last ? 2 * d : 0, at_kv = q_is_last ? 0 : d;
    int64_t n = w.n_q > w.n_kv ? w.n_q : w.n_kv, n_last = q_is_last ? w.n_q : w.n_kv;
    w.shape.q_ld = w.shape.kv_ld = W;
    w.shape.out_w = d + BEHIND;
    *(q_is_last ? &w.shape.q_w : &w.shape.kv_w) = (q_is_last ? d : 2 * d) + BEHIND;
    pair x = pair_make(n * W, 8), dx = pair_make(n * W, 0),
         out = pair_make(w.n_q * w.shape.out_w, 0);
    put_columns(&x, W, at_q, &w.q, d);
    put_columns(&x, W, at_kv, &w.kv, 2 * d);
    put_columns(&dx, W, at_q, &w.dq, d);
    put_columns(&dx, W, at_kv, &w.dkv, 2 * d);
    if (c->acc & (q_is_last ? 1 : 2)) clear_columns(&dx, n_last, W, 3 * d);
    pair want = pair_copy(&dx), want_out = pair_copy(&out), dout = pair_copy(&out);
    put_columns(&want, W, at_q, &done->dq, d);
    put_columns(&want, W, at_kv, &done->dkv, 2 * d);
    clear_columns(&want, n_last, W, 3 * d);
    put_columns(&want_out, w.shape.out_w, 0, &done->out, d);
    clear_columns(&want_out, w.n_q, w.shape.out_w, d);
    put_columns(&dout, w.shape.out_w, 0, &w.dout, d);
    BOTH_TABLES
    {
        size_t bytes = wide ? sizeof(double) : sizeof(float);
        size_t q = (size_t)at_q * bytes, kv = (size_t)at_kv * bytes;
        void *first = c->first ? P(w.first) : NULL;
        k->attention_fwd(P(out), P(w.prob), (char *)P(x) + q, (char *)P(x) + kv, first, &w.shape,
                         &w.drop, &w.e.ex);
        k->attention_bwd((char *)P(dx) + q, (char *)P(dx) + kv, c->first ? P(w.dfirst) : NULL,
                         P(dout), P(w.prob), (char *)P(x) + q, (char *)P(x) + kv, first, &w.shape,
                         c->acc & 1, c->acc & 2, c->acc & 4, &w.drop, &w.e.ex);
    }
    assert_same_bits(&out, &want_out);
    assert_same_bits(&dx, &want);
    pair *all[] = {&x, &dx, &out, &want, &want_out, &dout};
    for (int i = 0; i < COUNT(all); i++) pair_free(all[i]);
    world_free(&w);
}

static void check_case(const att_case *c)
{
    world w;
    world_make(&w, c);
    pair out = start_of(&w.out, false), dq = start_of(&w.dq, c->acc & 1),
         dkv = start_of(&w.dkv, c->acc & 2), df = start_of(&w.dfirst, c->acc & 4);
    for (int64_t b = 0; b < c->B; b++) {
        bool causal = c->mode == MR_ATT_CAUSAL, last = c->mode == MR_ATT_LAST;
        int64_t keys = causal || last ? w.len[b] : c->S;
        int64_t queries = causal ? w.len[b] : c->mode == MR_ATT_FULL ? c->S : 1;
        for (int64_t h = 0; h < c->H; h++)
            for (int64_t i = 0; i < queries; i++)
                reference_query(&w, b, h, (causal ? w.start[b] : b * queries) + i,
                                last ? w.len[b] - 1 : i, causal ? i + 1 : keys, &out, &dq, &dkv,
                                &df);
    }
    BOTH_TABLES
    {
        void *first = c->first ? P(w.first) : NULL;
        k->attention_fwd(P(w.out), P(w.prob), P(w.q), P(w.kv), first, &w.shape, &w.drop, &w.e.ex);
        k->attention_bwd(P(w.dq), P(w.dkv), c->first ? P(w.dfirst) : NULL, P(w.dout), P(w.prob),
                         P(w.q), P(w.kv), first, &w.shape, c->acc & 1, c->acc & 2, c->acc & 4,
                         &w.drop, &w.e.ex);
    }
    /* Scores of size s carry an error of s float epsilons into the probabilities. */
    int64_t K = (int64_t)(1000 * fmax(1, c->spread));
    pair_compare("out", &w.out, out.d, K);
    pair_compare("dq", &w.dq, dq.d, K);
    pair_compare("dkv", &w.dkv, dkv.d, K);
    pair_compare("dkv_first", &w.dfirst, df.d, K);
    /* Every output alone, and no stored probabilities: the same bits. */
    pair alone = pair_make(w.dkv.n, c->acc & 2 ? 6 : 0), out2 = pair_make(w.out.n, 0);
    const mr_kernels *k = &mr_kernels_cpu32;
    float *first = c->first ? w.first.f : NULL;
    k->attention_fwd(out2.f, NULL, w.q.f, w.kv.f, first, &w.shape, &w.drop, &w.e.ex);
    k->attention_bwd(NULL, alone.f, NULL, w.dout.f, w.prob.f, w.q.f, w.kv.f, first, &w.shape, 0,
                     c->acc & 2, 0, &w.drop, &w.e.ex);
    assert_true(!w.out.n || !memcmp(out2.f, w.out.f, (size_t)w.out.n * sizeof(float)));
    assert_true(!w.dkv.n || !memcmp(alone.f, w.dkv.f, (size_t)w.dkv.n * sizeof(float)));
    check_columns(c, &w, true);
    if (!c->first) check_columns(c, &w, false); /* kv_first is as wide as kv */
    pair *all[] = {&out, &dq, &dkv, &df, &alone, &out2};
    for (int i = 0; i < COUNT(all); i++) pair_free(all[i]);
    world_free(&w);
}

static void test_cases(void **state)
{
    (void)state;
    for (int i = 0; i < COUNT(cases); i++) check_case(&cases[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_cases)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
