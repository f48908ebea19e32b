/* Room for tokens: chosen before the first step, made larger between two steps.
 * Invariant: the number of tokens that are computed with (rounded counts) goes by the capacity of
 * the rows and not by the room, so the room changes no bit. */
#include "train/room.h"

#include "base/log.h"

mr_status mr_room_first(mr_trainer *t, int64_t *tokens_p)
{
    int64_t rows = t->batch.rows_cap, full = rows * t->batch.L;
    *tokens_p = 0;
    if (!t->dev->whole_products) return MR_OK;
    int64_t most = mr_sampler_tokens_most(t->sampler, 0, rows);
    t->world->purpose = MR_FOR_LARGEST;
    MR_TRY(t->world->allreduce(t->world, &most, 1, MR_I64, MR_MAX));
    *tokens_p = mr_run_rounded(mr_run_rounded(most, full) + 1, full);
    return MR_OK;
}

mr_status mr_room_make(mr_trainer *t, const mr_batch *b, const mr_counts *most)
{
    int64_t room = t->train_graph->dims.tokens_cap;
    int64_t tokens = mr_run_tokens(t->train_run, b, most);
    if (room == 0 || tokens <= room) return MR_OK;
    mr_trainer_end_training(t);
    mr_info("a batch has %lld tokens, and a step had room for %lld: it gets more",
            (long long)tokens, (long long)room);
    MR_TRY(mr_trainer_compile(t, tokens));
    return mr_trainer_run(t, &t->train_run, t->train_plan);
}
