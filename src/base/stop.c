/* The handler of the signals that ask for a stop.
 * Invariant: the handler touches one flag; everything else is done by who asks for it. */
#include "base/stop.h"

#include <string.h>
#include <unistd.h>

static const int signals[] = {SIGTERM, SIGINT, SIGUSR1, SIGUSR2};
enum { N_SIGNALS = sizeof signals / sizeof *signals };

static volatile sig_atomic_t requested, first_signal;
static struct sigaction before[N_SIGNALS]; /* nohup, say, had one of them ignored */

static void on_signal(int sig)
{
    if (requested) _exit(130);
    first_signal = sig;
    requested = 1;
}

void mr_stop_block(bool on)
{
    sigset_t set;
    sigemptyset(&set);
    for (int i = 0; i < N_SIGNALS; i++) sigaddset(&set, signals[i]);
    sigprocmask(on ? SIG_BLOCK : SIG_UNBLOCK, &set, NULL);
}

void mr_stop_catch(void)
{
    struct sigaction a;
    memset(&a, 0, sizeof a);
    a.sa_handler = on_signal;
    a.sa_flags = SA_RESTART; /* a library's read must not fail because somebody asked */
    for (int i = 0; i < N_SIGNALS; i++) sigaction(signals[i], &a, &before[i]);
}

void mr_stop_release(void)
{
    for (int i = 0; i < N_SIGNALS; i++) sigaction(signals[i], &before[i], NULL);
    if (requested) raise(first_signal);
}

volatile sig_atomic_t *mr_stop_flag(void) { return &requested; }
