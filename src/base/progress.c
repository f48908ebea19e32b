/* The progress line.
 * What it is not: the log (log.h).
 * Invariants: silent on every rank but 0; a terminal line is cleared before the cursor is left. */
#include "base/progress.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"

static const double TERMINAL_EVERY = 0.1, PLAIN_EVERY = 5.0; /* seconds */

void mr_progress_start(mr_progress *p, const char *what, const char *unit, int64_t first,
                       int64_t total, int rank)
{
    const char *term = getenv("TERM"), *no_colour = getenv("NO_COLOR");
    memset(p, 0, sizeof *p);
    p->what = what;
    p->unit = unit;
    p->first = p->done = first;
    p->total = total;
    p->is_silent = rank > 0;
    p->out = stderr;
    p->now = mr_seconds;
    p->is_terminal = isatty(STDERR_FILENO) && term && strcmp(term, "dumb") != 0;
    p->uses_colour = p->is_terminal && !(no_colour && no_colour[0]);
    p->started = p->shown = p->now();
}

/* 75 s -> "1:15", 3725 s -> "1:02:05" */
static void format_seconds(double seconds, char *buf, size_t buf_bytes)
{
    int64_t s = seconds < 1e9 ? (int64_t)(seconds + 0.5) : 1000000000;
    long long h = s / 3600, m = s / 60 % 60, r = s % 60;
    if (h)
        snprintf(buf, buf_bytes, "%lld:%02lld:%02lld", h, m, r);
    else
        snprintf(buf, buf_bytes, "%lld:%02lld", m, r);
}

/* "  12.5 krows/s" */
static void format_rate(double rate, const char *unit, char *buf, size_t buf_bytes)
{
    static const char *const prefix[] = {"", "k", "M", "G"};
    int i = 0;
    for (; rate >= 10000.0 && i < 3; i++) rate /= 1000.0;
    snprintf(buf, buf_bytes, "  %.*f %s%s/s", rate < 100.0, rate, prefix[i], unit);
}

void mr_progress_text(const mr_progress *p, double now, const char *note, char *buf,
                      size_t buf_bytes)
{
    char rate_text[64] = "", left[64] = "", count[96];
    double elapsed = now - p->started;
    double rate = elapsed > 0 ? (double)(p->done - p->first) / elapsed : 0;
    if (rate > 0) format_rate(rate, p->unit, rate_text, sizeof rate_text);
    if (p->total > 0)
        snprintf(count, sizeof count, "%lld/%lld %s  %lld%%", (long long)p->done,
                 (long long)p->total, p->unit,
                 (long long)(100.0 * (double)p->done / (double)p->total));
    else
        snprintf(count, sizeof count, "%lld %s", (long long)p->done, p->unit);
    if (p->total > p->done && rate > 0) {
        char time_text[32];
        format_seconds((double)(p->total - p->done) / rate, time_text, sizeof time_text);
        snprintf(left, sizeof left, "  %s left", time_text);
    }
    snprintf(buf, buf_bytes, "%s  %s%s%s", p->what, count, rate_text, left);
    size_t n = strlen(buf);
    if (note && n < buf_bytes) snprintf(buf + n, buf_bytes - n, "  %s", note);
}

void mr_progress_clear(mr_progress *p)
{
    if (!p->is_line_open) return;
    fputs("\r\033[K", p->out);
    fflush(p->out);
    p->is_line_open = false;
}

void mr_progress_to(mr_progress *p, int64_t done, const char *note)
{
    char line[256];
    p->done = done;
    if (p->is_silent) return;
    double now = p->now();
    if (now - p->shown < (p->is_terminal ? TERMINAL_EVERY : PLAIN_EVERY)) return;
    p->shown = now;
    mr_progress_text(p, now, note, line, sizeof line);
    if (!p->is_terminal) {
        fprintf(p->out, "%s\n", line);
    } else {
        fprintf(p->out, "\r%s%s%s\033[K", p->uses_colour ? "\033[2m" : "", line,
                p->uses_colour ? "\033[0m" : "");
        p->is_line_open = true;
    }
    fflush(p->out);
}

void mr_progress_end(mr_progress *p)
{
    char line[256], took[32];
    if (p->is_silent) return;
    mr_progress_clear(p);
    double now = p->now();
    int64_t total = p->total;
    p->total = 0; /* no share and no time left in the last line */
    format_seconds(now - p->started, took, sizeof took);
    mr_progress_text(p, now, took, line, sizeof line);
    p->total = total;
    fprintf(p->out, "%s\n", line);
    fflush(p->out);
    p->is_silent = true;
}
