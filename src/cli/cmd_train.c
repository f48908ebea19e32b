/* mealrec-dist train: trains, validates, keeps the best checkpoint, tests once at the end. Without
 * a configuration it runs the demo: backbone and MealRec on the built-in synthetic data set. */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "cli/commands.h"
#include "train/demo.h"
#include "train/job.h"

/* Nothing configured but where to put the runs: the demo. */
static bool is_demo(void)
{
    for (int i = 0; i < mr_config_count(); i++)
        if (strcmp(mr_config_origin(i), "default") && strcmp(mr_config_key(i), "run.dir"))
            return false;
    return true;
}

static mr_status dry_run(const mr_config *c, mr_session *s)
{
    mr_trainer *t = NULL;
    mr_trainer_opts o = {.stochastic = true, .optimizer = true};
    MR_TRY(mr_trainer_create(&t, c, &s->data, s->world, &o));
    mr_status st = mr_trainer_check_eval(t);
    if (st == MR_OK && s->world->rank == 0) {
        mr_config_show(c, stdout);
        mr_plan_print(t->train_plan, stdout);
    }
    mr_trainer_free(&t);
    return st;
}

static void print_results(const mr_job *j)
{
    printf("best epoch %lld of %lld, training %.1f s, evaluation %.1f s, waiting for checkpoints "
           "%.2f s\n",
           (long long)j->best_epoch, (long long)j->epochs, j->train_seconds, j->eval_seconds,
           j->save_seconds);
    printf("test  ");
    for (int i = 0; i < mr_metrics_count(&j->test); i++) {
        char name[24];
        double v;
        mr_metrics_at(&j->test, i, name, &v);
        printf("  %s %.4f", name, v);
    }
    printf("  users %lld\n", (long long)j->test.rows);
    fflush(stdout); /* before what is said about them */
}

static mr_status run(const mr_args *a)
{
    static mr_session s;
    mr_job *j = NULL;
    mr_status st;
    if (is_demo() && !a->is_dry_run) return mr_demo_run(&a->config, a->argc, a->argv);
    MR_TRY_GOTO(mr_session_open(&s, &a->config), st, done);
    if (a->is_dry_run) {
        st = dry_run(&a->config, &s);
        goto done;
    }
    MR_TRY_GOTO(MR_ALLOC(&j, 1, "job"), st, done);
    *j = (mr_job){.cfg = &a->config, .session = &s, .argc = a->argc, .argv = a->argv};
    MR_TRY_GOTO(mr_job_run(j), st, done);
    if (s.world->rank == 0) print_results(j);
    st = mr_job_saved(j);
done:
    MR_FREE(j);
    mr_session_close(&s);
    return st;
}

const mr_command mr_cmd_train = {.name = "train",
                                 .summary = "train a model, keep the best checkpoint, test it once",
                                 .needs_config = true,
                                 .run = run};
