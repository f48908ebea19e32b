/* Inside of the configuration: the option table as data. Used by the config_*.c files only. */
#ifndef MR_BASE_CONFIG_TABLE_H
#define MR_BASE_CONFIG_TABLE_H

#include "base/config.h"

typedef enum mr_opt_type {
    MR_OPT_BOOL,
    MR_OPT_INT,
    MR_OPT_REAL,
    MR_OPT_WORD,   /* int: index into the words */
    MR_OPT_CHOICE, /* char[MR_STR], one of the words */
    MR_OPT_STRING, /* char[MR_STR] */
    MR_OPT_INTS    /* mr_int_list */
} mr_opt_type;

typedef struct mr_opt {
    const char *section, *name, *key; /* key = "section.name" */
    mr_opt_type type;
    size_t offset_bytes; /* of the field in mr_config */
    const char *standard, *accepts;
    bool is_result; /* part of the hash */
    const char *doc;
} mr_opt;

enum { MR_OPT_WORDS_MAX = 8 };
typedef struct mr_opt_words {
    int n;
    const char *word[MR_OPT_WORDS_MAX];
    char text[128]; /* the words themselves */
} mr_opt_words;

enum {
#define OPTION(section, name, ...) MR_OPT_INDEX_##section##_##name,
#include "base/options.def"
#undef OPTION
    MR_OPT_COUNT
};

extern const mr_opt mr_opt_table[MR_OPT_COUNT];

/* Index of "section.name", or -1. */
int mr_opt_find(const char *key);
/* First option of a section, or -1. The options of a section are contiguous. */
int mr_opt_find_section(const char *section);
/* Words of a WORD or CHOICE option; the pointers point into out_p. */
void mr_opt_split_words(const mr_opt *o, mr_opt_words *out_p);
/* What the option accepts, as part of a sentence: "an integer, 1 <= n <= 64". */
void mr_opt_accepts_text(const mr_opt *o, char *buf, size_t buf_bytes);

/* Parse text into the field of option i of c; origin is only used in messages. ERR_CONFIG. */
mr_status mr_opt_set(mr_config *c, int i, const char *text, const char *origin);
void mr_opt_set_origin(int i, const char *origin);
/* ERR_CONFIG: unknown key, with the nearest one or the known names. where: "file:line" or
 * "command line". */
mr_status mr_opt_unknown(const char *key, const char *where);

/* Value of option i as YAML and JSON spell it: like mr_config_format, but strings are quoted;
 * JSON quotes words too. */
void mr_opt_literal(const mr_config *c, int i, bool json, char *buf, size_t buf_bytes);
enum { MR_OPT_TEXT = 2 * MR_STR + 256 }; /* bytes that hold any formatted value */

#endif
