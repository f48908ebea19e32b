/* Synthetic data sets: shapes, latent structure and clicks; features are in synth_features.c.
 * Invariants: every draw is a pure function of (seed, stream, row, block); only +, *, /, sqrt on
 * doubles, so the result is the same everywhere. Users are generated in order because the tail
 * pointer (which items were never clicked) runs through all of them. */
#include "data/synth.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "data/check.h"
#include "data/synth_internal.h"

#define SHAPE(n, u, i, s, k, d, t, type)                                                           \
    {                                                                                              \
        .name = n, .users = u, .items = i, .inter = s, .frames = k, .width = d, .text_width = t,   \
        .p_cue = 0.8, .p_noise = 0.1, .p_tail = 0.75, .dtype = type, .seed = 2020                  \
    }
static const mr_synth_spec shapes[] = {
    SHAPE("demo", 600, 800, 4800, 5, 32, 24, MR_F32),
    SHAPE("microlens-small", 8694, 8265, 50838, 5, 768, 768, MR_F32),
    SHAPE("microlens-big", 86073, 18700, 597104, 5, 768, 768, MR_F32),
    SHAPE("shortvideo-small", 3460, 84192, 240843, 5, 768, 300, MR_F16),
    SHAPE("shortvideo-big", 7584, 122845, 533381, 5, 768, 300, MR_F16),
};
const char *const mr_synth_shapes[] = {"demo", "microlens-small", "microlens-big",
                                       "shortvideo-small", "shortvideo-big"};
const int mr_synth_n_shapes = 5;

mr_status mr_synth_spec_for(const char *shape, mr_synth_spec *out)
{
    for (int i = 0; i < mr_synth_n_shapes; i++)
        if (strcmp(shape, shapes[i].name) == 0) {
            *out = shapes[i];
            return MR_OK;
        }
    return MR_RAISE(MR_ERR_USAGE,
                    "no shape \"%s\"; known are demo, microlens-small, microlens-big, "
                    "shortvideo-small, shortvideo-big",
                    shape);
}

/* A stream of 32-bit words for one row of one purpose inside the generator. */
typedef struct draw {
    uint64_t seed;
    uint32_t stream, row, next;
    mr_u32x4 block;
} draw;

static draw draw_make(uint64_t seed, uint32_t stream, uint32_t row)
{
    return (draw){.seed = seed, .stream = stream, .row = row};
}

static uint32_t draw_u32(draw *g)
{
    if (g->next % 4 == 0)
        g->block = mr_philox(g->seed, MR_RNG_SYNTH, g->stream, g->row, g->next / 4);
    return g->block.v[g->next++ % 4];
}

static int64_t draw_below(draw *g, int64_t n) { return mr_below(draw_u32(g), (uint32_t)n); }
static bool draw_chance(draw *g, double p) { return mr_u01(draw_u32(g)) <= p; }

static mr_status check_spec(const mr_synth_spec *s)
{
    MR_CHECK(s->users >= 1 && s->users <= MR_MAX_USERS && s->items >= 4 &&
                 s->items <= MR_MAX_ITEMS && s->inter >= 1 && s->inter <= MR_MAX_INTER,
             MR_ERR_USAGE,
             "synth: %lld users, %lld items (at least 4), %lld interactions cannot be "
             "made",
             (long long)s->users, (long long)s->items, (long long)s->inter);
    MR_CHECK(s->inter / s->users >= 4, MR_ERR_USAGE,
             "synth: %lld interactions for %lld users; at least 4 a user are needed to train, "
             "validate and test",
             (long long)s->inter, (long long)s->users);
    MR_CHECK(s->inter >= s->items, MR_ERR_USAGE,
             "synth: %lld interactions cannot reach each of %lld items once", (long long)s->inter,
             (long long)s->items);
    MR_CHECK(s->inter / s->users < s->items / 2, MR_ERR_USAGE,
             "synth: %lld interactions a user need more than %lld items",
             (long long)(s->inter / s->users), (long long)s->items);
    MR_CHECK((s->frames == 0 || (s->frames >= 2 && s->frames <= MR_MAX_FRAMES && s->width > 0)) &&
                 s->width >= 0 && s->width <= MR_MAX_WIDTH && s->text_width >= 0 &&
                 s->text_width <= MR_MAX_WIDTH,
             MR_ERR_USAGE,
             "synth: %lld frames of width %lld, text of width %lld; frames must be 0 or "
             "2 to %lld and need a width, widths at most %lld",
             (long long)s->frames, (long long)s->width, (long long)s->text_width,
             (long long)MR_MAX_FRAMES, (long long)MR_MAX_WIDTH);
    MR_CHECK(s->topics >= 0 && s->topics <= s->items / 2, MR_ERR_USAGE,
             "synth: %lld topics for %lld items; 2 items a topic are needed", (long long)s->topics,
             (long long)s->items);
    MR_CHECK(s->p_cue >= 0 && s->p_noise >= 0 && s->p_cue + s->p_noise <= 1 && s->p_tail >= 0 &&
                 s->p_tail <= 1,
             MR_ERR_USAGE, "synth: shares must lie in 0..1 and sum to at most 1");
    MR_CHECK(s->dtype == MR_F32 || s->dtype == MR_F16, MR_ERR_USAGE,
             "synth: features are float16 or float32");
    return MR_OK;
}

/* A random permutation of 0..n-1 (Fisher-Yates). */
static void permute(draw *g, int32_t *p, int64_t n)
{
    for (int64_t i = 0; i < n; i++) p[i] = (int32_t)i;
    for (int64_t i = n - 1; i > 0; i--) {
        int64_t j = draw_below(g, i + 1);
        int32_t t = p[i];
        p[i] = p[j];
        p[j] = t;
    }
}

/* Topics and cues. Items of topic c are order[first[c]..first[c+1]), most popular first. */
static mr_status make_latent(mr_latent *z, const mr_synth_spec *s)
{
    int64_t C = s->topics;
    if (C == 0) {
        C = (int64_t)(0.7 * sqrt((double)s->items));
        if (C < 2) C = 2;
    }
    z->topics = C;
    MR_TRY(MR_ALLOC(&z->topic, s->items, "topics of items"));
    MR_TRY(MR_ALLOC(&z->cue, s->items, "cues of items"));
    MR_TRY(MR_ALLOC(&z->order, s->items, "items by topic"));
    MR_TRY(MR_ALLOC(&z->first, C + 1, "first item of a topic"));
    MR_TRY(MR_ALLOC(&z->weight, s->items / C + 2, "popularity"));
    draw g = draw_make(s->seed, MR_SYNTH_TOPICS, 0);
    /* Equal topics: position i of a random permutation belongs to topic i mod C. */
    permute(&g, z->order, s->items);
    for (int64_t i = 0; i < s->items; i++) z->topic[z->order[i]] = (int32_t)(i % C);
    for (int64_t i = 0; i < s->items; i++) z->first[z->topic[i] + 1]++;
    for (int64_t c = 0; c < C; c++) z->first[c + 1] += z->first[c];
    int32_t *fill = NULL;
    MR_TRY(MR_ALLOC(&fill, C, "fill of topics"));
    for (int64_t i = 0; i < s->items; i++) {
        int32_t c = z->topic[i];
        z->order[z->first[c] + fill[c]++] = (int32_t)i;
    }
    MR_FREE(fill);
    for (int64_t i = 0; i < s->items; i++) {
        g = draw_make(s->seed, MR_SYNTH_ITEM, (uint32_t)i);
        z->cue[i] = (int32_t)draw_below(&g, C);
    }
    /* Popularity inside a topic falls as rank^-1.5; cumulative. */
    double sum = 0;
    for (int64_t k = 0; k < s->items / C + 2; k++) {
        double r = (double)(k + 1);
        sum += 1.0 / (r * sqrt(r));
        z->weight[k] = sum;
    }
    return MR_OK;
}

static void free_latent(mr_latent *z)
{
    MR_FREE(z->topic);
    MR_FREE(z->cue);
    MR_FREE(z->order);
    MR_FREE(z->first);
    MR_FREE(z->weight);
}

/* Lengths: a floor plus a geometric part, then exact by single steps. offset [users + 1]. */
static void make_lengths(const mr_synth_spec *s, int64_t *offset)
{
    double mean = (double)s->inter / (double)s->users;
    int64_t floor_len = (int64_t)(0.7 * mean), cap = s->items / 2, sum = 0;
    if (floor_len > 5) floor_len = 5;
    if (floor_len < 4) floor_len = 4;
    double go_on = (mean - (double)floor_len) / (mean - (double)floor_len + 1.0);
    for (int64_t u = 0; u < s->users; u++) {
        draw g = draw_make(s->seed, MR_SYNTH_LENGTH, (uint32_t)u);
        int64_t n = floor_len;
        while (n < cap && draw_chance(&g, go_on)) n++;
        offset[u + 1] = n;
        sum += n;
    }
    for (int64_t u = 0; sum != s->inter; u = (u + 1) % s->users) {
        if (sum < s->inter && offset[u + 1] < cap) {
            offset[u + 1]++;
            sum++;
        } else if (sum > s->inter && offset[u + 1] > floor_len) {
            offset[u + 1]--;
            sum--;
        }
    }
    for (int64_t u = 0; u < s->users; u++) offset[u + 1] += offset[u];
}

/* State of the walk over all clicks. */
typedef struct walk {
    const mr_synth_spec *s;
    const mr_latent *z;
    int64_t *seen_by; /* [items] user + 1 of the last user who clicked it */
    bool *clicked;    /* [items] by anybody */
    int32_t *explore; /* [items] a random order in which never-clicked items are tried */
    int64_t at, unclicked, left;
    int32_t *topic_at; /* [topics] the same walk inside a topic */
} walk;

static int64_t by_popularity(const walk *w, draw *g, int64_t c)
{
    int64_t n = w->z->first[c + 1] - w->z->first[c], lo = 0, hi = n - 1;
    double x = mr_u01(draw_u32(g)) * w->z->weight[n - 1];
    while (lo < hi) {
        int64_t mid = (lo + hi) / 2;
        if (w->z->weight[mid] < x)
            lo = mid + 1;
        else
            hi = mid;
    }
    return w->z->order[w->z->first[c] + lo];
}

/* A never-clicked item of topic c if one is left (least popular first), else any of the topic. */
static int64_t from_tail(walk *w, draw *g, int64_t c)
{
    int64_t n = w->z->first[c + 1] - w->z->first[c];
    for (; w->topic_at[c] < n; w->topic_at[c]++) {
        int64_t i = w->z->order[w->z->first[c + 1] - 1 - w->topic_at[c]];
        if (!w->clicked[i]) return i;
    }
    return w->z->order[w->z->first[c] + draw_below(g, n)];
}

static int64_t anywhere(walk *w, draw *g)
{
    for (; w->at < w->s->items; w->at++)
        if (!w->clicked[w->explore[w->at]]) return w->explore[w->at];
    return draw_below(g, w->s->items);
}

#define INTERESTS 3

/* The next item of user u (0-based) after `last` (-1: none); never one the user has already.
 * *popular: was `last` chosen by popularity; then the same of the result. */
static int64_t next_item(walk *w, draw *g, int64_t u, int64_t last, const int64_t *interest,
                         bool *popular)
{
    const mr_synth_spec *s = w->s;
    const double p_tail = *popular ? s->p_tail : 1.0 - s->p_tail;
    int64_t i = 0;
    for (int tries = 0; tries < 64; tries++) {
        double x = mr_u01(draw_u32(g));
        *popular = false;
        if (w->unclicked >= w->left || x <= s->p_noise) {
            i = anywhere(w, g);
        } else {
            bool by_cue = last >= 0 && x <= s->p_noise + s->p_cue;
            int64_t c = by_cue ? w->z->cue[last] : interest[draw_below(g, INTERESTS)];
            *popular = !draw_chance(g, p_tail);
            i = *popular ? by_popularity(w, g, c) : from_tail(w, g, c);
        }
        if (w->seen_by[i] != u + 1) return i;
    }
    while (w->seen_by[i] == u + 1) i = (i + 1) % s->items;
    return i;
}

static mr_status make_clicks(mr_dataset *d, const mr_synth_spec *s, const mr_latent *z)
{
    walk w = {.s = s, .z = z, .unclicked = s->items, .left = s->inter};
    mr_status st;
    MR_TRY_GOTO(MR_ALLOC(&w.seen_by, s->items, "seen items"), st, end);
    MR_TRY_GOTO(MR_ALLOC(&w.clicked, s->items, "clicked items"), st, end);
    MR_TRY_GOTO(MR_ALLOC(&w.explore, s->items, "order of the tail"), st, end);
    MR_TRY_GOTO(MR_ALLOC(&w.topic_at, z->topics, "tails of topics"), st, end);
    draw g = draw_make(s->seed, MR_SYNTH_EXPLORE, 0);
    permute(&g, w.explore, s->items);
    for (int64_t u = 0; u < s->users; u++) {
        g = draw_make(s->seed, MR_SYNTH_CLICK, (uint32_t)u);
        int64_t interest[INTERESTS], last = -1;
        bool popular = u & 1;
        for (int k = 0; k < INTERESTS; k++) interest[k] = draw_below(&g, z->topics);
        for (int64_t j = d->offset[u]; j < d->offset[u + 1]; j++) {
            /* Interests drift: one of them is replaced now and then. */
            if (draw_chance(&g, 0.1))
                interest[draw_below(&g, INTERESTS)] = draw_below(&g, z->topics);
            int64_t i = next_item(&w, &g, u, last, interest, &popular);
            w.seen_by[i] = u + 1;
            w.unclicked -= !w.clicked[i];
            w.clicked[i] = true;
            w.left--;
            d->items[j] = (int32_t)(i + 1);
            last = i;
        }
    }
end:
    MR_FREE(w.seen_by);
    MR_FREE(w.clicked);
    MR_FREE(w.explore);
    MR_FREE(w.topic_at);
    return st;
}

/* Original ids "1".."n". */
static mr_status make_ids(char **table, int64_t *width, int64_t n)
{
    char buf[32];
    int64_t w = snprintf(buf, sizeof buf, "%lld", (long long)n);
    MR_TRY(MR_ALLOC(table, n * w, "original ids"));
    for (int64_t i = 0; i < n; i++) {
        int len = snprintf(buf, sizeof buf, "%lld", (long long)(i + 1));
        memcpy(*table + i * w, buf, (size_t)len);
    }
    *width = w;
    return MR_OK;
}

mr_status mr_synth(mr_dataset *out, const mr_synth_spec *s)
{
    MR_TRY(check_spec(s));
    mr_dataset d = {
        .is_synthetic = true, .n_users = s->users, .n_items = s->items, .n_inter = s->inter};
    mr_latent z = {0};
    mr_status st;
    uint64_t sums[MR_PART_COUNT];
    memcpy(d.name, s->name, sizeof d.name - 1);
    MR_TRY_GOTO(MR_ALLOC(&d.offset, s->users + 1, "offsets"), st, err);
    MR_TRY_GOTO(MR_ALLOC(&d.items, s->inter, "interactions"), st, err);
    make_lengths(s, d.offset);
    MR_TRY_GOTO(make_latent(&z, s), st, err);
    MR_TRY_GOTO(make_clicks(&d, s, &z), st, err);
    MR_TRY_GOTO(make_ids(&d.user_ids, &d.user_id_bytes, s->users), st, err);
    MR_TRY_GOTO(make_ids(&d.item_ids, &d.item_id_bytes, s->items), st, err);
    MR_TRY_GOTO(mr_synth_features(&d, s, &z), st, err);
    free_latent(&z);
    d.checksum = mr_dataset_sums(&d, sums);
    *out = d;
    return MR_OK;
err:
    free_latent(&z);
    mr_dataset_free(&d);
    return st;
}
