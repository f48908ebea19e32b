/* Time of full ranking with best-20 lists against the score product alone.
 * Run by hand: `bench_rank [users] [items] [width] [repeats]`; one line of JSON each without and
 * with lists. The product is OpenBLAS's, timed in the same run on blocks of 256 users. */
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/mem.h"
#include "train/rank.h"

/* One thread: processor time, which other processes disturb less. */
static double now(void)
{
    struct timespec t;
    clock_gettime(omp_get_max_threads() == 1 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void must(mr_status st)
{
    if (st != MR_OK) exit(mr_exit_code(st));
}

int main(int argc, char **argv)
{
    int64_t n = argc > 1 ? atoll(argv[1]) : 2048, items = argc > 2 ? atoll(argv[2]) : 18700;
    int64_t d = argc > 3 ? atoll(argv[3]) : 300, v = items + 1;
    int repeats = argc > 4 ? atoi(argv[4]) : 3;
    mr_device *dev;
    const mr_kernels *k;
    float *x, *e, *s;
    int32_t *target, *rank, *top;
    must(mr_device_open(&dev, "cpu", 0));
    must(mr_kernels_for(&k, "cpu", MR_F32));
    must(MR_ALLOC(&x, n * d, "x"));
    must(MR_ALLOC(&e, v * d, "e"));
    must(MR_ALLOC(&s, 256 * v, "scores"));
    must(MR_ALLOC(&target, n, "targets"));
    must(MR_ALLOC(&rank, n, "ranks"));
    must(MR_ALLOC(&top, n * 20, "lists"));
    for (int64_t i = 0; i < n * d; i++) x[i] = (float)((i * 2654435761u) % 1000) * 1e-3f - 0.5f;
    for (int64_t i = 0; i < v * d; i++) e[i] = (float)((i * 2246822519u) % 1000) * 1e-3f - 0.5f;
    for (int64_t i = 0; i < n; i++) target[i] = 1 + (int32_t)(i * 7919 % items);
    double product = 1e9;
    mr_exec ex = {0};
    for (int r = 0; r < repeats; r++) {
        double t = now();
        for (int64_t b = 0; b < n; b += 256)
            k->gemm(s, x + b * d, e, n - b < 256 ? n - b : 256, v, d, 0, 1, d, d, v, 1.0, 0.0,
                    MR_ACT_ACT, &ex);
        t = now() - t;
        product = t < product ? t : product;
    }
    for (int lists = 0; lists < 2; lists++) {
        mr_ranker *rk;
        mr_rank_spec spec = {.dev = dev,
                             .k = k,
                             .table = e,
                             .row_hi = v,
                             .n_items = items,
                             .d = d,
                             .is_cosine = true,
                             .rows_cap = n,
                             .top_k = lists * 20};
        mr_rank_block b = {.x = x, .counts = &n, .target = target, .rank = rank, .top_id = top};
        must(mr_ranker_create(&rk, &spec));
        double best = 1e9;
        for (int r = 0; r < repeats; r++) {
            double t = now();
            mr_ranker_refresh(rk);
            must(mr_ranker_run(rk, &b));
            t = now() - t;
            best = t < best ? t : best;
        }
        printf("{\"users\":%lld,\"items\":%lld,\"width\":%lld,\"lists\":%d,\"ms\":%.1f,"
               "\"product_ms\":%.1f,\"gflops\":%.0f,\"product_gflops\":%.0f}\n",
               (long long)n, (long long)items, (long long)d, lists * 20, best * 1e3, product * 1e3,
               2e-9 * (double)(n * v * d) / best, 2e-9 * (double)(n * v * d) / product);
        mr_ranker_free(&rk);
    }
    mr_device_close(&dev);
    return 0;
}
