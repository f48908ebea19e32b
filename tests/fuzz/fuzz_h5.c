/* The data set file. Inputs that start like HDF5 are files: read as they are, and once more with
 * the checksums of HDF5's own metadata made right, so that mutations reach HDF5's decoders. All
 * others are recipes: what to make wrong in a good file through HDF5's interface
 * (fuzz_h5_recipe.c). */
#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/synth.h"
#include "fuzz_h5.h"
#include "io/h5_checksum.h"
#include "io/h5_dataset.h"

const char fuzz_name[] = "h5";
const char *const fuzz_words[] = {"OHDR",
                                  "OCHK",
                                  "\x89HDF\r\n\x1a\n",
                                  "mealrec-dist",
                                  "xxh3",
                                  "offset",
                                  "items",
                                  "visual",
                                  "frames",
                                  "text",
                                  "user_ids",
                                  "checksum",
                                  "header_xxh3",
                                  "n_users",
                                  "\x01",
                                  "\x07\x03",
                                  "\xff\xff\xff\xff\xff\xff\xff\xff",
                                  NULL};

static uint8_t good[FUZZ_BYTES];
static size_t good_n;

static void make_good(void)
{
    mr_synth_spec s;
    mr_dataset d = {0};
    char path[300];
    snprintf(path, sizeof path, "%s/good.h5", fuzz_folder());
    fuzz_require(mr_synth_spec_for("demo", &s) == MR_OK, "spec");
    s.users = 6;
    s.items = 30;
    s.inter = 44;
    s.frames = 2;
    s.width = 2;
    s.text_width = 3;
    fuzz_require(mr_synth(&d, &s) == MR_OK && mr_h5_dataset_write(&d, path, true) == MR_OK, "seed");
    mr_dataset_free(&d);
    FILE *f = fopen(path, "rb");
    good_n = f ? fread(good, 1, sizeof good, f) : 0;
    if (f) fclose(f);
    fuzz_require(good_n > 1000 && good_n < sizeof good, "size of the seed");
}

size_t fuzz_seed(int i, uint8_t *out)
{
    static const char recipes[][12] = {{2, 0, 1, 0},
                                       {1, 3, 9, 1},
                                       {3, 1, 0, 7, 9, 2, 5, 3, 3, 3},
                                       {1, 8, 4, 4},
                                       {4, 10, 1, 5, 9, 10, 0, 3, 3}};
    if (!good_n) make_good();
    if (i == 0) {
        memcpy(out, good, good_n);
        return good_n;
    }
    if (i > 5) return 0;
    memcpy(out, recipes[i - 1], 12);
    return 12;
}

/* ---- checksums of metadata ---- */

/* Put the sum of bytes [from, to) at `to`; true when it was another one. */
static bool put_sum(uint8_t *b, size_t n, size_t from, size_t to)
{
    if (to > n || n - to < 4 || to < from) return false;
    uint32_t sum = mr_h5_checksum(b + from, to - from);
    bool differs = false;
    for (size_t i = 0; i < 4; i++) {
        uint8_t byte = (uint8_t)(sum >> (8 * i));
        differs = differs || b[to + i] != byte;
        b[to + i] = byte;
    }
    return differs;
}

/* Superblock and the first chunk of every object header. */
static bool repair(uint8_t *b, size_t n)
{
    bool changed = n > 48 && put_sum(b, n, 0, 44);
    for (size_t i = 48; i + 20 < n; i++) {
        if (memcmp(b + i, "OHDR", 4) != 0) continue;
        uint8_t flags = b[i + 5];
        size_t at = i + 6 + (flags & 0x20 ? 16 : 0) + (flags & 0x10 ? 4 : 0),
               width = 1u << (flags & 3);
        uint64_t size = 0;
        if (at + 8 >= n) continue;
        memcpy(&size, b + at, width);
        if (size < n) changed |= put_sum(b, n, i, at + width + size);
    }
    return changed;
}

static void read_it(const char *path)
{
    mr_dataset d = {0};
    mr_status st = mr_h5_dataset_read(&d, path, NULL);
    fuzz_judge(st, 1u << MR_ERR_DATA | 1u << MR_ERR_IO, path);
    if (st == MR_OK)
        fuzz_require(mr_dataset_check(&d, "again") == MR_OK, "accepted against the rules");
    else
        fuzz_require(!d.offset && !d.items, "a refused file left something");
    mr_dataset_free(&d);
    fuzz_require(H5Fget_obj_count((hid_t)H5F_OBJ_ALL, H5F_OBJ_ALL) == 0, "HDF5 objects left open");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static uint8_t copy[FUZZ_BYTES];
    if (!good_n) make_good();
    mr_h5_quiet();
    if (n >= 4 && !memcmp(data, "\x89HDF", 4)) {
        read_it(fuzz_write("a.h5", data, n));
        memcpy(copy, data, n);
        if (repair(copy, n)) read_it(fuzz_write("a.h5", copy, n));
        return 0;
    }
    const char *path = fuzz_write("a.h5", good, good_n);
    fuzz_h5_cook(path, data, n);
    read_it(path);
    return 0;
}
