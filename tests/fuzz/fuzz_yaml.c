/* The configuration: what is accepted can be written and read back to the same values. */
#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/config.h"

const char fuzz_name[] = "yaml";
const char *const fuzz_words[] = {"\n",
                                  ":",
                                  ": ",
                                  "- ",
                                  "[",
                                  "]",
                                  "{",
                                  "}",
                                  ",",
                                  "&a ",
                                  "*a",
                                  "!!int ",
                                  "---\n",
                                  "...\n",
                                  "\"",
                                  "'",
                                  "|\n",
                                  ">\n",
                                  "? ",
                                  "#",
                                  "\t",
                                  "%TAG ! x\n",
                                  "1e999",
                                  "-1",
                                  "nan",
                                  "true",
                                  "train:\n",
                                  "  lr: 1\n",
                                  "topk: [1, 2]",
                                  "\\u0000",
                                  "\xff",
                                  "\xc3\xa9",
                                  "999999999999999999999",
                                  "<<: ",
                                  "~",
                                  "  ",
                                  "x",
                                  "\xEF\xBB\xBF",
                                  "\xFF\xFE",
                                  NULL};

size_t fuzz_seed(int i, uint8_t *out)
{
    static const char *const texts[] = {
        "train:\n  lr: 0.01\n  topk: [5, 10]\nmodel: {name: sasrec, hidden: 64}\n",
        "{\"run\": {\"name\": \"a\", \"seed\": 3}, \"diffusion\": {\"t_set\": [1, 2, 3]}}",
        "# nothing\ntcd:\n  enabled: false\nnpd:\ndata:\n  path: \"x y.h5\"\n"};
    if (i < 3) return fuzz_text(out, texts[i]);
    if (i > 3) return 0;
    mr_config c;
    mr_config_defaults(&c);
    FILE *f = fmemopen(out, FUZZ_BYTES, "w");
    mr_config_write_yaml(&c, f);
    long n = ftell(f);
    fclose(f);
    return (size_t)n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static mr_config c, standard, back;
    char *text = NULL;
    size_t bytes = 0;
    fuzz_folder();
    mr_config_defaults(&standard);
    c = standard;
    mr_status st = mr_config_load_text(&c, (const char *)data, n, "some.yaml");
    fuzz_judge(st, 1u << MR_ERR_CONFIG, "some.yaml");
    fuzz_require(st == MR_OK || !strncmp(mr_last_error(), "some.yaml", 9),
                 "the sentence does not begin with the file");
    if (st != MR_OK) {
        fuzz_require(memcmp(&c, &standard, sizeof c) == 0, "a refused file changed something");
        return 0;
    }
    st = mr_config_check(&c);
    fuzz_require(st == MR_OK || st == MR_ERR_CONFIG, "the check of relations");
    FILE *f = open_memstream(&text, &bytes);
    mr_config_write_yaml(&c, f);
    fclose(f);
    back = standard;
    fuzz_require(mr_config_load_text(&back, text, bytes, "again") == MR_OK, "is not read back");
    fuzz_require(mr_config_hash(&back) == mr_config_hash(&c), "is read back as another one");
    /* Two that the hash leaves out. */
    fuzz_require(!strcmp(back.run.name, c.run.name), "run.name is read back as another one");
    fuzz_require(!strcmp(back.data.path, c.data.path), "data.path is read back as another one");
    free(text);
    return 0;
}
