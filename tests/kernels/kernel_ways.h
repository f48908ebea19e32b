/* Running a kernel in every way a test wants: both precisions, 1 and 3 threads, with outputs put
 * back in between. The bits of every output must not depend on the number of threads. */
#ifndef MR_TESTS_KERNEL_WAYS_H
#define MR_TESTS_KERNEL_WAYS_H

#include "../ops_a/kernel_pair.h"

enum { MAX_OUTPUTS = 6 };
typedef struct outputs {
    int n, threads;
    pair *p[MAX_OUTPUTS], before[MAX_OUTPUTS], first[MAX_OUTPUTS];
} outputs;

/* n pairs; their present contents are what every run starts from. */
outputs outputs_of(int n, ...);
void outputs_begin(outputs *o, int way);
/* After the last way: compares with the first one, then frees what outputs_of made. */
void outputs_end(outputs *o, int way);

/* ... = one statement using k and P() as in BOTH_TABLES. */
#define EVERY_WAY(outs, ...)                                                                       \
    for (int way = 0; way < 2; way++) {                                                            \
        outputs_begin(&(outs), way);                                                               \
        BOTH_TABLES { __VA_ARGS__; }                                                               \
        outputs_end(&(outs), way);                                                                 \
    }

#define COUNT(a) ((int)(sizeof(a) / sizeof *(a)))
#define FREE_ALL(...)                                                                              \
    do {                                                                                           \
        pair *all_[] = {__VA_ARGS__};                                                              \
        for (int i_ = 0; i_ < COUNT(all_); i_++) pair_free(all_[i_]);                              \
    } while (0)

#endif
