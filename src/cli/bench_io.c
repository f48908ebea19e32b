/* bench io: how fast a data set becomes resident on every rank, beside plain pread of the same
 * bytes.
 * What it is not: a benchmark of a disk, unless --cold makes the system forget the file first.
 * Both sides leave every byte of the file in fresh memory of every rank. The reader's side counts
 * everything that `train` does: shapes, memory, reading, the exchange between ranks, checksums and
 * the checks of values. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "cli/bench.h"
#include "io/h5_dataset.h"
#include "train/session.h"

#define PIECE_BYTES (INT64_C(1) << 20)

enum { PLAIN, READ, WAYS };

typedef struct bench {
    const char *path;
    mr_comm *world;
    bool is_cold, is_rank0;
    int64_t bytes; /* of the file */
} bench;

static mr_status file_bytes(bench *b)
{
    struct stat sb;
    MR_CHECK(stat(b->path, &sb) == 0, errno == ENOENT ? MR_ERR_NO_INPUT : MR_ERR_IO,
             "%s cannot be read: %s", b->path, strerror(errno));
    b->bytes = sb.st_size;
    return MR_OK;
}

static mr_status plain(const bench *b)
{
    char *to = NULL;
    int64_t at = 0;
    int fd = open(b->path, O_RDONLY | O_CLOEXEC);
    MR_CHECK(fd >= 0, MR_ERR_IO, "%s cannot be opened: %s", b->path, strerror(errno));
    mr_status st = MR_ALLOC(&to, b->bytes, "file");
    while (st == MR_OK && at < b->bytes) {
        int64_t n = b->bytes - at < PIECE_BYTES ? b->bytes - at : PIECE_BYTES;
        ssize_t got = pread(fd, to + at, (size_t)n, at);
        if (got <= 0)
            st = MR_RAISE(MR_ERR_IO, "%s: reading ends at byte %lld", b->path, (long long)at);
        at += got;
    }
    close(fd);
    MR_FREE(to);
    return st;
}

static mr_status ours(const bench *b)
{
    mr_dataset d = {0};
    mr_status st = b->is_rank0 ? mr_h5_dataset_read_rank0(&d, b->path, b->world)
                               : mr_h5_dataset_read(&d, b->path, b->world);
    if (st == MR_OK) mr_dataset_free(&d);
    return st;
}

static void forget(const bench *b)
{
    int fd = open(b->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    fdatasync(fd);
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    close(fd);
}

/* Seconds until the last rank is done. */
static mr_status once(const bench *b, int way, double *seconds)
{
    if (b->is_cold && b->world->rank == 0) forget(b);
    MR_TRY(b->world->barrier(b->world));
    double at = mr_seconds();
    MR_TRY(mr_comm_agree(b->world, way == PLAIN ? plain(b) : ours(b)));
    *seconds = mr_seconds() - at;
    return b->world->allreduce(b->world, seconds, 1, MR_F64, MR_MAX);
}

static mr_status report(const mr_args *a, const bench *b, const double median[WAYS], double ratio,
                        int64_t n)
{
    double mb = 1e-6 * (double)b->bytes;
    json_t *o = json_pack("{s:s, s:i, s:I, s:b, s:s, s:I, s:f, s:f, s:f}", "bench", "io", "ranks",
                          b->world->size, "bytes", (json_int_t)b->bytes, "cold", b->is_cold, "read",
                          b->is_rank0 ? "rank0" : "parallel", "repeats", (json_int_t)n, "pread_s",
                          median[PLAIN], "read_s", median[READ], "share_of_pread", ratio);
    printf("%s: %.1f MB on each of %d rank(s), %s, median of %lld\n", b->path, mb, b->world->size,
           b->is_cold ? "not in memory before" : "in the page cache", (long long)n);
    printf("plain pread by every rank     %8.3f s %10.0f MB/s a rank\n", median[PLAIN],
           mb / median[PLAIN]);
    printf("data.read=%-8s with sums  %8.3f s %10.0f MB/s a rank, %.2f of plain pread\n",
           b->is_rank0 ? "rank0" : "parallel", median[READ], mb / median[READ], ratio);
    mr_status st = mr_bench_json(a, o);
    json_decref(o);
    return st;
}

static mr_status compare(const mr_args *a, mr_session *s)
{
    double *seconds[WAYS] = {NULL}, *share = NULL, median[WAYS];
    int64_t n = 0, warmup = 0;
    bench b = {.path = a->config.data.path,
               .world = s->world,
               .is_cold = mr_args_has(a, "cold"),
               .is_rank0 = !strcmp(a->config.data.read, "rank0")};
    mr_status st;
    MR_CHECK(b.path[0], MR_ERR_USAGE, "bench io wants --data.path=FILE");
    MR_TRY(mr_args_int(a, "steps", 1, 1000, 5, &n));
    MR_TRY(mr_args_int(a, "warmup", 0, 1000, 1, &warmup));
    MR_TRY(mr_comm_agree(s->world, file_bytes(&b)));
    MR_TRY_GOTO(MR_ALLOC(&seconds[PLAIN], n, "times"), st, done);
    MR_TRY_GOTO(MR_ALLOC(&seconds[READ], n, "times"), st, done);
    MR_TRY_GOTO(MR_ALLOC(&share, n, "times"), st, done);
    for (int64_t i = 0; i < warmup + n; i++) {
        double t[WAYS]; /* in turn, so that both meet the same machine */
        for (int way = 0; way < WAYS; way++) MR_TRY_GOTO(once(&b, way, &t[way]), st, done);
        if (i < warmup) continue;
        for (int way = 0; way < WAYS; way++) seconds[way][i - warmup] = t[way];
        share[i - warmup] = t[PLAIN] / t[READ];
    }
    for (int way = 0; way < WAYS; way++) {
        mr_bench_sort(seconds[way], n);
        median[way] = seconds[way][n / 2];
    }
    mr_bench_sort(share, n);
    if (s->world->rank == 0) st = report(a, &b, median, share[n / 2], n);
done:
    MR_FREE(seconds[PLAIN]);
    MR_FREE(seconds[READ]);
    MR_FREE(share);
    return st;
}

static mr_status run(const mr_args *a)
{
    mr_session s;
    MR_TRY(mr_session_start(&s, &a->config));
    mr_status st = compare(a, &s);
    mr_session_close(&s);
    return st;
}

const mr_bench mr_bench_io = {.name = "io", .options = "steps warmup json cold", .run = run};
