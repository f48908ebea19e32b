/* Speed of the U-Net and diffusion kernels on the CPU: convolutions as a share of the matrix
 * product rate measured in the same run, group norm and noise as memory rates. Not a test: nothing
 * is checked. Usage: bench_unet [samples], default 256. */
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "kernels/kernels.h"

static const mr_kernels *K = &mr_kernels_cpu32;
static mr_step_state state = {.step = 1};
static mr_exec ex = {.seed = 1, .state = &state};
static int64_t B = 256;

/* Processor time with one thread: on a shared machine wall time counts other programs. */
static double now(void)
{
    struct timespec t;
    clock_gettime(omp_get_max_threads() == 1 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static float *fresh(int64_t n)
{
    float *x = aligned_alloc(64, (size_t)(n * 4 + 63) / 64 * 64);
    for (int64_t i = 0; i < n; i++) x[i] = (float)((i * 2654435761u) % 1000) * 1e-3f - 0.5f;
    return x;
}

/* Best of several repetitions: the machine may be shared. */
#define BEST(out, statement)                                                                       \
    do {                                                                                           \
        (out) = 1e9;                                                                               \
        for (double end = now() + 0.7, t0; (t0 = now()) < end;) {                                  \
            statement;                                                                             \
            double dt = now() - t0;                                                                \
            if (dt < (out)) (out) = dt;                                                            \
        }                                                                                          \
    } while (0)

/* Rate of one large product of the size of the unfolded convolution. */
static double gemm_rate(int64_t m, int64_t n, int64_t k)
{
    float *a = fresh(m * k), *b = fresh(n * k), *c = fresh(m * n);
    double t;
    BEST(t, K->gemm(c, a, b, m, n, k, 0, 1, k, k, n, 1.0, 0.0, MR_ACT_ACT, &ex));
    free(a), free(b), free(c);
    return 2.0 * (double)(m * n * k) / t;
}

static void bench_conv(int64_t S, int64_t ci, int64_t co, int stride)
{
    mr_conv cv = {B, S, (S + stride - 1) / stride, ci, co, stride, co, false, false};
    int64_t nx = B * S * ci, ny = B * cv.So * co;
    float *x = fresh(nx), *y = fresh(ny), *w = fresh(3 * co * ci), *dx = fresh(nx),
          *bias = fresh(co);
    float *dw = fresh(3 * co * ci), *dy = fresh(ny), *dctx = fresh(B * co), *res = fresh(ny);
    double f, gx, gw, ga, rate = gemm_rate(B * cv.So, co, 3 * ci);
    BEST(f, K->conv3_fwd(y, x, w, bias, res, dctx, &cv, &ex));
    mr_conv_acc acc = {0};
    BEST(gx, K->conv3_bwd(dx, NULL, NULL, NULL, NULL, dy, x, w, &cv, &acc, &ex));
    BEST(gw, K->conv3_bwd(NULL, dw, NULL, NULL, NULL, dy, x, w, &cv, &acc, &ex));
    BEST(ga, K->conv3_bwd_add(bias, res, dctx, dy, B, cv.So, co, co, 0, 0, 0, &ex));
    /* Work counted as the unfolded product, zeros included, and as what is really multiplied. */
    double taps = 0;
    for (int64_t u = 0; u < cv.So; u++)
        for (int j = 0; j < 3; j++) taps += u * stride + j - 1 >= 0 && u * stride + j - 1 < S;
    double full = 2.0 * (double)(B * cv.So * co * 3 * ci),
           real = 2.0 * (double)(B * co * ci) * taps;
    printf(
        "conv3 S %lld %3lld->%3lld/%d: sgemm %5.1f GF/s | share (unfolded work) fwd %.2f dx %.2f "
        "dw %.2f all %.2f | (real work) fwd %.2f dx %.2f dw %.2f all %.2f | ms fwd %.2f dx %.2f "
        "dw %.2f add %.2f\n",
        (long long)S, (long long)ci, (long long)co, stride, rate * 1e-9, full / f / rate,
        full / gx / rate, full / gw / rate, 3 * full / (f + gx + gw + ga) / rate, real / f / rate,
        real / gx / rate, real / gw / rate, 3 * real / (f + gx + gw + ga) / rate, f * 1e3, gx * 1e3,
        gw * 1e3, ga * 1e3);
    free(x), free(y), free(w), free(dx), free(bias), free(dw), free(dy), free(dctx), free(res);
}

static void bench_norm(int64_t S, int64_t c, double p)
{
    int64_t n = B * S * c;
    float *x = fresh(n), *y = fresh(n), *dy = fresh(n), *dx = fresh(n), *film = fresh(2 * c * B);
    float *mu = fresh(8 * B), *rs = fresh(8 * B), *ga = fresh(c), *be = fresh(c),
          *df = fresh(2 * c * B);
    float *dg = fresh(c), *db = fresh(c);
    uint32_t *rid = calloc((size_t)B, 4);
    int32_t *pos = calloc((size_t)B, 4);
    mr_gn gn = {.n = B, .S = S, .c = c, .groups = 8, .film_ld = 2 * c, .eps = 1e-6};
    gn.drop = (mr_drop){.p = p, .purpose = 70000, .rows = {rid, pos}, .per_row = 1};
    double f, b, copy;
    BEST(copy, K->axpy(y, x, n, 0.5, 0, MR_ACT_ACT, &ex));
    BEST(f, K->group_norm_fwd(y, mu, rs, x, ga, be, film, &gn, &ex));
    BEST(b, K->group_norm_bwd(dx, dg, db, df, dy, x, mu, rs, ga, be, film, &gn, 0, 0, 0, 0, NULL,
                              &ex));
    double bytes = (double)n * 4;
    printf("group_norm S %lld c %3lld drop %.1f: fwd %.2f ms %.1f GB/s, bwd %.2f ms %.1f GB/s; "
           "copy %.1f "
           "GB/s; ns an element fwd %.2f bwd %.2f\n",
           (long long)S, (long long)c, p, f * 1e3, 2e-9 * bytes / f, b * 1e3, 3e-9 * bytes / b,
           2e-9 * bytes / copy, f * 1e9 / (double)n, b * 1e9 / (double)n);
    free(x), free(y), free(dy), free(dx), free(film), free(mu), free(rs), free(ga), free(be),
        free(df);
    free(dg), free(db), free(rid), free(pos);
}

static void bench_noise(int64_t w)
{
    float *x = fresh(B * w), *y = fresh(B * w);
    uint32_t *rid = calloc((size_t)B, 4);
    const double abar[6] = {1, .9, .8, .7, .6, .5};
    mr_noise nz = {MR_RNG_T_TCD, MR_RNG_EPS_TCD, 0, 5, NULL, false, 0, 0};
    double f;
    BEST(f, K->noise_fwd(y, x, abar, rid, B, w, &nz, &ex));
    printf("noise w %lld: %.2f ms, %.2f ns a normal\n", (long long)w, f * 1e3,
           f * 1e9 / (double)(B * w));
    free(x), free(y), free(rid);
}

static void bench_silu(void)
{
    int64_t n = B * 640;
    float *x = fresh(n), *y = fresh(n);
    double f, b;
    BEST(f, K->silu_fwd(y, x, n, &ex));
    BEST(b, K->silu_bwd(y, x, x, n, 0, &ex));
    printf("silu: ns an element fwd %.2f bwd %.2f\n", f * 1e9 / (double)n, b * 1e9 / (double)n);
    free(x), free(y);
}

int main(int argc, char **argv)
{
    if (argc > 1) B = atoll(argv[1]);
    ex.scratch = fresh(8 << 20);
    bench_conv(5, 768, 128, 1);
    bench_conv(5, 128, 128, 1);
    bench_conv(5, 256, 256, 1);
    bench_conv(3, 256, 256, 1);
    bench_conv(5, 512, 256, 1);
    bench_conv(5, 128, 128, 2);
    bench_conv(5, 128, 768, 1);
    bench_silu();
    bench_norm(5, 128, 0.1);
    bench_norm(5, 128, 0.0);
    bench_norm(3, 256, 0.1);
    bench_norm(3, 512, 0.0);
    bench_noise(5 * 768);
    free(ex.scratch);
    return 0;
}
