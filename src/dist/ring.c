/* The ring in plain memory, in memory shared by the ranks of a host, or in a mapped file.
 * Invariant: the memory is exactly one mr_ring, so a file of another length is not one. A ring is
 * read on the machine that wrote it or on one like it: numbers are in the machine's own order. */
#include "dist/ring.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static const char magic[8] = "MRRING\n";
#define VERSION 1

static mr_ring own;
static mr_ring *ring = &own; /* swapped whole; the watchdog's thread follows it */
static char mapped_path[1024];
static mr_ring *shared;                                  /* [own.size], or NULL */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* no unmapping under another thread */

mr_ring *mr_ring_mine(void) { return __atomic_load_n(&ring, __ATOMIC_ACQUIRE); }

double mr_ring_now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

void mr_ring_at(const char *label)
{
    mr_ring *r = mr_ring_mine();
    snprintf(r->label, sizeof r->label, "%s", label);
    r->label_since = mr_ring_now();
}

void mr_ring_enter(mr_ring_kind kind, int comm_size, mr_dtype t, int64_t count)
{
    mr_ring *r = mr_ring_mine();
    int64_t seq = r->last + 1;
    mr_ring_entry *e = &r->entry[seq % MR_RING_ENTRIES];
    *e = (mr_ring_entry){.seq = seq,
                         .count = count,
                         .entered = mr_ring_now(),
                         .kind = (int32_t)kind,
                         .dtype = (int32_t)t,
                         .comm_size = comm_size};
    memcpy(e->label, r->label, sizeof e->label);
    __atomic_store_n(&r->last, seq, __ATOMIC_RELEASE);
}

void mr_ring_leave(void)
{
    mr_ring *r = mr_ring_mine();
    r->entry[r->last % MR_RING_ENTRIES].left = mr_ring_now();
}

void mr_ring_tick(double limit)
{
    pthread_mutex_lock(&lock);
    ring->tick = mr_ring_now();
    ring->limit = limit;
    pthread_mutex_unlock(&lock);
}

void mr_ring_state_set(mr_ring_state s)
{
    pthread_mutex_lock(&lock);
    ring->state = s;
    pthread_mutex_unlock(&lock);
}

void mr_ring_path(char *out, size_t bytes, const char *folder, int rank)
{
    snprintf(out, bytes, "%s/rank-%05d.ring", folder, rank);
}

void mr_ring_begin(int rank, int size, uint64_t job)
{
    mr_ring *r = mr_ring_mine();
    memcpy(r->magic, magic, sizeof magic);
    r->version = VERSION;
    r->bytes = (int32_t)sizeof *r;
    r->rank = rank;
    r->size = size;
    r->pid = (int32_t)getpid();
    r->job = job;
    gethostname(r->host, sizeof r->host - 1);
}

mr_status mr_ring_map(const char *folder, int rank, int size, uint64_t job)
{
    char path[sizeof mapped_path];
    mr_ring *now = mr_ring_mine();
    MR_CHECK(strlen(folder) < sizeof path - 32, MR_ERR_IO, "the path %.60s... is too long", folder);
    mr_ring_path(path, sizeof path, folder, rank);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0666);
    MR_CHECK(fd >= 0, MR_ERR_IO, "%s cannot be written: %s", path, strerror(errno));
    /* Written and not only extended: a full disk must show here and not as a signal later. */
    mr_ring_begin(rank, size, job);
    ssize_t n = write(fd, now, sizeof *now);
    void *at = n == (ssize_t)sizeof *now
                   ? mmap(NULL, sizeof *now, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
                   : MAP_FAILED;
    int reason = n < 0 || n == (ssize_t)sizeof *now ? errno : ENOSPC;
    close(fd);
    if (at == MAP_FAILED) {
        unlink(path);
        return MR_RAISE(MR_ERR_IO, "%s cannot be mapped: %s", path, strerror(reason));
    }
    mr_ring_unmap(false);
    snprintf(mapped_path, sizeof mapped_path, "%s", path);
    __atomic_store_n(&ring, at, __ATOMIC_RELEASE);
    return MR_OK;
}

mr_status mr_ring_share(int fd, int rank, int size, uint64_t job)
{
    mr_ring *at = mmap(NULL, (size_t)size * sizeof *at, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    MR_CHECK(at != MAP_FAILED, MR_ERR_IO, "shared memory cannot be mapped: %s", strerror(errno));
    mr_ring_begin(rank, size, job);
    at[rank] = *mr_ring_mine();
    mr_ring_unmap(false);
    __atomic_store_n(&shared, at, __ATOMIC_RELEASE);
    __atomic_store_n(&ring, &at[rank], __ATOMIC_RELEASE);
    return MR_OK;
}

mr_ring *mr_ring_shared(void) { return __atomic_load_n(&shared, __ATOMIC_ACQUIRE); }

void mr_ring_unmap(bool keep_file)
{
    mr_ring *r = mr_ring_mine();
    if (r == &own) return;
    pthread_mutex_lock(&lock);
    own = *r;
    __atomic_store_n(&ring, &own, __ATOMIC_RELEASE);
    if (shared)
        munmap(shared, (size_t)own.size * sizeof *shared);
    else
        munmap(r, sizeof *r);
    __atomic_store_n(&shared, NULL, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&lock);
    if (!keep_file && mapped_path[0]) unlink(mapped_path);
    mapped_path[0] = 0;
}

static mr_status check(mr_ring *r, const char *path)
{
    MR_CHECK(!memcmp(r->magic, magic, sizeof magic) && r->bytes == (int32_t)sizeof *r, MR_ERR_DATA,
             "%s does not hold the last collectives of a rank", path);
    MR_CHECK(r->version == VERSION, MR_ERR_DATA, "%s has version %d; this program reads %d", path,
             r->version, VERSION);
    bool ok = r->size > 0 && r->rank >= 0 && r->rank < r->size && r->last >= 0 && r->phase >= 0 &&
              r->phase < MR_AT_PHASES && r->state >= 0 && r->state <= MR_RING_FIRED;
    for (int i = 0; i < MR_RING_ENTRIES; i++) {
        mr_ring_entry *e = &r->entry[i];
        ok &= e->kind >= 0 && e->kind < MR_RING_KINDS && e->dtype >= 0 && e->dtype <= MR_U32;
        e->label[sizeof e->label - 1] = 0;
    }
    MR_CHECK(ok, MR_ERR_DATA, "%s is damaged: a number in it is out of range", path);
    r->host[sizeof r->host - 1] = 0;
    r->label[sizeof r->label - 1] = 0;
    return MR_OK;
}

mr_status mr_ring_read(mr_ring *out, const char *path)
{
    struct stat s;
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT) return MR_RAISE(MR_ERR_NO_INPUT, "%s: no such file", path);
    MR_CHECK(fd >= 0, MR_ERR_IO, "%s cannot be opened: %s", path, strerror(errno));
    ssize_t n = fstat(fd, &s) == 0 && S_ISREG(s.st_mode) && s.st_size == (off_t)sizeof *out
                    ? read(fd, out, sizeof *out)
                    : 0;
    close(fd);
    MR_CHECK(n == (ssize_t)sizeof *out, MR_ERR_DATA,
             "%s does not hold the last collectives of a rank", path);
    return check(out, path);
}

const char *mr_ring_kind_name(int kind)
{
    static const char *const names[MR_RING_KINDS] = {
        "allreduce", "allgather", "reduce_scatter", "alltoall",          "broadcast",
        "barrier",   "sum begun", "wait for sums",  "communicator split"};
    return kind >= 0 && kind < MR_RING_KINDS ? names[kind] : "unknown";
}

const char *mr_ring_phase_name(int phase)
{
    static const char *const names[MR_AT_PHASES] = {"start",      "reading data", "training step",
                                                    "evaluation", "checkpoint",   "other work"};
    return phase >= 0 && phase < MR_AT_PHASES ? names[phase] : "unknown";
}
