/* Kernels of the family embed against plain references, both precisions. Inputs of sums are small
 * integers, so that every comparison is exact. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "kernel_pair.h"

#define COUNT(a) ((int)(sizeof(a) / sizeof *(a)))
enum { MAX_B = 300, MAX_L = 7, MAX_T = MAX_B * MAX_L, ITEMS = 23 };

typedef struct ragged {
    int64_t B, L, tokens;
    int32_t start[MAX_B + 1], len[MAX_B], id[MAX_T], pos[MAX_T], row[MAX_T];
} ragged;

static void ragged_make(ragged *r, int64_t B, int64_t L)
{
    memset(r, 0, sizeof *r);
    r->B = B;
    r->L = L;
    for (int64_t b = 0; b < B; b++) {
        r->len[b] = (int32_t)(1 + b * 5 % L);
        for (int32_t l = 0; l < r->len[b]; l++, r->tokens++) {
            r->pos[r->tokens] = l;
            r->row[r->tokens] = (int32_t)b;
            r->id[r->tokens] = (int32_t)(r->tokens * 7 % (ITEMS + 2)); /* 0 and ITEMS + 1 too */
        }
        r->start[b + 1] = (int32_t)r->tokens;
    }
}

static pair integers(int64_t n, uint32_t stream)
{
    pair p = pair_make(n, stream);
    for (int64_t i = 0; i < n; i++) {
        p.d[i] = floor(p.d[i] * 100);
        p.f[i] = (float)p.d[i];
    }
    return p;
}

static void exact(const char *what, const pair *got, const double *want)
{
    for (int64_t i = 0; i < got->n; i++)
        if (!(got->d[i] == want[i]) || !((double)got->f[i] == want[i]))
            fail_msg("%s[%lld]: %g and %g, reference %g", what, (long long)i, got->d[i],
                     (double)got->f[i], want[i]);
}

static const struct {
    int64_t B, L, w;
} sizes[] = {{0, 3, 5}, {1, 1, 1}, {7, 5, 13}, {300, 7, 300}, {31, 4, 64}};

static void test_gather(void **state)
{
    (void)state;
    static ragged r;
    for (int s = 0; s < COUNT(sizes); s++) {
        int64_t w = sizes[s].w, B = sizes[s].B, L = sizes[s].L;
        ragged_make(&r, B, L);
        r.id[r.tokens] = 3; /* the padding entry */
        pair table = pair_make((ITEMS + 2) * w, 1), y = pair_make(r.tokens * w, 0),
             z = pair_make(B * L * w, 0), wy = pair_make(y.n, 0), wz = pair_make(z.n, 0),
             more = pair_make(L * w, 2), sum = pair_make(y.n, 0), ws = pair_make(y.n, 0);
        for (int64_t i = 0; i < y.n; i++) wy.d[i] = table.d[r.id[i / w] * w + i % w];
        for (int64_t i = 0; i < y.n; i++) ws.d[i] = wy.d[i] + more.d[r.pos[i / w] * w + i % w];
        for (int64_t i = 0; i < z.n; i++) {
            int64_t b = i / w / L, l = i / w % L;
            int64_t id = l < r.len[b] ? r.id[r.start[b] + l] : 3;
            wz.d[i] = table.d[id * w + i % w];
        }
        BOTH_TABLES
        {
            k->gather_rows(P(y), P(table), r.id, NULL, NULL, r.tokens, w, MR_ACT_ACT, NULL);
            k->gather_rows(P(sum), P(table), r.id, P(more), r.pos, r.tokens, w, MR_ACT_ACT, NULL);
            k->gather_padded(P(z), P(table), r.id, r.start, r.len, B, L, w, r.tokens, NULL);
        }
        exact("gather_rows", &y, wy.d);
        pair_compare("gather_rows plus more", &sum, ws.d, 1);
        exact("gather_padded", &z, wz.d);
        pair *all[] = {&table, &y, &z, &wy, &wz, &more, &sum, &ws};
        for (int i = 0; i < COUNT(all); i++) pair_free(all[i]);
    }
}

/* Inverse index of the ids: distinct ids ascending, their entries ascending. */
static int64_t invert(const ragged *r, int32_t *row, int32_t *start, int32_t *pos)
{
    int64_t n = 0, at = 0;
    for (int32_t id = 0; id < ITEMS + 2; id++) {
        int64_t before = at;
        for (int64_t t = 0; t < r->tokens; t++)
            if (r->id[t] == id) pos[at++] = (int32_t)t;
        if (at == before) continue;
        row[n] = id;
        start[n++] = (int32_t)before;
    }
    start[n] = (int32_t)at;
    return n;
}

static void test_add_rows(void **state)
{
    (void)state;
    static ragged r;
    static int32_t row[ITEMS + 3], start[ITEMS + 3], pos[MAX_T];
    for (int s = 0; s < COUNT(sizes); s++)
        for (int mode = 0; mode < 8; mode++) {
            bool acc = mode & 1, padded = mode & 2, compact = mode & 4;
            int64_t w = sizes[s].w, L = sizes[s].L;
            ragged_make(&r, sizes[s].B, L);
            int64_t n = invert(&r, row, start, pos), R = compact ? n : ITEMS + 2;
            int32_t skip = mode % 3 == 0 ? -1 : 0;
            pair x = integers((padded ? r.B * L : r.tokens) * w, 1);
            pair y = integers(R * w, 2), want = pair_copy(&y);
            for (int64_t i = 0; !acc && i < y.n; i++) {
                want.d[i] = 0;
                y.d[i] = NAN;
                y.f[i] = NAN;
            }
            for (int64_t i = 0; i < n; i++)
                for (int64_t e = start[i]; e < start[i + 1]; e++)
                    for (int64_t j = 0; j < w; j++) {
                        int64_t t = pos[e], from = padded ? r.row[t] * L + r.pos[t] : t;
                        int64_t to = compact ? i : row[i];
                        if (to != skip) want.d[to * w + j] += x.d[from * w + j];
                    }
            BOTH_TABLES k->add_rows(P(y), P(x), compact ? NULL : row, start, pos, n, w, R, acc,
                                    skip, padded ? r.row : NULL, padded ? r.pos : NULL, L,
                                    MR_ACT_ACT, NULL);
            exact("add_rows", &y, want.d);
            pair_free(&x);
            pair_free(&y);
            pair_free(&want);
        }
}

static void test_position_and_last(void **state)
{
    (void)state;
    static ragged r;
    for (int s = 0; s < COUNT(sizes); s++)
        for (int acc = 0; acc < 2; acc++) {
            int64_t w = sizes[s].w, B = sizes[s].B, L = sizes[s].L;
            ragged_make(&r, B, L);
            int64_t N = r.tokens + 3; /* rows of dx, three of no token */
            pair x = integers(N * w, 1), table = integers(L * w, 2), y = pair_make(r.tokens * w, 0);
            pair dt = pair_copy(&table), dx = integers(N * w, 3), last = pair_make(B * w, 0);
            pair spare = pair_copy(&table), dp = integers(x.n, 3), wdp = pair_copy(&dp);
            pair dl = integers(B * w, 4), wy = pair_make(y.n, 0), wdt = pair_copy(&dt),
                 wdx = pair_copy(&dx), wl = pair_make(B * w, 0);
            for (int64_t i = 0; !acc && i < dt.n; i++) wdt.d[i] = 0;
            for (int64_t i = 0; !acc && i < dx.n; i++) wdx.d[i] = 0;
            for (int64_t t = 0; t < r.tokens; t++)
                for (int64_t j = 0; j < w; j++) {
                    wy.d[t * w + j] = x.d[t * w + j] + table.d[r.pos[t] * w + j];
                    wdt.d[r.pos[t] * w + j] += x.d[t * w + j];
                    if (r.pos[t] != r.len[r.row[t]] - 1) continue;
                    wl.d[r.row[t] * w + j] = x.d[t * w + j];
                    wdx.d[t * w + j] += dl.d[r.row[t] * w + j];
                }
            for (int64_t i = 0; i < x.n; i++) wdp.d[i] = x.d[i] + (acc ? 0 : wdp.d[i]);
            BOTH_TABLES
            {
                k->position_fwd(P(y), P(x), P(table), r.pos, r.tokens, w, NULL);
                k->position_bwd(acc ? P(dp) : NULL, P(dt), P(x), r.start, r.len, N, B, L, w, 0, acc,
                                NULL);
                if (!acc)
                    k->position_bwd(P(dp), P(spare), P(x), r.start, r.len, N, B, L, w, 1, 0, NULL);
                k->last_fwd(P(last), P(x), r.start, r.len, B, w, NULL);
                k->last_bwd(P(dx), P(dl), r.start, r.len, B, N, w, acc, NULL);
            }
            exact("position_fwd", &y, wy.d);
            exact("position_bwd", &dt, wdt.d);
            exact("position_bwd, dx", &dp, wdp.d);
            exact("last_fwd", &last, wl.d);
            exact("last_bwd", &dx, wdx.d);
            pair *all[] = {&x,  &table, &y,   &dt, &dx, &last, &dl,
                           &wy, &wdt,   &wdx, &wl, &dp, &wdp,  &spare};
            for (int i = 0; i < COUNT(all); i++) pair_free(all[i]);
        }
}

/* Half numbers of every kind: normal, subnormal, zero, both signs. */
static uint16_t half_bits(int64_t i)
{
    uint16_t h = (uint16_t)(i * 40503 + 1);
    return (h >> 10 & 31) == 31 ? (uint16_t)(h ^ 0x4000) : h;
}

static double half_reference(uint16_t h)
{
    int e = h >> 10 & 31, m = h & 1023;
    double v = e ? ldexp(1024 + m, e - 25) : ldexp(m, -24);
    return h & 0x8000 ? -v : v;
}

static void test_features(void **state)
{
    (void)state;
    static ragged r;
    static uint16_t half[ITEMS * 300];
    static float single[ITEMS * 300];
    for (int i = 0; i < ITEMS * 300; i++) {
        half[i] = half_bits(i);
        single[i] = (float)half_reference(half[i]);
    }
    for (int s = 0; s < COUNT(sizes); s++)
        for (int f16 = 0; f16 < 2; f16++) {
            int64_t w = sizes[s].w, B = sizes[s].B;
            ragged_make(&r, B, sizes[s].L);
            mr_dtype t = f16 ? MR_F16 : MR_F32;
            const void *data = f16 ? (void *)half : single;
            pair y = pair_make(r.tokens * w, 0), c = pair_make(B * w, 0), wy = pair_make(y.n, 0),
                 wc = pair_make(c.n, 0), more = pair_make(w, 2), sum = pair_make(y.n, 0),
                 ws = pair_make(y.n, 0);
            for (int64_t i = 0; i < c.n; i++) wc.d[i] = 0;
            for (int64_t i = 0; i < y.n; i++) {
                int64_t tok = i / w, id = r.id[tok], b = r.row[tok];
                wy.d[i] = id >= 1 && id <= ITEMS ? (double)single[(id - 1) * w + i % w] : 0;
                double total = 0;
                for (int k = 1; k <= r.len[b]; k++) total += exp(-0.9 * (r.len[b] - k));
                wc.d[b * w + i % w] += exp(-0.9 * (r.len[b] - 1 - r.pos[tok])) / total * wy.d[i];
                ws.d[i] = wy.d[i] + more.d[i % w];
            }
            BOTH_TABLES
            {
                k->feature_gather(P(y), data, t, r.id, NULL, r.tokens, 1, w, w, ITEMS, NULL);
                k->feature_gather(P(sum), data, t, r.id, P(more), r.tokens, 1, w, w, ITEMS, NULL);
                k->context(P(c), data, t, r.id, r.start, r.len, B, w, w, ITEMS, 0.9, NULL);
            }
            exact("feature_gather", &y, wy.d);
            pair_compare("feature_gather plus more", &sum, ws.d, 1);
            pair_compare("context", &c, wc.d, 1);
            pair *all[] = {&y, &c, &wy, &wc, &more, &sum, &ws};
            for (int i = 0; i < COUNT(all); i++) pair_free(all[i]);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gather),
        cmocka_unit_test(test_add_rows),
        cmocka_unit_test(test_position_and_last),
        cmocka_unit_test(test_features),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
