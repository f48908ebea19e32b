/* Do all ranks see the same facts? A rank started with another program, other arguments or other
 * files would wait for the others for ever, or compute nonsense with them. */
#ifndef MR_DIST_AGREE_H
#define MR_DIST_AGREE_H

#include "dist/comm.h"

#define MR_FACT_TEXT 1024

typedef struct mr_fact {
    const char *name; /* borrowed; the same on all ranks */
    char text[MR_FACT_TEXT];
} mr_fact;

/* Collective; n is compared first. ERR_CONFIG with a sentence that is the same on all ranks, names
 * up to 5 differing facts with the values and the ranks that hold them, and ends with `advice`. */
mr_status mr_agree_facts(mr_comm *world, const mr_fact *fact, int n, const char *advice);

#endif
