/* The safetensors reader. Bytes that start with '{' are a header's text; length and 48 bytes of
 * data are added. */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "io/safetensors.h"

const char fuzz_name[] = "safetensors";
const char *const fuzz_words[] = {"\"dtype\"",
                                  "\"shape\"",
                                  "\"data_offsets\"",
                                  "\"__metadata__\"",
                                  "[0,24]",
                                  "[24,48]",
                                  "[2,3]",
                                  "\"F32\"",
                                  "\"F64\"",
                                  "\"I64\"",
                                  "\"BF16\"",
                                  "\"U8\"",
                                  "[]",
                                  "{}",
                                  ",",
                                  ":",
                                  "[",
                                  "]",
                                  "{",
                                  "}",
                                  "null",
                                  "true",
                                  "1.0",
                                  "-1",
                                  "\\u0000",
                                  "\"a\"",
                                  "[0,0]",
                                  "9223372036854775807",
                                  "  ",
                                  "[0,9223372036854775807]",
                                  "\xff",
                                  "\\ud800",
                                  "1e400",
                                  NULL};

enum { DATA = 48 };

size_t fuzz_seed(int i, uint8_t *out)
{
    static const char *const headers[] = {
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"
        "\"b\":{\"dtype\":\"F64\",\"shape\":[3],\"data_offsets\":[24,48]}}",
        "{\"__metadata__\":{\"format\":\"x\",\"step\":\"7\"},"
        "\"z\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]},"
        "\"e\":{\"dtype\":\"I64\",\"shape\":[0,5],\"data_offsets\":[1,1]},"
        "\"y\":{\"dtype\":\"U8\",\"shape\":[47,1],\"data_offsets\":[1,48]}}  ",
        "{\"h\":{\"dtype\":\"F16\",\"shape\":[1,2,3,4],\"data_offsets\":[0,48]}}"};
    if (i < 3) return fuzz_text(out, headers[i]);
    if (i > 4) return 0;
    uint64_t length = strlen(headers[i - 3]);
    memcpy(out, &length, 8);
    fuzz_text(out + 8, headers[i - 3]);
    memset(out + 8 + length, 3, DATA);
    return 8 + length + DATA;
}

static const char *write_it(const uint8_t *data, size_t n)
{
    static uint8_t file[8 + FUZZ_BYTES + DATA];
    uint64_t length = n;
    if (n == 0 || data[0] != '{') return fuzz_write("a.safetensors", data, n);
    memcpy(file, &length, 8);
    memcpy(file + 8, data, n);
    memset(file + 8 + n, 3, DATA);
    return fuzz_write("a.safetensors", file, 8 + n + DATA);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    mr_st_file *f = NULL;
    const char *path = write_it(data, n);
    mr_status st = mr_st_open(&f, path);
    fuzz_judge(st, 1u << MR_ERR_DATA, "a.safetensors");
    if (st != MR_OK) return 0;
    int64_t total = 0;
    for (int i = 0; i < f->n; i++) {
        const mr_st_tensor *t = &f->tensor[i];
        int64_t rows = t->ndim ? t->dim[0] : 1, bytes = t->end - t->begin;
        fuzz_require(bytes >= 0 && bytes <= 2 * FUZZ_BYTES, "a tensor is larger than the file");
        fuzz_require(bytes == 0 || rows * mr_st_row_bytes(t) == bytes, "rows and bytes differ");
        char *out = malloc((size_t)bytes + 1);
        if (bytes) fuzz_require(mr_st_read(f, i, 0, rows, out) == MR_OK, "a tensor is not read");
        free(out);
        fuzz_require(mr_st_read(f, i, rows, 1, NULL) == MR_ERR_DATA, "a row behind the last one");
        total += bytes;
        fuzz_require(mr_st_find(f, t->name) >= 0, "a tensor is not found by its name");
    }
    fuzz_require(total == f->data_bytes, "tensors do not fill the data");
    mr_st_close(&f);
    return 0;
}
