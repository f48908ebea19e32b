/* Text features from titles: the mean GloVe vector of a title's lowercased words.
 * What it is not: a language model; tools/encode_titles.py runs one and import reads its npy. */
#ifndef MR_DATA_TITLES_GLOVE_H
#define MR_DATA_TITLES_GLOVE_H

#include <stdint.h>

#include "base/status.h"

typedef struct mr_title_report {
    int64_t without_title, without_word; /* items that got the mean vector, by reason */
    int64_t words, known_words;          /* distinct words of the titles; found in the GloVe file */
} mr_title_report;

/* ids[i] = original id of item i, [items]. *out = [items, *width] float32, caller frees.
 * titles: CSV with a header that names `item` and `title`. Words are runs of ASCII letters and
 * digits and of bytes >= 128, ASCII letters lowercased. An item without a title or without a known
 * word gets the mean over the other items. ERR_NO_INPUT, ERR_DATA (also when no item has a known
 * word), ERR_IO. */
mr_status mr_titles_glove(float **out, int64_t *width, mr_title_report *report,
                          const char *const *ids, int64_t items, const char *titles,
                          const char *glove);

#endif
