/* Counting, and the wrappers of allocations, files and collectives. HDF5's are in inject_h5.c. */
#define _GNU_SOURCE
#include "inject.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"

static struct {
    inject_kind kind;
    _Atomic int64_t left; /* 0 and below = off; checkpoints are written by a thread */
    char hit[80];         /* a copy: callers name some by texts on their stack */
} plan;

const char *inject_name(inject_kind kind)
{
    static const char *const names[INJECT_KINDS] = {"allocation", "file call", "HDF5 call",
                                                    "collective"};
    return names[kind];
}

bool inject_now(inject_kind kind, const char *call)
{
    if (plan.left <= 0 || plan.kind != kind || --plan.left != 0) return false;
    snprintf(plan.hit, sizeof plan.hit, "%s", call);
    return true;
}

/* ---- memory ---- */

void *__real_mr_plain_alloc(size_t bytes);
void *__wrap_mr_plain_alloc(size_t bytes);
void *__wrap_mr_plain_alloc(size_t bytes)
{
    return inject_now(INJECT_ALLOC, "jansson") ? NULL : __real_mr_plain_alloc(bytes);
}

void inject_at(inject_kind kind, int64_t n)
{
    plan.kind = kind;
    plan.left = n;
    plan.hit[0] = 0;
}

const char *inject_off(void)
{
    plan.left = 0;
    return plan.hit[0] ? plan.hit : NULL;
}

mr_status __real_mr_alloc(void **out_p, int64_t count, size_t elem_bytes, const char *what);
mr_status __wrap_mr_alloc(void **out_p, int64_t count, size_t elem_bytes, const char *what);
mr_status __wrap_mr_alloc(void **out_p, int64_t count, size_t elem_bytes, const char *what)
{
    if (count > 0 && inject_now(INJECT_ALLOC, what)) {
        *out_p = NULL;
        return MR_RAISE(MR_ERR_MEMORY, "%s: no memory, on purpose", what);
    }
    return __real_mr_alloc(out_p, count, elem_bytes, what);
}

/* ---- files ---- */

/* call, result and errno of the failure, parameters, arguments */
#define FILE_CALL(ret, call, bad, reason, params, args)                                            \
    ret __real_##call params;                                                                      \
    ret __wrap_##call params;                                                                      \
    ret __wrap_##call params                                                                       \
    {                                                                                              \
        if (!inject_now(INJECT_FILE, #call)) return __real_##call args;                            \
        errno = reason;                                                                            \
        return bad;                                                                                \
    }

FILE_CALL(ssize_t, write, -1, ENOSPC, (int fd, const void *b, size_t n), (fd, b, n))
FILE_CALL(ssize_t, pwrite, -1, ENOSPC, (int fd, const void *b, size_t n, off_t o), (fd, b, n, o))
FILE_CALL(ssize_t, read, -1, EIO, (int fd, void *b, size_t n), (fd, b, n))
FILE_CALL(ssize_t, pread, -1, EIO, (int fd, void *b, size_t n, off_t o), (fd, b, n, o))
FILE_CALL(int, fsync, -1, EIO, (int fd), (fd))
FILE_CALL(int, rename, -1, EIO, (const char *a, const char *b), (a, b))
FILE_CALL(int, renameat, -1, EIO, (int f, const char *a, int g, const char *b), (f, a, g, b))
FILE_CALL(int, link, -1, EIO, (const char *a, const char *b), (a, b))
FILE_CALL(int, mkdir, -1, ENOSPC, (const char *p, mode_t m), (p, m))
FILE_CALL(int, mkdirat, -1, ENOSPC, (int d, const char *p, mode_t m), (d, p, m))
FILE_CALL(int, posix_fallocate, ENOSPC, ENOSPC, (int fd, off_t at, off_t n), (fd, at, n))
FILE_CALL(int, ftruncate, -1, EIO, (int fd, off_t n), (fd, n))
FILE_CALL(int, fstat, -1, EIO, (int fd, struct stat *s), (fd, s))

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...)
{
    va_list ap;
    va_start(ap, flags);
    int mode = flags & O_CREAT ? va_arg(ap, int) : 0;
    va_end(ap);
    if (!inject_now(INJECT_FILE, "open")) return __real_open(path, flags, mode);
    errno = EIO;
    return -1;
}

int __real_openat(int dir, const char *path, int flags, ...);
int __wrap_openat(int dir, const char *path, int flags, ...);
int __wrap_openat(int dir, const char *path, int flags, ...)
{
    va_list ap;
    va_start(ap, flags);
    int mode = flags & O_CREAT ? va_arg(ap, int) : 0;
    va_end(ap);
    if (!inject_now(INJECT_FILE, "openat")) return __real_openat(dir, path, flags, mode);
    errno = EIO;
    return -1;
}

int __real_close(int fd);
int __wrap_close(int fd);
int __wrap_close(int fd)
{
    int rc = __real_close(fd);
    if (!inject_now(INJECT_FILE, "close")) return rc;
    errno = EIO;
    return -1;
}

/* ---- collectives: mr_comm_fake counts for itself, so each call is handed through one ---- */

typedef struct over {
    mr_comm *inner;
} over;

static mr_status after(mr_comm *c, mr_status st, const char *call)
{
    c->stats = ((over *)c->impl)->inner->stats;
    if (st != MR_OK || !inject_now(INJECT_COMM, call)) return st;
    return MR_RAISE(MR_ERR_COMM, "%s fails on purpose", call);
}

#define INNER (((over *)c->impl)->inner)
static mr_status allreduce(mr_comm *c, void *b, int64_t n, mr_dtype t, mr_reduce op)
{
    return after(c, INNER->allreduce(INNER, b, n, t, op), "allreduce");
}
static mr_status iallreduce(mr_comm *c, void *b, int64_t n, mr_dtype t)
{
    return after(c, INNER->iallreduce(INNER, b, n, t), "iallreduce");
}
static mr_status wait_all(mr_comm *c) { return after(c, INNER->wait_all(INNER), "wait_all"); }
static mr_status allgatherv(mr_comm *c, const void *s, void *r, const int64_t *n, mr_dtype t)
{
    return after(c, INNER->allgatherv(INNER, s, r, n, t), "allgatherv");
}
static mr_status reduce_scatterv(mr_comm *c, const void *s, void *r, const int64_t *n, mr_dtype t)
{
    return after(c, INNER->reduce_scatterv(INNER, s, r, n, t), "reduce_scatterv");
}
static mr_status alltoallv(mr_comm *c, const void *s, const int64_t *sn, void *r, const int64_t *rn,
                           mr_dtype t)
{
    return after(c, INNER->alltoallv(INNER, s, sn, r, rn, t), "alltoallv");
}
static mr_status bcast(mr_comm *c, void *b, int64_t n, mr_dtype t, int root)
{
    return after(c, INNER->bcast(INNER, b, n, t, root), "bcast");
}
static mr_status barrier(mr_comm *c) { return after(c, INNER->barrier(INNER), "barrier"); }

static mr_status split_or_fail(mr_comm *c, mr_status st, mr_comm *part, mr_comm **out_p)
{
    st = after(c, st, "split");
    if (st == MR_OK) st = inject_comm(part, out_p);
    if (st != MR_OK) mr_comm_destroy(&part);
    return st;
}
static mr_status split(mr_comm *c, int color, mr_comm **out_p)
{
    mr_comm *part = NULL;
    mr_status st = INNER->split(INNER, color, &part);
    return split_or_fail(c, st, part, out_p);
}
static mr_status split_host(mr_comm *c, mr_comm **out_p)
{
    mr_comm *part = NULL;
    mr_status st = INNER->split_host(INNER, &part);
    return split_or_fail(c, st, part, out_p);
}
static void destroy(mr_comm *c)
{
    mr_comm_destroy(&INNER);
    free(c->impl);
    free(c);
}

mr_status inject_comm(mr_comm *inner, mr_comm **out_p)
{
    mr_comm *c = calloc(1, sizeof *c);
    over *o = calloc(1, sizeof *o);
    o->inner = inner;
    *c = (mr_comm){.kind = "fake",
                   .rank = inner->rank,
                   .size = inner->size,
                   .allreduce = allreduce,
                   .iallreduce = iallreduce,
                   .wait_all = wait_all,
                   .allgatherv = allgatherv,
                   .reduce_scatterv = reduce_scatterv,
                   .alltoallv = alltoallv,
                   .bcast = bcast,
                   .barrier = barrier,
                   .split = split,
                   .split_host = split_host,
                   .destroy = destroy,
                   .impl = o};
    *out_p = c;
    return MR_OK;
}
