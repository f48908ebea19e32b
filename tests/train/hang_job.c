/* A training job in which one rank goes wrong on purpose, for test_hang.py:
 *   hang_job MODE RANK CALL key=value...
 * At its allreduce number CALL, counted from the first step, or at number -CALL, counted from the
 * end of reading, rank RANK
 *   stop   stops itself with SIGSTOP         loop   loops for ever
 *   leave  ends as if it were done           skip   leaves that collective out
 * Otherwise it is what `mealrec-dist train` does. The time of the fault goes to standard error. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "dist/watchdog.h"
#include "train/job.h"

static mr_comm faulty, *real;
static const char *mode;
static int64_t calls, bad_call;

static mr_status faulty_allreduce(mr_comm *c, void *buf, int64_t n, mr_dtype t, mr_reduce op)
{
    (void)c;
    bool counts = bad_call < 0 || mr_ring_mine()->phase >= MR_AT_STEP;
    if (!counts || ++calls != llabs(bad_call)) return real->allreduce(real, buf, n, t, op);
    fprintf(stderr, "FAULT rank %d %.3f\n", real->rank, mr_ring_now());
    fflush(NULL);
    if (!strcmp(mode, "stop")) raise(SIGSTOP);
    for (volatile bool on = !strcmp(mode, "loop"); on;) continue;
    if (!strcmp(mode, "leave")) {
        mr_watch_stop();
        mr_comm_finalize();
        _exit(0);
    }
    if (!strcmp(mode, "skip")) return MR_OK;
    return real->allreduce(real, buf, n, t, op);
}

int main(int argc, char **argv)
{
    static mr_config cfg;
    static mr_session s;
    static mr_job job;
    if (argc < 4) return 2;
    mode = argv[1];
    int bad_rank = atoi(argv[2]);
    bad_call = atoll(argv[3]);
    mr_log_init(-1, MR_LOG_INFO);
    mr_config_defaults(&cfg);
    for (int i = 4; i < argc; i++) {
        char *value = strchr(argv[i], '=');
        if (!value) return 2;
        *value++ = 0;
        if (mr_config_set(&cfg, argv[i], value, "test") != MR_OK) return 2;
    }
    mr_status st = mr_session_open(&s, &cfg);
    if (st == MR_OK) {
        real = s.world;
        faulty = *real;
        faulty.allreduce = faulty_allreduce;
        if (real->rank == bad_rank) s.world = &faulty;
        job = (mr_job){.cfg = &cfg, .session = &s};
        st = mr_job_run(&job);
        s.world = real;
    }
    mr_session_close(&s);
    return mr_comm_end(st);
}
