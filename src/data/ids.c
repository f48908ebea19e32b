/* Comparison and look-up of original ids.
 * Invariant: ids are NUL-terminated here; a stored table may use its whole width without a NUL. */
#include "data/ids.h"

#include <string.h>

bool mr_id_is_integer(const char *s)
{
    if (*s == '-') s++;
    if (!*s) return false;
    for (; *s; s++)
        if (*s < '0' || *s > '9') return false;
    return true;
}

static int sign_of(int x) { return (x > 0) - (x < 0); }

int mr_id_compare(const char *a, const char *b, bool numeric)
{
    if (!numeric) return sign_of(strcmp(a, b));
    bool na = *a == '-', nb = *b == '-';
    const char *p = a + na, *q = b + nb;
    while (*p == '0' && p[1]) p++;
    while (*q == '0' && q[1]) q++;
    if (na != nb && !(*p == '0' && *q == '0')) return na ? -1 : 1;
    size_t lp = strlen(p), lq = strlen(q);
    int c = lp != lq ? (lp < lq ? -1 : 1) : sign_of(strcmp(p, q));
    if (c == 0) return sign_of(strcmp(a, b));
    return na ? -c : c;
}

/* Copy row i of a table and end it with NUL. */
static const char *row(const char *table, int64_t i, int64_t width, char out[MR_ID_MAX + 1])
{
    size_t n = (size_t)(width < MR_ID_MAX ? width : MR_ID_MAX);
    memcpy(out, table + i * width, n);
    out[n] = '\0';
    return out;
}

bool mr_ids_numeric(const char *table, int64_t n, int64_t width)
{
    char id[MR_ID_MAX + 1];
    for (int64_t i = 0; i < n; i++)
        if (!mr_id_is_integer(row(table, i, width, id))) return false;
    return true;
}

int64_t mr_id_find(const char *table, int64_t n, int64_t width, const char *id)
{
    char buf[MR_ID_MAX + 1];
    /* The table's own rule of order decides, whatever the wanted id looks like. */
    bool numeric = mr_ids_numeric(table, n, width);
    if (numeric && !mr_id_is_integer(id)) return -1;
    int64_t lo = 0, hi = n - 1;
    while (lo <= hi) {
        int64_t mid = lo + (hi - lo) / 2;
        int c = mr_id_compare(row(table, mid, width, buf), id, numeric);
        if (c == 0) return mid;
        if (c < 0)
            lo = mid + 1;
        else
            hi = mid - 1;
    }
    return -1;
}
