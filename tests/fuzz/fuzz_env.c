/* The environment: lines NAME=VALUE, set before everything that reads variables is asked. */
#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/env.h"
#include "base/progress.h"
#include "dist/comm_impl.h"
#include "dist/topo.h"

const char fuzz_name[] = "env";
const char *const fuzz_words[] = {"OMP_NUM_THREADS=",
                                  "OMPI_COMM_WORLD_SIZE=",
                                  "PMI_SIZE=",
                                  "SLURM_STEP_NUM_TASKS=",
                                  "SLURM_NTASKS=",
                                  "TERM=",
                                  "NO_COLOR=",
                                  "TERM=dumb",
                                  "4,2",
                                  "2147483648",
                                  "-1",
                                  "1e9",
                                  "\n",
                                  " ",
                                  "\t",
                                  "0x10",
                                  NULL};

static const char *const names[] = {
    "OMP_NUM_THREADS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS",
    "SLURM_NTASKS",    "OMPI_COMM_WORLD_RANK", "TERM",     "NO_COLOR"};
enum { NAMES = sizeof names / sizeof *names };

size_t fuzz_seed(int i, uint8_t *out)
{
    static const char *const texts[] = {
        "OMP_NUM_THREADS=4\nSLURM_NTASKS=8\nTERM=xterm",
        "OMPI_COMM_WORLD_SIZE=2\nOMPI_COMM_WORLD_RANK=1\nNO_COLOR=1",
        "OMP_NUM_THREADS=4,2\nPMI_SIZE=3\nSLURM_STEP_NUM_TASKS=16"};
    return i < 3 ? fuzz_text(out, texts[i]) : 0;
}

static void set_all(char *text)
{
    for (char *line = text, *end; line; line = end) {
        end = strchr(line, '\n');
        if (end) *end++ = 0;
        char *value = strchr(line, '=');
        if (!value) continue;
        *value++ = 0;
        for (int i = 0; i < NAMES; i++)
            if (!strcmp(line, names[i])) setenv(names[i], value, 1);
    }
}

/* The value by the plain rule, for comparison: [ \t]*[0-9]{1,9}(,.*)? */
static int64_t plain(const char *name)
{
    const char *p = getenv(name);
    if (!p) return -1;
    p += strspn(p, " \t");
    size_t digits = strspn(p, "0123456789");
    if (digits < 1 || digits > 9 || (p[digits] && p[digits] != ',')) return -1;
    return atoll(p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    const char *said = "";
    char *text = malloc(n + 1), line[256];
    mr_topo t = {.host = "h", .packages = 1, .cores = 4, .pus = 4, .own_cores = 4, .sharers = 1};
    mr_progress bar;
    fuzz_folder();
    memcpy(text, data, n);
    text[n] = 0;
    for (int i = 0; i < NAMES; i++) unsetenv(names[i]);
    set_all(text);
    free(text);
    for (int i = 0; i < NAMES; i++) {
        int64_t v = -7, want = plain(names[i]);
        bool ok = mr_env_int(names[i], 0, INT32_MAX, ",", &v);
        fuzz_require(ok ? v >= 0 && v <= INT32_MAX : v == -7, "a number outside its limits");
        if (want >= 0) fuzz_require(ok && v == want, "a plain number is not read");
    }
    int threads = mr_topo_threads(&t), ranks = mr_comm_promised_ranks(&said);
    fuzz_require(threads >= 1 && threads <= 1 << 20, "threads");
    fuzz_require(ranks >= 1 && (ranks == 1 || *said), "ranks");
    mr_progress_start(&bar, "train", "step", 0, 10, 0);
    mr_progress_text(&bar, bar.started + 1, "note", line, sizeof line);
    fuzz_require(strlen(line) < sizeof line, "the progress line");
    if (ranks > 1)
        fuzz_accepted++;
    else
        fuzz_refused++;
    return 0;
}
