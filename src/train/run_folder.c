/* Creation, ownership and description of a run's folder.
 * Invariant: run.json exists before anything else but the lock, so a folder without it is either
 * empty or not ours. The lock is flock's: it goes away with the process, however it ends. */
#include "train/run_folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "io/environment.h"
#include "io/json_build.h"

#define RUN_JSON "run.json"
#define CONFIG_YAML "config.yaml"
#define LOCK_NAME "lock"
#define RANK_TEXT 64 /* host and device of a rank, each */

typedef struct opener {
    mr_run_folder *f;
    const mr_config *cfg;
    const mr_run_info *info;
    const char *ranks; /* [world, 2, RANK_TEXT] host and device of every rank */
    int dir_fd;
    json_t *run; /* run.json: the earlier one, then ours */
} opener;

static mr_status make_folder(const char *path)
{
    char part[MR_PATH];
    size_t n = strlen(path);
    for (size_t i = 1; i <= n; i++) {
        if (path[i] != '/' && path[i] != 0) continue;
        snprintf(part, sizeof part, "%.*s", (int)i, path);
        if (mkdir(part, 0777) != 0 && errno != EEXIST)
            return MR_RAISE(MR_ERR_IO, "the folder %s cannot be made: %s; choose another --run.dir",
                            part, strerror(errno));
    }
    return MR_OK;
}

static mr_status take_lock(opener *o)
{
    char text[160] = "", host[RANK_TEXT] = "";
    const char *path = o->f->path;
    int fd = openat(o->dir_fd, LOCK_NAME, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666);
    MR_CHECK(fd >= 0, MR_ERR_IO, "the run folder %s cannot be written: %s", path, strerror(errno));
    o->f->lock_fd = fd;
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        int reason = errno;
        ssize_t n = pread(fd, text, sizeof text - 1, 0);
        text[n > 0 ? n : 0] = 0;
        text[strcspn(text, "\n")] = 0;
        MR_CHECK(reason == EWOULDBLOCK, MR_ERR_IO, "the run folder %s cannot be locked: %s", path,
                 strerror(reason));
        return MR_RAISE(MR_ERR_CONFIG,
                        "the run folder %s is in use by %.120s; wait for it or choose another "
                        "--run.name",
                        path, text[0] ? text : "another process");
    }
    gethostname(host, sizeof host - 1);
    int n = snprintf(text, sizeof text, "process %d on %s\n", (int)getpid(), host);
    MR_CHECK(ftruncate(fd, 0) == 0 && pwrite(fd, text, (size_t)n, 0) == n, MR_ERR_IO,
             "the run folder %s cannot be written: %s", path, strerror(errno));
    return MR_OK;
}

/* Anything but our lock, and files that a crash left before run.json stood? */
static mr_status holds_something(const opener *o, bool *out)
{
    bool found = false;
    int fd = openat(o->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    if (!d) {
        mr_status st = MR_RAISE(MR_ERR_IO, "the run folder %s cannot be listed: %s", o->f->path,
                                strerror(errno));
        if (fd >= 0) close(fd);
        return st;
    }
    for (struct dirent *e; (e = readdir(d));)
        found |= e->d_name[0] != '.' && strcmp(e->d_name, LOCK_NAME) != 0;
    closedir(d);
    *out = found;
    return MR_OK;
}

/* Without a run.json, the folder has to be empty. */
static mr_status check_empty(const opener *o)
{
    bool is_used = false;
    if (faccessat(o->dir_fd, RUN_JSON, F_OK, 0) == 0) return MR_OK;
    MR_TRY(holds_something(o, &is_used));
    MR_CHECK(!is_used, MR_ERR_CONFIG,
             "%s holds files but no %s, so it is not the folder of a run; choose another "
             "--run.name",
             o->f->path, RUN_JSON);
    return MR_OK;
}

/* Names of keys that make the configuration another one, with both values. */
static void list_differences(const opener *o, char *out, size_t out_bytes)
{
    char path[MR_PATH + 16], a[MR_STR + 64], b[MR_STR + 64];
    mr_config *old = NULL, *probe = NULL;
    size_t n = 0;
    int found = 0;
    snprintf(out, out_bytes, "its values cannot be read");
    snprintf(path, sizeof path, "%s/%s", o->f->path, CONFIG_YAML);
    if (MR_ALLOC(&old, 1, "configuration") == MR_OK &&
        MR_ALLOC(&probe, 1, "configuration") == MR_OK) {
        mr_config_defaults(old);
        if (mr_config_load(old, path) != MR_OK) found = 4;
        uint64_t hash = mr_config_hash(o->cfg);
        for (int i = 0; i < mr_config_count() && found < 3; i++) {
            mr_config_format(old, i, a, sizeof a);
            mr_config_format(o->cfg, i, b, sizeof b);
            if (!strcmp(a, b)) continue;
            *probe = *o->cfg;
            if (mr_config_set(probe, mr_config_key(i), a, "config.yaml") != MR_OK) continue;
            if (mr_config_hash(probe) == hash) continue;
            int k = snprintf(out + n, out_bytes - n, "%s%s is %s there and %s here",
                             found ? ", " : "", mr_config_key(i), a, b);
            if (k < 0 || (size_t)k >= out_bytes - n) break;
            n += (size_t)k;
            found++;
        }
    }
    MR_FREE(probe);
    MR_FREE(old);
}

static mr_status check_earlier(opener *o)
{
    const char *path = o->f->path, *resume = o->cfg->checkpoint.resume;
    char hash[24], sum[24], text[600];
    const char *had = json_string_value(json_object_get(o->run, "config_hash"));
    const char *data = json_string_value(json_object_get(o->run, "data_checksum"));
    snprintf(hash, sizeof hash, "0x%016llx", (unsigned long long)mr_config_hash(o->cfg));
    snprintf(sum, sizeof sum, "0x%016llx", (unsigned long long)o->info->data_checksum);
    MR_CHECK(had && data, MR_ERR_CONFIG,
             "%s/%s does not describe a run; choose another --run.name or remove the folder", path,
             RUN_JSON);
    if (strcmp(had, hash)) {
        list_differences(o, text, sizeof text);
        return MR_RAISE(MR_ERR_CONFIG,
                        "the run folder %s belongs to another configuration (%s); choose another "
                        "--run.name",
                        path, text);
    }
    MR_CHECK(!strcmp(data, sum), MR_ERR_CONFIG,
             "the run folder %s belongs to a run on other data (checksum %.20s there, %s here); "
             "choose another --run.name",
             path, data, sum);
    MR_CHECK(strcmp(resume, "never"), MR_ERR_CONFIG,
             "the run folder %s already holds this run and checkpoint.resume is never; choose "
             "another --run.name, or checkpoint.resume=auto to go on",
             path);
    o->f->is_continued = true;
    return MR_OK;
}

static mr_status read_earlier(opener *o)
{
    char *text = NULL;
    size_t bytes;
    json_error_t e;
    MR_TRY(check_empty(o));
    if (faccessat(o->dir_fd, RUN_JSON, F_OK, 0) != 0) {
        o->run = json_object();
        return MR_OK;
    }
    MR_TRY(mr_file_read_text(o->dir_fd, o->f->path, RUN_JSON, 16 << 20, &text, &bytes));
    mr_status st = mr_json_read(&o->run, text, bytes, o->f->path, &e);
    MR_FREE(text);
    return st == MR_OK ? check_earlier(o) : st;
}

static json_t *text_json(const char *text)
{
    json_t *o = json_string(text);
    return o ? o : json_string("(not UTF-8)");
}

static json_t *text_list(const char *const *words, int n, bool *ok)
{
    json_t *list = json_array();
    for (int i = 0; i < n; i++) mr_json_append(list, text_json(words[i]), ok);
    return list;
}

/* One start of the program in this folder. */
static json_t *describe_start(const opener *o, bool *ok)
{
    json_t *s = json_object(), *versions = json_object(), *ranks = json_array();
    mr_version v[16];
    char now[40];
    time_t t = time(NULL);
    struct tm tm;
    strftime(now, sizeof now, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&t, &tm));
    mr_json_set(s, "time", json_string(now), ok);
    mr_json_set(s, "ranks", json_integer(o->f->world->size), ok);
    if (o->info->argv) mr_json_set(s, "command", text_list(o->info->argv, o->info->argc, ok), ok);
    int n = mr_environment(v, 16);
    for (int i = 0; i < n; i++) mr_json_set(versions, v[i].name, json_string(v[i].text), ok);
    mr_json_set(s, "versions", versions, ok);
    for (int r = 0; r < o->f->world->size; r++) {
        const char *host = o->ranks + (size_t)r * 2 * RANK_TEXT, *device = host + RANK_TEXT;
        mr_json_append(ranks, json_pack("{s:s, s:s}", "host", host, "device", device), ok);
    }
    mr_json_set(s, "placement", ranks, ok);
    return s;
}

static mr_status write_run_json(opener *o)
{
    char text[24];
    bool ok = true;
    int64_t before = mr_json_lost();
    snprintf(text, sizeof text, "0x%016llx", (unsigned long long)mr_config_hash(o->cfg));
    mr_json_set(o->run, "name", json_string(o->cfg->run.name), &ok);
    mr_json_set(o->run, "config_hash", json_string(text), &ok);
    snprintf(text, sizeof text, "0x%016llx", (unsigned long long)o->info->data_checksum);
    mr_json_set(o->run, "data_checksum", json_string(text), &ok);
    mr_json_set(o->run, "data_path", text_json(o->info->data_path), &ok);
    mr_json_set(o->run, "seed", json_integer(o->cfg->run.seed), &ok);
    if (!json_is_array(json_object_get(o->run, "starts")))
        mr_json_set(o->run, "starts", json_array(), &ok);
    mr_json_append(json_object_get(o->run, "starts"), describe_start(o, &ok), &ok);
    char *dump = mr_json_text(ok && mr_json_lost() == before ? o->run : NULL, JSON_INDENT(1));
    MR_CHECK(dump, MR_ERR_MEMORY, "no memory for the text of %s", RUN_JSON);
    mr_status st = mr_file_replace(o->dir_fd, o->f->path, RUN_JSON, dump, strlen(dump));
    free(dump);
    return st;
}

static mr_status write_config(const opener *o)
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *m = open_memstream(&text, &bytes);
    MR_CHECK(m, MR_ERR_MEMORY, "no memory for the text of %s", CONFIG_YAML);
    mr_config_write_yaml(o->cfg, m);
    mr_status st = MR_OK;
    if (fclose(m) != 0) st = MR_RAISE(MR_ERR_MEMORY, "no memory for the text of %s", CONFIG_YAML);
    if (st == MR_OK) st = mr_file_replace(o->dir_fd, o->f->path, CONFIG_YAML, text, bytes);
    free(text);
    return st;
}

/* Rank 0. */
static mr_status enter(opener *o)
{
    char log_path[MR_PATH + 16];
    mr_run_folder *f = o->f;
    MR_TRY(make_folder(f->path));
    MR_TRY(mr_folder_open(f->path, &o->dir_fd));
    MR_TRY(check_empty(o)); /* nothing of ours goes into a folder of others, not even the lock */
    MR_TRY(take_lock(o));
    MR_TRY(read_earlier(o));
    MR_TRY(write_run_json(o));
    MR_TRY(write_config(o));
    MR_TRY(make_folder(f->checkpoints));
    snprintf(log_path, sizeof log_path, "%s/train.log", f->path);
    MR_CHECK(mr_log_file(log_path), MR_ERR_IO, "%s cannot be written: %s", log_path,
             strerror(errno));
    return MR_OK;
}

static mr_status gather_ranks(mr_comm *world, const char *device, char **out_p)
{
    char mine[2][RANK_TEXT] = {"", ""};
    gethostname(mine[0], RANK_TEXT - 1);
    snprintf(mine[1], RANK_TEXT, "%s", device);
    return mr_comm_gather(world, mine, sizeof mine, out_p);
}

mr_status mr_run_folder_open(mr_run_folder **out_p, const mr_config *cfg, const mr_run_info *info,
                             mr_comm *world)
{
    mr_run_folder *f = NULL;
    char *ranks = NULL;
    size_t length = strlen(cfg->run.name);
    MR_CHECK(length <= MR_FILE_NAME_MAX, MR_ERR_CONFIG,
             "run.name '%.20s...' is too long: %zu bytes, at most %d are accepted", cfg->run.name,
             length, MR_FILE_NAME_MAX);
    MR_CHECK(mr_file_name_ok(cfg->run.name) && cfg->run.name[0] != '-', MR_ERR_CONFIG,
             "run.name '%.80s' is not a plain folder name (letters, digits, '.', '_', '-', "
             "the first a letter, a digit or '_')",
             cfg->run.name);
    mr_status st = MR_ALLOC(&f, 1, "run folder");
    if (f) f->lock_fd = -1; /* before anything that can end in closing it */
    st = mr_comm_agree(world, st);
    if (st == MR_OK) st = gather_ranks(world, info->device, &ranks);
    if (st == MR_OK) {
        opener o = {.f = f, .cfg = cfg, .info = info, .ranks = ranks, .dir_fd = -1};
        f->world = world;
        snprintf(f->path, sizeof f->path, "%s/%s", cfg->run.dir, cfg->run.name);
        snprintf(f->checkpoints, sizeof f->checkpoints, "%s/%s/checkpoints", cfg->run.dir,
                 cfg->run.name);
        st = mr_comm_agree(world, world->rank == 0 ? enter(&o) : MR_OK);
        int64_t continued = f->is_continued;
        if (st == MR_OK) st = world->bcast(world, &continued, 1, MR_I64, 0);
        f->is_continued = continued != 0;
        json_decref(o.run);
        if (o.dir_fd >= 0) close(o.dir_fd);
    }
    MR_FREE(ranks);
    if (st != MR_OK) {
        mr_run_folder_close(&f);
        return st;
    }
    *out_p = f;
    return MR_OK;
}

mr_status mr_run_folder_start(mr_run_folder *f, int64_t resume_step)
{
    mr_status st = MR_OK;
    if (f->world->rank == 0 && !f->record)
        st = mr_record_open(&f->record, f->path,
                            resume_step >= 0  ? resume_step
                            : f->is_continued ? 0
                                              : -1);
    return mr_comm_agree(f->world, st);
}

void mr_run_folder_close(mr_run_folder **f_p)
{
    mr_run_folder *f = *f_p;
    if (!f) return;
    mr_record_close(&f->record);
    if (f->lock_fd >= 0) {
        mr_log_file(NULL);
        close(f->lock_fd);
    }
    MR_FREE(*f_p);
}
