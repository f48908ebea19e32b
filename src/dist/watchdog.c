/* The watchdog's thread, what it learns, and how it ends a job.
 * What it is not: recovery; a hanging job starts again from its last checkpoint.
 * Invariants: the thread makes no MPI call, because MPI runs with MPI_THREAD_FUNNELED; exactly one
 * rank of a host folder speaks; the process ends by _exit, since exit() could wait for the rest. */
#include "dist/watchdog.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "dist/comm_impl.h"

#define TICK_NS 50000000L
#define N_GAPS 128
#define FIRST_BEATS 5 /* not learnt from: caches, page faults, buffers of libraries */
#define FACTOR 5.0
/* A tick that comes so much later than asked for means that this process did not run. */
#define PAUSE_SECONDS 1.0
#define SPEAKER "speaks" /* the rank that makes this file reports */

/* Times least_seconds, while nothing is learnt. Reading is long and has few beats, other work may
 * be anything. */
static const double unlearnt[MR_AT_PHASES] = {10, 60, 10, 10, 20, 60};

typedef struct gaps {
    double last[N_GAPS];
    int64_t n; /* beats so far */
} gaps;

static struct {
    mr_watch_opts o;
    pthread_t thread;
    bool is_on;
    volatile bool quit;
    /* Shared with the thread, under lock. */
    pthread_mutex_t lock;
    double beat, limit; /* monotonic seconds; seconds */
    mr_ring_phase phase;
    bool fired;
    char folder[1024]; /* <run folder>/hang, "" before it is known */
    /* The main thread's own. */
    gaps seen[MR_AT_PHASES];
} w = {.lock = PTHREAD_MUTEX_INITIALIZER};

static double limit_of(mr_ring_phase p)
{
    const gaps *g = &w.seen[p];
    double longest = 0;
    int64_t n = g->n - FIRST_BEATS;
    /* The collectives of the other phases say nothing. */
    bool is_learnt = p == MR_AT_STEP || p == MR_AT_EVAL || p == MR_AT_SAVE;
    if (n < 3 || !is_learnt) return unlearnt[p] * w.o.least_seconds;
    for (int64_t i = 0; i < n && i < N_GAPS; i++)
        if (g->last[i] > longest) longest = g->last[i];
    return FACTOR * longest > w.o.least_seconds ? FACTOR * longest : w.o.least_seconds;
}

static void set(mr_ring_phase p, double at)
{
    mr_ring *r = mr_ring_mine();
    double limit = limit_of(p);
    r->phase = (int32_t)p;
    r->beat = mr_ring_now();
    pthread_mutex_lock(&w.lock);
    w.phase = p;
    w.beat = at;
    w.limit = limit;
    pthread_mutex_unlock(&w.lock);
}

void mr_watch_phase(mr_ring_phase p)
{
    if (!w.is_on) return;
    mr_ring_at(mr_ring_phase_name(p));
    set(p, mr_seconds());
}

void mr_watch_beat(int64_t step)
{
    if (!w.is_on) return;
    double at = mr_seconds();
    gaps *g = &w.seen[w.phase];
    if (g->n >= FIRST_BEATS) g->last[(g->n - FIRST_BEATS) % N_GAPS] = at - w.beat;
    g->n++;
    mr_ring_mine()->step = step;
    set(w.phase, at);
}

void mr_watch_alive(void)
{
    if (w.is_on) set(w.phase, mr_seconds());
}

double mr_watch_limit(void) { return w.is_on ? w.limit : 0; }

/* ---- the end of a job ---- */
/* The rings of all ranks, from the run folder or from shared memory. ERR_NO_INPUT without either.
 */
static mr_status read_rings(mr_ring **ring_p, int *n_p)
{
    const mr_ring *all = mr_ring_shared();
    if (w.folder[0]) return mr_hang_read(w.folder, ring_p, n_p);
    if (!all) return MR_ERR_NO_INPUT;
    *n_p = mr_ring_mine()->size;
    MR_TRY(MR_ALLOC(ring_p, *n_p, "rings of all ranks"));
    memcpy(*ring_p, all, (size_t)*n_p * sizeof *all);
    return MR_OK;
}

static void judge(mr_hang *h)
{
    mr_ring *ring = NULL;
    int n = 0;
    mr_errors_to_thread(true);
    mr_status st = read_rings(&ring, &n);
    mr_errors_to_thread(false);
    if (st == MR_OK)
        mr_hang_judge(h, ring, n);
    else if (MR_ALLOC(&ring, 1, "ring") == MR_OK) { /* of itself, which says what it waits for */
        *ring = *mr_ring_mine();
        int rank = ring->rank, size = ring->size;
        mr_hang_judge(h, ring, 1);
        h->culprit = size > 1 ? -1 : rank;
    }
    MR_FREE(ring);
}

/* Exactly one rank reports: the first to make a file or to set the mark of the shared rings.
 * Without either every rank does. */
static bool may_speak(void)
{
    char path[1100];
    mr_ring *all = mr_ring_shared();
    if (!w.folder[0]) return !all || !__atomic_exchange_n(&all->is_told, 1, __ATOMIC_ACQ_REL);
    snprintf(path, sizeof path, "%s/" SPEAKER, w.folder);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd >= 0) close(fd);
    return fd >= 0 || errno != EEXIST;
}

static bool is_reported(void)
{
    char path[1100];
    const mr_ring *all = mr_ring_shared();
    if (!w.folder[0]) return all && __atomic_load_n(&all->is_told, __ATOMIC_ACQUIRE);
    snprintf(path, sizeof path, "%s/" SPEAKER, w.folder);
    return access(path, F_OK) == 0;
}

static void write_report(const mr_hang *h)
{
    char path[1100];
    if (!w.folder[0]) return;
    snprintf(path, sizeof path, "%s/" MR_HANG_REPORT, w.folder);
    FILE *f = fopen(path, "w");
    if (!f) return;
    fprintf(f, "%s\n", h->text);
    fclose(f);
}

/* The end of the job for this reason, told by one rank. Returns in tests alone. */
static void end_job(const mr_hang *h, bool is_speaker, const char *why)
{
    if (is_speaker) {
        write_report(h);
        mr_errors_release(false); /* what this rank held back is a consequence */
        mr_log(MR_LOG_ERROR, "%s: %s; exit code %d", why, h->text, mr_exit_code(MR_ERR_WATCHDOG));
    } else if (!w.o.on_fire) {
        sleep(3); /* the launcher ends this rank as soon as the speaker is gone */
    }
    mr_comm_abort_all();
    if (w.o.on_fire) {
        w.o.on_fire(h, w.o.user);
        return;
    }
    fflush(NULL);
    _exit(mr_exit_code(MR_ERR_WATCHDOG));
}

static void fire(double silent)
{
    mr_hang h = {.culprit = -1};
    char why[120];
    mr_ring_state_set(MR_RING_FIRED);
    bool is_speaker = may_speak();
    if (is_speaker) judge(&h);
    snprintf(why, sizeof why, "no progress for %.1f s (limit %.1f s in the phase '%s')", silent,
             w.limit, mr_ring_phase_name((int)w.phase));
    end_job(&h, is_speaker, why);
}

/* Silent for long enough that the first rank to die can be told from the others. */
static void let_others_tick(void)
{
    const struct timespec tick = {0, TICK_NS};
    for (int i = 0; i < 10; i++) {
        nanosleep(&tick, NULL);
        mr_ring_tick(w.limit);
    }
}

/* A communicator that fails behind the main thread's back: its calls are made to return. Where a
 * rank has died, one of the others says which. */
static void failed_behind(mr_status st)
{
    mr_hang h = {.culprit = -1};
    char why[512];
    snprintf(why, sizeof why, "%s", mr_last_error());
    let_others_tick();
    judge(&h);
    if (h.kind != MR_HANG_STOPPED) {
        mr_log(MR_LOG_ERROR, "%s", why);
    } else if (may_speak()) {
        write_report(&h);
        mr_log(MR_LOG_ERROR, "%s: %s", why, h.text);
    }
    mr_comm_abort_all();
    if (w.o.on_fire) return;
    sleep(5); /* a rank that knows more ends the job meanwhile, or the main thread does */
    mr_log(MR_LOG_ERROR, "a communicator failed, and nobody ended the job within 5 s");
    _exit(mr_exit_code(st));
}

mr_status mr_watch_poll(void)
{
    if (!w.is_on) return mr_comm_poll_all();
    mr_errors_to_thread(true);
    mr_status st = mr_comm_poll_all();
    mr_errors_to_thread(false);
    if (st != MR_OK && !w.o.on_fire) sleep(10); /* its thread says why, and ends the process */
    return st;
}

static void *watch(void *unused)
{
    (void)unused;
    const struct timespec tick = {0, TICK_NS};
    double last = mr_seconds();
    bool is_over = false;
    while (!w.quit) {
        nanosleep(&tick, NULL);
        double at = mr_seconds(), pause = at - last;
        last = at;
        pthread_mutex_lock(&w.lock);
        if (pause > PAUSE_SECONDS) w.beat += pause; /* nobody in this process could beat */
        double silent = at - w.beat, limit = w.limit;
        pthread_mutex_unlock(&w.lock);
        /* Continued only to be ended: what the others saw of this rank shall stay as it was. */
        if (pause > PAUSE_SECONDS && is_reported()) _exit(mr_exit_code(MR_ERR_WATCHDOG));
        mr_ring_tick(limit);
        if (is_over) continue;
        mr_errors_to_thread(true);
        mr_status st = mr_comm_poll_all();
        mr_errors_to_thread(false);
        if (st != MR_OK) {
            is_over = true;
            failed_behind(st);
        } else if (silent > limit) {
            is_over = true;
            pthread_mutex_lock(&w.lock);
            w.fired = true;
            pthread_mutex_unlock(&w.lock);
            fire(silent);
        }
    }
    return NULL;
}

mr_status mr_watch_start(const mr_watch_opts *o)
{
    sigset_t all, before;
    if (o->least_seconds <= 0 || w.is_on) return MR_OK;
    w.o = *o;
    w.quit = w.fired = false;
    memset(w.seen, 0, sizeof w.seen);
    mr_ring_state_set(MR_RING_RUNS);
    mr_ring_begin(0, 1, 0);
    set(MR_AT_START, mr_seconds());
    mr_ring_at("start");
    mr_ring_tick(w.limit);
    sigfillset(&all); /* signals are for the main thread */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&w.thread, NULL, watch, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    MR_CHECK(rc == 0, MR_ERR_INTERNAL, "the watchdog's thread cannot be started: %s", strerror(rc));
    w.is_on = true;
    return MR_OK;
}

void mr_watch_stop(void)
{
    if (!w.is_on) return;
    w.quit = true;
    pthread_join(w.thread, NULL);
    w.is_on = false;
    mr_ring_state_set(MR_RING_LEFT);
    mr_ring_unmap(true);
    w.folder[0] = 0;
}

/* ---- shared memory ---- */
/* Rank 0: memory for the rings of all ranks under a name that nobody else has; -1 without. */
static int make_shared(const char *name, int size)
{
    int fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
    /* Reserved: full memory must show here and not as a signal later. */
    if (fd >= 0 && posix_fallocate(fd, 0, (off_t)size * (off_t)sizeof(mr_ring)) != 0) {
        close(fd);
        shm_unlink(name);
        fd = -1;
    }
    return fd;
}

static const char *shared_name(char *out, size_t bytes, const int64_t word[2])
{
    snprintf(out, bytes, "/mealrec-%lld-%llx", (long long)word[0], (long long)word[1]);
    return out;
}

static uint64_t job_number(const int64_t word[2]) { return (uint64_t)(word[1] ^ word[0] << 48); }

static mr_status is_one_host(mr_comm *world, bool *out)
{
    mr_comm *host = NULL;
    MR_TRY(world->split_host(world, &host));
    *out = host->size == world->size;
    mr_comm_destroy(&host);
    return MR_OK;
}

mr_status mr_watch_share(mr_comm *world)
{
    int64_t word[2] = {getpid(), (int64_t)(mr_ring_now() * 1e6)}; /* rank 0's: number of the job */
    char name[80];
    int fd = -1, rank = world->rank, size = world->size;
    bool one = false;
    if (!w.is_on || size == 1) return MR_OK;
    MR_TRY(is_one_host(world, &one));
    if (!one) return MR_OK;
    mr_errors_to_thread(true);
    if (rank == 0) fd = make_shared(shared_name(name, sizeof name, word), size);
    mr_status st = world->bcast(world, word, 2, MR_I64, 0);
    if (st == MR_OK && rank) fd = shm_open(shared_name(name, sizeof name, word), O_RDWR, 0);
    int64_t bad = fd < 0 || mr_ring_share(fd, rank, size, job_number(word)) != MR_OK;
    if (st == MR_OK) st = world->allreduce(world, &bad, 1, MR_I64, MR_MAX);
    mr_errors_to_thread(false);
    if (rank == 0) shm_unlink(name);
    if (fd >= 0) close(fd);
    if (bad) mr_ring_unmap(false);
    return st;
}

/* ---- the folder ---- */
/* Rank 0: an empty folder, so that nothing of an earlier start is taken for ours. */
static mr_status make_folder(const char *path)
{
    char file[1100];
    MR_CHECK(mkdir(path, 0777) == 0 || errno == EEXIST, MR_ERR_IO, "%s cannot be made: %s", path,
             strerror(errno));
    snprintf(file, sizeof file, "%s/" SPEAKER, path);
    unlink(file);
    snprintf(file, sizeof file, "%s/" MR_HANG_REPORT, path);
    unlink(file);
    for (int r = 0, gap = 0; gap < 64; r++) {
        mr_ring_path(file, sizeof file, path, r);
        gap = unlink(file) == 0 ? 0 : gap + 1;
    }
    return MR_OK;
}

mr_status mr_watch_folder(const char *run_folder, mr_comm *world)
{
    char path[sizeof w.folder];
    int64_t word[2] = {getpid(), (int64_t)(mr_ring_now() * 1e6)}; /* rank 0's: number of the job */
    if (!w.is_on) return MR_OK;
    MR_CHECK(snprintf(path, sizeof path, "%s/" MR_RING_FOLDER, run_folder) < (int)sizeof path - 64,
             MR_ERR_IO, "the path %.60s... is too long", run_folder);
    mr_errors_to_thread(true);
    mr_status mine = world->rank == 0 ? make_folder(path) : MR_OK;
    int64_t bad = mine != MR_OK;
    mr_status st = world->bcast(world, word, 2, MR_I64, 0);
    if (st == MR_OK && mine == MR_OK)
        bad = mr_ring_map(path, world->rank, world->size, job_number(word)) != MR_OK;
    if (st == MR_OK) st = world->allreduce(world, &bad, 1, MR_I64, MR_MAX);
    mr_errors_to_thread(false);
    MR_TRY(st);
    if (bad) {
        mr_ring_unmap(false);
        mr_warn("%s cannot be used, so a hang can be ended but not explained%s%s", path,
                mine != MR_OK ? ": " : "", mine != MR_OK ? mr_last_error() : "");
        return MR_OK;
    }
    pthread_mutex_lock(&w.lock);
    snprintf(w.folder, sizeof w.folder, "%s", path);
    pthread_mutex_unlock(&w.lock);
    return MR_OK;
}

mr_status mr_watch_end(mr_comm *world)
{
    if (!w.is_on || !w.folder[0]) return MR_OK;
    char path[sizeof w.folder];
    snprintf(path, sizeof path, "%s", w.folder);
    MR_TRY(world->barrier(world)); /* a rank that is not at its end must find the others' rings */
    pthread_mutex_lock(&w.lock);
    w.folder[0] = 0;
    pthread_mutex_unlock(&w.lock);
    mr_ring_unmap(false);
    MR_TRY(world->barrier(world));
    if (world->rank == 0) rmdir(path);
    return MR_OK;
}

/* ---- ranks that are not at the same place ---- */
static mr_status end_apart(const mr_hang *h, const char *why)
{
    mr_ring_state_set(MR_RING_FIRED);
    end_job(h, may_speak(), why);
    return MR_ERR_WATCHDOG;
}

mr_status mr_watch_same_place(int64_t lowest, int64_t highest)
{
    mr_hang h;
    if (lowest == highest) return MR_OK;
    judge(&h);
    if (w.is_on) return end_apart(&h, "the ranks do not make the same collectives");
    return MR_RAISE(MR_ERR_WATCHDOG, "the ranks do not make the same collectives: %s", h.text);
}

mr_status mr_watch_explain(mr_status st)
{
    mr_hang h;
    if (!w.is_on) return st;
    pthread_mutex_lock(&w.lock);
    bool fired = w.fired;
    pthread_mutex_unlock(&w.lock);
    if (fired) return MR_ERR_WATCHDOG;
    if (!w.folder[0] && !mr_ring_shared()) return st;
    judge(&h);
    return h.kind == MR_HANG_OTHER ? end_apart(&h, "a collective failed") : st;
}
