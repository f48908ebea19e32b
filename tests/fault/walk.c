/* The walk, with the count of everything that must be given back. */
#include "walk.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"

typedef struct held {
    int64_t bytes;
    int files;
    int64_t h5;
} held;

static held count_held(void)
{
    held h = {.bytes = mr_mem_now_bytes(), .h5 = inject_h5_open()};
    for (int fd = 0; fd < 256; fd++) h.files += fcntl(fd, F_GETFD) >= 0;
    return h;
}

static void same_held(const held *a, const held *b, const char *where)
{
    if (a->bytes != b->bytes)
        fail_msg("%s: %lld bytes are not given back", where, (long long)(b->bytes - a->bytes));
    if (a->files != b->files) fail_msg("%s: %d files are left open", where, b->files - a->files);
    if (a->h5 != b->h5)
        fail_msg("%s: %lld HDF5 objects are left", where, (long long)(b->h5 - a->h5));
}

void walk(const walk_job *job, inject_kind kind, int64_t stride)
{
    const char *said = getenv("MR_FAULT_STRIDE"), *hit = "";
    int64_t points = 0, survived = 0;
    unsigned allowed = kind == INJECT_ALLOC ? 1u << MR_ERR_MEMORY : job->allowed;
    if (said && atoll(said) > 0) stride = atoll(said);
    for (int64_t n = 1; hit; n += stride) {
        if (job->prepare) job->prepare();
        held before = count_held();
        inject_at(kind, n);
        mr_status st = job->run();
        hit = inject_off();
        held after = count_held();
        if (hit && st != MR_OK && !(allowed >> st & 1))
            fail_msg("%s, %s %lld (%s): status %d: %s", job->name, inject_name(kind), (long long)n,
                     hit, st, mr_last_error());
        if (!hit && st != MR_OK) fail_msg("%s without a failure: %s", job->name, mr_last_error());
        if (hit && getenv("MR_FAULT_TALK"))
            print_message("%s %lld (%s): %s\n", inject_name(kind), (long long)n, hit,
                          st ? mr_last_error() : "went on");
        char where[200];
        snprintf(where, sizeof where, "%s, %s %lld (%s)", job->name, inject_name(kind),
                 (long long)n, hit ? hit : "none");
        same_held(&before, &after, where);
        job->judge(st);
        points += hit != NULL;
        survived += hit && st == MR_OK;
    }
    print_message("%s: %lld points of failure (%s, every %lld), %lld of them without effect on the "
                  "result\n",
                  job->name, (long long)points, inject_name(kind), (long long)stride,
                  (long long)survived);
}
