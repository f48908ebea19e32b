/* What a resumed run reads of itself: metrics.jsonl and the pointer `latest`. The first line of the
 * input is `latest`, the rest the record. Anything is survived; a damaged line is dropped. */
#include "fuzz.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "io/checkpoint_dir.h"
#include "train/record.h"

const char fuzz_name[] = "record";
const char *const fuzz_words[] = {"{\"event\":\"step\",\"step\":3}\n",
                                  "\"step\":",
                                  "\n",
                                  "{",
                                  "}",
                                  "step-000000012",
                                  "step-",
                                  "[",
                                  "null",
                                  "-1",
                                  "\\u0000",
                                  "\xff",
                                  "99999999999",
                                  NULL};

size_t fuzz_seed(int i, uint8_t *out)
{
    static const char *const texts[] = {
        "step-000000004\n{\"event\":\"start\",\"step\":0}\n{\"event\":\"step\",\"step\":1,"
        "\"loss\":1.5}\n{\"event\":\"step\",\"step\":9,\"loss\":1.5}\n",
        "step-000000000\n{\"event\":\"step\",\"step\":2}\n{\"event\":\"st"};
    return i < 2 ? fuzz_text(out, texts[i]) : 0;
}

static void remove_events(const char *dir)
{
    char path[512];
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        if (!strncmp(e->d_name, "events", 6)) unlink(path);
    }
    if (d) closedir(d);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    mr_record *r = NULL;
    const uint8_t *end = n ? memchr(data, '\n', n) : NULL;
    size_t head = end ? (size_t)(end - data) + 1 : n;
    int64_t step = -1;
    const char *dir = fuzz_folder();
    mr_log_init(1, MR_LOG_ERROR); /* other ranks are silent */
    fuzz_write("latest", data, head);
    const char *path = fuzz_write("metrics.jsonl", data + head, n - head);
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (mr_checkpoint_pointer(fd, dir, "latest", &step)) {
        fuzz_require(step >= 0, "a negative step");
        fuzz_accepted++;
    } else {
        fuzz_refused++;
    }
    close(fd);
    /* Damaged lines are dropped, so this is never refused. */
    fuzz_require(mr_record_open(&r, dir, 4) == MR_OK, path);
    mr_record_close(&r);
    remove_events(dir);
    return 0;
}
