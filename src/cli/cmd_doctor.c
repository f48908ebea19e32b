/* mealrec-dist doctor: checks the machine, one line a check, before a training is started on it.
 * What it is not: the checks (doctor_*.c). Invariants: every check has a time limit, kept by
 * SIGALRM, so that a hang becomes a line and exit code 76; nothing that was there is changed; the
 * exit code is that of the first failed check. */
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "cli/commands.h"
#include "cli/doctor.h"

typedef struct check {
    const char *name;
    int limit_s;
    mr_check_fn *run;
    const char *hang; /* what to do when it does not come back */
} check;

static const check checks[] = {
    {"mpi", 60, mr_check_mpi,
     "not all ranks came up: try `mpirun hostname` with the same options, then the network "
     "interfaces (`--mca btl_tcp_if_include`)"},
    {"program", 10, mr_check_program, "look at the machine's load"},
    {"cores", 20, mr_check_cores, "look at the machine's load"},
    {"limits", 10, mr_check_limits, "is the file system of TMPDIR hanging?"},
    {"blas", 60, mr_check_blas, "other work keeps the cores busy; see OMP_NUM_THREADS"},
    {"gpu", 60, mr_check_gpu,
     "the driver does not answer: look at `nvidia-smi` and the kernel log"},
    {"nccl", 60, mr_check_nccl, "use --dist.comm=mpi"},
    {"hdf5", 60, mr_check_hdf5,
     "parallel reading hangs: try `mpirun --mca io romio321`, or another --run.dir"},
    {"data", 600, mr_check_data, "is the file system hanging? copy the data set to a local disk"},
    {"memory", 60, mr_check_memory, "look at the machine's load"},
    {"run folder", 60, mr_check_folder, "is its file system hanging? choose another --run.dir"},
};
enum { N_CHECKS = sizeof checks / sizeof checks[0] };

static const char *const levels[] = {"ok", "warn", "fail"};
#define LINE "%-5s %-11s %s\n"

static void put_text(mr_verdict *v, mr_verdict_level level, mr_status st, const char *fmt,
                     va_list ap)
{
    v->level = level;
    v->st = st;
    v->is_own = true;
    vsnprintf(v->text, sizeof v->text, fmt, ap);
}

void mr_verdict_ok(mr_verdict *v, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    put_text(v, MR_VERDICT_OK, MR_OK, fmt, ap);
    va_end(ap);
}

void mr_verdict_warn(mr_verdict *v, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    put_text(v, MR_VERDICT_WARN, MR_OK, fmt, ap);
    va_end(ap);
}

void mr_verdict_fail(mr_verdict *v, mr_status st, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    put_text(v, MR_VERDICT_FAIL, st, fmt, ap);
    va_end(ap);
}

void mr_verdict_raised(mr_verdict *v, mr_status st, const char *before)
{
    mr_verdict_fail(v, st, "%.600s", mr_last_error());
    v->is_own = v->text[0] && strncmp(v->text, before, sizeof v->text - 1) != 0;
}

/* ---- time limit ---- */
static char late_text[512];
static size_t late_bytes;

static void too_late(int sig)
{
    (void)sig;
    ssize_t n = write(STDOUT_FILENO, late_text, late_bytes);
    _exit(n < 0 ? 74 : 76);
}

/* Rank 0 speaks; another rank only if rank 0 did not even get that far. */
static void start_clock(const check *c, int limit_s, int rank)
{
    int n = snprintf(late_text, sizeof late_text,
                     "%-5s %-11s no answer within %d s: %s. The checks after it were not made.\n",
                     "fail", c->name, limit_s, c->hang);
    late_bytes = n < 0 ? 0 : (size_t)n < sizeof late_text ? (size_t)n : sizeof late_text - 1;
    fflush(stdout);
    alarm((unsigned)(limit_s + (rank > 0 ? 2 : 0)));
}

/* ---- verdicts of all ranks ---- */

/* The worst verdict, of the lowest rank that has one and something to say, on all ranks. */
static mr_status share(const mr_doctor *d, mr_verdict *v)
{
    mr_comm *w = d->s.world;
    if (!w || w->size == 1) return MR_OK;
    int64_t silent = v->is_own ? 0 : 1;
    int64_t key = ((2 - (int64_t)v->level) * 2 + silent) * w->size + w->rank;
    MR_TRY(w->allreduce(w, &key, 1, MR_I64, MR_MIN));
    int who = (int)(key % w->size);
    MR_TRY(w->bcast(w, v, sizeof *v, MR_U8, who));
    if (v->level == MR_VERDICT_OK || who == 0) return MR_OK;
    char text[sizeof v->text];
    memcpy(text, v->text, sizeof text);
    snprintf(v->text, sizeof v->text, "rank %d: %.*s", who, (int)sizeof text - 32, text);
    return MR_OK;
}

static mr_status run(const mr_args *a)
{
    static mr_doctor d;
    int counts[3] = {0, 0, 0}, rank = mr_args_launcher_rank();
    int64_t most;
    const check *first = NULL;
    mr_status st = MR_OK, worst = MR_OK;
    d = (mr_doctor){.cfg = &a->config};
    MR_TRY(mr_args_int(a, "limit", 1, 3600, 3600, &most));
    signal(SIGALRM, too_late);
    mr_errors_to_log(false);
    if (rank < 0) rank = 0;
    mr_log_init(rank, MR_LOG_ERROR); /* progress of the calls that are tried is not wanted here */
    for (int i = 0; i < N_CHECKS && st == MR_OK; i++) {
        const check *c = &checks[i];
        mr_verdict v = {0};
        start_clock(c, most < c->limit_s ? (int)most : c->limit_s, rank);
        c->run(&d, &v);
        st = share(&d, &v);
        alarm(0);
        if (d.s.world) rank = d.s.world->rank; /* the launcher's may be another job's */
        if (st != MR_OK) mr_verdict_raised(&v, st, "");
        if (rank == 0) printf(LINE, levels[v.level], c->name, v.text);
        counts[v.level]++;
        if (v.level == MR_VERDICT_FAIL && !first) {
            first = c;
            worst = v.st;
        }
        if (c->run == mr_check_mpi && v.level == MR_VERDICT_FAIL) break; /* nothing works then */
    }
    if (rank == 0)
        printf("doctor: %d ok, %d to look at, %d failed\n", counts[0], counts[1], counts[2]);
    mr_session_close(&d.s);
    mr_errors_to_log(true);
    mr_log_init(rank, MR_LOG_INFO);
    if (first) return MR_RAISE(worst, "the check '%s' failed", first->name);
    return st;
}

static const mr_cli_option options[] = {
    {"limit", "S", "most seconds for any check (each has its own, 10 to 600)"}, {NULL, NULL, NULL}};

const mr_command mr_cmd_doctor = {
    .name = "doctor",
    .summary = "check this machine: MPI, cores, libraries, GPU, files, memory",
    .options = options,
    .needs_config = true,
    .run = run};
