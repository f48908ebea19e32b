/* Features of synthetic items: prototypes of topics, cues and backgrounds plus noise.
 * Invariant: near-normal numbers are sums of four 16-bit uniforms (Irwin-Hall), mixed as integers
 * and scaled once at the end, so neither a mathematical library nor a fused multiply-add can change
 * a bit. */
#include "data/synth_internal.h"

#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "data/half.h"

enum { P_TOPIC_VISUAL, P_CUE_FRAME, P_BACKGROUND, P_TOPIC_TEXT, P_CUE_TEXT, P_COUNT };
#define BACKGROUNDS 16

/* One unit of near-normal noise is sqrt(65536^2 / 3); mixtures are in tenths of it. */
#define TENTH (1.7320508f / 655360.0f)

/* x[n] += tenths * noise of (stream, row); mean 0, variance tenths^2. */
static void add_noise(int32_t *x, int64_t n, int32_t tenths, uint64_t seed, uint32_t stream,
                      uint32_t row, uint32_t block0)
{
    for (int64_t i = 0; i < n; i += 2) {
        mr_u32x4 r = mr_philox(seed, MR_RNG_SYNTH, stream, row, block0 + (uint32_t)(i / 2));
        for (int64_t k = 0; k < 2 && i + k < n; k++) {
            uint32_t a = r.v[2 * k], b = r.v[2 * k + 1];
            uint32_t sum = (a & 0xFFFFu) + (a >> 16) + (b & 0xFFFFu) + (b >> 16);
            x[i + k] += tenths * ((int32_t)sum - 131070);
        }
    }
}

static void add_scaled(int32_t *x, const int32_t *p, int64_t n, int32_t tenths)
{
    for (int64_t i = 0; i < n; i++) x[i] += tenths * p[i];
}

static mr_status make_prototypes(int32_t **out, int64_t n, int64_t width, int kind, uint64_t seed)
{
    MR_TRY(MR_ALLOC(out, n * width, "prototypes"));
    for (int64_t i = 0; i < n; i++)
        add_noise(*out + i * width, width, 1, seed, MR_SYNTH_PROTOTYPE + (uint32_t)kind,
                  (uint32_t)i, 0);
    return MR_OK;
}

static void store(mr_feature *f, int64_t row, const int32_t *x)
{
    int64_t n = f->width, at = row * n;
    if (f->dtype == MR_F32) {
        float *to = (float *)f->data + at;
        for (int64_t i = 0; i < n; i++) to[i] = (float)x[i] * TENTH;
    } else {
        uint16_t *to = (uint16_t *)f->data + at;
        for (int64_t i = 0; i < n; i++) to[i] = mr_float_to_half((float)x[i] * TENTH);
    }
}

/* Bits 1 or 2 frames of K: one always, a second for half of the items. */
static void salient_of(uint64_t seed, int64_t item, int64_t K, int64_t out[2], bool *text_cue)
{
    mr_u32x4 r = mr_philox(seed, MR_RNG_SYNTH, MR_SYNTH_SALIENT, (uint32_t)item, 0);
    out[0] = mr_below(r.v[0], (uint32_t)K);
    out[1] = (r.v[1] & 1u) ? mr_below(r.v[2], (uint32_t)K) : out[0];
    *text_cue = (r.v[1] & 2u) != 0;
}

static void visual_of_items(mr_dataset *d, const mr_synth_spec *s, const mr_latent *z,
                            int32_t *const proto[P_COUNT], int32_t *x)
{
    int64_t D = s->width, K = s->frames, salient[2];
    bool text_cue;
    for (int64_t i = 0; i < s->items; i++) {
        const int32_t *topic = proto[P_TOPIC_VISUAL] + z->topic[i] * D;
        memset(x, 0, sizeof(int32_t) * (size_t)D);
        add_scaled(x, topic, D, 5);
        add_noise(x, D, 3, s->seed, MR_SYNTH_VISUAL, (uint32_t)i, 0);
        store(&d->visual, i, x);
        if (K) salient_of(s->seed, i, K, salient, &text_cue);
        for (int64_t k = 0; k < K; k++) {
            uint32_t block0 = (uint32_t)(k * ((D + 1) / 2 + 1));
            mr_u32x4 r = mr_philox(s->seed, MR_RNG_SYNTH, MR_SYNTH_FRAMES, (uint32_t)i, block0);
            memset(x, 0, sizeof(int32_t) * (size_t)D);
            if (k == salient[0] || k == salient[1]) {
                add_scaled(x, proto[P_CUE_FRAME] + z->cue[i] * D, D, 6);
                add_scaled(x, topic, D, 2);
            } else {
                add_scaled(x, proto[P_BACKGROUND] + mr_below(r.v[0], BACKGROUNDS) * D, D, 4);
            }
            add_noise(x, D, 3, s->seed, MR_SYNTH_FRAMES, (uint32_t)i, block0 + 1);
            store(&d->frames, i * K + k, x);
        }
    }
}

static void text_of_items(mr_dataset *d, const mr_synth_spec *s, const mr_latent *z,
                          int32_t *const proto[P_COUNT], int32_t *x)
{
    int64_t w = s->text_width, salient[2];
    bool text_cue;
    for (int64_t i = 0; i < s->items; i++) {
        salient_of(s->seed, i, s->frames > 1 ? s->frames : 2, salient, &text_cue);
        memset(x, 0, sizeof(int32_t) * (size_t)w);
        add_scaled(x, proto[P_TOPIC_TEXT] + z->topic[i] * w, w, 5);
        if (text_cue) add_scaled(x, proto[P_CUE_TEXT] + z->cue[i] * w, w, 3);
        add_noise(x, w, 3, s->seed, MR_SYNTH_TEXT, (uint32_t)i, 0);
        store(&d->text, i, x);
    }
}

static mr_status alloc_feature(mr_feature *f, mr_dtype t, int64_t items, int64_t count,
                               int64_t width, const char *what)
{
    *f = (mr_feature){.dtype = t, .width = width, .count = count};
    return mr_alloc(&f->data, items * count * width, mr_dtype_bytes(t), what);
}

mr_status mr_synth_features(mr_dataset *d, const mr_synth_spec *s, const mr_latent *z)
{
    int32_t *proto[P_COUNT] = {0}, *x = NULL;
    int64_t C = z->topics, D = s->width, w = s->text_width;
    mr_status st;
    MR_TRY_GOTO(MR_ALLOC(&x, D > w ? D : w, "one feature row"), st, end);
    if (D) {
        MR_TRY_GOTO(alloc_feature(&d->visual, s->dtype, s->items, 1, D, "visual"), st, end);
        MR_TRY_GOTO(make_prototypes(&proto[P_TOPIC_VISUAL], C, D, 0, s->seed), st, end);
        MR_TRY_GOTO(make_prototypes(&proto[P_CUE_FRAME], C, D, 1, s->seed), st, end);
        MR_TRY_GOTO(make_prototypes(&proto[P_BACKGROUND], BACKGROUNDS, D, 2, s->seed), st, end);
        if (s->frames)
            MR_TRY_GOTO(alloc_feature(&d->frames, s->dtype, s->items, s->frames, D, "frames"), st,
                        end);
        visual_of_items(d, s, z, proto, x);
    }
    if (w) {
        MR_TRY_GOTO(alloc_feature(&d->text, s->dtype, s->items, 1, w, "text"), st, end);
        MR_TRY_GOTO(make_prototypes(&proto[P_TOPIC_TEXT], C, w, 3, s->seed), st, end);
        MR_TRY_GOTO(make_prototypes(&proto[P_CUE_TEXT], C, w, 4, s->seed), st, end);
        text_of_items(d, s, z, proto, x);
    }
end:
    for (int k = 0; k < P_COUNT; k++) MR_FREE(proto[k]);
    MR_FREE(x);
    return st;
}
