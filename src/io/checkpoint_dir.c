/* Names and housekeeping of a folder of checkpoints. */
#include "io/checkpoint_dir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "io/file.h"

void mr_checkpoint_name(int64_t step, char name[MR_CHECKPOINT_NAME])
{
    snprintf(name, MR_CHECKPOINT_NAME, "step-%09lld", (long long)step);
}

bool mr_checkpoint_step(const char *name, int64_t *step_p)
{
    char again[MR_CHECKPOINT_NAME];
    long long step = 0;
    if (sscanf(name, "step-%18lld", &step) != 1 || step < 0) return false;
    mr_checkpoint_name(step, again);
    *step_p = step;
    return !strcmp(name, again);
}

static int descending(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

static DIR *open_listing(int dir_fd)
{
    int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    if (!d && fd >= 0) close(fd);
    return d;
}

mr_status mr_checkpoint_steps(int dir_fd, const char *dir, int64_t **steps_p, int *n_p)
{
    int64_t *steps = NULL, step;
    int n = 0;
    DIR *d = open_listing(dir_fd);
    MR_CHECK(d, MR_ERR_IO, "%s cannot be listed: %s", dir, strerror(errno));
    for (struct dirent *e; (e = readdir(d));) n += mr_checkpoint_step(e->d_name, &step);
    mr_status st = MR_ALLOC(&steps, n, "list of checkpoints");
    int most = n;
    n = 0;
    rewinddir(d);
    for (struct dirent *e; st == MR_OK && n < most && (e = readdir(d));)
        if (mr_checkpoint_step(e->d_name, &step)) steps[n++] = step;
    closedir(d);
    if (st != MR_OK) return st;
    if (n) qsort(steps, (size_t)n, sizeof *steps, descending);
    *steps_p = steps;
    *n_p = n;
    return MR_OK;
}

bool mr_checkpoint_pointer(int dir_fd, const char *dir, const char *which, int64_t *step_p)
{
    char *text = NULL;
    size_t bytes;
    if (faccessat(dir_fd, which, F_OK, 0) != 0) return false;
    if (mr_file_read_text(dir_fd, dir, which, 256, &text, &bytes) != MR_OK) return false;
    bool is_line = bytes > 1 && text[bytes - 1] == '\n' && strlen(text) == bytes;
    if (is_line) text[bytes - 1] = 0;
    bool ok = is_line && mr_checkpoint_step(text, step_p);
    if (!ok) mr_warn("%s/%s does not hold the name of a checkpoint", dir, which);
    MR_FREE(text);
    return ok;
}

/* step-NNNNNNNNN.tmp-PID or .old-PID */
static bool is_leftover(const char *name)
{
    return !strncmp(name, "step-", 5) && (strstr(name, ".tmp-") || strstr(name, ".old-"));
}

void mr_checkpoint_clean(int dir_fd, const char *dir)
{
    DIR *d = open_listing(dir_fd);
    if (!d) return;
    for (struct dirent *e; (e = readdir(d));) {
        if (is_leftover(e->d_name)) {
            mr_info("deleting %s/%s, which a stopped run left unfinished", dir, e->d_name);
            mr_folder_remove(dir_fd, dir, e->d_name);
        } else if (e->d_name[0] == '.' && strstr(e->d_name, ".tmp-")) {
            unlinkat(dir_fd, e->d_name, 0); /* of mr_file_replace */
        }
    }
    closedir(d);
}

void mr_checkpoint_prune(int dir_fd, const char *dir, int64_t step, int64_t keep)
{
    int64_t *steps = NULL, best = -1, kept = 1;
    int n = 0;
    char name[MR_CHECKPOINT_NAME];
    if (!mr_checkpoint_pointer(dir_fd, dir, "best", &best)) best = -1;
    if (mr_checkpoint_steps(dir_fd, dir, &steps, &n) != MR_OK) return;
    for (int i = 0; i < n; i++) {
        if (steps[i] >= step || steps[i] == best || kept++ < keep) continue;
        mr_checkpoint_name(steps[i], name);
        if (mr_folder_remove(dir_fd, dir, name) != MR_OK)
            mr_warn("the old checkpoint %s/%s could not be deleted", dir, name);
    }
    MR_FREE(steps);
}
