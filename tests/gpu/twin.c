/* Buffers held twice and their comparison. */
#include "twin.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "kernels/shared/bf16.h"

enum { SCRATCH_BYTES = 16 << 20 };

static void must(mr_status st)
{
    if (st != MR_OK) exit(1); /* the error is logged */
}

void twin_world_make(twin_world *w, mr_device *dev, const mr_kernels *tested, bool is_bf16)
{
    memset(w, 0, sizeof *w);
    w->dev = dev;
    w->cpu = &mr_kernels_cpu32;
    w->tested = tested;
    w->is_bf16 = is_bf16;
    w->state = (mr_step_state){.step = 11,
                               .rows = 37,
                               .rows_global = 74,
                               .lr = 0.01,
                               .bias1 = 0.2,
                               .bias2 = 0.02,
                               .grad_scale = 0.7};
    w->cpu_ex = (mr_exec){.seed = 0x123456789abcdefull, .state = &w->state};
    must(mr_alloc(&w->cpu_ex.scratch, SCRATCH_BYTES, 1, "scratch"));
    w->cpu_ex.scratch_bytes = SCRATCH_BYTES;
    w->ex = w->cpu_ex;
    w->ex.stream = dev->stream;
    void *state = NULL;
    must(dev->alloc(dev, &w->ex.scratch, SCRATCH_BYTES, "scratch"));
    must(dev->alloc(dev, &state, sizeof w->state, "state"));
    must(dev->to_device(dev, state, &w->state, sizeof w->state));
    w->ex.state = state;
}

void twin_world_free(twin_world *w)
{
    MR_FREE(w->cpu_ex.scratch);
    w->dev->free(w->dev, w->ex.scratch);
    w->dev->free(w->dev, (void *)w->ex.state);
}

static twin *twin_new(twin_world *w, int64_t n, size_t width)
{
    twin *t = &w->slot[w->n_made++];
    *t = (twin){.n = n, .width = width};
    must(mr_alloc(&t->host, n + 1, width, "twin"));
    must(w->dev->alloc(w->dev, &t->dev, (size_t)(n + 1) * width, "twin"));
    return t;
}

twin *twin_send(twin_world *w, twin *t)
{
    uint16_t *half = NULL;
    if (!t->is_rounded) {
        must(w->dev->to_device(w->dev, t->dev, t->host, (size_t)t->n * t->width));
        return t;
    }
    must(MR_ALLOC(&half, t->n + 1, "rounded"));
    for (int64_t i = 0; i < t->n; i++) {
        half[i] = mr_float_to_bf16(((float *)t->host)[i]);
        ((float *)t->host)[i] = mr_bf16_to_float(half[i]);
    }
    must(w->dev->to_device(w->dev, t->dev, half, (size_t)t->n * 2));
    MR_FREE(half);
    return t;
}

/* The device's elements as the host has them. Caller frees. */
static void *twin_fetch(twin_world *w, const twin *t)
{
    void *got = NULL;
    must(mr_alloc(&got, t->n + 1, t->width, "copy"));
    must(w->dev->to_host(w->dev, got, t->dev, (size_t)t->n * (t->is_rounded ? 2 : t->width)));
    for (int64_t i = t->n; t->is_rounded && i-- > 0;) /* the same memory: from the end */
        ((float *)got)[i] = mr_bf16_to_float(((uint16_t *)got)[i]);
    return got;
}

static double number(int stream, int64_t i)
{
    return 2.0 * mr_u01(mr_philox(77, (uint32_t)stream, 0, 0, (uint32_t)i).v[0]) - 1.0;
}

twin *twin_reals(twin_world *w, int64_t n)
{
    twin *t = twin_new(w, n, 4);
    for (int64_t i = 0; i < n; i++) ((float *)t->host)[i] = (float)number(w->n_made, i);
    return twin_send(w, t);
}

twin *twin_acts(twin_world *w, int64_t n)
{
    twin *t = twin_reals(w, n);
    t->is_rounded = w->is_bf16;
    return twin_send(w, t);
}

twin *twin_of(twin_world *w, int64_t n, bool is_act)
{
    return is_act ? twin_acts(w, n) : twin_reals(w, n);
}

twin *twin_positive(twin_world *w, int64_t n)
{
    twin *t = twin_new(w, n, 4);
    for (int64_t i = 0; i < n; i++)
        ((float *)t->host)[i] = (float)(0.6 + 0.5 * number(w->n_made, i));
    return twin_send(w, t);
}

twin *twin_doubles(twin_world *w, int64_t n)
{
    twin *t = twin_new(w, n, 8);
    for (int64_t i = 0; i < n; i++) ((double *)t->host)[i] = 0.5 + 0.49 * number(w->n_made, i);
    return twin_send(w, t);
}

twin *twin_halves(twin_world *w, int64_t n, double scale)
{
    twin *t = twin_new(w, n, 2);
    for (int64_t i = 0; i < n; i++)
        ((uint16_t *)t->host)[i] = mr_float_to_bf16((float)(scale * number(w->n_made, i)));
    return twin_send(w, t);
}

twin *twin_ints(twin_world *w, int64_t n, int64_t mul, int64_t add, int64_t mod)
{
    twin *t = twin_new(w, n, 4);
    for (int64_t i = 0; i < n; i++) ((int32_t *)t->host)[i] = (int32_t)((mul * i + add) % mod);
    return twin_send(w, t);
}

twin *twin_starts(twin_world *w, const twin *len)
{
    twin *t = twin_new(w, len->n + 1, 4);
    for (int64_t i = 0; i < len->n; i++)
        ((int32_t *)t->host)[i + 1] = ((int32_t *)t->host)[i] + ((int32_t *)len->host)[i];
    return twin_send(w, t);
}

void twin_release(twin_world *w)
{
    for (; w->n_made > 0; w->n_made--) {
        twin *t = &w->slot[w->n_made - 1];
        MR_FREE(t->host);
        w->dev->free(w->dev, t->dev);
    }
}

static void bad(twin_world *w, const char *kernel, const char *what, int64_t i, double got,
                double want)
{
    printf("FAILED %s: %s[%lld] = %.9g, CPU %.9g\n", kernel, what, (long long)i, got, want);
    w->failed++;
}

static double element(const twin *t, const void *at, int64_t i)
{
    return t->width == 8 ? ((const double *)at)[i] : (double)((const float *)at)[i];
}

void twin_same(twin_world *w, const char *kernel, const char *what, const twin *t, int64_t K)
{
    void *got = twin_fetch(w, t);
    bool is_rough = t->is_rounded || (t->is_summed && w->is_bf16);
    double square = 0;
    for (int64_t i = 0; i < t->n; i++) square += pow(element(t, t->host, i), 2);
    double rms = sqrt(square / (double)(t->n ? t->n : 1));
    double length = 1 + sqrt((double)K / 100.0), tol = 2e-5 * length * rms;
    for (int64_t i = 0; i < t->n; i++) {
        double a = element(t, got, i), b = element(t, t->host, i);
        double more = is_rough ? length * (fabs(b) + rms) / 128.0 : 0.0;
        if (fabs(a - b) <= tol + more || a == b) continue;
        bad(w, kernel, what, i, a, b);
        break;
    }
    if (is_rough) memcpy(t->host, got, (size_t)t->n * t->width);
    MR_FREE(got);
}

void twin_equal(twin_world *w, const char *kernel, const char *what, const twin *t)
{
    char *got = twin_fetch(w, t), *host = t->host;
    size_t unit = t->width < 4 ? t->width : 4, bytes = (size_t)t->n * t->width;
    for (int64_t i = 0; t->is_rounded && i < t->n; i++) {
        float *x = (float *)t->host + i;
        *x = mr_bf16_to_float(mr_float_to_bf16(*x));
    }
    for (size_t at = 0; at < bytes; at += unit) {
        int32_t a = 0, b = 0;
        if (!memcmp(got + at, host + at, unit)) continue;
        memcpy(&a, got + at, unit);
        memcpy(&b, host + at, unit);
        bad(w, kernel, what, (int64_t)(at / unit), a, b);
        break;
    }
    MR_FREE(got);
}

void twin_near(twin_world *w, const char *kernel, const char *what, const twin *t)
{
    uint16_t *got = NULL, *host = t->host;
    int64_t apart = 0;
    must(mr_alloc((void **)&got, t->n + 1, t->width, "copy"));
    must(w->dev->to_host(w->dev, got, t->dev, (size_t)t->n * t->width));
    for (int64_t i = 0; i < t->n; i++) {
        int d = abs((int)got[i] - (int)host[i]);
        if (d == 0) continue;
        if (d == 1 && ++apart <= 1 + t->n / 50) continue;
        bad(w, kernel, what, i, mr_bf16_to_float(got[i]), mr_bf16_to_float(host[i]));
        break;
    }
    MR_FREE(got);
}

void twin_cover(twin_world *w, const char *kernel)
{
    for (int i = 0; i < mr_kernels_count(); i++)
        if (!strcmp(mr_kernels_name(i), kernel)) w->covered[i] = true;
}
