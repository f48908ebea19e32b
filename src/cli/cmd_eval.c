/* mealrec-dist eval: scores a checkpoint on the validation or test items. */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "cli/commands.h"
#include "io/npy_write.h"
#include "train/evaluate.h"
#include "train/restore.h"

static const mr_cli_option options[] = {
    {"checkpoint", "DIR", "a checkpoint, or a run folder (its best checkpoint)"},
    {"split", "valid|test", "whose items to rank (default test)"},
    {"per-user", "FILE", "npy file of int64: rank of each user's item, 0 for users without one"},
    {NULL, NULL, NULL}};

static mr_status choose_split(const mr_args *a, mr_split *out)
{
    const char *s = mr_args_value(a, "split");
    *out = s && !strcmp(s, "valid") ? MR_SPLIT_VALID : MR_SPLIT_TEST;
    MR_CHECK(!s || !strcmp(s, "valid") || !strcmp(s, "test"), MR_ERR_USAGE,
             "--split %.40s: accepted are valid and test", s);
    return MR_OK;
}

static mr_status write_ranks(const char *path, const int32_t *rank, int64_t n)
{
    int64_t *wide = NULL;
    MR_TRY(MR_ALLOC(&wide, n, "ranks"));
    for (int64_t u = 0; u < n; u++) wide[u] = rank[u];
    mr_npy_writer *w = NULL;
    mr_status st = mr_npy_create(&w, path, MR_I64, 1, &n);
    if (st == MR_OK) st = mr_npy_append(w, wide, n);
    if (st == MR_OK)
        st = mr_npy_finish(&w);
    else
        mr_npy_cancel(&w);
    MR_FREE(wide);
    return st;
}

static mr_status score(const mr_args *a, mr_restored *m, mr_split split)
{
    const char *path = mr_args_value(a, "per-user");
    mr_metrics *result = NULL;
    mr_evaluation what = {.split = split, .exclude_seen = m->cfg.train.mask_seen};
    int64_t n = m->session.data.n_users;
    mr_status st;
    MR_TRY_GOTO(MR_ALLOC(&result, 1, "metrics"), st, done);
    MR_TRY_GOTO(MR_ALLOC(&what.user_rank, n, "ranks"), st, done);
    MR_TRY_GOTO(mr_evaluate(m->t, &what, result), st, done);
    if (path)
        MR_TRY_GOTO(mr_comm_agree(m->session.world, m->session.world->rank == 0
                                                        ? write_ranks(path, what.user_rank, n)
                                                        : MR_OK),
                    st, done);
    if (m->session.world->rank == 0) {
        printf("%s, step %lld, %s", m->path, (long long)m->step,
               split == MR_SPLIT_TEST ? "test" : "valid");
        for (int i = 0; i < mr_metrics_count(result); i++) {
            char name[24];
            double v;
            mr_metrics_at(result, i, name, &v);
            printf("  %s %.4f", name, v);
        }
        printf("  users %lld\n", (long long)result->rows);
    }
done:
    MR_FREE(result);
    MR_FREE(what.user_rank);
    return st;
}

static mr_status run(const mr_args *a)
{
    static mr_restored m;
    const char *where;
    mr_split split;
    MR_TRY(mr_args_need(a, "checkpoint", &where));
    MR_TRY(choose_split(a, &split));
    MR_TRY(mr_args_output(a, "per-user", false));
    MR_TRY(mr_restore(&m, where, &a->config));
    mr_status st = score(a, &m, split);
    mr_restored_free(&m);
    return st;
}

const mr_command mr_cmd_eval = {.name = "eval",
                                .summary = "score a checkpoint on the validation or test items",
                                .options = options,
                                .needs_config = true,
                                .run = run};
