/* The record of a run: metrics.jsonl, one JSON object a line, and the same numbers as TensorBoard
 * scalars. Written by rank 0; every function accepts NULL and then does nothing, so that the loop
 * is the same on all ranks. What it is not: needed for resuming; a write that fails is warned about
 * once and training goes on. */
#ifndef MR_TRAIN_RECORD_H
#define MR_TRAIN_RECORD_H

#include <stdint.h>

#include "base/status.h"

typedef struct mr_record mr_record;
/* Append to the record in folder. resume_step >= 0: the run goes on from that step, lines of later
 * steps (and a line that was cut off) are dropped first; -1: nothing is dropped. ERR_IO. Local. */
mr_status mr_record_open(mr_record **out_p, const char *folder, int64_t resume_step);
void mr_record_close(mr_record **r_p);

/* One line: begin, fields, end. Every line has "event" and "step"; numbers have 9 significant
 * digits, NaN and infinities become null. end() writes the line and, for each real field, the
 * scalar
 * "<event>/<key>". */
void mr_record_begin(mr_record *r, const char *event, int64_t step);
void mr_record_int(mr_record *r, const char *key, int64_t value);
void mr_record_real(mr_record *r, const char *key, double value);
void mr_record_text(mr_record *r, const char *key, const char *value);
void mr_record_end(mr_record *r);

#endif
