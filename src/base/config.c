/* The option table: defaults, parsing one value, formatting one value, origins, hash.
 * What it is not: the file reader (config_yaml.c), pages and files for people (config_text.c),
 * relations between values (config_check.c).
 * Invariants: mr_config_format gives a text that mr_config_set reads back to the same value; a
 * refused value changes nothing. */
#include "base/config_table.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

/* The type that a field of mr_config must have, so that options.def and the struct cannot differ.
 */
#define FIELD(section, name) (((mr_config *)0)->section.name)
#define FITS(type, section, name)                                                                  \
    (_Generic(FIELD(section, name),                                                                \
         bool: MR_OPT_##type == MR_OPT_BOOL,                                                       \
         int: MR_OPT_##type == MR_OPT_WORD,                                                        \
         int64_t: MR_OPT_##type == MR_OPT_INT,                                                     \
         double: MR_OPT_##type == MR_OPT_REAL,                                                     \
         char *: MR_OPT_##type == MR_OPT_STRING || MR_OPT_##type == MR_OPT_CHOICE,                 \
         mr_int_list: MR_OPT_##type == MR_OPT_INTS))
#define OPTION(section, name, type, ...)                                                           \
    _Static_assert(FITS(type, section, name), #section "." #name ": type differs from config.h");
#include "base/options.def"
#undef OPTION

enum { EFFECT_SETUP = 0, EFFECT_RESULT = 1 };

const mr_opt mr_opt_table[MR_OPT_COUNT] = {
#define OPTION(section, name, type, standard, accepts, effect, doc)                                \
    {#section,                                                                                     \
     #name,                                                                                        \
     #section "." #name,                                                                           \
     MR_OPT_##type,                                                                                \
     offsetof(mr_config, section.name),                                                            \
     standard,                                                                                     \
     accepts,                                                                                      \
     EFFECT_##effect,                                                                              \
     doc},
#include "base/options.def"
#undef OPTION
};

static mr_origin origins[MR_OPT_COUNT];

typedef struct interval {
    double lo, hi;
    bool is_lo_open, is_hi_open;
} interval;

static interval interval_of(const mr_opt *o)
{
    interval r;
    const char *p = o->accepts;
    char *end;
    r.is_lo_open = *p++ == '(';
    r.lo = strtod(p, &end);
    p = end + 1; /* the comma; strtod skips the blank and reads "inf" */
    r.hi = strtod(p, &end);
    r.is_hi_open = *end == ')';
    return r;
}

static bool is_inside(const interval *r, double x)
{
    return (r->is_lo_open ? x > r->lo : x >= r->lo) && (r->is_hi_open ? x < r->hi : x <= r->hi);
}

void mr_opt_split_words(const mr_opt *o, mr_opt_words *out_p)
{
    out_p->n = 0;
    snprintf(out_p->text, sizeof out_p->text, "%s", o->accepts);
    char *save = NULL;
    for (char *w = strtok_r(out_p->text, "|", &save); w; w = strtok_r(NULL, "|", &save))
        if (out_p->n < MR_OPT_WORDS_MAX) out_p->word[out_p->n++] = w;
}

static void range_text(const mr_opt *o, const char *symbol, char *buf, size_t buf_bytes)
{
    interval r = interval_of(o);
    const char *lt = r.is_lo_open ? "<" : "<=", *gt = r.is_lo_open ? ">" : ">=";
    if (isinf(r.hi))
        snprintf(buf, buf_bytes, "%s %s %.15g", symbol, gt, r.lo);
    else
        snprintf(buf, buf_bytes, "%.15g %s %s %s %.15g", r.lo, lt, symbol,
                 r.is_hi_open ? "<" : "<=", r.hi);
}

void mr_opt_accepts_text(const mr_opt *o, char *buf, size_t buf_bytes)
{
    char range[96];
    mr_opt_words w;
    size_t at;
    switch (o->type) {
    case MR_OPT_BOOL: snprintf(buf, buf_bytes, "true or false"); return;
    case MR_OPT_INT:
        range_text(o, "n", range, sizeof range);
        snprintf(buf, buf_bytes, "an integer, %s", range);
        return;
    case MR_OPT_REAL:
        range_text(o, "x", range, sizeof range);
        snprintf(buf, buf_bytes, "a number, %s", range);
        return;
    case MR_OPT_INTS:
        range_text(o, "n", range, sizeof range);
        snprintf(buf, buf_bytes, "a list of at most %d integers, each %s", MR_LIST, range);
        return;
    case MR_OPT_STRING: snprintf(buf, buf_bytes, "%s", o->accepts); return;
    case MR_OPT_WORD:
    case MR_OPT_CHOICE: break;
    }
    mr_opt_split_words(o, &w);
    at = (size_t)snprintf(buf, buf_bytes, "one of ");
    for (int i = 0; i < w.n && at < buf_bytes; i++)
        at += (size_t)snprintf(buf + at, buf_bytes - at, "%s%s", i ? ", " : "", w.word[i]);
}

static mr_status refuse(const mr_opt *o, const char *text, const char *origin, const char *why)
{
    char accepts[256];
    mr_opt_accepts_text(o, accepts, sizeof accepts);
    return MR_RAISE(MR_ERR_CONFIG, "%s: %s = '%.80s' %s; accepted: %s", origin, o->key, text, why,
                    accepts);
}

static mr_status parse_int(const mr_opt *o, const char *text, const char *origin, int64_t *out_p)
{
    interval r = interval_of(o);
    char *end;
    bool is_digit = (text[0] >= '0' && text[0] <= '9') ||
                    ((text[0] == '-' || text[0] == '+') && text[1] >= '0' && text[1] <= '9');
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (!is_digit || *end) return refuse(o, text, origin, "is not an integer");
    if (errno == ERANGE || !is_inside(&r, (double)v))
        return refuse(o, text, origin, "is out of range");
    *out_p = v;
    return MR_OK;
}

static mr_status parse_real(const mr_opt *o, const char *text, const char *origin, double *out_p)
{
    interval r = interval_of(o);
    char *end;
    errno = 0;
    double v = strtod(text, &end);
    /* strtod also reads hexadecimal, inf, nan and leading blanks; none is a number here. */
    bool is_plain = text[0] && text[strspn(text, "0123456789+-.eE")] == 0;
    if (!is_plain || *end) return refuse(o, text, origin, "is not a number");
    if (errno == ERANGE || !is_inside(&r, v)) return refuse(o, text, origin, "is out of range");
    *out_p = v == 0 ? 0 : v; /* -0 and 0 are the same value and must hash the same */
    return MR_OK;
}

static mr_status parse_word(const mr_opt *o, const char *text, const char *origin, int *out_p)
{
    mr_opt_words w;
    mr_opt_split_words(o, &w);
    for (int i = 0; i < w.n; i++)
        if (strcmp(text, w.word[i]) == 0) {
            *out_p = i;
            return MR_OK;
        }
    char why[96] = "is not a known word";
    const char *near = mr_nearest_word(text, w.word, w.n);
    if (near) snprintf(why, sizeof why, "is not a known word, did you mean '%s'?", near);
    return refuse(o, text, origin, why);
}

/* UTF-8 of visible characters and blanks: no control characters, line separators or surrogates, so
 * that a value fits one line of every file we write. */
static bool is_printable(const char *text)
{
    const unsigned char *p = (const unsigned char *)text;
    while (*p) {
        int more = *p < 0x80         ? 0
                   : (*p >> 5) == 6  ? 1
                   : (*p >> 4) == 14 ? 2
                   : (*p >> 3) == 30 ? 3
                                     : -1;
        static const uint32_t first[] = {0x20, 0xa0, 0x800,
                                         0x10000}; /* also refuses overlong forms */
        if (more < 0) return false;
        uint32_t c = more == 0 ? *p : *p & (0x3fu >> more);
        p++;
        for (int i = 0; i < more; i++, p++) {
            if ((*p & 0xc0) != 0x80) return false;
            c = c << 6 | (*p & 0x3fu);
        }
        bool is_bad = c < first[more] || c == 0x7f || c == 0x2028 || c == 0x2029 || c == 0xfeff ||
                      (c >= 0xd800 && c < 0xe000) || c == 0xfffe || c == 0xffff || c > 0x10ffff;
        if (is_bad) return false;
    }
    return true;
}

static mr_status parse_string(const mr_opt *o, const char *text, const char *origin, char *out)
{
    size_t n = strlen(text);
    MR_CHECK(n < MR_STR, MR_ERR_CONFIG,
             "%s: %s = '%.40s...' is %zu bytes long; accepted: at most %d bytes", origin, o->key,
             text, n, MR_STR - 1);
    MR_CHECK(is_printable(text), MR_ERR_CONFIG,
             "%s: %s holds control characters or is not UTF-8; accepted: printable text", origin,
             o->key);
    memcpy(out, text, n + 1);
    return MR_OK;
}

/* "[1, 2]", "1,2", "[]" or "". */
static mr_status parse_ints(const mr_opt *o, const char *text, const char *origin, mr_int_list *out)
{
    mr_int_list list = {0};
    char copy[MR_LIST * 24], *save = NULL, *body = copy;
    size_t n = strlen(text);
    if (n >= sizeof copy) return refuse(o, text, origin, "is too long");
    memcpy(copy, text, n + 1);
    if (copy[0] == '[') {
        if (copy[n - 1] != ']') return refuse(o, text, origin, "lacks the closing bracket");
        copy[n - 1] = 0;
        body = copy + 1;
    }
    size_t len = strlen(body);
    if (strspn(body, " ") == len) body[0] = 0;
    bool has_gap = body[0] == ',' || strstr(body, ",,") || (len && body[len - 1] == ',');
    if (has_gap) return refuse(o, text, origin, "has an empty element");
    for (char *w = strtok_r(body, ",", &save); w; w = strtok_r(NULL, ",", &save)) {
        w += strspn(w, " ");
        for (size_t k = strlen(w); k && w[k - 1] == ' ';) w[--k] = 0;
        if (list.n == MR_LIST) return refuse(o, text, origin, "has too many elements");
        MR_TRY(parse_int(o, w, origin, &list.v[list.n]));
        list.n++;
    }
    *out = list;
    return MR_OK;
}

mr_status mr_opt_set(mr_config *c, int i, const char *text, const char *origin)
{
    const mr_opt *o = &mr_opt_table[i];
    void *field = (char *)c + o->offset_bytes;
    int word;
    switch (o->type) {
    case MR_OPT_BOOL:
        if (strcmp(text, "true") && strcmp(text, "false"))
            return refuse(o, text, origin, "is not a truth value");
        *(bool *)field = text[0] == 't';
        return MR_OK;
    case MR_OPT_INT: return parse_int(o, text, origin, field);
    case MR_OPT_REAL: return parse_real(o, text, origin, field);
    case MR_OPT_WORD: return parse_word(o, text, origin, field);
    case MR_OPT_CHOICE: MR_TRY(parse_word(o, text, origin, &word)); /* fall through */
    case MR_OPT_STRING: return parse_string(o, text, origin, field);
    case MR_OPT_INTS: return parse_ints(o, text, origin, field);
    }
    return MR_RAISE(MR_ERR_INTERNAL, "option %s has no type", o->key);
}

int mr_opt_find(const char *key)
{
    for (int i = 0; i < MR_OPT_COUNT; i++)
        if (strcmp(mr_opt_table[i].key, key) == 0) return i;
    return -1;
}

int mr_opt_find_section(const char *section)
{
    for (int i = 0; i < MR_OPT_COUNT; i++)
        if (strcmp(mr_opt_table[i].section, section) == 0) return i;
    return -1;
}

/* Names that a reader of the message can choose from: the keys of a known section, else sections.
 */
static void known_names(int first, char *buf, size_t buf_bytes)
{
    size_t at = 0;
    const char *last = "";
    for (int i = first < 0 ? 0 : first; i < MR_OPT_COUNT && at < buf_bytes; i++) {
        const mr_opt *o = &mr_opt_table[i];
        if (first >= 0 && strcmp(o->section, mr_opt_table[first].section)) break;
        const char *name = first >= 0 ? o->name : o->section;
        if (strcmp(name, last) == 0) continue;
        at += (size_t)snprintf(buf + at, buf_bytes - at, "%s%s", at ? ", " : "", name);
        last = name;
    }
}

mr_status mr_opt_unknown(const char *key, const char *where)
{
    const char *words[MR_OPT_COUNT], *dot = strchr(key, '.'), *near = NULL;
    char section[64] = "", names[512];
    for (int i = 0; i < MR_OPT_COUNT; i++)
        words[i] = dot ? mr_opt_table[i].key : mr_opt_table[i].name;
    const char *hit = mr_nearest_word(key, words, MR_OPT_COUNT);
    for (int i = 0; i < MR_OPT_COUNT && hit && !near; i++)
        if (words[i] == hit) near = mr_opt_table[i].key;
    MR_CHECK(!near || strcmp(near, key), MR_ERR_CONFIG,
             "%s: unknown key '%.80s'; in a file a key stands below its section: `%.*s: {%s: ...}`",
             where, key, dot ? (int)(dot - key) : 0, key, dot ? dot + 1 : key);
    MR_CHECK(!near, MR_ERR_CONFIG, "%s: unknown key '%.80s'; did you mean '%s'?", where, key, near);
    if (dot && (size_t)(dot - key) < sizeof section)
        snprintf(section, sizeof section, "%.*s", (int)(dot - key), key);
    int first = mr_opt_find_section(section);
    known_names(first, names, sizeof names);
    return MR_RAISE(MR_ERR_CONFIG, "%s: unknown key '%.80s'; known %s%s: %s", where, key,
                    first < 0 ? "sections" : "keys of ", first < 0 ? "" : section, names);
}

mr_status mr_config_set(mr_config *c, const char *key, const char *value, const char *origin)
{
    int i = mr_opt_find(key);
    if (i < 0) return mr_opt_unknown(key, origin);
    MR_TRY(mr_opt_set(c, i, value, origin));
    mr_opt_set_origin(i, origin);
    return MR_OK;
}

void mr_config_defaults(mr_config *c)
{
    memset(c, 0, sizeof *c);
    for (int i = 0; i < MR_OPT_COUNT; i++) {
        mr_opt_set_origin(i, "default");
        if (mr_opt_set(c, i, mr_opt_table[i].standard, "options.def") != MR_OK) abort();
    }
}

int mr_config_count(void) { return MR_OPT_COUNT; }
const char *mr_config_key(int i) { return mr_opt_table[i].key; }
const char *mr_config_doc(int i) { return mr_opt_table[i].doc; }
const char *mr_config_origin(int i) { return origins[i].text[0] ? origins[i].text : "default"; }

void mr_opt_set_origin(int i, const char *origin)
{
    snprintf(origins[i].text, sizeof origins[i].text, "%s", origin);
}

/* The fewest digits that read back to the same double; always with a point, because YAML 1.1
 * readers take 1e-08 for a string. */
static void format_real(double v, char *buf, size_t buf_bytes)
{
    char digits[40];
    for (int precision = 1; precision <= 17; precision++) {
        snprintf(digits, sizeof digits, "%.*g", precision, v);
        if (strtod(digits, NULL) == v) break;
    }
    char *e = strchr(digits, 'e');
    int mantissa = e ? (int)(e - digits) : (int)strlen(digits);
    bool has_point = strchr(digits, '.') != NULL;
    snprintf(buf, buf_bytes, "%.*s%s%s", mantissa, digits, has_point ? "" : ".0", e ? e : "");
}

static void format_ints(const mr_int_list *list, char *buf, size_t buf_bytes)
{
    size_t at = (size_t)snprintf(buf, buf_bytes, "[");
    for (int i = 0; i < list->n && at < buf_bytes; i++)
        at += (size_t)snprintf(buf + at, buf_bytes - at, "%s%lld", i ? ", " : "",
                               (long long)list->v[i]);
    if (at < buf_bytes) snprintf(buf + at, buf_bytes - at, "]");
}

void mr_config_format(const mr_config *c, int i, char *buf, size_t buf_bytes)
{
    const mr_opt *o = &mr_opt_table[i];
    const void *field = (const char *)c + o->offset_bytes;
    mr_opt_words w;
    switch (o->type) {
    case MR_OPT_BOOL:
        snprintf(buf, buf_bytes, "%s", *(const bool *)field ? "true" : "false");
        return;
    case MR_OPT_INT: snprintf(buf, buf_bytes, "%lld", (long long)*(const int64_t *)field); return;
    case MR_OPT_REAL: format_real(*(const double *)field, buf, buf_bytes); return;
    case MR_OPT_WORD:
        mr_opt_split_words(o, &w);
        snprintf(buf, buf_bytes, "%s", w.word[*(const int *)field]);
        return;
    case MR_OPT_CHOICE:
    case MR_OPT_STRING: snprintf(buf, buf_bytes, "%s", (const char *)field); return;
    case MR_OPT_INTS: format_ints(field, buf, buf_bytes); return;
    }
}

void mr_opt_literal(const mr_config *c, int i, bool json, char *buf, size_t buf_bytes)
{
    char text[MR_OPT_TEXT];
    mr_opt_type t = mr_opt_table[i].type;
    mr_config_format(c, i, text, sizeof text);
    bool is_quoted = t == MR_OPT_STRING || (json && (t == MR_OPT_WORD || t == MR_OPT_CHOICE));
    if (!is_quoted) {
        snprintf(buf, buf_bytes, "%s", text);
        return;
    }
    /* Printable text: only these two characters need a backslash, in YAML and in JSON. */
    size_t at = 0;
    if (at + 1 < buf_bytes) buf[at++] = '"';
    for (const char *p = text; *p && at + 3 < buf_bytes; p++) {
        if (*p == '"' || *p == '\\') buf[at++] = '\\';
        buf[at++] = *p;
    }
    if (at + 1 < buf_bytes) buf[at++] = '"';
    buf[at] = 0;
}

uint64_t mr_config_hash(const mr_config *c)
{
    XXH3_state_t *state = XXH3_createState();
    if (!state) abort();
    XXH3_64bits_reset(state);
    for (int i = 0; i < MR_OPT_COUNT; i++) {
        char value[MR_OPT_TEXT];
        if (!mr_opt_table[i].is_result) continue;
        mr_config_format(c, i, value, sizeof value);
        /* With both NUL bytes, so that neighbouring texts cannot run into each other. */
        XXH3_64bits_update(state, mr_opt_table[i].key, strlen(mr_opt_table[i].key) + 1);
        XXH3_64bits_update(state, value, strlen(value) + 1);
    }
    uint64_t hash = XXH3_64bits_digest(state);
    XXH3_freeState(state);
    return hash;
}
