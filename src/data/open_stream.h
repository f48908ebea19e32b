/* Text input, line by line: plain files, xz and gz through a pipe, "-" for standard input.
 * What it is not: random access (npy.h). No shell is ever involved. */
#ifndef MR_DATA_OPEN_STREAM_H
#define MR_DATA_OPEN_STREAM_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/status.h"

#define MR_LINE_MAX (INT64_C(64) << 20) /* longest line in bytes */

typedef struct mr_stream {
    const char *path; /* borrowed; "standard input" for "-" */
    int fd;
    pid_t child; /* decompressor, 0 = none */
    const char *tool;
    char *buf; /* owned */
    int64_t cap, used, at;
    int64_t line; /* number of the line last returned, from 1 */
    bool eof;
} mr_stream;

/* Compression is recognised by the first bytes, not by the name. Not collective.
 * ERR_NO_INPUT no such file; ERR_IO cannot be read or the decompressor is not installed. */
mr_status mr_stream_open(mr_stream *s, const char *path);
/* *line_p: NUL-terminated, without its line end, valid until the next call; may be modified.
 * *line_p = NULL at the end. ERR_DATA: a NUL byte, a line too long, or damaged compressed data
 * (a truncated archive is an error, never a shorter file). */
mr_status mr_stream_line(mr_stream *s, char **line_p, int64_t *len_p);
/* Never fails; accepts a zeroed struct. */
void mr_stream_close(mr_stream *s);

/* Make room for `need` elements; *cap grows by doubling. Content is kept. ERR_MEMORY. */
mr_status mr_grow(void **p, int64_t *cap, int64_t need, size_t elem_bytes, const char *what);

/* One CSV record (RFC 4180: quotes, doubled quotes, line ends inside quotes) from as many lines as
 * it takes. fields[i] point into *buf, which is owned by the caller and reused. *n_p = 0 at the
 * end. */
#define MR_CSV_FIELDS 64
typedef struct mr_csv {
    char *buf;
    int64_t cap;
    int n;
    char *field[MR_CSV_FIELDS];
} mr_csv;
mr_status mr_csv_record(mr_csv *r, mr_stream *s);
void mr_csv_free(mr_csv *r);

#endif
