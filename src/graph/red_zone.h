/* Red zones of check mode (a private plan): behind the used part of every buffer of the workspace
 * lie bytes of poison that no kernel may touch. What it is not: a check of parameters and their
 * gradients, which lie close together. */
#ifndef MR_GRAPH_RED_ZONE_H
#define MR_GRAPH_RED_ZONE_H

#include "graph/run.h"

/* Poison the whole workspace: for a new batch, which may fill its buffers less than the last. */
mr_status mr_red_zones_fill(mr_run *r);
/* After step number `step` of the plan (forward first), which ran node id: is the poison behind
 * every buffer that is live in it as it was? ERR_INTERNAL names node and buffer. */
mr_status mr_red_zones_check(mr_run *r, int step, int id);

#endif
