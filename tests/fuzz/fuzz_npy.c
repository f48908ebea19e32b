/* The npy reader. Bytes that start with '{' are a header's text, to which preamble and data are
 * added, so that mutations reach behind the length of the header. */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "data/npy.h"

const char fuzz_name[] = "npy";
const char *const fuzz_words[] = {"'descr'",
                                  "'fortran_order'",
                                  "'shape'",
                                  "True",
                                  "False",
                                  "(4, 6)",
                                  "(",
                                  ")",
                                  ",",
                                  "{",
                                  "}",
                                  ":",
                                  "'<f4'",
                                  "'|O'",
                                  "'>f4'",
                                  "'<f2'",
                                  "'<i8'",
                                  "'|u1'",
                                  "\x93NUMPY",
                                  "[('a', '<f4')]",
                                  "()",
                                  "(0,)",
                                  "(0, 9223372036854775807)",
                                  "\n",
                                  NULL};

enum { DATA = 96 };

size_t fuzz_seed(int i, uint8_t *out)
{
    static const char *const headers[] = {
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4, 6), }\n",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (12,), }   \n",
        "{'shape':(2,3,8),'fortran_order':False,'descr':'<f2'}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 2, 4, 6), }\n"};
    if (i < 4) return fuzz_text(out, headers[i]);
    if (i > 5) return 0;
    const uint8_t preamble[2][12] = {{0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, 60, 0},
                                     {0x93, 'N', 'U', 'M', 'P', 'Y', 2, 0, 60, 0, 0, 0}};
    size_t n = i == 4 ? 10 : 12;
    memcpy(out, preamble[i - 4], n);
    n += fuzz_text(out + n, headers[0]);
    memset(out + n, 7, DATA);
    return n + DATA;
}

static const char *write_it(const uint8_t *data, size_t n)
{
    uint8_t file[16 + 4096 + DATA] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0};
    if (n == 0 || data[0] != '{' || n > 4096) return fuzz_write("a.npy", data, n);
    file[8] = (uint8_t)(n & 255);
    file[9] = (uint8_t)(n >> 8);
    memcpy(file + 10, data, n);
    return fuzz_write("a.npy", file, 10 + n + DATA);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    mr_npy f;
    const char *path = write_it(data, n);
    mr_status st = mr_npy_open(&f, path);
    fuzz_judge(st, 1u << MR_ERR_DATA, path);
    if (st != MR_OK) return 0;
    int64_t bytes = mr_npy_row_elems(&f) * (int64_t)mr_dtype_bytes(f.dtype);
    int64_t rows = f.rank ? f.dims[0] : 1;
    fuzz_require(rows == 0 || bytes <= FUZZ_BYTES, "a row is larger than the file");
    void *row = malloc(bytes > 0 && rows > 0 ? (size_t)bytes : 1);
    for (int64_t r = 0; r < rows && bytes > 0; r++)
        fuzz_require(mr_npy_row(&f, r, row) == MR_OK, "a row of an accepted file is not read");
    free(row);
    mr_npy_close(&f);
    return 0;
}
