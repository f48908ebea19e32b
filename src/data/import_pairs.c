/* MicroLens pairs: one user a line, `user<TAB>item item item ...`, oldest first, no header. */
#include <string.h>

#include "data/inter_log.h"

static mr_status read_line(mr_inter_log *log, const mr_stream *s, char *line)
{
    char *tab = strchr(line, '\t');
    MR_CHECK(tab, MR_ERR_DATA, "%s: line %lld has no tab; `user<TAB>item item ...` was expected",
             s->path, (long long)s->line);
    int64_t count = 0;
    for (char *p = tab + 1; *p;) {
        while (*p == ' ') p++;
        if (!*p) break;
        size_t len = strcspn(p, " ");
        MR_TRY(mr_log_add(log, s, line, tab - line, p, (int64_t)len, 0.0));
        p += len;
        count++;
    }
    MR_CHECK(count > 0, MR_ERR_DATA, "%s: line %lld names a user without items", s->path,
             (long long)s->line);
    return MR_OK;
}

mr_status mr_log_read_pairs(mr_inter_log *log, mr_stream *s, char *line)
{
    int64_t len;
    while (line) {
        if (*line) MR_TRY(read_line(log, s, line));
        MR_TRY(mr_stream_line(s, &line, &len));
    }
    return MR_OK;
}
