/* Status texts, exit codes, and the one place where an error is logged. */
#include "base/status.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

static _Thread_local char last_error[1024];
static bool errors_to_log = true;
static _Thread_local int errors_to_thread; /* how often asked for */

/* One held error a process: any thread may raise it, the main thread releases it. */
static pthread_mutex_t held_lock = PTHREAD_MUTEX_INITIALIZER;
static char held_error[1024];
static bool holding;

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
    char text[sizeof last_error]; /* the last error may be among what is printed */
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    memcpy(last_error, text, sizeof text);
    if (!errors_to_log || errors_to_thread) return st;
    pthread_mutex_lock(&held_lock);
    bool hold = holding;
    if (hold) memcpy(held_error, last_error, sizeof held_error);
    pthread_mutex_unlock(&held_lock);
    if (hold) return st;
    mr_log(MR_LOG_ERROR, "%s", last_error);
    mr_debug("  (%s, raised at %s:%d)", mr_status_text(st), file, line);
    return st;
}

const char *mr_last_error(void) { return last_error; }

void mr_errors_to_log(bool on) { errors_to_log = on; }

void mr_errors_to_thread(bool on) { errors_to_thread += on ? 1 : -1; }

static void release_at_exit(void) { mr_errors_release(true); }

void mr_errors_hold(bool on)
{
    static bool at_exit;
    if (on && !at_exit) at_exit = atexit(release_at_exit) == 0;
    pthread_mutex_lock(&held_lock);
    holding = on;
    pthread_mutex_unlock(&held_lock);
    if (!on) mr_errors_release(true);
}

void mr_errors_release(bool print)
{
    char text[sizeof held_error];
    pthread_mutex_lock(&held_lock);
    memcpy(text, held_error, sizeof text);
    held_error[0] = 0;
    pthread_mutex_unlock(&held_lock);
    if (print && text[0]) mr_log(MR_LOG_ERROR, "%s", text);
}
