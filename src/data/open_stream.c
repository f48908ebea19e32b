/* Line reader with decompression by a child process.
 * Invariants: a child is always waited for; its failure is seen before the end of input is
 * reported. */
#define _GNU_SOURCE /* pipe2 */
#include "data/open_stream.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mem.h"

extern char **environ;

mr_status mr_grow(void **p, int64_t *cap, int64_t need, size_t elem_bytes, const char *what)
{
    if (need <= *cap) return MR_OK;
    int64_t want = *cap * 2 > need ? *cap * 2 : need;
    if (want < 1024) want = 1024;
    void *bigger;
    MR_TRY(mr_alloc(&bigger, want, elem_bytes, what));
    if (*cap) memcpy(bigger, *p, (size_t)*cap * elem_bytes);
    mr_free_ptr(p);
    *p = bigger;
    *cap = want;
    return MR_OK;
}

static const char *tool_for(const unsigned char *b, ssize_t n)
{
    static const unsigned char xz[6] = {0xFD, '7', 'z', 'X', 'Z', 0};
    if (n >= 6 && memcmp(b, xz, 6) == 0) return "xz";
    if (n >= 2 && b[0] == 0x1F && b[1] == 0x8B) return "gzip";
    return NULL;
}

static mr_status start_tool(mr_stream *s)
{
    int p[2];
    MR_CHECK(pipe2(p, O_CLOEXEC) == 0, MR_ERR_IO, "no pipe for %s: %s", s->tool, strerror(errno));
    posix_spawn_file_actions_t acts;
    posix_spawn_file_actions_init(&acts);
    posix_spawn_file_actions_adddup2(&acts, s->fd, 0);
    posix_spawn_file_actions_adddup2(&acts, p[1], 1);
    /* gzip reports damage even when told to be quiet; end_tool says it once, with the file's name.
     */
    posix_spawn_file_actions_addopen(&acts, 2, "/dev/null", O_WRONLY, 0);
    char tool[8], flag[] = "-dc";
    snprintf(tool, sizeof tool, "%s", s->tool);
    char *argv[] = {tool, flag, NULL};
    int err = posix_spawnp(&s->child, s->tool, &acts, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&acts);
    close(p[1]);
    if (err) {
        s->child = 0;
        close(p[0]);
        return MR_RAISE(MR_ERR_IO,
                        "%s is compressed and %s cannot be started (%s); install it or "
                        "decompress the file",
                        s->path, s->tool, strerror(err));
    }
    close(s->fd);
    s->fd = p[0];
    return MR_OK;
}

mr_status mr_stream_open(mr_stream *s, const char *path)
{
    memset(s, 0, sizeof *s);
    s->path = path;
    unsigned char head[6];
    struct stat sb;
    if (strcmp(path, "-") == 0) {
        s->path = "standard input";
        s->fd = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
        MR_CHECK(s->fd >= 0, MR_ERR_IO, "standard input cannot be read: %s", strerror(errno));
        return MR_OK;
    }
    s->fd = open(path, O_RDONLY | O_CLOEXEC);
    MR_CHECK(s->fd >= 0, errno == ENOENT || errno == ENOTDIR ? MR_ERR_NO_INPUT : MR_ERR_IO,
             "%s cannot be opened: %s", path, strerror(errno));
    mr_status st = MR_OK;
    if (fstat(s->fd, &sb) != 0 || S_ISDIR(sb.st_mode))
        st = MR_RAISE(MR_ERR_IO, "%s is not a file", path);
    if (st == MR_OK && S_ISREG(sb.st_mode)) s->tool = tool_for(head, pread(s->fd, head, 6, 0));
    if (st == MR_OK && s->tool) st = start_tool(s);
    if (st != MR_OK) mr_stream_close(s);
    return st;
}

/* The decompressor must have ended well before its last byte counts as the end of the file. */
static mr_status end_tool(mr_stream *s)
{
    if (!s->child) return MR_OK;
    int status = 0;
    while (waitpid(s->child, &status, 0) < 0 && errno == EINTR) {}
    s->child = 0;
    bool ok = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    MR_CHECK(ok || (WIFEXITED(status) && WEXITSTATUS(status) != 127), MR_ERR_IO,
             "%s did not run on %s; install it or decompress the file", s->tool, s->path);
    MR_CHECK(ok, MR_ERR_DATA, "%s cannot be decompressed by %s: truncated or damaged", s->path,
             s->tool);
    return MR_OK;
}

static mr_status fill(mr_stream *s)
{
    if (s->at > 0) {
        memmove(s->buf, s->buf + s->at, (size_t)(s->used - s->at));
        s->used -= s->at;
        s->at = 0;
    }
    MR_CHECK(s->used < MR_LINE_MAX, MR_ERR_DATA, "%s: line %lld is longer than %lld bytes", s->path,
             (long long)(s->line + 1), (long long)MR_LINE_MAX);
    MR_TRY(mr_grow((void **)&s->buf, &s->cap, s->used + 65537, 1, "line buffer"));
    ssize_t n;
    while ((n = read(s->fd, s->buf + s->used, (size_t)(s->cap - s->used - 1))) < 0 &&
           errno == EINTR) {}
    MR_CHECK(n >= 0, MR_ERR_IO, "%s cannot be read: %s", s->path, strerror(errno));
    if (n == 0) {
        s->eof = true;
        return end_tool(s);
    }
    if (s->line == 0 && s->used == 0)
        MR_CHECK(s->tool || !tool_for((unsigned char *)s->buf, n), MR_ERR_DATA,
                 "%s is compressed; decompress it first, as in `xz -dc FILE | mealrec-dist ...`",
                 s->path);
    s->used += n;
    return MR_OK;
}

mr_status mr_stream_line(mr_stream *s, char **line_p, int64_t *len_p)
{
    *line_p = NULL;
    *len_p = 0;
    int64_t scanned = 0;
    char *nl = NULL;
    for (;;) {
        if (s->used > s->at + scanned)
            nl = memchr(s->buf + s->at + scanned, '\n', (size_t)(s->used - s->at - scanned));
        if (nl || s->eof) break;
        scanned = s->used - s->at;
        MR_TRY(fill(s));
    }
    if (!nl && s->at == s->used) return MR_OK;
    char *line = s->buf + s->at;
    int64_t len = nl ? nl - line : s->used - s->at;
    s->at += len + (nl != NULL);
    line[len] = '\0';
    s->line++;
    MR_CHECK(!memchr(line, 0, (size_t)len), MR_ERR_DATA, "%s: line %lld holds a NUL byte: not text",
             s->path, (long long)s->line);
    if (len && line[len - 1] == '\r') line[--len] = '\0';
    if (s->line == 1 && len >= 3 && memcmp(line, "\xEF\xBB\xBF", 3) == 0) {
        line += 3; /* byte order mark */
        len -= 3;
    }
    *line_p = line;
    *len_p = len;
    return MR_OK;
}

void mr_stream_close(mr_stream *s)
{
    if (!s->path) return;
    if (s->fd >= 0) close(s->fd);
    s->fd = -1;
    if (s->child) {
        /* Left early: the child ends by SIGPIPE or at its own end. */
        while (waitpid(s->child, NULL, 0) < 0 && errno == EINTR) {}
        s->child = 0;
    }
    MR_FREE(s->buf);
    s->path = NULL;
}

/* Parse what is in r->buf (len bytes); *open_p: a quote is still open at the end. Fields are
 * unquoted in place, so this runs once, on the complete record; the first pass only looks at
 * quotes. */
static bool quote_is_open(const char *p)
{
    bool in = false;
    for (; *p; p++)
        if (*p == '"') in = !in;
    return in;
}

static bool split_fields(mr_csv *r)
{
    char *p = r->buf;
    r->n = 0;
    for (;;) {
        if (r->n == MR_CSV_FIELDS) return false;
        char *to = p;
        r->field[r->n++] = to;
        if (*p == '"') {
            for (p++; *p; p++) {
                if (*p == '"' && *++p != '"') break;
                *to++ = *p;
            }
            if (*p && *p != ',') return false; /* text after the closing quote */
        } else {
            for (; *p && *p != ','; p++) {
                if (*p == '"') return false; /* a quote inside a plain field */
                *to++ = *p;
            }
        }
        bool more = *p == ',';
        *to = '\0';
        if (!more) return true;
        p++;
    }
}

mr_status mr_csv_record(mr_csv *r, mr_stream *s)
{
    int64_t used = 0, first = s->line + 1, len;
    char *line;
    r->n = 0;
    do {
        MR_TRY(mr_stream_line(s, &line, &len));
        if (!line) {
            MR_CHECK(used == 0, MR_ERR_DATA, "%s: the quote opened in line %lld is never closed",
                     s->path, (long long)first);
            return MR_OK;
        }
        MR_CHECK(used + len < MR_LINE_MAX, MR_ERR_DATA, "%s: the record of line %lld is too long",
                 s->path, (long long)first);
        MR_TRY(mr_grow((void **)&r->buf, &r->cap, used + len + 2, 1, "CSV record"));
        if (used) r->buf[used++] = '\n';
        memcpy(r->buf + used, line, (size_t)len + 1);
        used += len;
    } while (quote_is_open(r->buf));
    MR_CHECK(split_fields(r), MR_ERR_DATA,
             "%s: line %lld is not CSV (quotes must enclose whole fields, at most %d fields)",
             s->path, (long long)first, MR_CSV_FIELDS);
    return MR_OK;
}

void mr_csv_free(mr_csv *r) { MR_FREE(r->buf); }
