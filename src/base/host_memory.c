/* Free memory of the host, as the kernel's text files tell it.
 * What it is not: exact; other programs come and go. Page cache counts as free, because the kernel
 * gives it up. */
#include "base/host_memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { PATH_BYTES = 1024 };

/* The number behind `key` at the start of a line of a file ("" = the first line); -1 without. */
static int64_t number_in(const char *path, const char *key)
{
    char line[256];
    int64_t value = -1;
    FILE *f = fopen(path, "r");
    if (!f) return -1;
    while (value < 0 && fgets(line, sizeof line, f)) {
        if (strncmp(line, key, strlen(key)) != 0) continue;
        char *end, *from = line + strlen(key);
        long long v = strtoll(from, &end, 10);
        if (end != from && v >= 0) value = v; /* "max" is no number: no limit */
    }
    fclose(f);
    return value;
}

static void take_less(int64_t *least, int64_t bytes, const char *name, const char **limit_p)
{
    if (bytes < 0) bytes = 0;
    if (bytes >= *least) return;
    *least = bytes;
    *limit_p = name;
}

/* A group and all its parents: each may have a limit. Reclaimable page cache is not use. */
static void take_group(const char *base, const char *group, const char *const names[4],
                       int64_t *least, const char **limit_p)
{
    char path[PATH_BYTES + 64], dir[PATH_BYTES];
    snprintf(dir, sizeof dir, "%s%s", base, strcmp(group, "/") ? group : "");
    while (strlen(dir) >= strlen(base)) {
        snprintf(path, sizeof path, "%s/%s", dir, names[0]);
        int64_t limit = number_in(path, "");
        snprintf(path, sizeof path, "%s/%s", dir, names[1]);
        int64_t used = number_in(path, "");
        snprintf(path, sizeof path, "%s/memory.stat", dir);
        int64_t cache = number_in(path, names[2]);
        if (limit >= 0 && used >= 0)
            take_less(least, limit - used + (cache > 0 ? cache : 0), names[3], limit_p);
        char *slash = strrchr(dir, '/');
        if (!slash) return;
        *slash = 0;
    }
}

static void take_groups(const char *root, int64_t *least, const char **limit_p)
{
    static const char *const v2[4] = {"memory.max", "memory.current", "inactive_file ",
                                      "the memory limit of the control group (memory.max)"};
    static const char *const v1[4] = {
        "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file ",
        "the memory limit of the control group (memory.limit_in_bytes)"};
    char line[PATH_BYTES], path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    FILE *f = fopen(path, "r");
    if (!f) return;
    while (fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = 0;
        char *names = strchr(line, ':'), *group = names ? strchr(names + 1, ':') : NULL;
        if (!group) continue;
        *group++ = 0;
        if (!strcmp(names + 1, "memory")) {
            snprintf(path, sizeof path, "%s/sys/fs/cgroup/memory", root);
            take_group(path, group, v1, least, limit_p);
        } else if (!names[1]) {
            snprintf(path, sizeof path, "%s/sys/fs/cgroup", root);
            take_group(path, group, v2, least, limit_p);
        }
    }
    fclose(f);
}

int64_t mr_host_memory_free(const char *root, const char **limit_p)
{
    char path[PATH_BYTES];
    int64_t least = INT64_MAX;
    *limit_p = "nothing";
    snprintf(path, sizeof path, "%s/proc/meminfo", root);
    int64_t kib = number_in(path, "MemAvailable:");
    if (kib >= 0) take_less(&least, kib * 1024, "free memory of the host", limit_p);
    take_groups(root, &least, limit_p);
    return least;
}

int64_t mr_process_memory_free(const char **limit_p)
{
    struct rlimit limit;
    int64_t pages = number_in("/proc/self/statm", ""), least = INT64_MAX;
    *limit_p = "nothing";
    if (pages < 0 || getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY)
        return least;
    take_less(&least, (int64_t)limit.rlim_cur - pages * (int64_t)sysconf(_SC_PAGESIZE),
              "the limit of the address space (ulimit -v)", limit_p);
    return least;
}
