/* The configuration: one struct, one option table (options.def) that gives the parser, line numbers
 * in errors, command line overrides, help text, `config show`, `config doc` and the run's
 * config.yaml. What it is not: validation against data; that is done where the data is known.
 * Priority: command line > later file > earlier file > default. */
#ifndef MR_BASE_CONFIG_H
#define MR_BASE_CONFIG_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/status.h"

#define MR_STR 512 /* longest string value, with its NUL */
#define MR_LIST 32 /* longest list value */

typedef struct mr_int_list {
    int n;
    int64_t v[MR_LIST];
} mr_int_list;

/* Enumerated values are stored as the index of the word in the option's list, in this order. */
enum { MR_RESUME_AUTO, MR_RESUME_NEVER }; /* checkpoint.resume is a string: auto | never | DIR */
enum { MR_NPD_TRANSFORMER, MR_NPD_HORIZON };
enum { MR_SCHED_LINEAR, MR_SCHED_COSINE, MR_SCHED_SQRT, MR_SCHED_TRUNC_LIN, MR_SCHED_SCALED };
enum { MR_START_CORRUPTED, MR_START_NOISE, MR_START_X0 };
enum { MR_MODEL_MEALREC, MR_MODEL_SASREC, MR_MODEL_CL4SREC, MR_MODEL_TEDREC };
enum { MR_BACKBONE_SASREC, MR_BACKBONE_CL4SREC, MR_BACKBONE_TEDREC };
enum { MR_DET_FAST, MR_DET_RUN, MR_DET_WORLD };

typedef struct mr_config {
    struct {
        char name[MR_STR], dir[MR_STR];
        int64_t seed;
        char device[MR_STR];    /* auto | cpu | cpu64 | guard | cuda */
        char precision[MR_STR]; /* auto | fp32 | tf32 | bf16 */
        bool capture;
    } run;
    struct {
        char path[MR_STR];
        char read[MR_STR];     /* parallel | rank0 */
        char features[MR_STR]; /* auto | replicate | shard */
        int64_t max_len;
        double frames_noise;
    } data;
    struct {
        int name, backbone; /* MR_MODEL_*, MR_BACKBONE_* */
        int64_t hidden, layers, heads, inner;
        double dropout, attention_dropout;
    } model;
    struct {
        bool enabled;
        int64_t heads, inner; /* inner 0 = 2 D */
        double dropout;
        int64_t unet_width;
        double gamma, lambda;
        bool detach_target;
    } tcd;
    struct {
        bool enabled;
        int64_t heads, inner;
        double dropout;
        int block; /* MR_NPD_* */
        double lambda;
        bool detach_target;
    } npd;
    struct {
        double weight, temperature, crop, mask, reorder;
    } cl4srec;
    struct {
        int64_t experts;
        double temperature, dropout;
    } tedrec;
    struct {
        int64_t steps;
        int schedule; /* MR_SCHED_* */
        double beta_start, beta_end;
        mr_int_list t_set;
        bool noise;
        int start; /* MR_START_* */
        double mix;
    } diffusion;
    struct {
        int64_t batch, epochs, max_steps;
        double lr, beta1, beta2, eps, weight_decay, clip;
        int64_t patience;
        char valid_metric[MR_STR];
        mr_int_list topk;
        int64_t log_every;
        bool mask_seen;     /* added: leave already seen items out of the ranking */
        int64_t eval_batch; /* added: users per evaluation block, all ranks together */
    } train;
    struct {
        char comm[MR_STR];       /* auto | self | mpi | nccl */
        char bind[MR_STR];       /* auto | none | cores */
        char item_shard[MR_STR]; /* auto | 1 | 2 | ... | all */
        char exchange[MR_STR];   /* exact | fixed */
        int64_t exchange_rows;
        int64_t virtual_shards;
        double bucket_mb;
        int deterministic; /* MR_DET_* */
        double hang_limit; /* seconds; 0: no watchdog */
        int64_t check_every;
    } dist;
    struct {
        int64_t every_epochs, every_minutes;
        bool async;
        int64_t stop_before; /* seconds */
        int64_t keep;
        char resume[MR_STR];
        int64_t max_restarts;
    } checkpoint;
} mr_config;

/* Where a value came from, for `config show` and error messages. */
typedef struct mr_origin {
    char text[MR_STR]; /* "default", "configs/demo.yaml:12", "command line" */
} mr_origin;

void mr_config_defaults(mr_config *c);
/* Number of options; key name ("model.hidden"), one-line doc and the text of a value, by index. */
int mr_config_count(void);
const char *mr_config_key(int i);
const char *mr_config_doc(int i);
void mr_config_format(const mr_config *c, int i, char *buf, size_t buf_bytes);
const char *mr_config_origin(int i); /* of the last load/set in this process */

/* Read one YAML file over c. Errors: ERR_NO_INPUT, ERR_IO, ERR_CONFIG with file, line, the accepted
 * range, and for an unknown key the nearest known one. Anchors, aliases and tags are refused. */
mr_status mr_config_load(mr_config *c, const char *path);
/* The same from memory; `name` stands for the file in messages. JSON is accepted, being YAML. */
mr_status mr_config_load_text(mr_config *c, const char *text, size_t bytes, const char *name);
/* Set one value, as `--section.key=value` does; origin is used in messages. ERR_CONFIG as above. */
mr_status mr_config_set(mr_config *c, const char *key, const char *value, const char *origin);
/* Relations between values (hidden divisible by heads, beta ranges, ...). ERR_CONFIG. */
mr_status mr_config_check(const mr_config *c);

void mr_config_write_yaml(const mr_config *c, FILE *f); /* loads back to the same values */
void mr_config_show(const mr_config *c, FILE *f);       /* with the origin of every value */
void mr_config_doc_page(FILE *f);                       /* docs/config.md */
void mr_config_help(FILE *f);                           /* the keys part of --help */
char *mr_config_json(const mr_config *c);               /* one object; caller frees with free() */
/* 64-bit XXH3 over every value that changes what is computed (not run.name, run.dir, device, dist
 * layout, checkpoint timing); equal hashes mean a checkpoint may be resumed. */
uint64_t mr_config_hash(const mr_config *c);
/* Nearest of n words to a misspelt one (edit distance), or NULL if none is near. */
const char *mr_nearest_word(const char *word, const char *const *words, int n);

#endif
