/* Ranks of the baselines as npy files, for test_baselines.py:
 * baseline_ranks DATA.h5 POPULARITY.npy MARKOV.npy */
#include <stdio.h>

#include "base/log.h"
#include "base/mem.h"
#include "io/h5_dataset.h"
#include "io/npy_write.h"
#include "train/baselines.h"

static mr_status write_ranks(const char *path, const int32_t *rank, int64_t n)
{
    mr_npy_writer *w = NULL;
    MR_TRY(mr_npy_create(&w, path, MR_I32, 1, &n));
    MR_TRY(mr_npy_append(w, rank, n));
    return mr_npy_finish(&w);
}

int main(int argc, char **argv)
{
    mr_dataset d = {0};
    int32_t *rank = NULL;
    mr_log_init(-1, MR_LOG_ERROR);
    if (argc != 4) {
        printf("usage: baseline_ranks DATA.h5 POPULARITY.npy MARKOV.npy\n");
        return 2;
    }
    mr_status st = mr_h5_dataset_read(&d, argv[1], NULL);
    if (st == MR_OK) st = MR_ALLOC(&rank, d.n_users, "ranks");
    if (st == MR_OK) st = mr_rank_popularity(&d, rank);
    if (st == MR_OK) st = write_ranks(argv[2], rank, d.n_users);
    if (st == MR_OK) st = mr_rank_markov(&d, rank);
    if (st == MR_OK) st = write_ranks(argv[3], rank, d.n_users);
    MR_FREE(rank);
    mr_dataset_free(&d);
    return mr_exit_code(st);
}
