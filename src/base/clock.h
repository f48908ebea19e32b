/* Time that only goes forward. */
#ifndef MR_BASE_CLOCK_H
#define MR_BASE_CLOCK_H

/* Seconds since some moment that is the same for the whole process. Any thread. */
double mr_seconds(void);

#endif
