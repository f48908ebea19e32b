/* metrics.jsonl and TensorBoard scalars. A line goes out in one write to a file opened for
 * appending, so a reader never sees half of one unless the machine stops. */
#include "train/record.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "io/file.h"
#include "io/json_build.h"
#include "io/tfevents.h"

#define RECORD_NAME "metrics.jsonl"
#define RECORD_BYTES ((int64_t)1 << 31) /* longest record that is read back */

struct mr_record {
    char path[MR_PATH];
    int fd;
    mr_tfevents *board;
    int64_t step;
    bool has_failed;
};

/* Is a line one of those up to resume_step? One without a step belongs to that of the line before
 * it.
 */
static mr_status is_kept(bool *out, const char *line, size_t bytes, int64_t resume_step,
                         int64_t *step)
{
    json_t *o = NULL;
    json_error_t e;
    MR_TRY(mr_json_read(&o, line, bytes, RECORD_NAME, &e));
    const json_t *own = json_object_get(o, "step");
    if (json_is_integer(own)) *step = json_integer_value(own);
    *out = json_is_object(o) && *step <= resume_step;
    json_decref(o);
    return MR_OK;
}

static mr_status rewind_to(int dir_fd, const char *folder, int64_t resume_step)
{
    char *text = NULL;
    size_t bytes, out = 0;
    int64_t dropped = 0, step = 0;
    if (faccessat(dir_fd, RECORD_NAME, F_OK, 0) != 0) return MR_OK;
    MR_TRY(mr_file_read_text(dir_fd, folder, RECORD_NAME, RECORD_BYTES, &text, &bytes));
    mr_status st = MR_OK;
    for (size_t at = 0; at < bytes && st == MR_OK;) {
        char *end = memchr(text + at, '\n', bytes - at);
        size_t n = end ? (size_t)(end - (text + at)) + 1 : bytes - at;
        bool kept = false;
        if (end) st = is_kept(&kept, text + at, n, resume_step, &step);
        if (kept) memmove(text + out, text + at, n);
        out += kept ? n : 0;
        dropped += !kept;
        at += n;
    }
    if (st == MR_OK && dropped) {
        mr_info("%s/%s: %lld lines after step %lld are dropped, the run goes on from there", folder,
                RECORD_NAME, (long long)dropped, (long long)resume_step);
        st = mr_file_replace(dir_fd, folder, RECORD_NAME, text, out);
    }
    MR_FREE(text);
    return st;
}

static mr_status open_files(mr_record *r, const char *folder, int64_t resume_step)
{
    int dir_fd;
    MR_TRY(mr_folder_open(folder, &dir_fd));
    mr_status st = resume_step >= 0 ? rewind_to(dir_fd, folder, resume_step) : MR_OK;
    if (st == MR_OK) {
        r->fd = openat(dir_fd, RECORD_NAME, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC,
                       0666);
        if (r->fd < 0)
            st = MR_RAISE(MR_ERR_IO, "%s cannot be written: %s", r->path, strerror(errno));
    }
    close(dir_fd);
    if (st == MR_OK)
        st = mr_tfevents_create(&r->board, folder, resume_step >= 0 ? resume_step + 1 : -1);
    return st;
}

mr_status mr_record_open(mr_record **out_p, const char *folder, int64_t resume_step)
{
    mr_record *r = NULL;
    MR_TRY(MR_ALLOC(&r, 1, "record of the run"));
    r->fd = -1;
    snprintf(r->path, sizeof r->path, "%s/%s", folder, RECORD_NAME);
    mr_status st = open_files(r, folder, resume_step);
    if (st != MR_OK) {
        mr_record_close(&r);
        return st;
    }
    *out_p = r;
    return MR_OK;
}

void mr_record_close(mr_record **r_p)
{
    mr_record *r = *r_p;
    if (!r) return;
    mr_tfevents_close(&r->board);
    if (r->fd >= 0 && (fsync(r->fd) != 0) + (close(r->fd) != 0) > 0 && !r->has_failed)
        mr_warn("%s may be incomplete: %s", r->path, strerror(errno));
    MR_FREE(*r_p);
}

static int64_t lost_before; /* mr_json_lost when the event was begun */

json_t *mr_record_begin(const char *event)
{
    lost_before = mr_json_lost();
    return json_pack("{s:s}", "event", event);
}

json_t *mr_json_real(double x) { return isfinite(x) ? json_real(x) : json_null(); }

static mr_status write_scalars(mr_record *r, json_t *event)
{
    const char *name = json_string_value(json_object_get(event, "event")), *key;
    json_t *value;
    json_object_foreach(event, key, value)
    {
        char tag[160];
        if (!json_is_real(value)) continue;
        snprintf(tag, sizeof tag, "%s/%s", name ? name : "run", key);
        MR_TRY(mr_tfevents_scalar(r->board, tag, r->step, json_real_value(value)));
    }
    return MR_OK;
}

static mr_status write_line(mr_record *r, const json_t *event)
{
    char *text = mr_json_text(mr_json_lost() == lost_before ? event : NULL,
                              JSON_COMPACT | JSON_REAL_PRECISION(9)),
         *line = NULL;
    MR_CHECK(text, MR_ERR_MEMORY, "no memory for a line of %s", r->path);
    size_t n = strlen(text);
    mr_status st = mr_alloc((void **)&line, (int64_t)n + 2, 1, "line of the record");
    if (st == MR_OK) {
        memcpy(line, text, n);
        line[n] = '\n';
        st = mr_file_write_all(r->fd, line, n + 1, r->path);
    }
    MR_FREE(line);
    free(text);
    return st;
}

void mr_record_event(void *record, json_t *event)
{
    mr_record *r = record;
    const json_t *step = json_object_get(event, "step");
    if (r && json_is_integer(step)) r->step = json_integer_value(step);
    if (r && !r->has_failed) {
        mr_status st = write_line(r, event);
        if (st == MR_OK) st = write_scalars(r, event);
        if (st != MR_OK) {
            r->has_failed = true;
            mr_warn("%s is not written any more; training goes on", r->path);
        }
    }
    json_decref(event);
}
