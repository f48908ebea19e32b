/* Reads one YAML file over a configuration, event by event.
 * What it is not: a YAML loader. Known sections with known keys, nothing else: anchors, aliases,
 * tags, second documents and repeated keys are refused, so a file cannot grow when read.
 * Invariants: the text of a value is interpreted by the type of its key, never by YAML's own rules;
 * a refused file changes nothing. */
#include "base/config_table.h"

#include <errno.h>
#include <string.h>

#include <yaml.h>

#include "base/log.h"
#include "base/mem.h"

enum { FILE_MAX = 1 << 20 };

typedef struct reader {
    yaml_parser_t parser;
    yaml_event_t event;
    bool has_event;
    const char *path, *text; /* text: all of it, bytes long */
    size_t bytes;
    mr_config config;               /* working copy */
    int value_line[MR_OPT_COUNT];   /* 0 = not given in this file */
    int section_line[MR_OPT_COUNT]; /* by the first option of the section */
} reader;

static int line_of(const reader *r) { return (int)r->event.start_mark.line + 1; }

/* Where the current event is: "path:line". The returned text lives until the next call. */
static const char *where(const reader *r)
{
    static _Thread_local char text[MR_STR];
    snprintf(text, sizeof text, "%.480s:%d", r->path, line_of(r));
    return text;
}

static mr_status refuse_extras(const reader *r)
{
    const yaml_event_t *e = &r->event;
    const yaml_char_t *anchor = NULL, *tag = NULL;
    switch (e->type) {
    case YAML_ALIAS_EVENT:
        return MR_RAISE(MR_ERR_CONFIG, "%s: aliases (*%.40s) are not accepted; write the value out",
                        where(r), (const char *)e->data.alias.anchor);
    case YAML_SCALAR_EVENT:
        anchor = e->data.scalar.anchor;
        tag = e->data.scalar.tag;
        break;
    case YAML_SEQUENCE_START_EVENT:
        anchor = e->data.sequence_start.anchor;
        tag = e->data.sequence_start.tag;
        break;
    case YAML_MAPPING_START_EVENT:
        anchor = e->data.mapping_start.anchor;
        tag = e->data.mapping_start.tag;
        break;
    default: break;
    }
    MR_CHECK(!anchor, MR_ERR_CONFIG, "%s: anchors (&%.40s) are not accepted; write the value out",
             where(r), (const char *)anchor);
    MR_CHECK(!tag, MR_ERR_CONFIG,
             "%s: tags (%.60s) are not accepted; the key decides the type of its value", where(r),
             (const char *)tag);
    return MR_OK;
}

/* Is there a tab before the first word of a line, counted from 0? YAML forbids it, and the parser
 * only says that it cannot be there. */
static bool is_tabbed(const reader *r, size_t line)
{
    const char *p = r->text, *end = r->text + r->bytes;
    for (; line > 0 && p < end; line--) {
        const char *feed = memchr(p, '\n', (size_t)(end - p));
        p = feed ? feed + 1 : end;
    }
    while (p < end && *p == ' ') p++;
    return p < end && *p == '\t';
}

/* Step to the next event, which r owns until the step after. */
static mr_status next(reader *r)
{
    if (r->has_event) yaml_event_delete(&r->event);
    r->has_event = yaml_parser_parse(&r->parser, &r->event) != 0;
    if (r->has_event) return refuse_extras(r);
    const yaml_parser_t *p = &r->parser;
    MR_CHECK(p->error != YAML_MEMORY_ERROR, MR_ERR_MEMORY, "%s: no memory to read it", r->path);
    if (p->error == YAML_READER_ERROR)
        return MR_RAISE(MR_ERR_CONFIG, "%s: byte %zu: not a YAML text: %s", r->path,
                        p->problem_offset, p->problem ? p->problem : "unreadable");
    MR_CHECK(!is_tabbed(r, p->problem_mark.line), MR_ERR_CONFIG,
             "%s:%d: not valid YAML: the line begins with a tab; indent with blanks", r->path,
             (int)p->problem_mark.line + 1);
    return MR_RAISE(MR_ERR_CONFIG, "%s:%d: not valid YAML: %s%s%s", r->path,
                    (int)p->problem_mark.line + 1, p->problem ? p->problem : "unreadable",
                    p->context ? " " : "", p->context ? p->context : "");
}

static bool is_null(const yaml_event_t *e)
{
    if (e->type != YAML_SCALAR_EVENT || e->data.scalar.style != YAML_PLAIN_SCALAR_STYLE)
        return false;
    const char *v = (const char *)e->data.scalar.value;
    return !*v || !strcmp(v, "~") || !strcmp(v, "null");
}

/* The current event as text without NUL bytes; what: for the message. */
static mr_status scalar_text(const reader *r, const char *what, const char **out_p)
{
    const yaml_event_t *e = &r->event;
    MR_CHECK(e->type == YAML_SCALAR_EVENT, MR_ERR_CONFIG, "%s: %s must be a single word or number",
             where(r), what);
    const char *v = (const char *)e->data.scalar.value;
    MR_CHECK(strlen(v) == e->data.scalar.length, MR_ERR_CONFIG, "%s: %s holds a NUL byte", where(r),
             what);
    *out_p = v;
    return MR_OK;
}

/* At the start of a sequence: its elements as "a,b,c", which is how the command line spells a list.
 */
static mr_status list_text(reader *r, const mr_opt *o, char *buf, size_t buf_bytes)
{
    size_t at = 0;
    int start = line_of(r);
    buf[0] = 0;
    for (;;) {
        const char *item;
        MR_TRY(next(r));
        if (r->event.type == YAML_SEQUENCE_END_EVENT) return MR_OK;
        MR_TRY(scalar_text(r, o->key, &item));
        MR_CHECK(*item && !strchr(item, ','), MR_ERR_CONFIG,
                 "%s: an element of %s is not an integer: '%.40s'", where(r), o->key, item);
        int n = snprintf(buf + at, buf_bytes - at, "%s%s", at ? "," : "", item);
        MR_CHECK(n > 0 && (size_t)n < buf_bytes - at, MR_ERR_CONFIG,
                 "%s:%d: %s is too long; accepted: at most %d elements", r->path, start, o->key,
                 MR_LIST);
        at += (size_t)n;
    }
}

/* At the key of option i. */
static mr_status read_value(reader *r, int i)
{
    const mr_opt *o = &mr_opt_table[i];
    char list[MR_LIST * 24], accepts[256];
    const char *text;
    int line = line_of(r); /* of the key: a block list begins a line later */
    MR_TRY(next(r));
    mr_opt_accepts_text(o, accepts, sizeof accepts);
    MR_CHECK(!is_null(&r->event), MR_ERR_CONFIG, "%s: %s has no value; accepted: %s", where(r),
             o->key, accepts);
    if (o->type == MR_OPT_INTS && r->event.type == YAML_SEQUENCE_START_EVENT) {
        char origin[MR_STR];
        snprintf(origin, sizeof origin, "%s", where(r));
        MR_TRY(list_text(r, o, list, sizeof list));
        MR_TRY(mr_opt_set(&r->config, i, list, origin));
    } else {
        MR_CHECK(r->event.type == YAML_SCALAR_EVENT, MR_ERR_CONFIG,
                 "%s: %s is given a list or a section; accepted: %s", where(r), o->key, accepts);
        MR_TRY(scalar_text(r, o->key, &text));
        MR_TRY(mr_opt_set(&r->config, i, text, where(r)));
    }
    r->value_line[i] = line;
    return MR_OK;
}

/* After the start of a section's mapping. */
static mr_status read_section(reader *r, const char *section)
{
    for (;;) {
        const char *name;
        char key[256];
        MR_TRY(next(r));
        if (r->event.type == YAML_MAPPING_END_EVENT) return MR_OK;
        MR_TRY(scalar_text(r, "a key", &name));
        snprintf(key, sizeof key, "%s.%.200s", section, name);
        int i = mr_opt_find(key);
        if (i < 0) return mr_opt_unknown(key, where(r));
        MR_CHECK(!r->value_line[i], MR_ERR_CONFIG, "%s: %s is given twice, first in line %d",
                 where(r), key, r->value_line[i]);
        MR_TRY(read_value(r, i));
    }
}

/* After the start of the top mapping. */
static mr_status read_top(reader *r)
{
    for (;;) {
        const char *section;
        MR_TRY(next(r));
        if (r->event.type == YAML_MAPPING_END_EVENT) return MR_OK;
        MR_TRY(scalar_text(r, "a section's name", &section));
        int first = mr_opt_find_section(section);
        if (first < 0) return mr_opt_unknown(section, where(r));
        section = mr_opt_table[first].section; /* the event's text goes with the next event */
        MR_CHECK(!r->section_line[first], MR_ERR_CONFIG,
                 "%s: section %s is given twice, first in line %d", where(r), section,
                 r->section_line[first]);
        r->section_line[first] = line_of(r);
        MR_TRY(next(r));
        if (is_null(&r->event)) continue; /* a section whose keys are all commented out */
        MR_CHECK(r->event.type == YAML_MAPPING_START_EVENT, MR_ERR_CONFIG,
                 "%s: %s is a section; write its keys below it, as '%s:' in one line and "
                 "'  %s: value' in the next",
                 where(r), section, section, mr_opt_table[first].name);
        MR_TRY(read_section(r, section));
    }
}

static mr_status read_document(reader *r)
{
    MR_TRY(next(r)); /* stream start */
    MR_TRY(next(r));
    if (r->event.type == YAML_STREAM_END_EVENT) return MR_OK;
    MR_TRY(next(r));
    if (r->event.type == YAML_MAPPING_START_EVENT)
        MR_TRY(read_top(r));
    else
        MR_CHECK(is_null(&r->event), MR_ERR_CONFIG,
                 "%s: a configuration is made of sections ('train:') with keys below them",
                 where(r));
    MR_TRY(next(r)); /* document end */
    MR_TRY(next(r));
    MR_CHECK(r->event.type == YAML_STREAM_END_EVENT, MR_ERR_CONFIG,
             "%s: a second document starts here; accepted: one document a file", where(r));
    return MR_OK;
}

/* *text_p: the whole file, *n_p bytes; the caller frees it. */
static mr_status read_file(const char *path, char **text_p, size_t *n_p)
{
    FILE *f = fopen(path, "rb");
    MR_CHECK(f, errno == ENOENT || errno == ENOTDIR ? MR_ERR_NO_INPUT : MR_ERR_IO,
             "%s: cannot open the configuration: %s", path, strerror(errno));
    char *text = NULL;
    size_t n = 0;
    mr_status st = MR_ALLOC(&text, FILE_MAX + 1, "configuration file");
    if (st == MR_OK) {
        n = fread(text, 1, FILE_MAX + 1, f);
        if (ferror(f))
            st = MR_RAISE(MR_ERR_NO_INPUT, "%s: cannot read the configuration: %s", path,
                          strerror(errno));
        else if (n > FILE_MAX)
            st = MR_RAISE(MR_ERR_CONFIG, "%s: a configuration of more than %d bytes", path,
                          FILE_MAX);
    }
    fclose(f);
    if (st != MR_OK) {
        MR_FREE(text);
        return st;
    }
    *text_p = text;
    *n_p = n;
    return MR_OK;
}

static void keep(const reader *r, mr_config *c)
{
    *c = r->config;
    for (int i = 0; i < MR_OPT_COUNT; i++) {
        char origin[MR_STR];
        if (!r->value_line[i]) continue;
        snprintf(origin, sizeof origin, "%.480s:%d", r->path, r->value_line[i]);
        mr_opt_set_origin(i, origin);
    }
}

mr_status mr_config_load_text(mr_config *c, const char *text, size_t bytes, const char *name)
{
    reader *r = NULL;
    MR_TRY(MR_ALLOC(&r, 1, "configuration reader"));
    if (!yaml_parser_initialize(&r->parser)) {
        MR_FREE(r);
        return MR_RAISE(MR_ERR_MEMORY, "%s: no memory to read it", name);
    }
    r->path = name;
    r->text = text;
    r->bytes = bytes;
    r->config = *c;
    yaml_parser_set_input_string(&r->parser, (const unsigned char *)text, bytes);
    mr_status st = read_document(r);
    if (st == MR_OK) keep(r, c);
    if (r->has_event) yaml_event_delete(&r->event);
    yaml_parser_delete(&r->parser);
    MR_FREE(r);
    return st;
}

mr_status mr_config_load(mr_config *c, const char *path)
{
    char *text = NULL;
    size_t n = 0;
    MR_TRY(read_file(path, &text, &n));
    mr_status st = mr_config_load_text(c, text, n, path);
    if (st == MR_OK && strspn(text, " \t\r\n") == n)
        mr_warn("%s is empty: the configuration is as without it", path);
    MR_FREE(text);
    return st;
}
