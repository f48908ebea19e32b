/* A progress line: on a terminal one line that is rewritten, otherwise plain lines now and then.
 * What it is not: the log; nothing of it goes to train.log. Only rank 0 speaks. */
#ifndef MR_BASE_PROGRESS_H
#define MR_BASE_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* Filled by mr_progress_start; a caller may then replace out, is_terminal, uses_colour and now. */
typedef struct mr_progress {
    const char *what, *unit; /* borrowed until the end */
    int64_t total;           /* 0: unknown */
    bool is_silent, is_terminal, uses_colour;
    FILE *out;           /* standard error */
    double (*now)(void); /* seconds, monotonic */
    double started, shown;
    int64_t first, done; /* first: where counting began, for the rate */
    bool is_line_open;
} mr_progress;

/* rank > 0 keeps silent. first > 0 when work is continued, so that the rate counts new work only.
 */
void mr_progress_start(mr_progress *p, const char *what, const char *unit, int64_t first,
                       int64_t total, int rank);
/* Cheap enough for every step: prints at most 10 times a second on a terminal, else every 5 s.
 * note: short text at the end of the line, or NULL. */
void mr_progress_to(mr_progress *p, int64_t done, const char *note);
/* Take the line off the terminal before other output; the next update draws it again. */
void mr_progress_clear(mr_progress *p);
/* Clear, and print one last line with the total time. */
void mr_progress_end(mr_progress *p);
/* "train  120/500 rows  24%  60.0 rows/s  0:06 left" */
void mr_progress_text(const mr_progress *p, double now, const char *note, char *buf,
                      size_t buf_bytes);

#endif
