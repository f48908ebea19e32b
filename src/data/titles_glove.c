/* Titles to mean GloVe vectors.
 * Invariant: only words that occur in a title are kept, so a GloVe file of any size costs little
 * memory. */
#include "data/titles_glove.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "data/id_table.h"
#include "data/open_stream.h"

typedef struct work {
    mr_id_table items, words;
    int32_t *token; /* [tokens] word numbers, title after title */
    int64_t tokens, token_cap;
    int64_t *first, *last; /* [items] tokens of an item; first = -1: no title */
    float *vector;         /* [words, width] */
    bool *known;           /* [words] */
    int64_t width;
} work;

static bool is_word_byte(unsigned char c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c >= 128;
}

static mr_status add_title(work *w, int64_t item, char *title)
{
    w->first[item] = w->tokens;
    for (char *p = title; *p;) {
        if (!is_word_byte((unsigned char)*p)) {
            p++;
            continue;
        }
        char *from = p;
        for (; is_word_byte((unsigned char)*p); p++)
            if (*p >= 'A' && *p <= 'Z') *p = (char)(*p + 32);
        MR_TRY(
            mr_grow((void **)&w->token, &w->token_cap, w->tokens + 1, sizeof *w->token, "words"));
        MR_TRY(mr_id_intern(&w->words, from, p - from, &w->token[w->tokens]));
        w->tokens++;
    }
    w->last[item] = w->tokens;
    return MR_OK;
}

static int find_column(const mr_csv *r, const char *a, const char *b)
{
    for (int i = 0; i < r->n; i++)
        if (strcmp(r->field[i], a) == 0 || strcmp(r->field[i], b) == 0) return i;
    return -1;
}

static mr_status read_titles(work *w, mr_stream *s, mr_csv *r)
{
    MR_TRY(mr_csv_record(r, s));
    int item = find_column(r, "item", "item_id"), title = find_column(r, "title", "text");
    int n = r->n;
    MR_CHECK(item >= 0 && title >= 0, MR_ERR_DATA,
             "%s: the first line must name the columns item and title", s->path);
    for (;;) {
        MR_TRY(mr_csv_record(r, s));
        if (r->n == 0) return MR_OK;
        if (r->n == 1 && !*r->field[0]) continue;
        MR_CHECK(r->n == n, MR_ERR_DATA, "%s: line %lld has %d fields; the header has %d", s->path,
                 (long long)s->line, r->n, n);
        int32_t i = mr_id_lookup(&w->items, r->field[item], (int64_t)strlen(r->field[item]));
        if (i < 0) continue; /* an item without interactions */
        MR_CHECK(w->first[i] < 0, MR_ERR_DATA, "%s: line %lld: item %s has a second title", s->path,
                 (long long)s->line, r->field[item]);
        MR_TRY(add_title(w, i, r->field[title]));
    }
}

static int64_t count_fields(const char *p)
{
    int64_t n = 0;
    for (;;) {
        p += strspn(p, " \t");
        if (!*p) return n;
        n++;
        p += strcspn(p, " \t");
    }
}

static mr_status read_vector(float *out, int64_t width, const mr_stream *s, char *p)
{
    for (int64_t i = 0; i < width; i++) {
        char *end;
        double v = strtod(p, &end);
        MR_CHECK(end != p && isfinite(v) && fabs(v) < 1e30, MR_ERR_DATA,
                 "%s: line %lld: number %lld is missing or not finite", s->path, (long long)s->line,
                 (long long)(i + 1));
        out[i] = (float)v;
        p = end;
    }
    p += strspn(p, " \t");
    MR_CHECK(!*p, MR_ERR_DATA, "%s: line %lld has more than %lld numbers", s->path,
             (long long)s->line, (long long)width);
    return MR_OK;
}

static mr_status read_glove_line(work *w, const mr_stream *s, char *line)
{
    int64_t fields = count_fields(line);
    if (s->line == 1 && fields == 2) return MR_OK; /* word2vec's header: words, width */
    if (fields == 0) return MR_OK;
    if (w->width == 0) {
        MR_CHECK(fields >= 3 && fields <= 8193, MR_ERR_DATA,
                 "%s: line %lld has %lld fields; `word number number ...` was expected", s->path,
                 (long long)s->line, (long long)fields);
        w->width = fields - 1;
        MR_TRY(MR_ALLOC(&w->vector, w->words.n * w->width, "word vectors"));
    }
    MR_CHECK(fields > w->width, MR_ERR_DATA, "%s: line %lld has %lld fields; %lld were expected",
             s->path, (long long)s->line, (long long)fields, (long long)(w->width + 1));
    if (fields > w->width + 1) return MR_OK; /* a word with blanks in it: no title word */
    size_t len = strcspn(line, " \t");
    int32_t i = mr_id_lookup(&w->words, line, (int64_t)len);
    if (i < 0 || w->known[i]) return MR_OK;
    w->known[i] = true;
    return read_vector(w->vector + i * w->width, w->width, s, line + len);
}

static mr_status read_glove(work *w, mr_stream *s)
{
    char *line;
    int64_t len;
    for (;;) {
        MR_TRY(mr_stream_line(s, &line, &len));
        if (!line) break;
        MR_TRY(read_glove_line(w, s, line));
    }
    MR_CHECK(w->width > 0, MR_ERR_DATA, "%s holds no word vectors", s->path);
    return MR_OK;
}

/* Mean over the known words of each title; items without one get the mean over the items with one.
 */
static mr_status average(float *out, const work *w, int64_t items, mr_title_report *rep,
                         const char *titles, const char *glove)
{
    double *sum = NULL;
    bool *has = NULL;
    int64_t with = 0, d = w->width;
    MR_TRY(MR_ALLOC(&sum, 2 * d, "sum of vectors"));
    mr_status st = MR_ALLOC(&has, items, "items with words");
    double *all = sum + d;
    for (int64_t i = 0; i < items && st == MR_OK; i++) {
        int64_t n = 0;
        memset(sum, 0, sizeof *sum * (size_t)d);
        for (int64_t t = w->first[i]; t >= 0 && t < w->last[i]; t++) {
            if (!w->known[w->token[t]]) continue;
            for (int64_t j = 0; j < d; j++) sum[j] += (double)w->vector[w->token[t] * d + j];
            n++;
        }
        rep->without_title += w->first[i] < 0;
        rep->without_word += w->first[i] >= 0 && n == 0;
        if (n == 0) continue;
        has[i] = true;
        with++;
        for (int64_t j = 0; j < d; j++) {
            out[i * d + j] = (float)(sum[j] / (double)n);
            all[j] += sum[j] / (double)n;
        }
    }
    if (st == MR_OK && with == 0)
        st = MR_RAISE(MR_ERR_DATA,
                      "%s: no title of any item has a word of %s; are both in the same language, "
                      "and are the item ids those of the interactions?",
                      titles, glove);
    for (int64_t i = 0; i < items && st == MR_OK; i++)
        for (int64_t j = 0; j < d && !has[i]; j++) out[i * d + j] = (float)(all[j] / (double)with);
    MR_FREE(has);
    MR_FREE(sum);
    return st;
}

static mr_status with_stream(work *w, const char *path, bool is_titles)
{
    mr_stream s;
    mr_csv r = {0};
    MR_TRY(mr_stream_open(&s, path));
    mr_status st = is_titles ? read_titles(w, &s, &r) : read_glove(w, &s);
    mr_csv_free(&r);
    mr_stream_close(&s);
    return st;
}

static mr_status run(work *w, float **out, mr_title_report *rep, const char *const *ids,
                     int64_t items, const char *titles, const char *glove)
{
    MR_TRY(MR_ALLOC(&w->first, items, "titles"));
    MR_TRY(MR_ALLOC(&w->last, items, "titles"));
    for (int64_t i = 0; i < items; i++) {
        int32_t number;
        MR_TRY(mr_id_intern(&w->items, ids[i], (int64_t)strlen(ids[i]), &number));
        w->first[i] = -1;
    }
    MR_TRY(with_stream(w, titles, true));
    MR_CHECK(w->words.n > 0, MR_ERR_DATA, "%s has no word in the title of any item of the log",
             titles);
    MR_TRY(MR_ALLOC(&w->known, w->words.n, "known words"));
    MR_TRY(with_stream(w, glove, false));
    MR_TRY(MR_ALLOC(out, items * w->width, "text features"));
    rep->words = w->words.n;
    for (int64_t i = 0; i < w->words.n; i++) rep->known_words += w->known[i];
    return average(*out, w, items, rep, titles, glove);
}

mr_status mr_titles_glove(float **out, int64_t *width, mr_title_report *report,
                          const char *const *ids, int64_t items, const char *titles,
                          const char *glove)
{
    work w = {0};
    float *vectors = NULL;
    mr_title_report rep = {0};
    mr_status st = run(&w, &vectors, &rep, ids, items, titles, glove);
    mr_id_table_free(&w.items);
    mr_id_table_free(&w.words);
    MR_FREE(w.token);
    MR_FREE(w.first);
    MR_FREE(w.last);
    MR_FREE(w.vector);
    MR_FREE(w.known);
    if (st != MR_OK) {
        MR_FREE(vectors);
        return st;
    }
    *out = vectors;
    *width = w.width;
    *report = rep;
    return MR_OK;
}
