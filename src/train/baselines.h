/* Baselines without learning, exact: popularity and a first-order Markov chain. Integer hits that a
 * few lines of Python reproduce (tests/golden/oracles.py). */
#ifndef MR_TRAIN_BASELINES_H
#define MR_TRAIN_BASELINES_H

#include "data/dataset.h"

/* 1-based rank of the test target of every user with a test row (0 for the others), [n_users].
 * popularity: items by how often they occur in the training parts s_1..s_{n-2}. markov: by how
 * often they follow the last item of the test history inside the training parts, equal counts by
 * popularity. Equal scores: the lower id ranks first. Not collective. */
mr_status mr_rank_popularity(const mr_dataset *d, int32_t *rank);
mr_status mr_rank_markov(const mr_dataset *d, int32_t *rank);

#endif
