/* MANIFEST.json: to text and, strictly, from text. */
#include "io/manifest.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "io/json_build.h"
#include "io/safetensors.h"

/* The last line: fixed length, so that it can be cut off without parsing. */
#define TAIL_KEY ",\n\"manifest_xxh3_128\": \""
#define TAIL_END "\"\n}\n"
#define TAIL_BYTES (sizeof TAIL_KEY - 1 + 32 + sizeof TAIL_END - 1)

static json_t *hex64(uint64_t x)
{
    char text[24];
    snprintf(text, sizeof text, "0x%016llx", (unsigned long long)x);
    return json_string(text);
}

static json_t *real(double x) { return isfinite(x) ? json_real(x) : json_null(); }

static json_t *state_json(const mr_train_state *s, bool *ok)
{
    json_t *o = json_object(), *sums = json_array();
    mr_json_set(o, "step", json_integer(s->step), ok);
    mr_json_set(o, "epoch", json_integer(s->epoch), ok);
    mr_json_set(o, "batch_in_epoch", json_integer(s->batch_in_epoch), ok);
    mr_json_set(o, "rows_seen", json_integer(s->rows_seen), ok);
    mr_json_set(o, "best_metric", real(s->best_metric), ok);
    mr_json_set(o, "best_epoch", json_integer(s->best_epoch), ok);
    mr_json_set(o, "best_step", json_integer(s->best_step), ok);
    mr_json_set(o, "bad_evals", json_integer(s->bad_evals), ok);
    mr_json_set(o, "skipped_in_row", json_integer(s->skipped_in_row), ok);
    mr_json_set(o, "is_finished", json_boolean(s->is_finished), ok);
    mr_json_set(o, "seconds", real(s->seconds), ok);
    for (int i = 0; i < MR_STATE_SUMS; i++) mr_json_append(sums, real(s->epoch_sums[i]), ok);
    mr_json_set(o, "epoch_sums", sums, ok);
    mr_json_set(o, "seed", hex64(s->seed), ok);
    mr_json_set(o, "config_hash", hex64(s->config_hash), ok);
    mr_json_set(o, "data_checksum", hex64(s->data_checksum), ok);
    return o;
}

static json_t *tensor_json(const mr_manifest_tensor *t, mr_dtype dtype, bool *ok)
{
    json_t *shape = json_array(), *parts = json_array();
    for (int i = 0; i < t->ndim; i++) mr_json_append(shape, json_integer(t->dim[i]), ok);
    for (int i = 0; i < t->n_parts; i++)
        mr_json_append(parts,
                       json_pack("{s:i, s:I, s:I}", "file", t->part[i].file, "row0",
                                 (json_int_t)t->part[i].row0, "rows", (json_int_t)t->part[i].rows),
                       ok);
    return json_pack("{s:s, s:s, s:o, s:o}", "name", t->name, "dtype", mr_st_dtype_name(dtype),
                     "shape", shape, "parts", parts);
}

static json_t *manifest_json(const mr_manifest *m, bool *ok)
{
    json_t *o = json_object(), *files = json_array(), *tensors = json_array(), *sec = json_array();
    json_t *config =
        m->config_json ? json_loads(m->config_json, JSON_DECODE_ANY, NULL) : json_null();
    mr_json_set(o, "format", json_string(MR_MANIFEST_FORMAT), ok);
    mr_json_set(o, "version", json_integer(MR_MANIFEST_VERSION), ok);
    mr_json_set(o, "program", json_string(MR_VERSION), ok);
    mr_json_set(o, "world_size", json_integer(m->world), ok);
    mr_json_set(o, "dtype", json_string(mr_st_dtype_name(m->dtype)), ok);
    mr_json_append(sec, json_string("value"), ok);
    if (m->has_optimizer) {
        mr_json_append(sec, json_string("m"), ok);
        mr_json_append(sec, json_string("v"), ok);
    }
    mr_json_set(o, "sections", sec, ok);
    mr_json_set(o, "state", state_json(&m->state, ok), ok);
    for (int i = 0; i < m->n_files; i++)
        mr_json_append(files,
                       json_pack("{s:s, s:I, s:s}", "name", m->file[i].name, "bytes",
                                 (json_int_t)m->file[i].bytes, "xxh3_128", m->file[i].xxh3),
                       ok);
    mr_json_set(o, "files", files, ok);
    for (int i = 0; i < m->n_tensors; i++)
        mr_json_append(tensors, tensor_json(&m->tensor[i], m->dtype, ok), ok);
    mr_json_set(o, "tensors", tensors, ok);
    mr_json_set(o, "config", config, ok);
    return o;
}

mr_status mr_manifest_text(const mr_manifest *m, char **text_p, size_t *bytes_p)
{
    bool ok = true;
    int64_t before = mr_json_lost();
    json_t *o = manifest_json(m, &ok);
    char *body = mr_json_text(ok && mr_json_lost() == before ? o : NULL, JSON_INDENT(1));
    char *text = NULL, hex[MR_XXH_HEX];
    json_decref(o);
    MR_CHECK(body, MR_ERR_MEMORY, "no memory for the text of a manifest");
    size_t n = strlen(body) - 2; /* without the closing "\n}" */
    mr_status st = mr_alloc((void **)&text, (int64_t)(n + TAIL_BYTES + 1), 1, "manifest");
    if (st == MR_OK) {
        memcpy(text, body, n);
        mr_hash_text(text, n, hex);
        snprintf(text + n, TAIL_BYTES + 1, "%s%s%s", TAIL_KEY, hex, TAIL_END);
        *text_p = text;
        *bytes_p = n + TAIL_BYTES;
    }
    free(body);
    return st;
}

static mr_status check_tail(const char *text, size_t bytes, const char *path)
{
    char hex[MR_XXH_HEX], tail[TAIL_BYTES + 1];
    MR_CHECK(bytes > TAIL_BYTES, MR_ERR_DATA, "%s is too short (%zu bytes)", path, bytes);
    mr_hash_text(text, bytes - TAIL_BYTES, hex);
    snprintf(tail, sizeof tail, "%s%s%s", TAIL_KEY, hex, TAIL_END);
    MR_CHECK(!memcmp(text + bytes - TAIL_BYTES, tail, TAIL_BYTES), MR_ERR_DATA,
             "%s is damaged: its checksum line does not belong to its content", path);
    return MR_OK;
}

static bool get_int(const json_t *o, const char *key, int64_t lo, int64_t hi, int64_t *out)
{
    const json_t *v = json_object_get(o, key);
    if (!json_is_integer(v) || json_integer_value(v) < lo || json_integer_value(v) > hi)
        return false;
    *out = json_integer_value(v);
    return true;
}

static bool get_text(const json_t *o, const char *key, char *out, size_t out_bytes)
{
    const char *v = json_string_value(json_object_get(o, key));
    if (!v || strlen(v) >= out_bytes) return false;
    snprintf(out, out_bytes, "%s", v);
    return true;
}

static bool get_hex64(const json_t *o, const char *key, uint64_t *out)
{
    const char *v = json_string_value(json_object_get(o, key));
    if (!v || strlen(v) != 18 || strncmp(v, "0x", 2)) return false;
    if (strspn(v + 2, "0123456789abcdef") != 16) return false;
    *out = strtoull(v + 2, NULL, 16);
    return true;
}

static bool get_real(const json_t *v, double *out)
{
    if (json_is_null(v))
        *out = NAN;
    else if (json_is_number(v))
        *out = json_number_value(v);
    else
        return false;
    return true;
}

static bool parse_state(mr_train_state *s, const json_t *o)
{
    const json_t *sums = json_object_get(o, "epoch_sums");
    const json_t *finished = json_object_get(o, "is_finished");
    bool ok = get_int(o, "step", 0, INT64_MAX, &s->step) &&
              get_int(o, "epoch", 0, INT64_MAX, &s->epoch) &&
              get_int(o, "batch_in_epoch", 0, INT64_MAX, &s->batch_in_epoch) &&
              get_int(o, "rows_seen", 0, INT64_MAX, &s->rows_seen) &&
              get_int(o, "best_epoch", -1, INT64_MAX, &s->best_epoch) &&
              get_int(o, "best_step", -1, INT64_MAX, &s->best_step) &&
              get_int(o, "bad_evals", 0, INT64_MAX, &s->bad_evals) &&
              get_int(o, "skipped_in_row", 0, INT64_MAX, &s->skipped_in_row) &&
              get_real(json_object_get(o, "best_metric"), &s->best_metric) &&
              get_real(json_object_get(o, "seconds"), &s->seconds) && json_is_boolean(finished) &&
              get_hex64(o, "seed", &s->seed) && get_hex64(o, "config_hash", &s->config_hash) &&
              get_hex64(o, "data_checksum", &s->data_checksum) &&
              json_array_size(sums) == MR_STATE_SUMS;
    s->is_finished = json_is_true(finished);
    for (size_t i = 0; ok && i < MR_STATE_SUMS; i++)
        ok = get_real(json_array_get(sums, i), &s->epoch_sums[i]);
    return ok;
}

static mr_status parse_files(mr_manifest *m, const json_t *list, const char *path)
{
    MR_CHECK(json_is_array(list) && json_array_size(list) <= 1000000, MR_ERR_DATA,
             "%s: 'files' is not a list", path);
    MR_TRY(MR_ALLOC(&m->file, (int64_t)json_array_size(list), "files of a manifest"));
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *o = json_array_get(list, i);
        mr_manifest_file *f = &m->file[m->n_files++];
        MR_CHECK(get_text(o, "name", f->name, sizeof f->name) && mr_file_name_ok(f->name),
                 MR_ERR_DATA, "%s: entry %zu of 'files' has no plain file name", path, i);
        MR_CHECK(get_int(o, "bytes", 0, INT64_MAX, &f->bytes) &&
                     get_text(o, "xxh3_128", f->xxh3, sizeof f->xxh3),
                 MR_ERR_DATA, "%s: file %s has no length or checksum", path, f->name);
    }
    return MR_OK;
}

static mr_status parse_parts(mr_manifest_tensor *t, const json_t *list, int n_files,
                             const char *path)
{
    int64_t at = 0;
    MR_CHECK(json_is_array(list) && json_array_size(list) <= 1000000, MR_ERR_DATA,
             "%s: tensor %s has no list of parts", path, t->name);
    MR_TRY(MR_ALLOC(&t->part, (int64_t)json_array_size(list), "parts of a tensor"));
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *o = json_array_get(list, i);
        mr_manifest_part *p = &t->part[t->n_parts++];
        int64_t file = 0;
        MR_CHECK(get_int(o, "file", 0, n_files - 1, &file) &&
                     get_int(o, "row0", 0, INT64_MAX, &p->row0) &&
                     get_int(o, "rows", 1, t->dim[0] - at, &p->rows),
                 MR_ERR_DATA, "%s: part %zu of tensor %s is not valid", path, i, t->name);
        p->file = (int)file;
        MR_CHECK(p->row0 == at, MR_ERR_DATA,
                 "%s: part %zu of tensor %s starts at row %lld where %lld is expected", path, i,
                 t->name, (long long)p->row0, (long long)at);
        at += p->rows;
    }
    MR_CHECK(at == t->dim[0], MR_ERR_DATA, "%s: tensor %s has %lld rows, its parts %lld", path,
             t->name, (long long)t->dim[0], (long long)at);
    return MR_OK;
}

static mr_status parse_tensors(mr_manifest *m, const json_t *list, const char *path)
{
    MR_CHECK(json_is_array(list) && json_array_size(list) <= MR_ST_TENSORS, MR_ERR_DATA,
             "%s: 'tensors' is not a list", path);
    MR_TRY(MR_ALLOC(&m->tensor, (int64_t)json_array_size(list), "tensors of a manifest"));
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *o = json_array_get(list, i), *shape = json_object_get(o, "shape");
        mr_manifest_tensor *t = &m->tensor[m->n_tensors++];
        char dtype[8];
        MR_CHECK(get_text(o, "name", t->name, sizeof t->name) && mr_file_name_ok(t->name),
                 MR_ERR_DATA, "%s: entry %zu of 'tensors' has no plain name", path, i);
        MR_CHECK(get_text(o, "dtype", dtype, sizeof dtype) &&
                     !strcmp(dtype, mr_st_dtype_name(m->dtype)) && json_is_array(shape) &&
                     json_array_size(shape) >= 1 && json_array_size(shape) <= 4,
                 MR_ERR_DATA, "%s: tensor %s has no valid type or shape", path, t->name);
        t->ndim = (int)json_array_size(shape);
        for (int k = 0; k < 4; k++) {
            const json_t *d = json_array_get(shape, (size_t)k);
            t->dim[k] = k < t->ndim ? json_integer_value(d) : 1;
            MR_CHECK(t->dim[k] >= 1, MR_ERR_DATA, "%s: shape of tensor %s is not valid", path,
                     t->name);
        }
        MR_TRY(parse_parts(t, json_object_get(o, "parts"), m->n_files, path));
    }
    return MR_OK;
}

static mr_status parse_object(mr_manifest *m, const json_t *o, const char *path)
{
    const char *format = json_string_value(json_object_get(o, "format"));
    const json_t *config = json_object_get(o, "config");
    int64_t version = 0, world = 0;
    char dtype[8];
    MR_CHECK(format && !strcmp(format, MR_MANIFEST_FORMAT) &&
                 get_int(o, "version", 1, 1000, &version),
             MR_ERR_DATA, "%s is not the manifest of a checkpoint", path);
    MR_CHECK(version == MR_MANIFEST_VERSION, MR_ERR_DATA,
             "%s has format version %lld, this program reads version %d", path, (long long)version,
             MR_MANIFEST_VERSION);
    MR_CHECK(get_int(o, "world_size", 1, 1 << 24, &world) &&
                 get_text(o, "dtype", dtype, sizeof dtype) && mr_st_dtype_parse(dtype, &m->dtype) &&
                 (m->dtype == MR_F32 || m->dtype == MR_F64),
             MR_ERR_DATA, "%s: world_size or dtype is missing", path);
    m->world = (int)world;
    size_t sections = json_array_size(json_object_get(o, "sections"));
    MR_CHECK(sections == 1 || sections == 3, MR_ERR_DATA, "%s: 'sections' is not valid", path);
    m->has_optimizer = sections == 3;
    MR_CHECK(parse_state(&m->state, json_object_get(o, "state")), MR_ERR_DATA,
             "%s: 'state' is incomplete", path);
    MR_TRY(parse_files(m, json_object_get(o, "files"), path));
    MR_TRY(parse_tensors(m, json_object_get(o, "tensors"), path));
    MR_CHECK(config, MR_ERR_DATA, "%s: 'config' is missing", path);
    char *text = mr_json_text(config, JSON_COMPACT | JSON_ENCODE_ANY);
    MR_CHECK(text, MR_ERR_MEMORY, "no memory for the configuration in %s", path);
    mr_status st = mr_copy_text(&m->config_json, text);
    free(text);
    return st;
}

mr_status mr_manifest_parse(mr_manifest *m, const char *text, size_t bytes, const char *path)
{
    json_error_t e;
    json_t *o = NULL;
    memset(m, 0, sizeof *m);
    MR_TRY(check_tail(text, bytes, path));
    MR_TRY(mr_json_read(&o, text, bytes, path, &e));
    MR_CHECK(o, MR_ERR_DATA, "%s is not valid JSON: %s (line %d)", path, e.text, e.line);
    mr_status st = parse_object(m, o, path);
    json_decref(o);
    if (st != MR_OK) mr_manifest_free(m);
    return st;
}

void mr_manifest_free(mr_manifest *m)
{
    for (int i = 0; i < m->n_tensors; i++) MR_FREE(m->tensor[i].part);
    MR_FREE(m->tensor);
    MR_FREE(m->file);
    MR_FREE(m->config_json);
    memset(m, 0, sizeof *m);
}
