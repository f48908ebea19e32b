/* A request to stop, made by a signal: TERM, INT, USR1 or USR2.
 * The first one sets a flag that the training loop asks for between two steps; a second one ends
 * the process at once with exit code 130. What it is not: agreement between ranks (train/loop.c).
 */
#ifndef MR_BASE_STOP_H
#define MR_BASE_STOP_H

#include <signal.h>
#include <stdbool.h>

/* Hold the four signals back / let them through, in this thread. What is held back survives exec().
 */
void mr_stop_block(bool on);
/* From here on the signals only ask. Called first thing in main, so that a request that comes while
 * a job starts is not lost and kills nobody. */
void mr_stop_catch(void);
/* The signals kill again, as for commands that have nothing to save; one that came since
 * mr_stop_catch takes effect now. */
void mr_stop_release(void);
/* Not 0 after a request. */
volatile sig_atomic_t *mr_stop_flag(void);

#endif
