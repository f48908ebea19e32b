/* A world, a device, a graph and what it takes to run it: the frame of a test of ops. Everything
 * fails the test by itself. */
#ifndef MR_TESTS_OP_RIG_H
#define MR_TESTS_OP_RIG_H

#include "op_world.h"

enum { OP_RIG_SEED = 77 }; /* of the run's random draws */

typedef struct op_rig {
    op_world w;
    mr_device *dev;
    mr_params ps;
    mr_graph *g;
    mr_plan *plan;
    mr_run *run;
} op_rig;

/* The world of sizes s, and an empty graph on the device. train: dropout is on. */
void op_rig_start(op_rig *r, const op_sizes *s, const char *device, bool train);
/* The same for a world that is in r->w already; the rest of r is zero. */
void op_rig_open(op_rig *r, const char *device, bool train);
/* Parameters with random values, plan and run of the graph, which must be free of errors.
 * is_private: no memory is shared between buffers. */
void op_rig_compile(op_rig *r, bool with_backward, bool is_private);
void op_rig_stop(op_rig *r);

#endif
