/* Tables with a header, one interaction a line: RecBole's .inter (tab, `name:type`) and
 * comma-separated `user,item[,timestamp]`.
 * What it is not: general CSV; quotes are refused, since an id that needs them is a mistake. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "data/inter_log.h"

enum { COL_USER, COL_ITEM, COL_TIME, COLS };

typedef struct columns {
    int at[COLS]; /* position of a column, -1 = absent */
    int n;
} columns;

static bool is_word(const char *s, size_t len, const char *word)
{
    return strlen(word) == len && strncmp(s, word, len) == 0;
}

/* `name` or `name:type` of RecBole; a typed column must have the type we can use. */
static mr_status read_column(columns *c, const mr_stream *s, const char *name, size_t len)
{
    static const char *const names[COLS][3] = {
        {"user_id", "user", "uid"}, {"item_id", "item", "iid"}, {"timestamp", "time", "ts"}};
    const char *colon = memchr(name, ':', len);
    size_t word = colon ? (size_t)(colon - name) : len;
    for (int k = 0; k < COLS; k++) {
        for (int j = 0; j < 3; j++) {
            if (!is_word(name, word, names[k][j])) continue;
            const char *type = k == COL_TIME ? "float" : "token";
            MR_CHECK(!colon || is_word(colon + 1, len - word - 1, type), MR_ERR_DATA,
                     "%s: column %.*s must be of type %s", s->path, (int)len, name, type);
            MR_CHECK(c->at[k] < 0, MR_ERR_DATA, "%s: two columns mean %s", s->path, names[k][0]);
            c->at[k] = c->n;
        }
    }
    c->n++;
    return MR_OK;
}

static mr_status read_header(columns *c, const mr_stream *s, const char *line, char separator)
{
    *c = (columns){.at = {-1, -1, -1}};
    const char stop[2] = {separator, 0};
    for (const char *p = line;; p++) {
        size_t len = strcspn(p, stop);
        MR_TRY(read_column(c, s, p, len));
        p += len;
        if (!*p) break;
    }
    MR_CHECK(c->at[COL_USER] >= 0 && c->at[COL_ITEM] >= 0, MR_ERR_DATA,
             "%s: the header must name the columns user_id:token and item_id:token (RecBole) or "
             "user and item",
             s->path);
    return MR_OK;
}

static mr_status read_time(const mr_stream *s, const char *p, size_t len, double *out)
{
    char buf[64], *end;
    MR_CHECK(len > 0 && len < sizeof buf, MR_ERR_DATA, "%s: line %lld has no timestamp", s->path,
             (long long)s->line);
    memcpy(buf, p, len);
    buf[len] = '\0';
    double t = strtod(buf, &end);
    MR_CHECK(*end == '\0' && isfinite(t), MR_ERR_DATA, "%s: line %lld: \"%s\" is not a timestamp",
             s->path, (long long)s->line, buf);
    *out = t;
    return MR_OK;
}

static mr_status read_row(mr_inter_log *log, const columns *c, const mr_stream *s, const char *line,
                          char separator)
{
    const char stop[2] = {separator, 0}, *from[COLS] = {0};
    size_t lens[COLS] = {0};
    int at = 0;
    for (const char *p = line;; p++, at++) {
        size_t len = strcspn(p, stop);
        for (int k = 0; k < COLS; k++) {
            if (c->at[k] != at) continue;
            from[k] = p;
            lens[k] = len;
        }
        p += len;
        if (!*p) break;
    }
    MR_CHECK(at + 1 == c->n, MR_ERR_DATA, "%s: line %lld has %d fields; the header has %d", s->path,
             (long long)s->line, at + 1, c->n);
    MR_CHECK(!strchr(line, '"'), MR_ERR_DATA,
             "%s: line %lld holds a quote; ids are plain fields without quotes", s->path,
             (long long)s->line);
    double time = 0.0;
    if (log->has_time) MR_TRY(read_time(s, from[COL_TIME], lens[COL_TIME], &time));
    return mr_log_add(log, s, from[COL_USER], (int64_t)lens[COL_USER], from[COL_ITEM],
                      (int64_t)lens[COL_ITEM], time);
}

mr_status mr_log_read_table(mr_inter_log *log, mr_stream *s, char *line, char separator)
{
    columns c;
    int64_t len;
    MR_TRY(read_header(&c, s, line, separator));
    log->has_time = c.at[COL_TIME] >= 0;
    for (;;) {
        MR_TRY(mr_stream_line(s, &line, &len));
        if (!line) return MR_OK;
        if (*line) MR_TRY(read_row(log, &c, s, line, separator));
    }
}
