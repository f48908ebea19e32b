/* The demo run: settings that take about a minute on two cores, and its closing table.
 * The data are synthetic: the table says that the program works, nothing about any real data. */
#include "train/demo.h"

#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "train/baselines.h"
#include "train/job.h"

/* Small enough for a minute; configs/demo.yaml says the same (tests/train compares them). */
static const char *const settings[][2] = {
    {"model.backbone", "sasrec"},  {"model.hidden", "32"},
    {"model.inner", "64"},         {"tcd.heads", "4"},
    {"tcd.unet_width", "32"},      {"tcd.lambda", "1"},
    {"tcd.detach_target", "true"}, {"npd.inner", "64"},
    {"npd.lambda", "1"},           {"npd.detach_target", "true"},
    {"diffusion.steps", "5"},      {"train.batch", "128"},
    {"train.lr", "3e-3"},          {"train.epochs", "30"},
    {"train.eval_batch", "512"}};

static mr_status configure(mr_config *c, const mr_config *from, const char *name, const char *model)
{
    *c = *from;
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++)
        MR_TRY(mr_config_set(c, settings[i][0], settings[i][1], "built-in demo"));
    MR_TRY(mr_config_set(c, "run.name", name, "built-in demo"));
    MR_TRY(mr_config_set(c, "checkpoint.resume", "auto", "built-in demo"));
    return mr_config_set(c, "model.name", model, "built-in demo");
}

static void print_row(const char *name, const mr_metrics *m, double seconds)
{
    static const char *const keys[] = {"hit@10", "ndcg@10", "hit@20", "ndcg@20"};
    printf("%-28s", name);
    for (int i = 0; i < 4; i++) {
        double v = 0;
        if (mr_metrics_get(m, keys[i], &v) == MR_OK) printf(" %8.4f", v);
    }
    if (seconds > 0)
        printf(" %8.1f s\n", seconds);
    else
        printf(" %10s\n", "-");
}

static mr_status popularity(const mr_dataset *d, mr_metrics *m)
{
    int32_t *rank = NULL;
    const int k[] = {10, 20};
    MR_TRY(MR_ALLOC(&rank, d->n_users, "ranks"));
    mr_status st = mr_rank_popularity(d, rank);
    if (st == MR_OK) st = mr_metrics_begin(m, k, 2);
    for (int64_t u = 0; st == MR_OK && u < d->n_users; u++)
        if (rank[u] > 0) mr_metrics_add(m, &rank[u], 1);
    MR_FREE(rank);
    return st;
}

static mr_status print_table(mr_session *s, mr_config *cfg, mr_job *job)
{
    mr_metrics *pop = NULL;
    MR_TRY(MR_ALLOC(&pop, 1, "metrics"));
    mr_status st = popularity(&s->data, pop);
    if (st == MR_OK) {
        printf(
            "\nbuilt-in demo, SYNTHETIC data: %lld users, %lld items, %lld interactions; test set, "
            "full ranking\n",
            (long long)s->data.n_users, (long long)s->data.n_items, (long long)s->data.n_inter);
        printf("%-28s %8s %8s %8s %8s %10s\n", "", "H@10", "N@10", "H@20", "N@20", "training");
        print_row("popularity", pop, 0);
        print_row("SASRec (the backbone alone)", &job[0].test, job[0].train_seconds);
        print_row("MealRec on SASRec", &job[1].test, job[1].train_seconds);
        printf("runs: %s/%s, %s/%s\n", cfg[0].run.dir, cfg[0].run.name, cfg[1].run.dir,
               cfg[1].run.name);
        fflush(stdout);
    }
    MR_FREE(pop);
    return st;
}

static mr_status train_both(mr_session *s, mr_config *cfg, mr_job *job)
{
    MR_TRY(mr_job_run(&job[0]));
    MR_TRY(mr_job_run(&job[1]));
    if (s->world->rank == 0) MR_TRY(print_table(s, cfg, job));
    MR_TRY(mr_job_saved(&job[0]));
    return mr_job_saved(&job[1]);
}

mr_status mr_demo_run(const mr_config *from, int argc, const char *const *argv)
{
    static mr_config cfg[2];
    static mr_session s;
    mr_job *job = NULL;
    mr_status st;
    MR_TRY(configure(&cfg[0], from, "demo-backbone", "sasrec"));
    MR_TRY(configure(&cfg[1], from, "demo", "mealrec"));
    MR_TRY(mr_session_open(&s, &cfg[1])); /* keeps the features of both */
    MR_TRY_GOTO(MR_ALLOC(&job, 2, "jobs"), st, done);
    for (int i = 0; i < 2; i++)
        job[i] = (mr_job){.cfg = &cfg[i],
                          .session = &s,
                          .title = i ? "MealRec" : "backbone",
                          .argc = argc,
                          .argv = argv};
    st = train_both(&s, cfg, job);
done:
    MR_FREE(job);
    mr_session_close(&s);
    return st;
}
