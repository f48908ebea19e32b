/* Checks of doctor that look at files: the run folder's file system, HDF5 on it, the data set.
 * Invariant: what they make (one small file and folder, named after the process) they remove. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "cli/bench.h"
#include "cli/doctor.h"
#include "data/synth.h"
#include "io/h5_dataset.h"

#define GIB 1073741824.0
#define SLOW_SYNC_S 0.5
#define LEAST_BYTES                                                                                \
    (64 << 20) /* for logs and metrics, where the checkpoint's size is not known                   \
                */

/* run.dir or the nearest of its parents that is there, on rank 0; the same text on all ranks. */
static mr_status find_probe(mr_doctor *d)
{
    struct stat sb;
    mr_comm *w = d->s.world;
    snprintf(d->probe, sizeof d->probe, "%s", d->cfg->run.dir);
    while (w->rank == 0 && stat(d->probe, &sb) != 0 && errno == ENOENT) {
        char *slash = strrchr(d->probe, '/');
        if (!slash)
            snprintf(d->probe, sizeof d->probe, ".");
        else if (slash == d->probe)
            slash[1] = 0;
        else
            *slash = 0;
    }
    return w->bcast(w, d->probe, sizeof d->probe, MR_U8, 0);
}

/* Names of file systems that behave in a way worth knowing. */
static const char *file_system(long type)
{
    static const struct {
        long type;
        const char *name;
    } known[] = {{0xEF53, "ext4"},        {0x58465342, "xfs"},  {0x9123683E, "btrfs"},
                 {0x01021994, "tmpfs"},   {0x6969, "nfs"},      {0x0BD00BD0, "lustre"},
                 {0x794C7630, "overlay"}, {0x65735546, "fuse"}, {0x47504653, "gpfs"},
                 {0x19830326, "beegfs"},  {0x2FC12FC1, "zfs"},  {0xFF534D42, "cifs"}};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (known[i].type == type) return known[i].name;
    return "other";
}

/* Write, sync and lock one file as a run does; removed again. */
static mr_status try_file(const mr_doctor *d, double *sync_s, bool *is_lockable)
{
    char path[MR_PATH + 32];
    static const char text[4096];
    snprintf(path, sizeof path, "%s/.doctor-%ld", d->probe, (long)getpid());
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    MR_CHECK(fd >= 0, MR_ERR_IO,
             "no file can be made in %s: %s; give write permission or choose another --run.dir",
             d->probe, strerror(errno));
    double at = mr_seconds();
    bool is_written = write(fd, text, sizeof text) == (ssize_t)sizeof text && fsync(fd) == 0;
    int reason = errno;
    *sync_s = mr_seconds() - at;
    *is_lockable = flock(fd, LOCK_EX | LOCK_NB) == 0;
    close(fd);
    unlink(path);
    MR_CHECK(is_written, MR_ERR_IO,
             "a file in %s cannot be written: %s; make room or choose "
             "another --run.dir",
             d->probe, strerror(reason));
    return MR_OK;
}

static void folder_verdict(const mr_doctor *d, mr_verdict *v, double checkpoints, double sync_s,
                           bool is_lockable)
{
    struct statfs fs = {0};
    struct statvfs room = {0};
    char path[2 * MR_STR + 2];
    statfs(d->probe, &fs);
    statvfs(d->probe, &room);
    double left = (double)room.f_bavail * (double)room.f_frsize;
    const char *type = file_system((long)fs.f_type);
    snprintf(path, sizeof path, "%s/%s", d->cfg->run.dir, d->cfg->run.name);
    if (!is_lockable)
        mr_verdict_fail(v, MR_ERR_IO,
                        "%s (%s) cannot lock files, so two runs could use one folder; choose "
                        "another --run.dir",
                        d->probe, type);
    else if (left < checkpoints)
        mr_verdict_fail(v, MR_ERR_IO,
                        "%s (%s) has %.2f GiB left, %lld checkpoints need %.2f GiB; make room or "
                        "choose another --run.dir",
                        d->probe, type, left / GIB, (long long)d->cfg->checkpoint.keep + 2,
                        checkpoints / GIB);
    else if (!strcmp(type, "tmpfs"))
        mr_verdict_warn(v,
                        "%s is in memory (tmpfs): runs there are lost when the machine restarts; "
                        "choose another --run.dir",
                        d->probe);
    else if (sync_s > SLOW_SYNC_S)
        mr_verdict_warn(v,
                        "%s (%s): writing 4 KiB safely took %.1f s; checkpoints will be slow, use "
                        "another --run.dir or a larger checkpoint.every_epochs",
                        d->probe, type, sync_s);
    else
        mr_verdict_ok(v, "%s (%s): %.1f GiB left, checkpoints need %.2f; sync %.0f ms, locks%s",
                      d->probe, type, left / GIB, checkpoints / GIB, 1e3 * sync_s,
                      access(path, F_OK) == 0 ? "; the folder of this run is there already" : "");
}

void mr_check_folder(mr_doctor *d, mr_verdict *v)
{
    double sync_s = 0;
    bool is_lockable = false;
    int64_t bytes = d->checkpoint_bytes;
    char before[1024];
    mr_comm *w = d->s.world;
    snprintf(before, sizeof before, "%s", mr_last_error());
    mr_status st = find_probe(d);
    if (st == MR_OK) st = w->allreduce(w, &bytes, 1, MR_I64, MR_SUM);
    /* Dense parameters are written once, by one rank or another: an upper bound is enough. */
    double all = (double)bytes * (double)(d->cfg->checkpoint.keep + 2) + LEAST_BYTES;
    if (st == MR_OK)
        st = mr_comm_agree(w, w->rank == 0 ? try_file(d, &sync_s, &is_lockable) : MR_OK);
    if (st != MR_OK)
        mr_verdict_raised(v, st, before);
    else if (w->rank == 0)
        folder_verdict(d, v, all, sync_s, is_lockable);
}

static mr_status write_small(const char *path, uint64_t *checksum)
{
    mr_synth_spec spec;
    mr_dataset data = {0};
    MR_TRY(mr_synth_spec_for("demo", &spec));
    spec.users = 40;
    spec.items = 40;
    spec.inter = 300;
    MR_TRY(mr_synth(&data, &spec));
    mr_status st = mr_h5_dataset_write(&data, path, false);
    *checksum = data.checksum;
    mr_dataset_free(&data);
    return st;
}

/* A small data set written by rank 0 and read by all ranks together. */
void mr_check_hdf5(mr_doctor *d, mr_verdict *v)
{
    char path[MR_PATH + 32], before[1024];
    mr_dataset back = {0};
    uint64_t sum = 0;
    mr_comm *w = d->s.world;
    snprintf(before, sizeof before, "%s", mr_last_error());
    mr_status st = find_probe(d);
    snprintf(path, sizeof path, "%s/.doctor-%ld.h5", d->probe, (long)getpid());
    if (st == MR_OK) st = w->bcast(w, path, sizeof path, MR_U8, 0);
    if (st == MR_OK) st = mr_comm_agree(w, w->rank == 0 ? write_small(path, &sum) : MR_OK);
    bool is_written = st == MR_OK;
    if (st == MR_ERR_USAGE) st = MR_ERR_IO; /* the name is ours, not the user's */
    if (st == MR_OK) st = w->bcast(w, &sum, sizeof sum, MR_U8, 0);
    if (st == MR_OK) st = mr_h5_dataset_read(&back, path, w);
    if (w->rank == 0) unlink(path);
    if (st != MR_OK) {
        mr_verdict_raised(v, st, before);
        size_t at = strlen(v->text);
        snprintf(v->text + at, sizeof v->text - at, "; %s",
                 !is_written             ? "choose another --run.dir"
                 : st == MR_ERR_NO_INPUT ? "run.dir must be a folder that all hosts share"
                                         : "if it speaks of locks, set "
                                           "HDF5_USE_FILE_LOCKING=FALSE");
    } else if (back.checksum != sum) {
        mr_verdict_fail(v, MR_ERR_DATA,
                        "a small data set in %s reads back with other bytes; try `mpirun --mca io "
                        "romio321`",
                        d->probe);
    } else {
        mr_verdict_ok(v, "a small data set was written to %s and read back by %d rank(s)", d->probe,
                      w->size);
    }
    mr_dataset_free(&back);
}

void mr_check_data(mr_doctor *d, mr_verdict *v)
{
    char before[1024];
    const char *path = d->cfg->data.path;
    double at = mr_seconds();
    snprintf(before, sizeof before, "%s", mr_last_error());
    mr_status st = mr_session_load(&d->s, d->cfg);
    const mr_dataset *data = &d->s.data;
    if (st != MR_OK) {
        mr_verdict_raised(v, st, before);
        return;
    }
    d->has_data = true;
    if (path[0])
        mr_verdict_ok(v, "%s: %lld users, %lld items, %lld interactions, checksums right, %.1f s",
                      path, (long long)data->n_users, (long long)data->n_items,
                      (long long)data->n_inter, mr_seconds() - at);
    else
        mr_verdict_ok(v, "data.path is empty: the built-in SYNTHETIC demo would be used");
}
