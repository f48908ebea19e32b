/* The demo: popularity, the backbone alone and MealRec on the built-in synthetic data set. */
#ifndef MR_TRAIN_DEMO_H
#define MR_TRAIN_DEMO_H

#include "base/config.h"

/* Collective. Starts communication itself, trains both models in run folders under cfg->run.dir and
 * prints the table on standard output (rank 0). */
mr_status mr_demo_run(const mr_config *cfg, int argc, const char *const *argv);

#endif
