/* What the files of `mealrec-dist bench` share: cmd_bench.c chooses, bench_*.c measure. */
#ifndef MR_CLI_BENCH_H
#define MR_CLI_BENCH_H

#include "cli/args.h"
#include "train/session.h"

/* Monotonic seconds. */
double mr_bench_now(void);
/* Ascending order of doubles, for qsort. */
int mr_bench_ascending(const void *a, const void *b);

/* bench comm: the collectives of a step, timed; with --check their bytes against the formula. */
mr_status mr_bench_comm(const mr_args *a, mr_session *s);
mr_status mr_bench_comm_check(const mr_args *a, mr_session *s);
/* bench machine: a file of configs/machines for this machine. */
mr_status mr_bench_machine(const mr_args *a, mr_session *s);

#endif
