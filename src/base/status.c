/* Status texts, exit codes, and the one place where an error is logged. */
#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"

static _Thread_local char last_error[1024];
static bool errors_to_log = true;

const char *mr_status_text(mr_status st)
{
    switch (st) {
#define X(name, code, text)                                                                        \
    case MR_##name: return text;
        MR_STATUS_LIST(X)
#undef X
    }
    return "unknown status";
}

int mr_exit_code(mr_status st)
{
    switch (st) {
#define X(name, code, text)                                                                        \
    case MR_##name: return code;
        MR_STATUS_LIST(X)
#undef X
    }
    return 70;
}

mr_status mr_raise(mr_status st, const char *file, int line, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(last_error, sizeof last_error, fmt, ap);
    va_end(ap);
    if (errors_to_log) {
        mr_log(MR_LOG_ERROR, "%s", last_error);
        mr_debug("  (%s, raised at %s:%d)", mr_status_text(st), file, line);
    }
    return st;
}

const char *mr_last_error(void) { return last_error; }

void mr_errors_to_log(bool on) { errors_to_log = on; }
