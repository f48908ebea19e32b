/* Room for the tokens of a training step on a GPU. A batch of full histories has rows_cap * L of
 * them and no real batch does, so a step has room for what batches have, and gets more when one has
 * more. On a CPU nothing of this happens: pages that are not touched cost nothing. */
#ifndef MR_TRAIN_ROOM_H
#define MR_TRAIN_ROOM_H

#include "train/trainer.h"

/* mr_graph_dims.tokens_cap of a training to begin with: the most that a batch of epoch 0 has on any
 * rank, rounded up as a step rounds it, and one unit of that rounding more; 0 where a step is
 * computed in pieces. The same on all ranks. Collective. */
mr_status mr_room_first(mr_trainer *t, int64_t *tokens_p);
/* Before batch b is handed to t->train_run, with the counts `most` that ranks have agreed on (NULL:
 * this rank's own): where it does not fit, t->train_graph, t->train_plan and t->train_run are made
 * anew, with room for it, what was recorded is forgotten, and what evaluates is made anew at its
 * next use. Changes no bit. ERR_MEMORY: no room; nothing of the step has happened. Not collective,
 * but all ranks that compute with the same counts do the same. */
mr_status mr_room_make(mr_trainer *t, const mr_batch *b, const mr_counts *most);

#endif
