/* A log of collectives: what traced communicators (comm_traced.c) are asked for while work is
 * recorded. When the work starts again nobody asks them for anything, and the log stands in: ring
 * and counts of bytes are then as if the calls had been made once more. */
#ifndef MR_DIST_COMM_LOG_H
#define MR_DIST_COMM_LOG_H

#include "base/status.h"

typedef struct mr_comm_log mr_comm_log;

/* From now until end the calls of all traced communicators are also written into a new log. One at
 * a time. The caller frees it, and uses it no longer than the communicators live. */
mr_status mr_comm_log_begin(mr_comm_log **out_p);
void mr_comm_log_end(void);
/* Note all calls of the log once more: in the ring, under the parts of the step in which they were
 * made, and in stats. NULL: there are none. Local. */
void mr_comm_log_again(const mr_comm_log *log);
void mr_comm_log_free(mr_comm_log **log_p);

#endif
