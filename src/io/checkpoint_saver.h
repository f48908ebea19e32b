/* What the two halves of saving share: checkpoint_write.c makes the files, checkpoint_job.c says
 * when and in which thread. Private to src/io. */
#ifndef MR_IO_CHECKPOINT_SAVER_H
#define MR_IO_CHECKPOINT_SAVER_H

#include "io/checkpoint.h"
#include "io/checkpoint_dir.h"
#include "io/file.h"

/* What every rank tells the others about its file. bytes 0: it had nothing to write. */
typedef struct mr_shard_record {
    int64_t bytes;
    char xxh3[40];
} mr_shard_record;

typedef struct mr_saver_rows {
    int64_t row0, n;
} mr_saver_rows;

typedef struct mr_saver {
    mr_checkpoint_save_args a;
    mr_train_state state;    /* a.state points here: training goes on */
    int n;                   /* named tensors */
    mr_named *named;         /* [n] */
    mr_saver_rows *plan;     /* [world, n] what each rank writes */
    mr_shard_record *record; /* [world] */
    char *copy;              /* this rank's bytes in the order of its file; NULL: not taken */
    int64_t written;         /* bytes of the shard that were handed to the system; atomic */
    int dir_fd, tmp_fd;
    char name[MR_CHECKPOINT_NAME], tmp[MR_CHECKPOINT_NAME + 24], tmp_path[MR_PATH];
} mr_saver;

/* Collective: who writes what; the temporary folder. */
mr_status mr_saver_begin(mr_saver *s, const mr_checkpoint_save_args *a);
/* Local: take this rank's bytes out of the parameters. */
mr_status mr_saver_copy(mr_saver *s);
/* Local, any thread: this rank's file, complete on the disk or not there. From the copy, or
 * straight from the parameters when there is none. */
mr_status mr_saver_shard(mr_saver *s, mr_shard_record *out);
/* Collective: s->record from everybody's own. */
mr_status mr_saver_gather(mr_saver *s, const mr_shard_record *mine);
/* Rank 0, any thread: manifest, rename, pointers, pruning. */
mr_status mr_saver_publish(mr_saver *s);
/* Local: after a failure remove what is there and say so; free everything. */
void mr_saver_end(mr_saver *s, mr_status st);

#endif
