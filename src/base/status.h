/* Status codes, error raising and error propagation.
 * What it is: every function that can fail returns mr_status; whoever decides the error logs it
 * once. What it is not: recovery; a local failure ends the job from main() or the watchdog.
 * Invariant: the numbers of mr_exit_code() are the documented exit codes of the program. */
#ifndef MR_BASE_STATUS_H
#define MR_BASE_STATUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* X(name, exit code of the program, text) */
#define MR_STATUS_LIST(X)                                                                          \
    X(OK, 0, "success")                                                                            \
    X(ERR_USAGE, 2, "wrong use of the command line")                                               \
    X(ERR_DATA, 65, "bad data")                                                                    \
    X(ERR_NO_INPUT, 66, "missing input")                                                           \
    X(ERR_MEMORY, 70, "out of memory")                                                             \
    X(ERR_INTERNAL, 70, "internal error")                                                          \
    X(ERR_DEVICE, 70, "device error")                                                              \
    X(ERR_COMM, 70, "communication error")                                                         \
    X(ERR_IO, 74, "input/output error")                                                            \
    X(STOPPED, 75, "stopped on request, checkpoint complete")                                      \
    X(ERR_WATCHDOG, 76, "watchdog")                                                                \
    X(ERR_DIVERGED, 77, "training diverged")                                                       \
    X(ERR_CONFIG, 78, "bad configuration")

typedef enum mr_status {
#define X(name, code, text) MR_##name,
    MR_STATUS_LIST(X)
#undef X
} mr_status;

const char *mr_status_text(mr_status st);
/* Documented exit code of the program for a status. */
int mr_exit_code(mr_status st);

/* Log one error line ("what, where, what to do") with the rank and return st. printf-style. */
mr_status mr_raise(mr_status st, const char *file, int line, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* Text of the last error raised in this thread ("" if none); for tests and for agreement on rank 0.
 */
const char *mr_last_error(void);
/* Silence (false) or restore (true) the logging of raised errors; tests of bad input use it. */
void mr_errors_to_log(bool on);
/* While on, errors raised in this thread are only kept for mr_last_error. Calls nest. */
void mr_errors_to_thread(bool on);
/* Many ranks often fail alike. While holding is on (ranks > 0 of a job), a raised error is kept
 * instead of logged, the last one winning; mr_comm_agree then lets the lowest failing rank alone
 * print its own. What is still held when the process ends by exit() is printed then. */
void mr_errors_hold(bool on);
/* Print (true) or forget (false) the held error, if there is one. */
void mr_errors_release(bool print);

#define MR_RAISE(st, ...) mr_raise((st), __FILE__, __LINE__, __VA_ARGS__)

/* Return a failure to the caller. */
#define MR_TRY(call)                                                                               \
    do {                                                                                           \
        mr_status mr_st_ = (call);                                                                 \
        if (mr_st_ != MR_OK) return mr_st_;                                                        \
    } while (0)

/* Jump to a clean-up label with the status kept in st. */
#define MR_TRY_GOTO(call, st, label)                                                               \
    do {                                                                                           \
        (st) = (call);                                                                             \
        if ((st) != MR_OK) goto label;                                                             \
    } while (0)

/* In clean-up code: run everything, keep the first error. */
#define MR_TRY_KEEP(call, st)                                                                      \
    do {                                                                                           \
        mr_status mr_st_ = (call);                                                                 \
        if ((st) == MR_OK) (st) = mr_st_;                                                          \
    } while (0)

/* Raise code with a formatted sentence unless cond holds. Never compiled out. */
#define MR_CHECK(cond, code, ...)                                                                  \
    do {                                                                                           \
        if (!(cond)) return MR_RAISE((code), __VA_ARGS__);                                         \
    } while (0)

#endif
