/* Log lines: rank 0 to standard error and to the run's log file; other ranks only errors. */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <time.h>

static int log_rank = -1;
static mr_log_level log_level = MR_LOG_INFO;
static FILE *log_stream;

void mr_log_init(int rank, mr_log_level level)
{
    log_rank = rank;
    log_level = level;
}

bool mr_log_file(const char *path)
{
    if (log_stream) fclose(log_stream);
    log_stream = path ? fopen(path, "a") : NULL;
    return !path || log_stream;
}

void mr_log(mr_log_level level, const char *fmt, ...)
{
    static const char *const prefix[] = {"error: ", "warning: ", "", "debug: "};
    char line[2048];
    va_list ap;
    if (level > log_level || (log_rank > 0 && level != MR_LOG_ERROR)) return;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    if (log_rank > 0)
        fprintf(stderr, "mealrec-dist: rank %d: %s%s\n", log_rank, prefix[level], line);
    else if (level <= MR_LOG_WARN)
        fprintf(stderr, "mealrec-dist: %s%s\n", prefix[level], line);
    else
        fprintf(stderr, "%s%s\n", prefix[level], line);
    if (log_stream) {
        char stamp[32];
        time_t now = time(NULL);
        struct tm tm;
        strftime(stamp, sizeof stamp, "%Y-%m-%d %H:%M:%S", localtime_r(&now, &tm));
        fprintf(log_stream, "%s %s%s\n", stamp, prefix[level], line);
        fflush(log_stream);
    }
}
