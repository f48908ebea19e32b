/* Temporary files, a tiny data set, and equality. */
#define _GNU_SOURCE
#include "support.h"

#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "data/check.h"
#include "data/synth.h"

static char folder[256];

static int remove_one(const char *p, const struct stat *s, int t, struct FTW *f)
{
    (void)s;
    (void)t;
    (void)f;
    return remove(p);
}

static void remove_folder(void) { nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS); }

const char *tmp_path(const char *name)
{
    static char ring[8][512];
    static int at;
    if (!folder[0]) {
        /* Memory when there is: thousands of small files would wait for a disk. */
        const char *base = getenv("TMPDIR");
        if (!base) base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
        snprintf(folder, sizeof folder, "%s/mr_data_XXXXXX", base);
        assert_non_null(mkdtemp(folder));
        atexit(remove_folder);
    }
    char *p = ring[at++ % 8];
    snprintf(p, sizeof ring[0], "%s/%s", folder, name);
    return p;
}

void write_bytes(const char *path, const void *data, size_t n)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    if (n) assert_int_equal(fwrite(data, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

void write_text(const char *path, const char *text) { write_bytes(path, text, strlen(text)); }

unsigned char *read_bytes(const char *path, size_t *n)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    *n = (size_t)ftell(f);
    rewind(f);
    unsigned char *b = malloc(*n + 1);
    assert_int_equal(fread(b, 1, *n, f), *n);
    fclose(f);
    return b;
}

void tiny_dataset(mr_dataset *d, uint64_t seed)
{
    mr_synth_spec s;
    assert_int_equal(mr_synth_spec_for("demo", &s), MR_OK);
    s.users = 20;
    s.items = 30;
    s.inter = 113;
    s.frames = 3;
    s.width = 6;
    s.text_width = 5;
    s.seed = seed;
    assert_int_equal(mr_synth(d, &s), MR_OK);
}

bool same_dataset(const mr_dataset *a, const mr_dataset *b)
{
    mr_part p[MR_PART_COUNT], q[MR_PART_COUNT];
    if (strcmp(a->name, b->name) != 0 || a->is_synthetic != b->is_synthetic) return false;
    if (a->n_users != b->n_users || a->n_items != b->n_items || a->n_inter != b->n_inter)
        return false;
    if (a->user_id_bytes != b->user_id_bytes || a->item_id_bytes != b->item_id_bytes) return false;
    mr_dataset_parts(a, p);
    mr_dataset_parts(b, q);
    for (int i = 0; i < MR_PART_COUNT; i++) {
        if (p[i].rank != q[i].rank) return false;
        if (!p[i].rank) continue;
        if (p[i].dtype != q[i].dtype) return false;
        for (int j = 0; j < p[i].rank; j++)
            if (p[i].dims[j] != q[i].dims[j]) return false;
        if (memcmp(p[i].data, q[i].data, (size_t)mr_part_bytes(&p[i])) != 0) return false;
    }
    return a->checksum == b->checksum;
}

uint64_t next_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}
