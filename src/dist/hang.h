/* Who keeps a job from going on: a judgement from the rings of all ranks (ring.h).
 * What it is not: communication; it reads files and can be made by anybody at any time. */
#ifndef MR_DIST_HANG_H
#define MR_DIST_HANG_H

#include <stdbool.h>
#include <stdio.h>

#include "base/status.h"
#include "dist/ring.h"

#define MR_HANG_REPORT "report.txt" /* beside the rings: what the watchdog said */

typedef enum mr_hang_kind {
    MR_HANG_NOBODY,  /* all wait in the same collective, or nothing is known to be wrong */
    MR_HANG_LEFT,    /* the rank has left the job while others wait */
    MR_HANG_STOPPED, /* its process does not run */
    MR_HANG_OTHER,   /* it makes another collective than the others */
    MR_HANG_BEHIND   /* it has not come to the collective in which the others wait */
} mr_hang_kind;

typedef struct mr_hang {
    mr_hang_kind kind;
    int size, culprit; /* lowest such rank; -1: none */
    char text[800];    /* one sentence */
} mr_hang;

/* Judge the n rings of a job; ring[r].size = 0: the file of rank r is not there. Local. */
void mr_hang_judge(mr_hang *out, const mr_ring *ring, int n);
/* Read the rings of the newest start in a folder, a run folder or its folder `hang`. *ring_p [*n_p]
 * is the caller's to MR_FREE. ERR_NO_INPUT when there is none, ERR_DATA, ERR_IO, ERR_MEMORY. */
mr_status mr_hang_read(const char *folder, mr_ring **ring_p, int *n_p);
/* What the watchdog said when it ended the job; false when it did not. It is better than a
 * judgement made later, because the end of a job changes what the rings say. */
bool mr_hang_report(char *text, size_t bytes, const char *folder);
/* The judgement and the last entries of every rank, as text. */
void mr_hang_print(const mr_hang *h, const mr_ring *ring, int n, FILE *out);

#endif
