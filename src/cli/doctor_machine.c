/* Checks of doctor that look at the machine: program, cores, limits, BLAS, memory. */
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "cli/bench.h"
#include "cli/commands.h"
#include "cli/doctor.h"
#include "io/environment.h"
#include "kernels/kernels.h"
#include "train/trainer.h"

enum { VERSIONS = 16, MIN_FILES = 256, SHM_MIB_A_RANK = 16 };
#define GIB 1073741824.0
#define SLOW_GFLOPS 4.0 /* a thread of any CPU of the last ten years does more when it is idle */

void mr_check_program(mr_doctor *d, mr_verdict *v)
{
    mr_version ver[VERSIONS];
    char text[512] = "", first[512];
    int n = mr_environment(ver, VERSIONS);
    mr_comm *w = d->s.world;
    for (int i = 0; i < n; i++) {
        size_t at = strlen(text);
        if (strcmp(ver[i].name, "system") == 0) continue; /* hosts may differ in their kernel */
        /* OpenBLAS lists its build options after its version. */
        int most = strcmp(ver[i].name, "openblas") == 0 ? 15 : 60;
        snprintf(text + at, sizeof text - at, "%s%s %.*s", i ? ", " : "", ver[i].name, most,
                 ver[i].text);
    }
    memcpy(first, text, sizeof text);
    mr_status st = w->bcast(w, first, sizeof first, MR_U8, 0);
    if (st != MR_OK)
        mr_verdict_raised(v, st, "");
    else if (strcmp(first, text) != 0)
        mr_verdict_warn(v,
                        "other versions than on rank 0 (%.250s): the same bits are not promised; "
                        "install one program on all hosts",
                        text);
    else
        mr_verdict_ok(v, "%s", text);
}

void mr_check_cores(mr_doctor *d, mr_verdict *v)
{
    char text[400];
    double load = 0;
    const char *before = mr_last_error();
    mr_status st = mr_topo_of(&d->topo, d->s.world);
    if (st != MR_OK) {
        mr_verdict_raised(v, st, before);
        return;
    }
    int threads = mr_topo_threads(&d->topo);
    omp_set_num_threads(threads);
    if (mr_topo_advice(&d->topo, text, sizeof text))
        mr_verdict_warn(v, "%s", text);
    else if (getloadavg(&load, 1) == 1 && load > d->topo.cores)
        mr_verdict_warn(v,
                        "%s: %d cores had %.1f processes wanting to compute in the last minute; "
                        "training beside other work is slow, wait for it or use other cores",
                        d->topo.host, d->topo.cores, load);
    else {
        mr_topo_text(&d->topo, text, sizeof text);
        mr_verdict_ok(v, "%s; threads of a rank %d", text, threads);
    }
}

static double free_mib(const char *path)
{
    struct statvfs f;
    return statvfs(path, &f) == 0 ? (double)f.f_bavail * (double)f.f_frsize / 1048576.0 : -1;
}

static bool is_limited(int what, double least, double *out)
{
    struct rlimit r;
    if (getrlimit(what, &r) != 0 || r.rlim_cur == RLIM_INFINITY) return false;
    *out = (double)r.rlim_cur;
    return *out < least;
}

void mr_check_limits(mr_doctor *d, mr_verdict *v)
{
    const char *tmp = getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp";
    double n = 0, shm = free_mib("/dev/shm");
    int local = d->topo.local_size > 0 ? d->topo.local_size : 1;
    if (is_limited(RLIMIT_NOFILE, MIN_FILES, &n))
        mr_verdict_warn(v, "only %.0f open files are allowed; raise it with `ulimit -n 1024`", n);
    else if (is_limited(RLIMIT_FSIZE, 1e18, &n))
        mr_verdict_warn(v,
                        "files may not exceed %.1f MB, checkpoints may fail; `ulimit -f unlimited`",
                        n / 1e6);
    else if (is_limited(RLIMIT_AS, 1e18, &n) || is_limited(RLIMIT_DATA, 1e18, &n))
        mr_verdict_warn(v,
                        "memory of a process is limited to %.1f GB; `ulimit -v unlimited -d "
                        "unlimited` unless that is meant",
                        n / 1e9);
    else if (access(tmp, W_OK | X_OK) != 0)
        mr_verdict_warn(v, "%s cannot be written, MPI keeps its session there; set TMPDIR", tmp);
    else if (local > 1 && shm >= 0 && shm < local * SHM_MIB_A_RANK)
        mr_verdict_warn(v,
                        "/dev/shm has %.0f MiB left, %d ranks want %d for their messages; in a "
                        "container start it with --shm-size=1g",
                        shm, local, local * SHM_MIB_A_RANK);
    else
        mr_verdict_ok(v, "files, file size, memory and shared memory are not limited in the way");
}

/* ---- matrix products ---- */

/* c = a b with a[i,k] = (i + 2 k) mod 7 - 3, b[k,j] = (3 k + j) mod 5 - 2: exact in float. */
static bool product_is_right(const mr_kernels *k, const mr_exec *ex, float *a, float *b, float *c)
{
    const int64_t m = 37, n = 29, w = 53;
    for (int64_t i = 0; i < m * w; i++) a[i] = (float)((i / w + 2 * (i % w)) % 7 - 3);
    for (int64_t i = 0; i < w * n; i++) b[i] = (float)((3 * (i / n) + i % n) % 5 - 2);
    k->gemm(c, a, b, m, n, w, 0, 0, w, n, n, 1.0, 0.0, MR_ACT_ACT, ex);
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            float want = 0;
            for (int64_t l = 0; l < w; l++) want += a[i * w + l] * b[l * n + j];
            if (!(c[i * n + j] == want)) return false;
        }
    return true;
}

static mr_status product(double *rate, bool *is_right)
{
    const int64_t n = 768;
    const mr_kernels *k;
    float *buf = NULL;
    mr_exec ex = {0};
    double best = 1e30;
    MR_TRY(mr_kernels_for(&k, "cpu", MR_F32));
    MR_TRY(MR_ALLOC(&buf, 3 * n * n, "matrices"));
    *is_right = product_is_right(k, &ex, buf, buf + n * n, buf + 2 * n * n);
    for (int i = 0; i < 8; i++) {
        double at = mr_seconds();
        k->gemm(buf + 2 * n * n, buf, buf + n * n, n, n, n, 0, 1, n, n, n, 1.0, 0.0, MR_ACT_ACT,
                &ex);
        double s = mr_seconds() - at;
        if (s < best) best = s;
    }
    *rate = 2e-9 * (double)(n * n * n) / best;
    MR_FREE(buf);
    return MR_OK;
}

void mr_check_blas(mr_doctor *d, mr_verdict *v)
{
    char core[32], text[300];
    double rate = 0;
    bool is_right = false;
    const char *before = mr_last_error();
    int threads = mr_topo_threads(&d->topo);
    mr_status st = product(&rate, &is_right);
    bool is_advised = mr_blas_core_advice(core, sizeof core, text, sizeof text);
    if (st != MR_OK)
        mr_verdict_raised(v, st, before);
    else if (!is_right)
        mr_verdict_fail(v, MR_ERR_INTERNAL,
                        "a matrix product of OpenBLAS (core %s) is wrong on %s; try another "
                        "OPENBLAS_CORETYPE, or another libopenblas",
                        core, d->topo.host);
    else if (is_advised)
        mr_verdict_warn(v, "%s (now %.0f GFLOP/s)", text, rate);
    else if (rate < SLOW_GFLOPS)
        mr_verdict_warn(v,
                        "OpenBLAS core %s: a product 768 x 768 x 768 reaches only %.1f GFLOP/s "
                        "with %d thread(s); other work or too many threads share the cores",
                        core, rate, threads);
    else
        mr_verdict_ok(v, "OpenBLAS core %s, float32: %.0f GFLOP/s with %d thread(s), right", core,
                      rate, threads);
}

/* ---- memory ---- */

/* A number in a one-line file, e.g. of a control group; -1 when there is none ("max"). */
static double number_in(const char *path)
{
    double n = -1;
    FILE *f = fopen(path, "r");
    if (!f) return -1;
    if (fscanf(f, "%lf", &n) != 1) n = -1;
    fclose(f);
    return n;
}

static double mem_available(void)
{
    char line[128];
    double kib = -1;
    FILE *f = fopen("/proc/meminfo", "r");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %lf kB", &kib) == 1) break;
    if (f) fclose(f);
    return kib < 0 ? -1 : kib * 1024;
}

/* Bytes that this host, and the container it may be, has left; -1 = unknown. */
static double available_bytes(void)
{
    static const char *const groups[][2] = {
        {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"},
        {"/sys/fs/cgroup/memory/memory.limit_in_bytes",
         "/sys/fs/cgroup/memory/memory.usage_in_bytes"}};
    double left = mem_available();
    for (int i = 0; i < 2; i++) {
        double most = number_in(groups[i][0]), used = number_in(groups[i][1]);
        if (most > 0 && used >= 0 && (left < 0 || most - used < left)) left = most - used;
    }
    return left;
}

/* What training still needs on this rank once the data set is in memory. */
static mr_status needed_bytes(mr_doctor *d, double *out)
{
    mr_trainer *t = NULL;
    mr_trainer_opts o = {.stochastic = true, .optimizer = true, .is_dry = true, .device = "cpu"};
    int64_t size = d->s.world->size, rows = (d->cfg->train.eval_batch + size - 1) / size;
    MR_TRY(mr_trainer_create(&t, d->cfg, &d->s.data, d->s.world, &o));
    double bytes = 4.0 * (double)t->params.n_total * (double)t->params.real_bytes;
    d->checkpoint_bytes = (int64_t)(0.75 * bytes);
    bytes += (double)t->train_plan->ws_bytes;
    mr_status st = mr_trainer_eval_ready(t, rows);
    if (st == MR_OK) *out = bytes + (double)t->eval_plan->ws_bytes;
    mr_trainer_free(&t);
    return st;
}

void mr_check_memory(mr_doctor *d, mr_verdict *v)
{
    double need = 0, left = available_bytes();
    int local = d->topo.local_size > 0 ? d->topo.local_size : 1;
    char before[1024];
    if (!d->has_data) {
        mr_verdict_warn(v, "%.1f GiB are left; what training needs is not known without its data",
                        left / GIB);
        return;
    }
    snprintf(before, sizeof before, "%s", mr_last_error());
    mr_status st = needed_bytes(d, &need);
    if (st != MR_OK)
        mr_verdict_raised(v, st, before);
    else if (left < 0)
        mr_verdict_ok(v, "a rank needs %.2f GiB beside its data; what is left is not known here",
                      need / GIB);
    else if (need * local > left)
        mr_verdict_fail(v, MR_ERR_MEMORY,
                        "%d rank(s) on %s need %.2f GiB each beside their data, %.2f GiB are left; "
                        "smaller train.batch or train.eval_batch, or more hosts",
                        local, d->topo.host, need / GIB, left / GIB);
    else if (need * local > 0.8 * left)
        mr_verdict_warn(v,
                        "%d rank(s) on %s need %.2f GiB each beside their data, of %.2f GiB left: "
                        "close",
                        local, d->topo.host, need / GIB, left / GIB);
    else
        mr_verdict_ok(v,
                      "%d rank(s) here need %.2f GiB each beside their data, %.1f GiB are left on "
                      "%s",
                      local, need / GIB, left / GIB, d->topo.host);
}
