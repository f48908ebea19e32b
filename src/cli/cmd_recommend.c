/* mealrec-dist recommend: the best items of every user after their whole history, as a table. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "cli/commands.h"
#include "train/evaluate.h"
#include "train/restore.h"

static const mr_cli_option options[] = {
    {"checkpoint", "DIR", "a checkpoint, or a run folder (its best checkpoint)"},
    {"topk", "N", "items per user (default 20)"},
    {"users", "FILE", "original user ids, one a line (default: all users)"},
    {"exclude-seen", NULL, "leave out items of the user's history"},
    {"out", "FILE", "tab separated: user, rank, item, score; must not exist"},
    {NULL, NULL, NULL}};

/* Original ids are zero padded texts of fixed width. */
static const char *id_at(const char *ids, int64_t width, int64_t i, char *buf, size_t size)
{
    size_t w = (size_t)width < size - 1 ? (size_t)width : size - 1;
    memcpy(buf, ids + i * width, w);
    buf[w] = '\0';
    return buf;
}

static mr_status write_user(FILE *f, const mr_dataset *d, const mr_topk *top, int64_t u)
{
    char user[256], item[256];
    id_at(d->user_ids, d->user_id_bytes, u, user, sizeof user);
    for (int64_t k = 0; k < top->k; k++) {
        int32_t id = top->id[u * top->k + k];
        if (id < 1) break;
        fprintf(f, "%s\t%lld\t%s\t%.6g\n", user, (long long)k + 1,
                id_at(d->item_ids, d->item_id_bytes, id - 1, item, sizeof item),
                top->score[u * top->k + k]);
    }
    return MR_OK;
}

static int64_t find_user(const mr_dataset *d, const char *name)
{
    char buf[256];
    for (int64_t u = 0; u < d->n_users; u++)
        if (!strcmp(id_at(d->user_ids, d->user_id_bytes, u, buf, sizeof buf), name)) return u;
    return -1;
}

/* One original id a line. */
static mr_status write_listed(FILE *f, const mr_dataset *d, const mr_topk *top, const char *path)
{
    char *line = NULL;
    size_t room = 0;
    ssize_t length;
    int64_t n = 0, found = 0;
    mr_status st = MR_OK;
    FILE *in = fopen(path, "r");
    MR_CHECK(in, MR_ERR_NO_INPUT, "--users %s cannot be opened: %s", path, strerror(errno));
    while (st == MR_OK && (length = getline(&line, &room, in)) >= 0) {
        n++;
        if ((size_t)length != strlen(line)) {
            st = MR_RAISE(MR_ERR_DATA, "--users %s: line %lld holds a NUL byte: not text", path,
                          (long long)n);
            break;
        }
        line[strcspn(line, "\r\n")] = '\0';
        if (!line[0]) continue;
        int64_t u = find_user(d, line);
        st = u < 0
                 ? MR_RAISE(MR_ERR_DATA, "--users %s: line %lld: the data set has no user '%.80s'",
                            path, (long long)n, line)
                 : write_user(f, d, top, u);
        found++;
    }
    if (st == MR_OK && ferror(in))
        st = MR_RAISE(MR_ERR_NO_INPUT, "--users %s cannot be read: %s", path, strerror(errno));
    else if (st == MR_OK && found == 0)
        st = MR_RAISE(MR_ERR_DATA, "--users %s names no user; one original id a line", path);
    free(line);
    fclose(in);
    return st;
}

static mr_status write_table(const mr_args *a, const mr_dataset *d, const mr_topk *top,
                             const char *out)
{
    const char *users = mr_args_value(a, "users");
    FILE *f = fopen(out, "wx");
    mr_status st = MR_OK;
    MR_CHECK(f, errno == EEXIST ? MR_ERR_USAGE : MR_ERR_IO, "--out %s cannot be made: %s", out,
             strerror(errno));
    fprintf(f, "user\trank\titem\tscore\n");
    if (users)
        st = write_listed(f, d, top, users);
    else
        for (int64_t u = 0; u < d->n_users; u++) st = write_user(f, d, top, u);
    bool failed = ferror(f) != 0;
    failed |= fclose(f) != 0;
    if (st == MR_OK && failed)
        st = MR_RAISE(MR_ERR_IO, "--out %s cannot be written: %s", out, strerror(errno));
    if (st != MR_OK) remove(out);
    return st;
}

static mr_status recommend(const mr_args *a, mr_restored *m, const char *out, int64_t k)
{
    const mr_dataset *d = &m->session.data;
    mr_metrics *unused = NULL;
    mr_topk top = {.k = k};
    mr_evaluation what = {
        .split = MR_SPLIT_NEXT, .exclude_seen = mr_args_has(a, "exclude-seen"), .topk = &top};
    mr_status st;
    MR_CHECK(k <= d->n_items, MR_ERR_USAGE, "--topk %lld: the data set has %lld items",
             (long long)k, (long long)d->n_items);
    MR_TRY_GOTO(MR_ALLOC(&unused, 1, "metrics"), st, done);
    MR_TRY_GOTO(MR_ALLOC(&top.id, d->n_users * k, "top items"), st, done);
    MR_TRY_GOTO(MR_ALLOC(&top.score, d->n_users * k, "top scores"), st, done);
    MR_TRY_GOTO(mr_evaluate(m->t, &what, unused), st, done);
    st = mr_comm_agree(m->session.world,
                       m->session.world->rank == 0 ? write_table(a, d, &top, out) : MR_OK);
done:
    MR_FREE(unused);
    MR_FREE(top.id);
    MR_FREE(top.score);
    return st;
}

static mr_status run(const mr_args *a)
{
    static mr_restored m;
    const char *where, *out;
    int64_t k;
    MR_TRY(mr_args_need(a, "checkpoint", &where));
    MR_TRY(mr_args_need(a, "out", &out));
    MR_TRY(mr_args_int(a, "topk", 1, 100000, 20, &k));
    MR_TRY(mr_args_output(a, "out", true));
    MR_TRY(mr_restore(&m, where, &a->config));
    mr_status st = recommend(a, &m, out, k);
    mr_restored_free(&m);
    return st;
}

const mr_command mr_cmd_recommend = {.name = "recommend",
                                     .summary = "write the best items of every user",
                                     .options = options,
                                     .needs_config = true,
                                     .run = run};
