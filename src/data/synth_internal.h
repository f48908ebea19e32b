/* Shared by synth.c and synth_features.c only. */
#ifndef MR_DATA_SYNTH_INTERNAL_H
#define MR_DATA_SYNTH_INTERNAL_H

#include "data/synth.h"

/* Streams (the step word of the random counter) inside MR_RNG_SYNTH. */
enum {
    MR_SYNTH_TOPICS = 1,
    MR_SYNTH_ITEM,
    MR_SYNTH_LENGTH,
    MR_SYNTH_CLICK,
    MR_SYNTH_EXPLORE,
    MR_SYNTH_SALIENT,
    MR_SYNTH_VISUAL,
    MR_SYNTH_FRAMES,
    MR_SYNTH_TEXT,
    MR_SYNTH_PROTOTYPE = 32 /* + kind */
};

typedef struct mr_latent {
    int64_t topics;
    int32_t *topic, *cue; /* [items] */
    int32_t *order;       /* [items] by topic, most popular first */
    int64_t *first;       /* [topics + 1] into order */
    double *weight;       /* cumulative popularity by rank inside a topic */
} mr_latent;

/* Fills visual, frames, text of d, whose counts are set. */
mr_status mr_synth_features(mr_dataset *d, const mr_synth_spec *s, const mr_latent *z);

#endif
