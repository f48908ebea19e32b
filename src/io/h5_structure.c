/* Superblock and object headers by the HDF5 file format, version 2 and later, as far as our schema
 * goes, with their checksums. Invariants: every length is compared with what is left before it is
 * used; the bytes that HDF5 will decode are the ones checked here, since nothing but the root's
 * links leads on. */
#include "io/h5_structure.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "data/check.h"
#include "io/file.h"
#include "io/h5_checksum.h"

enum { SUPERBLOCK = 48, CHUNK_MAX = 1 << 16, CHUNKS_MAX = 64, NAME = 32 };
/* Kinds of messages. */
enum {
    NIL = 0x00,
    DATASPACE = 0x01,
    LINK_INFO = 0x02,
    DATATYPE = 0x03,
    FILL = 0x05,
    LINK = 0x06,
    LAYOUT = 0x08,
    GROUP_INFO = 0x0A,
    ATTRIBUTE = 0x0C,
    CONTINUATION = 0x10,
    ATTRIBUTE_INFO = 0x15
};

typedef struct object {
    char name[NAME];
    int64_t at;
} object;

typedef struct walker {
    const char *path;
    int fd;
    int64_t file_bytes;
    const object *now; /* being walked */
    bool is_root, tracks_order;
    struct {
        int64_t at, bytes;
    } chunk[CHUNKS_MAX]; /* continuations still to be read */
    int n_chunks;
    object linked[MR_PART_COUNT];
    int n_linked;
} walker;

static uint64_t number(const uint8_t *p, int width)
{
    uint64_t v = 0;
    for (int i = 0; i < width; i++) v |= (uint64_t)p[i] << (8 * i);
    return v;
}

static bool is_inside(const walker *w, uint64_t at, uint64_t bytes)
{
    return at <= (uint64_t)w->file_bytes && bytes <= (uint64_t)w->file_bytes - at;
}

/* The sum of b[0..n) follows it. HDF5 would look too, but loses memory when it is wrong. */
static mr_status check_sum(const walker *w, const char *of, const uint8_t *b, int64_t n)
{
    uint32_t is = mr_h5_checksum(b, (size_t)n), said = (uint32_t)number(b + n, 4);
    MR_CHECK(is == said, MR_ERR_DATA,
             "%s: the header of %s has checksum %08x, its bytes have %08x; the file is damaged, "
             "copy or make it again",
             w->path, of, said, is);
    return MR_OK;
}

static mr_status odd(const walker *w, const char *what)
{
    return MR_RAISE(MR_ERR_DATA,
                    "%s: %s has %s, which no data set file has; make the data set with "
                    "`mealrec-dist import`",
                    w->path, w->now->name, what);
}

/* ---- messages ---- */

/* The complete encodings of the element types of the schema: u8, u32, i32, i64, u64, f32, f16, and
 * the text of an attribute. */
static bool is_known_type(const uint8_t *p, int64_t n, int64_t *elem_bytes)
{
    static const uint8_t types[][21] = {
        {12, 0x10, 0x00, 0, 0, 1, 0, 0, 0, 0, 0, 8},
        {12, 0x10, 0x00, 0, 0, 4, 0, 0, 0, 0, 0, 32},
        {12, 0x10, 0x08, 0, 0, 4, 0, 0, 0, 0, 0, 32},
        {12, 0x10, 0x08, 0, 0, 8, 0, 0, 0, 0, 0, 64},
        {12, 0x10, 0x00, 0, 0, 8, 0, 0, 0, 0, 0, 64},
        {20, 0x11, 0x20, 31, 0, 4, 0, 0, 0, 0, 0, 32, 0, 23, 8, 0, 23, 127, 0, 0, 0},
        {20, 0x11, 0x20, 15, 0, 2, 0, 0, 0, 0, 0, 16, 0, 10, 5, 0, 10, 15, 0, 0, 0},
        {8, 0x13, 0x01, 0, 0, 64},
    };
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        if (n != types[i][0] || memcmp(p, types[i] + 1, (size_t)n) != 0) continue;
        *elem_bytes = types[i][5];
        return true;
    }
    return false;
}

static mr_status check_space(const walker *w, const uint8_t *p, int64_t n)
{
    bool ok = n >= 4 && p[0] == 2 && p[1] >= 1 && p[1] <= 3 && p[2] <= 1 && p[3] == 1 &&
              n == 4 + 8 * p[1] * (1 + p[2]);
    return ok ? MR_OK : odd(w, "another kind of shape than an array of 1 to 3 dimensions");
}

static mr_status check_layout(const walker *w, const uint8_t *p, int64_t n)
{
    uint64_t at = n == 18 ? number(p + 2, 8) : 0, bytes = n == 18 ? number(p + 10, 8) : 0;
    MR_CHECK(n == 18 && (p[0] == 3 || p[0] == 4) && p[1] == 1, MR_ERR_DATA,
             "%s: %s must be contiguous, unfiltered and inside the file; it is not made by "
             "`mealrec-dist import`",
             w->path, w->now->name);
    MR_CHECK(
        is_inside(w, at, bytes), MR_ERR_DATA,
        "%s: %s declares more bytes than the file has (%lld); the file is truncated or damaged",
        w->path, w->now->name, (long long)w->file_bytes);
    return MR_OK;
}

/* A scalar of a known type, its value inside the message. */
static mr_status check_attribute(const walker *w, const uint8_t *p, int64_t n)
{
    static const uint8_t scalar[4] = {2, 0, 0, 0};
    int64_t bytes = 0;
    if (n < 9 || p[0] != 3 || p[1] != 0) return odd(w, "an attribute of another version");
    int64_t name = (int64_t)number(p + 2, 2), type = (int64_t)number(p + 4, 2),
            space = (int64_t)number(p + 6, 2);
    const uint8_t *at = p + 9;
    if (9 + name + type + space > n || name < 2 || at[name - 1] != 0)
        return odd(w, "an attribute whose parts do not fit in it");
    MR_CHECK(is_known_type(at + name, type, &bytes) && space == 4 &&
                 !memcmp(at + name + type, scalar, 4) && bytes <= n - 9 - name - type - space,
             MR_ERR_DATA,
             "%s: attribute %.40s of %s is not a single value of a type of the schema; make the "
             "data set with `mealrec-dist import`",
             w->path, (const char *)at, w->now->name);
    return MR_OK;
}

/* Link info and attribute info: no heap, no tree. */
static mr_status check_no_heap(const walker *w, const uint8_t *p, int64_t n)
{
    static const uint8_t want[18] = {0,    0,    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                                     0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    bool ok = n == 18 && !memcmp(p, want, 18);
    return ok ? MR_OK : odd(w, "links or attributes in a heap");
}

static mr_status check_link(walker *w, const uint8_t *p, int64_t n)
{
    static const char *const names[MR_PART_COUNT] = {"offset", "items",    "visual",  "frames",
                                                     "text",   "user_ids", "item_ids"};
    int flags = n >= 3 ? p[1] : 255, at = 2 + (flags >> 3 & 1);
    if (n < 11 || p[0] != 1 || (flags & ~0x18) || at >= n) return odd(w, "a link of another kind");
    int64_t type = flags & 8 ? p[2] : 0, length;
    if (flags & 0x10) at++; /* character set */
    length = p[at++];
    if (at + length > n) return odd(w, "a link whose name does not fit in it");
    for (int i = 0; i < MR_PART_COUNT; i++) {
        if (length != (int64_t)strlen(names[i]) || memcmp(p + at, names[i], (size_t)length))
            continue;
        MR_CHECK(type == 0, MR_ERR_DATA,
                 "%s: %s is a link to elsewhere; only datasets are accepted", w->path, names[i]);
        if (at + length + 8 != n) return odd(w, "a link of another length");
        if (w->n_linked == MR_PART_COUNT) return odd(w, "a name twice");
        object *o = &w->linked[w->n_linked++];
        snprintf(o->name, sizeof o->name, "%s", names[i]);
        o->at = (int64_t)number(p + at + length, 8);
        return MR_OK;
    }
    return MR_RAISE(MR_ERR_DATA, "%s holds objects outside the schema of a data set", w->path);
}

static mr_status add_chunk(walker *w, const uint8_t *p, int64_t n)
{
    if (n != 16 || w->n_chunks == CHUNKS_MAX) return odd(w, "too many pieces");
    w->chunk[w->n_chunks].at = (int64_t)number(p, 8);
    w->chunk[w->n_chunks++].bytes = (int64_t)number(p + 8, 8);
    return MR_OK;
}

static mr_status check_message(walker *w, int kind, const uint8_t *p, int64_t n)
{
    int64_t bytes;
    switch (kind) {
    case NIL: return MR_OK;
    case CONTINUATION: return add_chunk(w, p, n);
    case ATTRIBUTE: return check_attribute(w, p, n);
    case ATTRIBUTE_INFO: return check_no_heap(w, p, n);
    default: break;
    }
    if (w->is_root) switch (kind) {
        case LINK_INFO: return check_no_heap(w, p, n);
        case GROUP_INFO: return n == 2 && !p[0] && !p[1] ? MR_OK : odd(w, "odd group information");
        case LINK: return check_link(w, p, n);
        default: return odd(w, "a message of another kind");
        }
    switch (kind) {
    case DATASPACE: return check_space(w, p, n);
    case DATATYPE:
        MR_CHECK(is_known_type(p, n, &bytes), MR_ERR_DATA,
                 "%s: %s has another element type than the schema", w->path, w->now->name);
        return MR_OK;
    case FILL: return n == 2 && p[0] == 3 ? MR_OK : odd(w, "a fill value");
    case LAYOUT: return check_layout(w, p, n);
    case LINK_INFO:
    case GROUP_INFO:
    case LINK: return MR_RAISE(MR_ERR_DATA, "%s: %s is not a dataset", w->path, w->now->name);
    default:
        return MR_RAISE(MR_ERR_DATA,
                        "%s: %s must be contiguous, unfiltered and inside the file and nothing "
                        "more (it has a message of kind %d); make the data set with "
                        "`mealrec-dist import`",
                        w->path, w->now->name, kind);
    }
}

/* ---- headers ---- */

/* Messages from p to end; what is too short for one is a gap. */
static mr_status check_messages(walker *w, const uint8_t *p, const uint8_t *end)
{
    int head = w->tracks_order ? 6 : 4;
    while (end - p >= head) {
        int kind = p[0], flags = p[3];
        int64_t n = (int64_t)number(p + 1, 2);
        p += head;
        if (n > end - p) return odd(w, "a message that does not fit in its header");
        if (flags & 2) return odd(w, "a shared message");
        MR_TRY(check_message(w, kind, p, n));
        p += n;
    }
    return MR_OK;
}

static mr_status read_chunk(const walker *w, int64_t at, int64_t bytes, uint8_t *buf)
{
    if (bytes < 8 || bytes > CHUNK_MAX || at < 0 || !is_inside(w, (uint64_t)at, (uint64_t)bytes))
        return odd(w, "a header outside the file or longer than any");
    return mr_file_read_at(w->fd, buf, (size_t)bytes, at, w->path);
}

static mr_status check_object(walker *w, const object *o, uint8_t *buf)
{
    int64_t left = w->file_bytes - o->at, head = left < 64 ? left : 64;
    w->now = o;
    w->n_chunks = 0;
    MR_TRY(read_chunk(w, o->at, head, buf));
    if (memcmp(buf, "OHDR\2", 5) != 0) return odd(w, "no header of version 2");
    int flags = buf[5], width = 1 << (flags & 3);
    int64_t start = 6 + (flags & 0x20 ? 16 : 0) + (flags & 0x10 ? 4 : 0);
    if (start + width > head) return odd(w, "a header that is cut off");
    uint64_t bytes = number(buf + start, width);
    start += width;
    w->tracks_order = flags & 4;
    if (bytes > CHUNK_MAX - 128) return odd(w, "a header longer than any");
    MR_TRY(read_chunk(w, o->at, start + (int64_t)bytes + 4, buf));
    MR_TRY(check_sum(w, o->name, buf, start + (int64_t)bytes));
    MR_TRY(check_messages(w, buf + start, buf + start + bytes));
    for (int i = 0; i < w->n_chunks; i++) {
        int64_t n = w->chunk[i].bytes;
        MR_TRY(read_chunk(w, w->chunk[i].at, n, buf));
        if (memcmp(buf, "OCHK", 4) != 0) return odd(w, "a piece without its mark");
        MR_TRY(check_sum(w, o->name, buf, n - 4));
        MR_TRY(check_messages(w, buf + 4, buf + n - 4));
    }
    return MR_OK;
}

static mr_status check_superblock(const walker *w, uint8_t *b, int64_t *root_p)
{
    MR_CHECK(w->file_bytes >= SUPERBLOCK, MR_ERR_DATA, "%s is a truncated file of %lld bytes",
             w->path, (long long)w->file_bytes);
    MR_TRY(mr_file_read_at(w->fd, b, SUPERBLOCK, 0, w->path));
    uint64_t end = number(b + 28, 8);
    MR_CHECK(b[9] == 8 && b[10] == 8 && number(b + 12, 8) == 0 && number(b + 20, 8) == UINT64_MAX,
             MR_ERR_DATA,
             "%s has an HDF5 superblock of another kind; make the data set with "
             "`mealrec-dist import`",
             w->path);
    MR_CHECK(end <= (uint64_t)w->file_bytes, MR_ERR_DATA,
             "%s is a truncated file: it has %lld of %llu bytes; copy or make it again", w->path,
             (long long)w->file_bytes, (unsigned long long)end);
    *root_p = (int64_t)number(b + 36, 8);
    return check_sum(w, "the file", b, SUPERBLOCK - 4);
}

mr_status mr_h5_structure_check(int fd, int64_t file_bytes, const char *path)
{
    object root = {.name = "the root group"};
    walker w = {.path = path, .fd = fd, .file_bytes = file_bytes, .now = &root, .is_root = true};
    uint8_t *buf = NULL;
    MR_TRY(MR_ALLOC(&buf, CHUNK_MAX, "header of a data set file"));
    mr_status st = check_superblock(&w, buf, &root.at);
    if (st == MR_OK) st = check_object(&w, &root, buf);
    w.is_root = false;
    for (int i = 0; i < w.n_linked && st == MR_OK; i++) st = check_object(&w, &w.linked[i], buf);
    MR_FREE(buf);
    return st;
}
