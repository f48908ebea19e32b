/* Synthetic data sets with a planted preference structure (docs/data-format.md tells it in full).
 * An item has a topic, a rank inside its topic, and a cue: the topic that its viewers turn to next.
 * The topic shows in visual and text; the cue shows only in the one or two salient frames (and, for
 * half of the items, faintly in the text); the other frames are background. The next click goes to
 * the cue's topic, or to one of the user's drifting interests, or is noise. Inside a topic half of
 * the clicks follow popularity, and the click before such a click is mostly on a rare item, which
 * no id embedding can know while its frames show where the user goes next. What it is not: a
 * likeness of real behaviour. Results on it say nothing about accuracy elsewhere. */
#ifndef MR_DATA_SYNTH_H
#define MR_DATA_SYNTH_H

#include "base/status.h"
#include "data/dataset.h"

typedef struct mr_synth_spec {
    char name[64];
    int64_t users, items, inter; /* reached exactly; every item is clicked at least once */
    int64_t frames;              /* K; 0 = no frames, else >= 2 */
    int64_t width;               /* D of visual and frames; 0 = neither */
    int64_t text_width;          /* d_h; 0 = no text */
    int64_t topics;              /* 0 = chosen from the number of items */
    double p_cue, p_noise;       /* share of clicks that follow the cue, that are random */
    double p_tail;               /* chance of a rare item after a popular one, and the reverse */
    mr_dtype dtype;              /* MR_F32 or MR_F16 */
    uint64_t seed;
} mr_synth_spec;

/* Named shapes: demo, microlens-small, microlens-big, shortvideo-small, shortvideo-big (model.md
 * §9). ERR_USAGE for another word, naming the nearest. */
mr_status mr_synth_spec_for(const char *shape, mr_synth_spec *out);
extern const char *const mr_synth_shapes[];
extern const int mr_synth_n_shapes;

/* The same spec gives the same bytes on every machine and number of ranks (integer draws; no libm).
 * Not collective. The caller frees *out. ERR_USAGE for impossible counts, ERR_MEMORY. */
mr_status mr_synth(mr_dataset *out, const mr_synth_spec *spec);

#endif
