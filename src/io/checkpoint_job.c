/* Saving in the background: a thread of each rank writes its file, then one of rank 0 makes the
 * checkpoint exist, while the main threads train.
 * What it is not: MPI from another thread; what ranks tell each other happens in
 * mr_checkpoint_begin and mr_checkpoint_advance, called at the same place by all.
 * Invariants: the threads read the copy and nothing of the parameters but their description; an
 * error of a thread is kept there and raised by the main thread, so that ranks agree on it. */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"
#include "dist/watchdog.h"
#include "io/checkpoint_saver.h"

#define POLL_NS 2000000L

typedef enum stage { WRITING, PUBLISHING } stage;

struct mr_checkpoint_job {
    mr_saver s;
    stage stage;
    mr_shard_record mine;
    pthread_t thread;
    bool has_thread;
    int is_busy;  /* atomic: set by the main thread, cleared by the other one */
    mr_status st; /* of the stage */
    char error[1024];
};

static void *work(void *arg)
{
    mr_checkpoint_job *j = arg;
    mr_errors_to_thread(true);
    j->st = j->stage == WRITING ? mr_saver_shard(&j->s, &j->mine) : mr_saver_publish(&j->s);
    if (j->st != MR_OK) snprintf(j->error, sizeof j->error, "%s", mr_last_error());
    mr_errors_to_thread(false);
    __atomic_store_n(&j->is_busy, 0, __ATOMIC_RELEASE);
    return NULL;
}

/* In a thread, or at once when there is to be none or the system gives none. */
static void start_stage(mr_checkpoint_job *j, stage which)
{
    sigset_t all, before;
    j->stage = which;
    j->is_busy = 1;
    sigfillset(&all); /* signals are for the main thread */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    j->has_thread = j->s.a.is_async && pthread_create(&j->thread, NULL, work, j) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!j->has_thread) (void)work(j);
}

static mr_status end_stage(mr_checkpoint_job *j)
{
    if (j->has_thread) pthread_join(j->thread, NULL);
    j->has_thread = false;
    return j->st == MR_OK ? MR_OK : MR_RAISE(j->st, "%s", j->error);
}

static mr_status end_job(mr_checkpoint_job **job_p, mr_status st)
{
    mr_saver_end(&(*job_p)->s, st);
    MR_FREE(*job_p);
    return st;
}

mr_status mr_checkpoint_begin(mr_checkpoint_job **out_p, const mr_checkpoint_save_args *a)
{
    mr_checkpoint_job *j = NULL;
    mr_status st = mr_comm_agree(a->world, MR_ALLOC(&j, 1, "saving of a checkpoint"));
    if (st != MR_OK) {
        MR_FREE(j);
        return st;
    }
    st = mr_saver_begin(&j->s, a);
    if (st == MR_OK && a->is_async) st = mr_comm_agree(a->world, mr_saver_copy(&j->s));
    if (st != MR_OK) return end_job(&j, st);
    start_stage(j, WRITING);
    *out_p = j;
    return MR_OK;
}

bool mr_checkpoint_is_busy(const mr_checkpoint_job *j)
{
    return j && __atomic_load_n(&j->is_busy, __ATOMIC_ACQUIRE);
}

mr_status mr_checkpoint_advance(mr_checkpoint_job **job_p)
{
    mr_checkpoint_job *j = *job_p;
    mr_comm *world = j->s.a.world;
    mr_status st = mr_comm_agree(world, end_stage(j));
    if (st == MR_OK && j->stage == WRITING) {
        MR_FREE(j->s.copy);
        st = mr_saver_gather(&j->s, &j->mine);
        if (st == MR_OK) {
            j->stage = PUBLISHING;
            if (world->rank == 0) start_stage(j, PUBLISHING);
            return MR_OK;
        }
    }
    return end_job(job_p, st);
}

static void wait_for_thread(mr_checkpoint_job *j)
{
    const struct timespec poll = {0, POLL_NS};
    int64_t seen = 0;
    while (mr_checkpoint_is_busy(j)) {
        int64_t written = __atomic_load_n(&j->s.written, __ATOMIC_RELAXED);
        if (written > seen) mr_watch_alive();
        seen = written;
        nanosleep(&poll, NULL);
    }
}

mr_status mr_checkpoint_finish(mr_checkpoint_job **job_p)
{
    mr_status st = MR_OK;
    while (*job_p && st == MR_OK) {
        wait_for_thread(*job_p);
        st = mr_checkpoint_advance(job_p);
    }
    return st;
}

void mr_checkpoint_abandon(mr_checkpoint_job **job_p)
{
    if (!*job_p) return;
    (void)end_stage(*job_p);
    (void)end_job(job_p, MR_OK);
}

mr_status mr_checkpoint_save(const mr_checkpoint_save_args *a)
{
    mr_checkpoint_job *j = NULL;
    MR_TRY(mr_checkpoint_begin(&j, a));
    return mr_checkpoint_finish(&j);
}
