/* Robustness noise on stored visual features (model.md §7, §11.12). */
#include "data/noise.h"

#include "base/mem.h"
#include "base/rng.h"
#include "data/half.h"

static mr_status to_float(mr_feature *f, int64_t n)
{
    if (!f->data || f->dtype == MR_F32) return MR_OK;
    float *out = NULL;
    MR_TRY(MR_ALLOC(&out, n, "features with noise"));
    const uint16_t *h = f->data;
    for (int64_t i = 0; i < n; i++) out[i] = mr_half_to_float(h[i]);
    MR_FREE(f->data);
    f->data = out;
    f->dtype = MR_F32;
    return MR_OK;
}

/* which: third counter word, 0 for visual, 1 for frames. */
static mr_status add(const mr_dataset *d, mr_feature *f, double sigma, uint64_t seed,
                     uint32_t which)
{
    if (!f->data) return MR_OK;
    int64_t w = f->count * f->width, lo, hi;
    mr_feature_rows(d, &lo, &hi);
    MR_TRY(to_float(f, (hi > lo ? hi - lo : 1) * w));
    float *x = f->data;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < hi - lo; i++)
        for (int64_t e = 0; e < w; e += 4) {
            uint32_t item = (uint32_t)(lo + i) + 1;
            mr_u32x4 r = mr_philox(seed, MR_RNG_FRAMES, which, item, (uint32_t)(e / 4));
            double v[4];
            mr_normal2(r.v[0], r.v[1], &v[0], &v[1]);
            mr_normal2(r.v[2], r.v[3], &v[2], &v[3]);
            for (int64_t k = 0; k < 4 && e + k < w; k++) x[i * w + e + k] += (float)(sigma * v[k]);
        }
    return MR_OK;
}

mr_status mr_dataset_add_noise(mr_dataset *d, double sigma, uint64_t seed)
{
    MR_TRY(add(d, &d->visual, sigma, seed, 0));
    return add(d, &d->frames, sigma, seed, 1);
}
