/* Log lines to standard error (rank 0 only unless an error) and to train.log.
 * What it is not: results; those go to standard output by the command that makes them. */
#ifndef MR_BASE_LOG_H
#define MR_BASE_LOG_H

#include <stdbool.h>

typedef enum mr_log_level { MR_LOG_ERROR, MR_LOG_WARN, MR_LOG_INFO, MR_LOG_DEBUG } mr_log_level;

/* rank < 0: single process, no rank prefix. Info and below are printed by rank 0 only. */
void mr_log_init(int rank, mr_log_level level);
/* Also append every line to a file (path NULL closes it). Returns false if it cannot be opened. */
bool mr_log_file(const char *path);
void mr_log(mr_log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define mr_info(...) mr_log(MR_LOG_INFO, __VA_ARGS__)
#define mr_warn(...) mr_log(MR_LOG_WARN, __VA_ARGS__)
#define mr_debug(...) mr_log(MR_LOG_DEBUG, __VA_ARGS__)

#endif
