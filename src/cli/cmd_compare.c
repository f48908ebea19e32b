/* mealrec-dist compare A.npy B.npy: paired t-test over users of two runs. */
#include <math.h>
#include <stdio.h>

#include "base/mem.h"
#include "cli/commands.h"
#include "train/compare.h"

static const mr_cli_option options[] = {
    {"metric", "NAME",
     "what is compared when the files hold ranks: hit@K, ndcg@K, mrr@K; default "
     "ndcg@10"},
    {"json", NULL, "one JSON object instead of text"},
    {NULL, NULL, NULL}};

static void print_json(const mr_paired *r, const char *metric)
{
    printf("{\"metric\":\"%s\",\"users\":%lld,\"mean_a\":%.9g,\"mean_b\":%.9g,\"mean_diff\":%.9g,"
           "\"sd_diff\":%.9g,",
           metric, (long long)r->n, r->mean_a, r->mean_b, r->mean_diff, r->sd_diff);
    if (isfinite(r->t))
        printf("\"t\":%.9g,", r->t);
    else
        printf("\"t\":null,"); /* every difference the same */
    printf("\"df\":%lld,\"p\":%.9g,\"better\":%lld,\"worse\":%lld}\n", (long long)r->n - 1, r->p,
           (long long)r->better, (long long)r->worse);
}

static void print_text(const mr_paired *r, const char *metric, const char *a, const char *b)
{
    printf("%s over %lld users\n", metric, (long long)r->n);
    printf("  A  %.6f  %s\n  B  %.6f  %s\n", r->mean_a, a, r->mean_b, b);
    printf("  A - B  %+.6f  (standard deviation %.6f; A better for %lld users, worse for %lld)\n",
           r->mean_diff, r->sd_diff, (long long)r->better, (long long)r->worse);
    printf("  paired t-test: t = %.4f, %lld degrees of freedom, p = %.4g (two-sided)\n", r->t,
           (long long)r->n - 1, r->p);
}

static mr_status run(const mr_args *args)
{
    const char *metric = mr_args_value(args, "metric");
    double *a = NULL, *b = NULL;
    int64_t n_a = 0, n_b = 0;
    mr_paired r;
    if (!metric) metric = "ndcg@10";
    mr_status st = mr_per_user_values(&a, &n_a, args->words[0], metric);
    if (st == MR_OK) st = mr_per_user_values(&b, &n_b, args->words[1], metric);
    if (st == MR_OK && n_a != n_b)
        st = MR_RAISE(MR_ERR_DATA, "%s holds %lld users and %s holds %lld; they must be the same",
                      args->words[0], (long long)n_a, args->words[1], (long long)n_b);
    if (st == MR_OK) st = mr_paired_test(&r, a, b, n_a);
    if (st == MR_OK && mr_args_has(args, "json"))
        print_json(&r, metric);
    else if (st == MR_OK)
        print_text(&r, metric, args->words[0], args->words[1]);
    MR_FREE(b);
    MR_FREE(a);
    return st;
}

const mr_command mr_cmd_compare = {
    .name = "compare",
    .summary = "paired t-test of two per-user files (eval --per-user): is one run better?",
    .words = "A.npy B.npy",
    .words_min = 2,
    .words_max = 2,
    .options = options,
    .run = run};
