/* The checks of `mealrec-dist doctor`: each finds out one thing about this machine and gives a
 * verdict. What it is not: the order, the time limits and the printing (cmd_doctor.c). */
#ifndef MR_CLI_DOCTOR_H
#define MR_CLI_DOCTOR_H

#include "base/config.h"
#include "dist/topo.h"
#include "io/file.h"
#include "train/session.h"

typedef enum mr_verdict_level { MR_VERDICT_OK, MR_VERDICT_WARN, MR_VERDICT_FAIL } mr_verdict_level;

typedef struct mr_verdict {
    mr_verdict_level level;
    mr_status st; /* of a failure: what training would have ended with; MR_OK otherwise */
    bool is_own;  /* text is this rank's finding, not the news that another rank failed */
    char text[700];
} mr_verdict;

/* What earlier checks leave for later ones. */
typedef struct mr_doctor {
    const mr_config *cfg;
    mr_session s; /* world is set once the check `mpi` went well */
    mr_topo topo;
    bool has_data;
    char probe[MR_PATH];      /* folder that takes files of a try: run.dir or its nearest parent */
    int64_t checkpoint_bytes; /* of one checkpoint, this rank's part; from `memory`, 0 = unknown */
} mr_doctor;

/* Set the verdict; printf-style. */
void mr_verdict_ok(mr_verdict *v, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void mr_verdict_warn(mr_verdict *v, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void mr_verdict_fail(mr_verdict *v, mr_status st, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* A failure with the sentence that was raised. before: mr_last_error() before the failed call, to
 * tell an own error from one that another rank raised. */
void mr_verdict_raised(mr_verdict *v, mr_status st, const char *before);

/* Every check is collective over world (which the check mpi makes, so it comes first) and leaves v
 * on each rank; the worst one is printed. */
typedef void mr_check_fn(mr_doctor *d, mr_verdict *v);
mr_check_fn mr_check_program, mr_check_mpi, mr_check_cores, mr_check_limits, mr_check_blas,
    mr_check_gpu, mr_check_nccl, mr_check_folder, mr_check_hdf5, mr_check_data, mr_check_memory;

#endif
