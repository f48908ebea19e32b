/* inspect: checkpoints and safetensors files. */
#include "cli/inspect_checkpoint.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "io/manifest.h"
#include "io/safetensors.h"

#define BLOCK_ELEMENTS (1 << 18)

static void shape_text(char out[128], int ndim, const int64_t *dim)
{
    int n = snprintf(out, 128, ndim ? "" : "scalar");
    for (int i = 0; i < ndim; i++)
        n += snprintf(out + n, n < 127 ? 128 - (size_t)n : 1, i ? " x %lld" : "%lld",
                      (long long)dim[i]);
}

static void print_state(const mr_train_state *s)
{
    printf(
        "  step %lld, epoch %lld (%lld batches of it done), %lld rows seen, %.1f s of training%s\n",
        (long long)s->step, (long long)s->epoch, (long long)s->batch_in_epoch,
        (long long)s->rows_seen, s->seconds, s->is_finished ? ", finished" : "");
    if (s->best_epoch >= 0)
        printf("  best validation %.6g at epoch %lld, step %lld; %lld validations since\n",
               s->best_metric, (long long)s->best_epoch, (long long)s->best_step,
               (long long)s->bad_evals);
    else
        printf("  no validation yet\n");
    printf("  seed %llu, configuration %016llx, data %016llx\n", (unsigned long long)s->seed,
           (unsigned long long)s->config_hash, (unsigned long long)s->data_checksum);
}

static void print_manifest(const mr_manifest *m)
{
    int64_t bytes = 0, elements = 0;
    print_state(&m->state);
    printf("  written by %d rank%s, %s, %s\n", m->world, m->world == 1 ? "" : "s",
           mr_st_dtype_name(m->dtype),
           m->has_optimizer ? "values and Adam's two moments" : "values only");
    for (int i = 0; i < m->n_tensors; i++) {
        const mr_manifest_tensor *t = &m->tensor[i];
        char shape[128];
        shape_text(shape, t->ndim, t->dim);
        printf("  %-36s %-24s %d part%s\n", t->name, shape, t->n_parts, t->n_parts == 1 ? "" : "s");
        elements += t->dim[0] * t->dim[1] * t->dim[2] * t->dim[3];
    }
    for (int i = 0; i < m->n_files; i++) {
        printf("  %-36s %14lld bytes  xxh3_128 %s\n", m->file[i].name, (long long)m->file[i].bytes,
               m->file[i].xxh3);
        bytes += m->file[i].bytes;
    }
    printf("%d tensors, %lld parameters, %lld bytes in %d files: every checksum verified\n",
           m->n_tensors, (long long)elements, (long long)bytes, m->n_files);
}

mr_status mr_inspect_checkpoint(const char *path)
{
    mr_comm *self = NULL;
    mr_checkpoint *c = NULL;
    MR_TRY(mr_comm_self(&self));
    mr_status st = mr_checkpoint_open(&c, path, MR_CHECKPOINT_LATEST, self);
    if (st == MR_OK && !c) st = MR_RAISE(MR_ERR_NO_INPUT, "%s holds no checkpoint", path);
    if (st == MR_OK) {
        printf("%s: checkpoint, format version %d\n", c->path, MR_MANIFEST_VERSION);
        print_manifest(c->m);
    }
    mr_checkpoint_close(&c);
    mr_comm_destroy(&self);
    return st;
}

typedef struct range {
    double min, max;
    int64_t n_bad; /* NaN or infinite */
} range;

static void widen(range *r, double x)
{
    if (!isfinite(x)) {
        r->n_bad++;
        return;
    }
    if (x < r->min) r->min = x;
    if (x > r->max) r->max = x;
}

static mr_status value_range(const mr_st_file *f, const mr_st_tensor *t, char *block, range *r)
{
    int64_t elem = (int64_t)mr_dtype_bytes(t->dtype);
    *r = (range){INFINITY, -INFINITY, 0};
    for (int64_t at = t->begin; at < t->end; at += BLOCK_ELEMENTS * elem) {
        int64_t bytes = t->end - at < BLOCK_ELEMENTS * elem ? t->end - at : BLOCK_ELEMENTS * elem;
        MR_TRY(mr_file_read_at(f->fd, block, (size_t)bytes, f->data_at + at, f->path));
        for (int64_t i = 0; i < bytes / elem; i++)
            widen(r, t->dtype == MR_F32 ? (double)((float *)(void *)block)[i]
                                        : ((double *)(void *)block)[i]);
    }
    return MR_OK;
}

static mr_status print_tensors(const mr_st_file *f, char *block)
{
    for (int i = 0; i < f->n; i++) {
        const mr_st_tensor *t = &f->tensor[i];
        char shape[128];
        range r;
        shape_text(shape, t->ndim, t->dim);
        printf("  %-36s %-5s %-24s %12lld bytes", t->name, mr_st_dtype_name(t->dtype), shape,
               (long long)(t->end - t->begin));
        if ((t->dtype == MR_F32 || t->dtype == MR_F64) && t->end > t->begin) {
            MR_TRY(value_range(f, t, block, &r));
            if (r.n_bad)
                printf("  %lld values are not finite", (long long)r.n_bad);
            else
                printf("  [%.4g, %.4g]", r.min, r.max);
        }
        putchar('\n');
    }
    return MR_OK;
}

mr_status mr_inspect_safetensors(const char *path)
{
    mr_st_file *f = NULL;
    char *block = NULL, hex[MR_XXH_HEX];
    int64_t bytes;
    MR_TRY(mr_st_open(&f, path));
    printf("%s: safetensors, %d tensors, %lld bytes of data\n", path, f->n,
           (long long)f->data_bytes);
    for (int i = 0; i < f->n_metadata; i++)
        printf("  %s: %.300s%s\n", f->key[i], f->value[i], strlen(f->value[i]) > 300 ? " ..." : "");
    mr_status st = mr_alloc((void **)&block, BLOCK_ELEMENTS, 8, "block of a tensor");
    if (st == MR_OK) st = print_tensors(f, block);
    if (st == MR_OK) st = mr_file_hash(AT_FDCWD, ".", f->path, &bytes, hex);
    if (st == MR_OK)
        printf("header consistent with %lld bytes of file; xxh3_128 %s\n", (long long)bytes, hex);
    MR_FREE(block);
    mr_st_close(&f);
    return st;
}

bool mr_is_safetensors(const char *path)
{
    unsigned char head[9];
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    bool ok = fd >= 0 && read(fd, head, 9) == 9 && head[8] == '{';
    if (fd >= 0) close(fd);
    return ok;
}
