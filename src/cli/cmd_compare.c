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

static mr_status compare(const mr_args *args, mr_per_user *a, mr_per_user *b)
{
    const char *metric = mr_args_value(args, "metric"), *name = metric ? metric : "ndcg@10";
    mr_paired r;
    MR_TRY(mr_per_user_read(a, args->words[0], name));
    MR_TRY(mr_per_user_read(b, args->words[1], name));
    MR_TRY(mr_per_user_match(a, b));
    MR_CHECK(a->is_ranks || !metric, MR_ERR_USAGE,
             "--metric says what ranks are turned into, and %s and %s hold values of a metric; "
             "leave it out",
             a->path, b->path);
    if (!a->is_ranks) name = "values";
    MR_TRY(mr_paired_test(&r, a->value, b->value, a->n));
    if (mr_args_has(args, "json"))
        print_json(&r, name);
    else
        print_text(&r, name, a->path, b->path);
    return MR_OK;
}

static mr_status run(const mr_args *args)
{
    mr_per_user a = {0}, b = {0};
    mr_status st = compare(args, &a, &b);
    MR_FREE(b.value);
    MR_FREE(a.value);
    return st;
}

const mr_command mr_cmd_compare = {
    .name = "compare",
    .summary = "paired t-test of two per-user files (eval --per-user): is one run better?",
    .words = "A.npy B.npy",
    .words_min = 2,
    .words_max = 2,
    .options = options,
    .is_alone = true,
    .run = run};
