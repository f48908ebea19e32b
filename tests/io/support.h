/* A small model made by hand and a folder to write in, for the tests of files. */
#ifndef TESTS_IO_SUPPORT_H
#define TESTS_IO_SUPPORT_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "dist/comm.h"
#include "graph/params.h"
#include "io/checkpoint.h"

typedef struct toy {
    mr_device *dev;
    mr_params ps;
} toy;

/* Sharded tables, a convolution, a parameter of three parts, small and large ones. grow: rows added
 * to one tensor, so that shapes differ. */
void toy_open(toy *t, mr_dtype real, int rank, int n_ranks, bool with_optimizer, int grow);
void toy_close(toy *t);
/* Every element of value, m and v a function of its global place and of `salt`. */
void toy_fill(toy *t, int salt);
/* Number of tensors (times buffers) that differ from toy_fill(salt) in any bit. */
int toy_differs(toy *t, int salt);

mr_train_state toy_state(int64_t step);
/* A new empty folder with the same name on all ranks. */
void folder_make(char path[256], mr_comm *world);
void folder_remove(const char *path, mr_comm *world);
mr_checkpoint_save_args toy_args(toy *t, const char *dir, const mr_train_state *s, mr_comm *world);
mr_status toy_save(toy *t, const char *dir, int64_t step, mr_comm *world, bool is_best, int keep);

#endif
