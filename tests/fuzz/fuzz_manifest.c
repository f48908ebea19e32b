/* The manifest of a checkpoint. The checksum line is made right before the bytes are parsed, else
 * no mutation would come further; inputs that start with '!' are parsed as they are. */
#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "io/manifest.h"

const char fuzz_name[] = "manifest";
const char *const fuzz_words[] = {"\"row0\"",
                                  "\"rows\"",
                                  "\"file\"",
                                  "\"files\"",
                                  "\"parts\"",
                                  "\"shape\"",
                                  "\"state\"",
                                  "\"sections\"",
                                  "\"tensors\"",
                                  "\"dtype\"",
                                  "\"F32\"",
                                  "\"F64\"",
                                  "null",
                                  "true",
                                  "[]",
                                  "{}",
                                  ",",
                                  ":",
                                  "[",
                                  "]",
                                  "{",
                                  "}",
                                  "-1",
                                  "0",
                                  "9223372036854775807",
                                  "1e400",
                                  "\"../x\"",
                                  "\"0xffffffffffffffff\"",
                                  "\"config\"",
                                  "{\"file\":0,\"row0\":0,\"rows\":9223372036854775807}",
                                  NULL};

static const char tail_key[] = ",\n\"manifest_xxh3_128\": \"";

/* A manifest of two files and three tensors, without its last line. */
static size_t seed_text(int i, uint8_t *out)
{
    mr_manifest_file files[2] = {{"shard-00000.safetensors", 100, "00"},
                                 {"shard-00001.safetensors", 200, "11"}};
    mr_manifest_part parts[3][2] = {{{0, 0, 5}, {1, 5, 4}}, {{1, 0, 3}}, {{0, 0, 1}}};
    mr_manifest_tensor tensors[3] = {{"item.weight", 2, {9, 4, 1, 1}, 2, parts[0]},
                                     {"norm.bias", 1, {3, 1, 1, 1}, 1, parts[1]},
                                     {"conv.weight", 3, {1, 3, 2, 1}, 1, parts[2]}};
    char config[] = "{\"model\": {\"hidden\": 4, \"t\": [1, 2.5, null]}}";
    mr_manifest m = {.state = {.step = 7, .best_epoch = -1, .best_metric = 0.25, .seed = 3},
                     .world = 2,
                     .dtype = i ? MR_F64 : MR_F32,
                     .has_optimizer = i == 0,
                     .config_json = i ? NULL : config,
                     .n_files = 2,
                     .file = files,
                     .n_tensors = i ? 1 : 3,
                     .tensor = tensors};
    char *text = NULL;
    size_t bytes = 0;
    if (mr_manifest_text(&m, &text, &bytes) != MR_OK) return 0;
    size_t n = (size_t)(strstr(text, tail_key) - text);
    if (i == 2) n = bytes;
    out[0] = '!';
    memcpy(out + (i == 2), text, n);
    MR_FREE(text);
    return n + (i == 2);
}

size_t fuzz_seed(int i, uint8_t *out) { return i < 3 ? seed_text(i, out) : 0; }

static void same_again(const mr_manifest *m)
{
    mr_manifest again;
    char *text = NULL;
    size_t bytes = 0;
    fuzz_require(mr_manifest_text(m, &text, &bytes) == MR_OK,
                 "an accepted manifest is not written");
    fuzz_require(mr_manifest_parse(&again, text, bytes, "again") == MR_OK, "is not read back");
    fuzz_require(again.n_tensors == m->n_tensors && again.n_files == m->n_files &&
                     again.state.step == m->state.step && again.world == m->world,
                 "is read back as another one");
    MR_FREE(text);
    mr_manifest_free(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    mr_manifest m;
    char hex[MR_XXH_HEX];
    fuzz_folder();
    bool is_raw = n > 0 && data[0] == '!';
    char *text = malloc(n + 100);
    size_t bytes = is_raw ? n - 1 : n;
    memcpy(text, data + is_raw, bytes);
    if (!is_raw) {
        mr_hash_text(text, bytes, hex);
        bytes += (size_t)snprintf(text + bytes, 100, "%s%s\"\n}\n", tail_key, hex);
    }
    mr_status st = mr_manifest_parse(&m, text, bytes, "x/MANIFEST.json");
    fuzz_judge(st, 1u << MR_ERR_DATA, "x/MANIFEST.json");
    if (st == MR_OK) {
        for (int i = 0; i < m.n_tensors; i++)
            for (int k = 0; k < m.tensor[i].n_parts; k++)
                fuzz_require(m.tensor[i].part[k].file < m.n_files, "a part in no file");
        same_again(&m);
        mr_manifest_free(&m);
    }
    free(text);
    return 0;
}
