/* TensorBoard events without a protobuf library.
 * A record is u64 length | u32 masked CRC of it | payload | u32 masked CRC of the payload; a
 * payload is one Event message: 1 wall_time (double), 2 step (varint), 3 file_version (string), 5
 * summary, 7 session_log. A summary holds one value {1 tag, 2 simple_value (float)}. */
#include "io/tfevents.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"
#include "io/file.h"

struct mr_tfevents {
    char path[MR_PATH];
    int fd;
};

typedef struct message {
    unsigned char b[512];
    size_t n;
} message;

static uint32_t table[256];
static pthread_once_t table_once = PTHREAD_ONCE_INIT;

static void make_table(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++) c = c & 1 ? c >> 1 ^ 0x82F63B78u : c >> 1;
        table[i] = c;
    }
}

uint32_t mr_crc32c(const void *data, size_t bytes)
{
    const unsigned char *p = data;
    uint32_t c = 0xFFFFFFFFu;
    pthread_once(&table_once, make_table);
    for (size_t i = 0; i < bytes; i++) c = table[(c ^ p[i]) & 255] ^ c >> 8;
    return ~c;
}

/* The mask of the format, so that a CRC of data that holds CRCs stays useful. */
static uint32_t masked_crc(const void *data, size_t bytes)
{
    uint32_t c = mr_crc32c(data, bytes);
    return (c >> 15 | c << 17) + 0xA282EAD8u;
}

static void put(message *m, const void *data, size_t bytes)
{
    if (bytes > sizeof m->b - m->n) bytes = sizeof m->b - m->n;
    memcpy(m->b + m->n, data, bytes);
    m->n += bytes;
}

static void put_varint(message *m, uint64_t x)
{
    unsigned char b;
    for (; x > 127; x >>= 7) {
        b = (unsigned char)(x | 128);
        put(m, &b, 1);
    }
    b = (unsigned char)x;
    put(m, &b, 1);
}

/* Wire types: 0 varint, 1 eight bytes, 2 length and bytes, 5 four bytes. */
static void put_tag(message *m, int field, int wire)
{
    put_varint(m, (uint64_t)(field << 3 | wire));
}

static void put_bytes(message *m, int field, const void *data, size_t bytes)
{
    put_tag(m, field, 2);
    put_varint(m, bytes);
    put(m, data, bytes);
}

static void begin_event(message *m, int64_t step)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    double now = (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
    m->n = 0;
    put_tag(m, 1, 1);
    put(m, &now, 8);
    put_tag(m, 2, 0);
    put_varint(m, (uint64_t)step);
}

static mr_status write_record(mr_tfevents *e, const message *m)
{
    unsigned char record[sizeof m->b + 16];
    uint64_t length = m->n;
    uint32_t crc = masked_crc(&length, 8);
    memcpy(record, &length, 8);
    memcpy(record + 8, &crc, 4);
    memcpy(record + 12, m->b, m->n);
    crc = masked_crc(m->b, m->n);
    memcpy(record + 12 + m->n, &crc, 4);
    return mr_file_write_all(e->fd, record, m->n + 16, e->path);
}

static mr_status write_start(mr_tfevents *e, int64_t purge_from)
{
    static const char version[] = "brain.Event:2";
    static const unsigned char start[] = {1 << 3 | 0, 1}; /* SessionLog { status: START } */
    message m;
    begin_event(&m, 0);
    put_bytes(&m, 3, version, sizeof version - 1);
    MR_TRY(write_record(e, &m));
    if (purge_from < 0) return MR_OK;
    begin_event(&m, purge_from);
    put_bytes(&m, 7, start, sizeof start);
    return write_record(e, &m);
}

mr_status mr_tfevents_create(mr_tfevents **out_p, const char *folder, int64_t purge_from)
{
    mr_tfevents *e = NULL;
    char host[64] = "localhost";
    gethostname(host, sizeof host - 1);
    MR_TRY(MR_ALLOC(&e, 1, "TensorBoard events"));
    /* TensorBoard reads the files of a folder in the order of their names. */
    e->fd = -1;
    for (int i = 0; i < 1000 && e->fd < 0; i++) {
        snprintf(e->path, sizeof e->path, "%s/events.out.tfevents.%010lld.%s.%d.%d", folder,
                 (long long)time(NULL), host, (int)getpid(), i);
        e->fd = open(e->path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0666);
        if (e->fd < 0 && errno != EEXIST) break;
    }
    mr_status st = e->fd >= 0
                       ? write_start(e, purge_from)
                       : MR_RAISE(MR_ERR_IO, "%s cannot be created: %s", e->path, strerror(errno));
    if (st != MR_OK) {
        mr_tfevents_close(&e);
        return st;
    }
    *out_p = e;
    return MR_OK;
}

mr_status mr_tfevents_scalar(mr_tfevents *e, const char *tag, int64_t step, double value)
{
    message m, scalar = {.n = 0}, summary = {.n = 0};
    float x = (float)value;
    size_t tag_bytes = strlen(tag);
    put_bytes(&scalar, 1, tag, tag_bytes < 200 ? tag_bytes : 200);
    put_tag(&scalar, 2, 5);
    put(&scalar, &x, 4);
    put_bytes(&summary, 1, scalar.b, scalar.n);
    begin_event(&m, step);
    put_bytes(&m, 5, summary.b, summary.n);
    return write_record(e, &m);
}

void mr_tfevents_close(mr_tfevents **e_p)
{
    if (!*e_p) return;
    if ((*e_p)->fd >= 0) close((*e_p)->fd);
    MR_FREE(*e_p);
}
