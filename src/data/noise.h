/* Robustness noise on stored visual features. */
#ifndef MR_DATA_NOISE_H
#define MR_DATA_NOISE_H

#include "data/dataset.h"

/* Add N(0, sigma^2) to every element of `visual` and `frames`, one draw per item and element that
 * is a function of (seed, item, element), so the same in training and evaluation and on all ranks.
 * Half precision features become float. */
mr_status mr_dataset_add_noise(mr_dataset *d, double sigma, uint64_t seed);

#endif
