/* The record of a run: metrics.jsonl, one JSON object a line, and the same numbers as TensorBoard
 * scalars. Written by rank 0; every function accepts NULL and then does nothing, so that the loop
 * is the same on all ranks. What it is not: needed for resuming; a write that fails is warned about
 * once and training goes on. */
#ifndef MR_TRAIN_RECORD_H
#define MR_TRAIN_RECORD_H

#include <jansson.h>
#include <stdint.h>

#include "base/status.h"

typedef struct mr_record mr_record;
/* Append to the record in folder. resume_step >= 0: the run goes on from that step, lines of later
 * steps (and a line that was cut off) are dropped first; -1: nothing is dropped. ERR_IO. Local. */
mr_status mr_record_open(mr_record **out_p, const char *folder, int64_t resume_step);
void mr_record_close(mr_record **r_p);

/* An object to be filled in with json_object_set_new and handed to mr_record_event, whose line is
 * then whole: when memory runs out in between there is none, and no further ones. */
json_t *mr_record_begin(const char *event);
/* One line. Takes the object over; r is an mr_record or NULL (the form of mr_event_fn in loop.h).
 * Numbers are written with 9 significant digits; each real one is also the scalar "<event>/<key>"
 * at the event's "step", or at that of the event before when it has none. */
void mr_record_event(void *r, json_t *event);
/* A number, or null for NaN and infinities, which JSON does not have (json_real would give NULL).
 */
json_t *mr_json_real(double x);

#endif
