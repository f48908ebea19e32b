/* The nearest known word to a misspelt one.
 * What it is not: a search; a word further away than a third of its length is no suggestion.
 * Invariant: the answer is one of the given words, the first of the nearest ones. */
#include "base/config.h"

#include <string.h>

enum { LONGEST = 64 };

static int min3(int a, int b, int c)
{
    int m = a < b ? a : b;
    return m < c ? m : c;
}

/* Edit distance with swaps of neighbours (optimal string alignment); both at most LONGEST long. */
static int distance(const char *a, const char *b)
{
    int na = (int)strlen(a), nb = (int)strlen(b);
    int d[LONGEST + 1][LONGEST + 1];
    for (int i = 0; i <= na; i++) d[i][0] = i;
    for (int j = 0; j <= nb; j++) d[0][j] = j;
    for (int i = 1; i <= na; i++) {
        for (int j = 1; j <= nb; j++) {
            int change = a[i - 1] != b[j - 1];
            d[i][j] = min3(d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + change);
            bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            if (swapped && d[i - 2][j - 2] + 1 < d[i][j]) d[i][j] = d[i - 2][j - 2] + 1;
        }
    }
    return d[na][nb];
}

const char *mr_nearest_word(const char *word, const char *const *words, int n)
{
    const char *best = NULL;
    size_t len = strlen(word);
    if (len == 0 || len > LONGEST) return NULL;
    int limit = len < 3 ? 1 : (int)(len + 2) / 3, best_distance = limit + 1;
    for (int i = 0; i < n; i++) {
        if (strlen(words[i]) > LONGEST) continue;
        int d = distance(word, words[i]);
        if (d < best_distance) {
            best_distance = d;
            best = words[i];
        }
    }
    return best;
}
