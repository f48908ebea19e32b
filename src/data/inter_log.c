/* The interaction log: which format, appending, and sorting into sequences by user.
 * Invariant: the order of equal timestamps is the order of the file. */
#define _GNU_SOURCE /* qsort_r */
#include "data/inter_log.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "data/check.h"
#include "data/ids.h"

mr_status mr_log_add(mr_inter_log *log, const mr_stream *s, const char *user, int64_t user_len,
                     const char *item, int64_t item_len, double time)
{
    const char *id[2] = {user, item};
    const int64_t len[2] = {user_len, item_len};
    int32_t number[2];
    for (int k = 0; k < 2; k++) {
        const char *what = k ? "item" : "user";
        MR_CHECK(len[k] >= 1 && len[k] <= MR_ID_MAX, MR_ERR_DATA,
                 "%s: line %lld: the %s id has %lld bytes; 1 to %d is accepted", s->path,
                 (long long)s->line, what, (long long)len[k], MR_ID_MAX);
        for (int64_t i = 0; i < len[k]; i++)
            MR_CHECK((unsigned char)id[k][i] >= 32, MR_ERR_DATA,
                     "%s: line %lld: the %s id holds a control character", s->path,
                     (long long)s->line, what);
        MR_TRY(mr_id_intern(k ? &log->items : &log->users, id[k], len[k], &number[k]));
    }
    MR_CHECK(log->n < MR_MAX_INTER, MR_ERR_DATA, "%s: more than %lld interactions", s->path,
             (long long)MR_MAX_INTER);
    MR_TRY(mr_grow((void **)&log->user, &log->user_cap, log->n + 1, sizeof *log->user, "log"));
    MR_TRY(mr_grow((void **)&log->item, &log->item_cap, log->n + 1, sizeof *log->item, "log"));
    if (log->has_time) {
        MR_TRY(mr_grow((void **)&log->time, &log->time_cap, log->n + 1, sizeof *log->time, "log"));
        log->time[log->n] = time;
    }
    log->user[log->n] = number[0];
    log->item[log->n] = number[1];
    log->n++;
    return MR_OK;
}

/* Is the first tab-separated field the name of a column? "user7" is a user, "user_id" a header. */
static bool starts_with_column(const char *line)
{
    static const char *const names[] = {"user", "user_id", "uid", "item", "item_id", "iid"};
    size_t len = strcspn(line, "\t");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strlen(names[i]) == len && strncmp(line, names[i], len) == 0) return true;
    return false;
}

/* A header names its columns; a pairs file starts with a user. */
static mr_status read_format(mr_inter_log *log, mr_stream *s)
{
    char *line;
    int64_t len;
    MR_TRY(mr_stream_line(s, &line, &len));
    MR_CHECK(line && len, MR_ERR_DATA, "%s is empty or starts with an empty line", s->path);
    bool typed = strstr(line, "user_id:") || strstr(line, "item_id:");
    if (strchr(line, '\t'))
        return typed || starts_with_column(line) ? mr_log_read_table(log, s, line, '\t')
                                                 : mr_log_read_pairs(log, s, line);
    if (strchr(line, ',')) return mr_log_read_table(log, s, line, ',');
    return MR_RAISE(MR_ERR_DATA,
                    "%s: line 1 is no known format; accepted are `user<TAB>item item ...`, "
                    "`user,item,timestamp` with a header, and RecBole's .inter",
                    s->path);
}

mr_status mr_log_read(mr_inter_log *log, const char *path)
{
    mr_stream s;
    memset(log, 0, sizeof *log);
    MR_TRY(mr_stream_open(&s, path));
    mr_status st = read_format(log, &s);
    if (st == MR_OK && log->n == 0) st = MR_RAISE(MR_ERR_DATA, "%s holds no interactions", s.path);
    mr_stream_close(&s);
    if (st != MR_OK) mr_log_free(log);
    return st;
}

void mr_log_free(mr_inter_log *log)
{
    MR_FREE(log->user);
    MR_FREE(log->item);
    MR_FREE(log->time);
    mr_id_table_free(&log->users);
    mr_id_table_free(&log->items);
    memset(log, 0, sizeof *log);
}

typedef struct order_context {
    const mr_id_table *t;
    bool numeric;
} order_context;

static int by_id(const void *a, const void *b, void *context)
{
    const order_context *c = context;
    return mr_id_compare(mr_id_text(c->t, *(const int32_t *)a),
                         mr_id_text(c->t, *(const int32_t *)b), c->numeric);
}

/* id[rank] = number of the rank-th id in ascending order; rank_of = the inverse. */
static mr_status rank_ids(const mr_id_table *t, int32_t **id, int32_t **rank_of)
{
    MR_TRY(MR_ALLOC(id, t->n, "order of ids"));
    MR_TRY(MR_ALLOC(rank_of, t->n, "ranks of ids"));
    order_context c = {t, true};
    for (int64_t i = 0; i < t->n; i++) {
        (*id)[i] = (int32_t)i;
        c.numeric = c.numeric && mr_id_is_integer(mr_id_text(t, i));
    }
    qsort_r(*id, (size_t)t->n, sizeof **id, by_id, &c);
    for (int64_t i = 0; i < t->n; i++) (*rank_of)[(*id)[i]] = (int32_t)i;
    return MR_OK;
}

/* Rows of the log by (time, position). */
static int by_time(const void *a, const void *b, void *context)
{
    const double *time = context;
    int32_t i = *(const int32_t *)a, j = *(const int32_t *)b;
    if (time[i] != time[j]) return time[i] < time[j] ? -1 : 1;
    return (i > j) - (i < j);
}

mr_status mr_log_sort(mr_sequences *out, const mr_inter_log *log)
{
    mr_sequences q = {.users = log->users.n, .items = log->items.n, .n = log->n};
    int32_t *user_rank = NULL, *item_rank = NULL, *row = NULL;
    int64_t *fill = NULL;
    mr_status st;
    MR_TRY_GOTO(rank_ids(&log->users, &q.user_id, &user_rank), st, end);
    MR_TRY_GOTO(rank_ids(&log->items, &q.item_id, &item_rank), st, end);
    MR_TRY_GOTO(MR_ALLOC(&q.offset, q.users + 1, "offsets"), st, end);
    MR_TRY_GOTO(MR_ALLOC(&q.item, q.n, "sequences"), st, end);
    MR_TRY_GOTO(MR_ALLOC(&row, q.n, "rows of users"), st, end);
    MR_TRY_GOTO(MR_ALLOC(&fill, q.users, "fill of users"), st, end);
    for (int64_t i = 0; i < q.n; i++) q.offset[user_rank[log->user[i]] + 1]++;
    for (int64_t u = 0; u < q.users; u++) q.offset[u + 1] += q.offset[u];
    for (int64_t i = 0; i < q.n; i++) {
        int32_t u = user_rank[log->user[i]];
        row[q.offset[u] + fill[u]++] = (int32_t)i;
    }
    for (int64_t u = 0; u < q.users && log->has_time; u++)
        qsort_r(row + q.offset[u], (size_t)(q.offset[u + 1] - q.offset[u]), sizeof *row, by_time,
                log->time);
    for (int64_t i = 0; i < q.n; i++) q.item[i] = item_rank[log->item[row[i]]];
end:
    MR_FREE(user_rank);
    MR_FREE(item_rank);
    MR_FREE(row);
    MR_FREE(fill);
    if (st == MR_OK)
        *out = q;
    else
        mr_sequences_free(&q);
    return st;
}

void mr_sequences_free(mr_sequences *q)
{
    MR_FREE(q->offset);
    MR_FREE(q->item);
    MR_FREE(q->user_id);
    MR_FREE(q->item_id);
    memset(q, 0, sizeof *q);
}
