/* Two trainers of one configuration that must not differ: one that records its work and one that
 * does not, for instance. */
#ifndef MR_TESTS_TRAINER_PAIR_H
#define MR_TESTS_TRAINER_PAIR_H

#include "train/trainer.h"

/* The defaults, with the smallest widths of all models that make sense. */
void pair_small_model(mr_config *c);
/* A trainer with dropout and optimizer for whole steps; device NULL: the configuration's. The
 * caller frees. Collective. */
mr_trainer *pair_trainer(const mr_config *c, const mr_dataset *data, mr_comm *world,
                         const char *device);
/* Have both the same parameters on this rank, to the bit? */
bool pair_has_same_values(mr_trainer *a, mr_trainer *b);
/* Asserts that users' best items of the test split and their scores are the same, to the bit.
 * Collective. */
void pair_assert_same_scores(mr_trainer *a, mr_trainer *b);
/* Steps of `other`, which has done none, and of a trainer with the settings c that starts with room
 * for the tokens of a small batch: it gets more when a larger one comes, after recordings and an
 * evaluation, and does what the other does, bit for bit. Collective. */
void pair_little_room(const mr_config *c, mr_trainer *other);

#endif
