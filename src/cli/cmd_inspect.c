/* mealrec-dist inspect FILE: what a file of this program holds, with its checksums verified.
 * What it is not: tolerant; a file whose checksums do not match is an error. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/mem.h"
#include "cli/commands.h"
#include "cli/inspect_checkpoint.h"
#include "data/check.h"
#include "dist/hang.h"
#include "io/h5_dataset.h"

static const char *type_name(mr_dtype t)
{
    static const char *const names[] = {"f32", "f64", "f16", "bf16", "i32", "i64", "u8", "u32"};
    return names[t];
}

static mr_status inspect_dataset(const char *path)
{
    mr_dataset d = {0};
    MR_TRY(mr_h5_dataset_read(&d, path, NULL));
    mr_part parts[MR_PART_COUNT];
    uint64_t sums[MR_PART_COUNT];
    mr_dataset_parts(&d, parts);
    mr_dataset_sums(&d, sums);
    printf("%s: data set \"%s\"%s, schema version %d\n", path, d.name,
           d.is_synthetic ? " (synthetic)" : "", MR_DATASET_SCHEMA_VERSION);
    for (int i = 0; i < MR_PART_COUNT; i++) {
        char shape[96] = "absent";
        int n = 0;
        for (int j = 0; j < parts[i].rank; j++)
            n += snprintf(shape + n, sizeof shape - (size_t)n, "%s%lld", j ? " x " : "",
                          (long long)parts[i].dims[j]);
        if (parts[i].rank)
            printf("  %-9s %-5s %-24s %14lld bytes  xxh3 %016llx\n", parts[i].name,
                   type_name(parts[i].dtype), shape, (long long)mr_part_bytes(&parts[i]),
                   (unsigned long long)sums[i]);
        else
            printf("  %-9s absent\n", parts[i].name);
    }
    mr_stats s = mr_dataset_stats(&d);
    const char *head = "data set";
    mr_stats_print(stdout, &s, &head, 1);
    printf("checksum %016llx: every part verified\n", (unsigned long long)d.checksum);
    mr_dataset_free(&d);
    return MR_OK;
}

static mr_status inspect_hang(const char *folder)
{
    mr_ring *ring = NULL;
    mr_hang h;
    int n = 0;
    MR_TRY(mr_hang_read(folder, &ring, &n));
    mr_hang_judge(&h, ring, n);
    (void)mr_hang_report(h.text, sizeof h.text, folder);
    mr_hang_print(&h, ring, n, stdout);
    MR_FREE(ring);
    return MR_OK;
}

static mr_status run(const mr_args *a)
{
    const char *path = a->words[0];
    if (a->n_words == 2) {
        MR_CHECK(!strcmp(path, "hang"), MR_ERR_USAGE,
                 "inspect takes one file, or the word hang and a run folder");
        return inspect_hang(a->words[1]);
    }
    struct stat sb;
    MR_CHECK(stat(path, &sb) == 0,
             errno == ENOENT || errno == ENOTDIR ? MR_ERR_NO_INPUT : MR_ERR_IO,
             "%s cannot be read: %s", path, strerror(errno));
    if (mr_h5_is_hdf5(path)) return inspect_dataset(path);
    if (S_ISDIR(sb.st_mode)) return mr_inspect_checkpoint(path);
    if (mr_is_safetensors(path)) return mr_inspect_safetensors(path);
    return MR_RAISE(MR_ERR_DATA, "%s is neither a data set, nor a checkpoint, nor safetensors",
                    path);
}

const mr_command mr_cmd_inspect = {.name = "inspect",
                                   .summary =
                                       "say what a file holds and verify its checksums; who hangs",
                                   .words = "FILE | hang DIR",
                                   .words_min = 1,
                                   .words_max = 2,
                                   .is_alone = true,
                                   .run = run};
