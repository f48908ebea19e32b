/* An interaction log as read from a file, and its form by user.
 * What it is not: a data set; ids are numbers in order of first sight until mr_log_sort. */
#ifndef MR_DATA_INTER_LOG_H
#define MR_DATA_INTER_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "data/id_table.h"
#include "data/open_stream.h"

typedef struct mr_inter_log {
    int64_t n, user_cap, item_cap, time_cap;
    int32_t *user, *item; /* [n] numbers in users, items */
    double *time;         /* [n] when has_time */
    bool has_time;
    mr_id_table users, items;
} mr_inter_log;

/* Any known format, told apart by the first line (docs/data-format.md). ERR_DATA with the line. */
mr_status mr_log_read(mr_inter_log *log, const char *path);
void mr_log_free(mr_inter_log *log);
/* Append one interaction. ids are checked (length, control characters). */
mr_status mr_log_add(mr_inter_log *log, const mr_stream *s, const char *user, int64_t user_len,
                     const char *item, int64_t item_len, double time);

/* The formats; `line` is the first line, already read. */
mr_status mr_log_read_pairs(mr_inter_log *log, mr_stream *s, char *line);
mr_status mr_log_read_table(mr_inter_log *log, mr_stream *s, char *line, char separator);

/* By user, oldest first: offset [users + 1], item [n]; numbers are ranks of the ascending original
 * ids: users 0.., items 0... */
typedef struct mr_sequences {
    int64_t users, items, n;
    int64_t *offset;
    int32_t *item;
    int32_t *user_id, *item_id; /* [users], [items]: number of a rank in the log's id tables */
} mr_sequences;
mr_status mr_log_sort(mr_sequences *out, const mr_inter_log *log);
void mr_sequences_free(mr_sequences *q);

/* Drop users with fewer than max(k, min_len) interactions and items with fewer than k, again and
 * again until nothing changes. Numbers of what is left are compacted; user_id and item_id follow.
 * In place. ERR_DATA when nothing is left. */
mr_status mr_sequences_k_core(mr_sequences *q, int64_t k, int64_t min_len, const char *path);

#endif
