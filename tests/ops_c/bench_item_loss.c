/* Time of item_loss (value and gradients) against its three matrix products alone, and the memory
 * it adds. Not a test of the suite: run by hand, `bench_item_loss [rows] [items] [width]
 * [repeats]`; one line of JSON for the dot product and one for cosine scores. The products are
 * timed in the same run with the whole batch as one chunk, each in the shape that item_loss needs,
 * and at 1536^3. */
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"
#include "graph/ops.h"
#include "graph/run.h"

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

typedef struct bench {
    int64_t rows, items, d;
    int repeats;
    mr_device *dev;
    const mr_kernels *k;
} bench;

/* Best time of the three products with all rows at once; *square = GFLOP/s at 1536^3. */
static double products(const bench *b, double *square)
{
    int64_t v = b->items + 1, m = b->rows, d = b->d, n = 1536;
    float *x, *e, *l, *de, *q;
    mr_exec ex = {0};
    must(MR_ALLOC(&x, m * d, "x"));
    must(MR_ALLOC(&e, v * d, "e"));
    must(MR_ALLOC(&de, v * d, "de"));
    must(MR_ALLOC(&l, m * v, "l"));
    must(MR_ALLOC(&q, 3 * n * n, "q"));
    for (int64_t i = 0; i < m * d; i++) x[i] = 0.001f * (float)(i % 97);
    for (int64_t i = 0; i < v * d; i++) e[i] = 0.001f * (float)(i % 89);
    for (int64_t i = 0; i < 3 * n * n; i++) q[i] = 0.001f * (float)(i % 83);
    double best = 1e9;
    *square = 0;
    for (int r = 0; r < b->repeats; r++) {
        double t = now();
        b->k->gemm(l, x, e, m, v, d, 0, 1, d, d, v, 1.0, 0.0, MR_ACT_ACT, &ex);
        b->k->gemm(de, l, x, v, d, m, 1, 0, v, d, d, 1.0, 0.0, MR_ACT_ACT, &ex);
        b->k->gemm(x, l, e, m, d, v, 0, 0, v, d, d, 1e-9, 0.0, MR_ACT_ACT, &ex);
        t = now() - t;
        best = t < best ? t : best;
        t = now();
        b->k->gemm(q, q + n * n, q + 2 * n * n, n, n, n, 0, 0, n, n, n, 1.0, 0.0, MR_ACT_ACT, &ex);
        double rate = 2e-9 * (double)(n * n * n) / (now() - t);
        *square = rate > *square ? rate : *square;
    }
    MR_FREE(x);
    MR_FREE(e);
    MR_FREE(de);
    MR_FREE(l);
    MR_FREE(q);
    return best;
}

static double item_loss(const bench *b, bool cosine, double *value_ms, int64_t *scratch)
{
    mr_params ps = {0};
    mr_graph *g;
    mr_plan *plan[2];
    mr_run *run[2];
    mr_batch batch = {.rows_cap = b->rows, .rows = b->rows, .rows_global = b->rows, .n_ranks = 1};
    mr_graph_dims dims = {.rows_cap = b->rows, .L = 1, .n_items = b->items, .n_ranks = 1};
    must(MR_ALLOC(&batch.target, b->rows, "targets"));
    for (int64_t i = 0; i < b->rows; i++) batch.target[i] = 1 + (int32_t)(i * 7919 % b->items);
    must(mr_graph_create(&g, &dims, &ps, 4, true));
    int x = mr_param_declare(&ps, "x", 2, (int64_t[]){b->rows, b->d}, MR_INIT_NORMAL, 0.5, 0);
    int t = mr_param_declare(&ps, "table", 2, (int64_t[]){b->items + 1, b->d}, MR_INIT_NORMAL, 0.1,
                             MR_PARAM_SHARDED);
    int loss = mr_g_item_loss(g, mr_g_leaf(g, x, MR_SPACE_ROWS), t, cosine, 0.07);
    mr_graph_loss(g, loss, 1.0, "rank");
    *scratch = (int64_t)mr_node_at(g, loss)->scratch_bytes;
    must(mr_params_alloc(&ps, b->dev, 0, 1, true));
    must(mr_params_init(&ps, 1));
    double best[2] = {1e9, 1e9};
    for (int i = 0; i < 2; i++) { /* value alone, then with gradients */
        must(mr_plan_compile(&plan[i], g, i == 1, false, 0));
        must(mr_run_create(&run[i], plan[i], b->dev, &ps, 1));
        must(mr_run_set_batch(run[i], &batch, &(mr_step_state){0}));
        for (int r = 0; r < b->repeats; r++) {
            double s = now();
            must(mr_run_forward(run[i]));
            if (i == 1) must(mr_run_backward(run[i], NULL, NULL));
            s = now() - s;
            best[i] = s < best[i] ? s : best[i];
        }
        mr_run_free(&run[i]);
        mr_plan_free(&plan[i]);
    }
    *value_ms = best[0] * 1e3;
    mr_graph_free(&g);
    mr_params_free(&ps);
    MR_FREE(batch.target);
    return best[1];
}

int main(int argc, char **argv)
{
    bench b = {.rows = argc > 1 ? atoll(argv[1]) : 256,
               .items = argc > 2 ? atoll(argv[2]) : 18700,
               .d = argc > 3 ? atoll(argv[3]) : 300,
               .repeats = argc > 4 ? atoi(argv[4]) : 5};
    must(mr_device_open(&b.dev, "cpu", 0));
    must(mr_kernels_for(&b.k, "cpu", MR_F32));
    double square, p = products(&b, &square);
    double flop = 6e-9 * (double)(b.rows * (b.items + 1) * b.d);
    for (int c = 0; c < 2; c++) {
        double value;
        int64_t scratch;
        double t = item_loss(&b, c != 0, &value, &scratch);
        printf("{\"scores\":\"%s\",\"rows\":%lld,\"items\":%lld,\"width\":%lld,\"ms\":%.1f,"
               "\"value_ms\":%.1f,\"products_ms\":%.1f,\"products_gflops\":%.0f,"
               "\"square_gflops\":%.0f,\"share_of_products\":%.3f,\"share_of_square\":%.3f,"
               "\"scratch_mib\":%.2f}\n",
               c ? "cosine" : "dot", (long long)b.rows, (long long)b.items, (long long)b.d, t * 1e3,
               value, p * 1e3, flop / p, square, p / t, flop / square / t,
               (double)scratch / (1 << 20));
    }
    mr_device_close(&b.dev);
    return 0;
}
