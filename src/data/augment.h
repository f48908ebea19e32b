/* CL4SRec's two augmented views of a history (model.md §2). */
#ifndef MR_DATA_AUGMENT_H
#define MR_DATA_AUGMENT_H

#include <stdint.h>

typedef struct mr_augment {
    uint64_t seed;
    double crop, mask, reorder; /* shares of the length, 0..1 */
    int32_t mask_id;            /* n_items + 1 */
} mr_augment;

/* view[0], view[1]: room for n ids each, must not overlap items; len[0..1] their lengths (1..n).
 * items: [n] ids, n >= 1, only read. A pure function of (a, items, step, rid). Views of a history
 * of one item are that history. Not collective. */
void mr_augment_views(const mr_augment *a, const int32_t *items, int32_t n, uint32_t step,
                      uint32_t rid, int32_t *const view[2], int32_t len[2]);

#endif
