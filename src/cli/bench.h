/* The benches of `mealrec-dist bench NAME`, one per src/cli/bench_*.c, and what they share. A new
 * one is declared here and listed in cmd_bench.c, with its options.
 * What it is not: the measurements (bench_*.c). */
#ifndef MR_CLI_BENCH_H
#define MR_CLI_BENCH_H

#include <jansson.h>

#include "cli/args.h"
#include "train/session.h"
#include "train/trainer.h"

typedef struct mr_bench {
    const char *name;
    const char *options; /* those it takes, as "steps warmup json"; others are refused */
    mr_status (*run)(const mr_args *a); /* starts and closes its own session */
    bool takes_files;                   /* further words are allowed */
} mr_bench;

extern const mr_bench mr_bench_comm;
extern const mr_bench mr_bench_io;
extern const mr_bench mr_bench_kernels;
extern const mr_bench mr_bench_machine;
extern const mr_bench mr_bench_plot;
extern const mr_bench mr_bench_scaling;
extern const mr_bench mr_bench_step;

/* bench comm --check. */
mr_status mr_bench_comm_check(const mr_args *a, mr_session *s);

/* bench step --parts: n timed steps by parts of the model, printed. *out_p: the same as JSON; the
 * caller's. One rank. */
mr_status mr_bench_parts(mr_trainer *t, int64_t warmup, int64_t n, json_t **out_p);

/* A line of /proc/self/status ("VmRSS:", "VmHWM:") in MiB, 0 without. */
double mr_bench_status_mib(const char *key);
/* x as a float of which either half is a number of bf16 no larger than x: memory full of them holds
 * numbers for kernels of either type. */
float mr_bench_number(double x);
/* Sorts n times, shortest first: the median is s[n / 2]. */
void mr_bench_sort(double *s, int64_t n);
/* Writes o to the file of --json, if that was given. ERR_IO when it cannot. o stays the caller's.
 * To be called by one rank. */
mr_status mr_bench_json(const mr_args *a, const json_t *o);

#endif
