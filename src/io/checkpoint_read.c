/* Opening and reading a checkpoint at any number of ranks.
 * Invariants: the manifest comes from rank 0, so all ranks act on the same bytes; no tensor is used
 * before the checksum of every file has been compared (each rank reads a share of the files); names
 * of files come from the manifest and are opened below its folder without following links. */
#include "io/checkpoint.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "io/checkpoint_dir.h"
#include "io/manifest.h"
#include "io/safetensors.h"

/* What rank 0 found and tells the others before each attempt. */
enum { TRY_THIS, TRY_FOLDER, NOTHING_LEFT, NEVER_ANY, FAILED };
typedef struct candidate {
    int64_t code;
    char path[sizeof(((mr_checkpoint *)0)->path)];
    char name[MR_CHECKPOINT_NAME];
} candidate;

typedef struct finder {
    char dir[MR_PATH]; /* folder of checkpoints; "" when `where` is a checkpoint itself */
    int64_t *steps;    /* [n] still to be tried, in this order */
    int n, next;
} finder;

static bool exists(const char *dir, const char *name)
{
    char path[MR_PATH];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return access(path, F_OK) == 0;
}

/* Steps to try: the one that the pointer names, then older ones; all when there is no pointer. */
static mr_status list_steps(finder *f, mr_checkpoint_which which)
{
    const char *pointer = which == MR_CHECKPOINT_BEST ? "best" : "latest";
    int64_t named = -1;
    char name[MR_CHECKPOINT_NAME];
    int fd;
    MR_TRY(mr_folder_open(f->dir, &fd));
    mr_status st = mr_checkpoint_steps(fd, f->dir, &f->steps, &f->n);
    bool is_named = st == MR_OK && mr_checkpoint_pointer(fd, f->dir, pointer, &named);
    close(fd);
    MR_TRY(st);
    if (!is_named) {
        if (f->n)
            mr_warn("%s has no usable '%s'; its newest good checkpoint is taken", f->dir, pointer);
        return MR_OK;
    }
    while (f->next < f->n && f->steps[f->next] > named) f->next++;
    if (f->next < f->n && f->steps[f->next] == named) return MR_OK;
    mr_checkpoint_name(named, name);
    mr_warn("%s/%s is missing although '%s' names it; an older one is taken", f->dir, name,
            pointer);
    return MR_OK;
}

/* Rank 0: is `where` a checkpoint, a folder of them, or a run folder? */
static mr_status find(finder *f, const char *where, mr_checkpoint_which which)
{
    MR_CHECK(strlen(where) < sizeof f->dir - 64, MR_ERR_CONFIG, "the path %.60s... is too long",
             where);
    MR_CHECK(exists(where, "."), MR_ERR_NO_INPUT, "%s: no such folder", where);
    int64_t step;
    const char *last = strrchr(where, '/');
    if (exists(where, MR_MANIFEST_NAME) || mr_checkpoint_step(last ? last + 1 : where, &step))
        return MR_OK;
    snprintf(f->dir, sizeof f->dir, "%s%s", where,
             exists(where, "checkpoints") ? "/checkpoints" : "");
    return list_steps(f, which);
}

static void next_candidate(finder *f, const char *where, candidate *c)
{
    memset(c, 0, sizeof *c);
    if (!f->dir[0]) {
        c->code = f->next++ ? NOTHING_LEFT : TRY_THIS;
        snprintf(c->path, sizeof c->path, "%s", where);
        const char *last = strrchr(where, '/');
        snprintf(c->name, sizeof c->name, "%s", last && last[1] ? last + 1 : where);
    } else if (f->next < f->n) {
        c->code = TRY_FOLDER;
        mr_checkpoint_name(f->steps[f->next++], c->name);
        snprintf(c->path, sizeof c->path, "%s/%s", f->dir, c->name);
    } else {
        c->code = f->n ? NOTHING_LEFT : NEVER_ANY;
    }
}

/* Rank 0 reads the manifest, all ranks get its bytes. */
static mr_status share_manifest(mr_checkpoint *c)
{
    mr_comm *world = c->world;
    char *text = NULL, path[MR_PATH];
    size_t bytes = 0;
    mr_status st = MR_OK;
    snprintf(path, sizeof path, "%s/%s", c->path, MR_MANIFEST_NAME);
    if (world->rank == 0) {
        st = mr_file_read_text(c->dir_fd, c->path, MR_MANIFEST_NAME, MR_MANIFEST_BYTES, &text,
                               &bytes);
        if (st == MR_ERR_NO_INPUT) st = MR_ERR_DATA; /* a folder without it is incomplete */
    }
    int64_t n = (int64_t)bytes;
    st = mr_comm_agree(world, st);
    if (st == MR_OK) st = world->bcast(world, &n, 1, MR_I64, 0);
    if (st == MR_OK) {
        if (world->rank != 0) st = mr_alloc((void **)&text, n + 1, 1, path);
        st = mr_comm_agree(world, st);
    }
    if (st == MR_OK) st = world->bcast(world, text, n, MR_U8, 0);
    if (st == MR_OK) st = MR_ALLOC(&c->m, 1, "manifest");
    if (st == MR_OK) st = mr_manifest_parse(c->m, text, (size_t)n, path);
    MR_FREE(text);
    return mr_comm_agree(world, st);
}

static mr_status verify_file(const mr_checkpoint *c, const mr_manifest_file *f)
{
    char hex[MR_XXH_HEX];
    int64_t bytes;
    mr_status st = mr_file_hash(c->dir_fd, c->path, f->name, &bytes, hex);
    if (st == MR_ERR_NO_INPUT) return MR_ERR_DATA;
    MR_TRY(st);
    MR_CHECK(bytes == f->bytes, MR_ERR_DATA,
             "%s/%s has %lld bytes where its manifest says %lld; the checkpoint is damaged",
             c->path, f->name, (long long)bytes, (long long)f->bytes);
    MR_CHECK(!strcmp(hex, f->xxh3), MR_ERR_DATA,
             "%s/%s is damaged: its XXH3-128 is %s where the manifest says %s", c->path, f->name,
             hex, f->xxh3);
    return MR_OK;
}

static mr_status open_verified(mr_checkpoint *c)
{
    mr_status st = mr_folder_open(c->path, &c->dir_fd);
    MR_TRY(mr_comm_agree(c->world, st));
    MR_TRY(share_manifest(c));
    for (int i = c->world->rank; i < c->m->n_files && st == MR_OK; i += c->world->size)
        st = verify_file(c, &c->m->file[i]);
    return mr_comm_agree(c->world, st);
}

/* One attempt; on success the caller owns *out_p. */
static mr_status attempt(mr_checkpoint **out_p, const candidate *what, mr_comm *world)
{
    mr_checkpoint *c = NULL;
    mr_status st = MR_ALLOC(&c, 1, "checkpoint");
    if (c) c->dir_fd = -1; /* before the agreement, after which it may be closed */
    st = mr_comm_agree(world, st);
    if (st == MR_OK) {
        c->world = world;
        snprintf(c->path, sizeof c->path, "%s", what->path);
        snprintf(c->name, sizeof c->name, "%s", what->name);
        st = open_verified(c);
    }
    if (st != MR_OK) {
        mr_checkpoint_close(&c);
        return st;
    }
    c->state = c->m->state;
    c->config_json = c->m->config_json;
    *out_p = c;
    return MR_OK;
}

static mr_status try_candidates(mr_checkpoint **out_p, finder *f, const char *where, mr_comm *world)
{
    candidate what;
    for (;;) {
        if (world->rank == 0) next_candidate(f, where, &what);
        MR_TRY(world->bcast(world, &what, sizeof what, MR_U8, 0));
        if (what.code == NEVER_ANY) return MR_OK;
        if (what.code == NOTHING_LEFT)
            return mr_comm_agree(world, world->rank ? MR_OK
                                                    : MR_RAISE(MR_ERR_DATA,
                                                               "%s holds no good checkpoint that "
                                                               "could be used instead",
                                                               where));
        mr_status st = attempt(out_p, &what, world);
        bool is_final = what.code == TRY_THIS ||
                        (st != MR_ERR_DATA && st != MR_ERR_IO && st != MR_ERR_NO_INPUT);
        if (st == MR_OK || is_final) return st;
        mr_warn("checkpoint %s is skipped because it is damaged or incomplete", what.path);
    }
}

mr_status mr_checkpoint_open(mr_checkpoint **out_p, const char *where, mr_checkpoint_which which,
                             mr_comm *world)
{
    finder f = {0};
    *out_p = NULL;
    mr_status st = mr_comm_agree(world, world->rank == 0 ? find(&f, where, which) : MR_OK);
    if (st == MR_OK) st = try_candidates(out_p, &f, where, world);
    MR_FREE(f.steps);
    return st;
}

void mr_checkpoint_close(mr_checkpoint **c_p)
{
    mr_checkpoint *c = *c_p;
    if (!c) return;
    if (c->dir_fd >= 0) close(c->dir_fd);
    if (c->m) mr_manifest_free(c->m);
    MR_FREE(c->m);
    MR_FREE(*c_p);
}

mr_status mr_checkpoint_load(const char *where, mr_params *ps, mr_train_state *state,
                             mr_comm *world)
{
    mr_checkpoint *c = NULL;
    MR_TRY(mr_checkpoint_open(&c, where, MR_CHECKPOINT_LATEST, world));
    if (!c)
        return mr_comm_agree(
            world,
            world->rank ? MR_OK : MR_RAISE(MR_ERR_NO_INPUT, "%s holds no checkpoint", where));
    mr_status st = mr_checkpoint_read(c, ps);
    if (st == MR_OK && state) *state = c->state;
    mr_checkpoint_close(&c);
    return st;
}
