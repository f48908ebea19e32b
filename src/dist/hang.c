/* The judgement on a hang.
 * Collectives have the same numbers on all ranks, because all ranks make them in the same order. So
 * the rank with the smallest number is the one that the others wait for, unless a process is gone,
 * does not run at all, or made another collective under the same number.
 * Invariant: clocks of different hosts are compared only to say that one is seconds behind. */
#include "dist/hang.h"

#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"

#define MOST_RANKS 100000
/* A thread that ticks 20 times a second and is silent for this long does not run. */
#define SILENT_SECONDS 1.5
/* In a job that nobody ended on purpose the first one to fall silent died first. */
#define FIRST_SECONDS 0.4

static void say(mr_hang *h, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void say(mr_hang *h, const char *fmt, ...)
{
    size_t n = strlen(h->text);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(h->text + n, sizeof h->text - n, fmt, ap);
    va_end(ap);
}

static const mr_ring_entry *entry(const mr_ring *r, int64_t seq)
{
    const mr_ring_entry *e = &r->entry[seq % MR_RING_ENTRIES];
    return seq > 0 && e->seq == seq ? e : NULL;
}

static bool is_inside(const mr_ring *r)
{
    const mr_ring_entry *e = entry(r, r->last);
    return e && e->left == 0;
}

/* How far a rank has come: 2 s while in collective s, 2 s + 1 after it. */
static int64_t place(const mr_ring *r) { return 2 * r->last + !is_inside(r); }

static void collective(char *out, size_t bytes, const mr_ring *r, int64_t seq)
{
    const mr_ring_entry *e = entry(r, seq);
    if (!e)
        snprintf(out, bytes, "the start");
    else if (e->count > 0)
        snprintf(out, bytes, "#%lld %s of %lld (%s)", (long long)seq, mr_ring_kind_name(e->kind),
                 (long long)e->count, e->label[0] ? e->label : "no label");
    else
        snprintf(out, bytes, "#%lld %s (%s)", (long long)seq, mr_ring_kind_name(e->kind),
                 e->label[0] ? e->label : "no label");
}

/* "rank 3 on host, 12.0 s in 'forward' after #41 ..." */
static void describe(mr_hang *h, const mr_ring *r, int rank, double now)
{
    char text[160];
    collective(text, sizeof text, r, r->last);
    if (is_inside(r))
        say(h, "rank %d on %s is in %s for %.1f s", rank, r->host, text,
            now - entry(r, r->last)->entered);
    else
        say(h, "rank %d on %s is in '%s' (%s) after %s", rank, r->host,
            r->label[0] ? r->label : "its own code", mr_ring_phase_name(r->phase), text);
}

static void list_ranks(mr_hang *h, const bool *is_in, int n)
{
    int shown = 0, total = 0;
    for (int r = 0; r < n; r++) total += is_in[r];
    for (int r = 0; r < n && shown < 8; r++)
        if (is_in[r]) say(h, "%s%d", shown++ ? ", " : total > 1 ? "ranks " : "rank ", r);
    if (total > shown) say(h, " and %d more", total - shown);
}

static double newest_tick(const mr_ring *ring, int n)
{
    double t = 0;
    for (int r = 0; r < n; r++)
        if (ring[r].size && ring[r].tick > t) t = ring[r].tick;
    return t;
}

/* The rank that is silent for the longest time; -1 when none is for more than `least` seconds. */
static int most_silent(const mr_ring *ring, int n, double least)
{
    double newest = newest_tick(ring, n), worst = least;
    int who = -1;
    for (int r = 0; r < n; r++)
        if (ring[r].size && newest - ring[r].tick > worst) {
            worst = newest - ring[r].tick;
            who = r;
        }
    return who;
}

static bool find_left(mr_hang *h, const mr_ring *ring, int n)
{
    bool waits = false;
    int who = -1;
    for (int r = 0; r < n; r++) {
        bool left = !ring[r].size || ring[r].state == MR_RING_LEFT;
        if (left && who < 0) who = r;
        waits |= !left;
    }
    if (who < 0 || !waits) return false;
    char text[160] = "";
    if (ring[who].size) collective(text, sizeof text, &ring[who], ring[who].last);
    h->kind = MR_HANG_LEFT;
    h->culprit = who;
    say(h, "rank %d has left the job%s%s while others wait for it", who, text[0] ? " after " : "",
        text);
    return true;
}

static bool find_stopped(mr_hang *h, const mr_ring *ring, int n, bool is_fired)
{
    int who = most_silent(ring, n, is_fired ? SILENT_SECONDS : FIRST_SECONDS);
    if (who < 0) return false;
    h->kind = MR_HANG_STOPPED;
    h->culprit = who;
    say(h, "rank %d (process %d on %s) %s %.1f s before the others' last sign of life; ", who,
        ring[who].pid, ring[who].host,
        is_fired ? "is stopped, or its host is: it gave its last one"
                 : "was the first to die or to stop:",
        newest_tick(ring, n) - ring[who].tick);
    describe(h, &ring[who], who, ring[who].tick);
    return true;
}

static bool same_collective(const mr_ring_entry *a, const mr_ring_entry *b, int world)
{
    if (a->kind != b->kind || a->comm_size != b->comm_size || a->dtype != b->dtype) return false;
    /* Parts of the ranks may pass other counts than other parts. */
    if (a->comm_size == world && a->count != b->count) return false;
    return !strcmp(a->label, b->label);
}

/* Ranks that make another collective than most under number seq. Fills is_odd [n]. */
static int odd_ones(bool *is_odd, const mr_ring *ring, int n, int64_t seq)
{
    int most = 0, like = 0, odd = 0;
    for (int r = 0; r < n; r++) { /* the entry that most ranks agree with */
        const mr_ring_entry *e = entry(&ring[r], seq);
        int same = 0;
        for (int q = 0; e && q < n; q++) {
            const mr_ring_entry *o = entry(&ring[q], seq);
            same += o && same_collective(e, o, n);
        }
        if (same > most) {
            most = same;
            like = r;
        }
    }
    for (int r = 0; r < n; r++) {
        const mr_ring_entry *e = entry(&ring[r], seq), *m = entry(&ring[like], seq);
        is_odd[r] = e && m && !same_collective(e, m, n);
        odd += is_odd[r];
    }
    return odd;
}

static bool find_other(mr_hang *h, const mr_ring *ring, int n, bool *is_odd)
{
    int64_t lowest = INT64_MAX, highest = 0;
    char mine[160], theirs[160];
    for (int r = 0; r < n; r++) {
        if (ring[r].last < lowest) lowest = ring[r].last;
        if (ring[r].last > highest) highest = ring[r].last;
    }
    int64_t first = highest - MR_RING_ENTRIES + 1;
    for (int64_t s = first > 1 ? first : 1; s <= lowest; s++) {
        if (!odd_ones(is_odd, ring, n, s)) continue;
        int odd = 0, usual = 0;
        while (!is_odd[odd]) odd++;
        while (is_odd[usual]) usual++;
        collective(mine, sizeof mine, &ring[odd], s);
        collective(theirs, sizeof theirs, &ring[usual], s);
        h->kind = MR_HANG_OTHER;
        h->culprit = odd;
        list_ranks(h, is_odd, n);
        say(h, " left out a collective or made one too many: there %s is where rank %d has %s",
            mine, usual, theirs);
        return true;
    }
    return false;
}

static bool find_behind(mr_hang *h, const mr_ring *ring, int n, bool *is_behind, double now)
{
    int64_t least = INT64_MAX, most = 0;
    int who = -1, ahead = 0;
    char text[160];
    for (int r = 0; r < n; r++) {
        if (place(&ring[r]) < least) least = place(&ring[who = r]);
        if (place(&ring[r]) > most) most = place(&ring[ahead = r]);
    }
    for (int r = 0; r < n; r++) is_behind[r] = place(&ring[r]) == least;
    if (least == most && (n > 1 && is_inside(&ring[0]))) return false;
    if (least == most && n > 1) { /* hosts that wait for their GPUs: nobody knows for which */
        say(h,
            "no rank is behind, all have asked for the same collectives, so a GPU or the network "
            "holds them up: ");
        describe(h, &ring[who], who, now);
        return true;
    }
    h->kind = MR_HANG_BEHIND;
    h->culprit = who;
    if (least == most) {
        say(h, "no rank waits for another one: ");
        describe(h, &ring[who], who, now);
        return true;
    }
    say(h, "behind: ");
    list_ranks(h, is_behind, n);
    say(h, "; ");
    describe(h, &ring[who], who, now);
    collective(text, sizeof text, &ring[ahead], ring[ahead].last);
    say(h, ", while rank %d is at %s", ahead, text);
    return true;
}

void mr_hang_judge(mr_hang *out, const mr_ring *ring, int n)
{
    mr_hang h = {.culprit = -1, .size = n};
    bool is_fired = false, *mark = NULL;
    char text[160];
    for (int r = 0; r < n; r++) is_fired |= ring[r].size && ring[r].state == MR_RING_FIRED;
    double now = newest_tick(ring, n);
    mr_status st = MR_ALLOC(&mark, n, "marks of ranks");
    if (st != MR_OK) {
        say(&h, "no memory for a judgement");
    } else if (!find_left(&h, ring, n) && !find_other(&h, ring, n, mark) &&
               !find_stopped(&h, ring, n, is_fired) && !find_behind(&h, ring, n, mark, now)) {
        collective(text, sizeof text, &ring[0], ring[0].last);
        say(&h, "all %d ranks wait in %s: look at the network between the hosts", n, text);
    }
    MR_FREE(mark);
    *out = h;
}

/* Rank 0's file, or that of the lowest rank that has one, tells how many there are. */
static mr_status find_first(const char *folder, mr_ring *out)
{
    char path[1100];
    for (int r = 0; r < MOST_RANKS; r++) {
        mr_ring_path(path, sizeof path, folder, r);
        if (access(path, F_OK) == 0) return mr_ring_read(out, path);
        if (r == 1024) break; /* not by counting through a hundred thousand names */
    }
    return MR_RAISE(MR_ERR_NO_INPUT,
                    "%s holds no %s/rank-*.ring: the run ended in order, or never began", folder,
                    MR_RING_FOLDER);
}

mr_status mr_hang_read(const char *folder, mr_ring **ring_p, int *n_p)
{
    char inner[1024], path[1100];
    mr_ring *first = NULL, *ring = NULL;
    snprintf(inner, sizeof inner, "%.900s/%s", folder, MR_RING_FOLDER);
    if (access(inner, F_OK) == 0) folder = inner;
    mr_status st;
    MR_TRY_GOTO(MR_ALLOC(&first, 1, "ring"), st, done);
    MR_TRY_GOTO(find_first(folder, first), st, done);
    MR_TRY_GOTO(first->size <= MOST_RANKS
                    ? MR_OK
                    : MR_RAISE(MR_ERR_DATA, "%s: %d ranks are not plausible", folder, first->size),
                st, done);
    MR_TRY_GOTO(MR_ALLOC(&ring, first->size, "rings of all ranks"), st, done);
    for (int r = 0; r < first->size; r++) {
        mr_ring_path(path, sizeof path, folder, r);
        bool is_there = access(path, F_OK) == 0;
        if (is_there) MR_TRY_GOTO(mr_ring_read(&ring[r], path), st, done);
        /* A file of an earlier start is as good as none. */
        if (is_there && (ring[r].rank != r || ring[r].job != first->job))
            memset(&ring[r], 0, sizeof ring[r]);
    }
    *ring_p = ring;
    *n_p = first->size;
    ring = NULL;
done:
    MR_FREE(ring);
    MR_FREE(first);
    return st;
}

bool mr_hang_report(char *text, size_t bytes, const char *folder)
{
    char path[1100];
    snprintf(path, sizeof path, "%.900s/" MR_RING_FOLDER "/" MR_HANG_REPORT, folder);
    if (access(path, F_OK) != 0) snprintf(path, sizeof path, "%.900s/" MR_HANG_REPORT, folder);
    FILE *f = fopen(path, "r");
    bool ok = f && fgets(text, (int)bytes, f) && strchr(text, '\n');
    if (f) fclose(f);
    if (ok) text[strcspn(text, "\n")] = 0;
    return ok;
}

void mr_hang_print(const mr_hang *h, const mr_ring *ring, int n, FILE *out)
{
    char text[160];
    double now = newest_tick(ring, n);
    fprintf(out, "%d ranks; %s\n", n, h->text);
    for (int r = 0; r < n; r++) {
        const mr_ring *g = &ring[r];
        if (!g->size) {
            fprintf(out, "rank %d: has left, or its host shows no file\n", r);
            continue;
        }
        fprintf(out,
                "rank %d  host %s  process %d  step %lld  %s, '%s' since %.1f s, last sign of life "
                "%.1f s ago%s\n",
                r, g->host, g->pid, (long long)g->step, mr_ring_phase_name(g->phase), g->label,
                now - g->label_since, now - g->tick,
                g->state == MR_RING_LEFT    ? ", has left"
                : g->state == MR_RING_FIRED ? ", its watchdog ended the job"
                                            : "");
        for (int64_t s = g->last - 4 > 0 ? g->last - 4 : 1; s <= g->last; s++) {
            const mr_ring_entry *e = entry(g, s);
            if (!e) continue;
            collective(text, sizeof text, g, s);
            if (e->left > 0)
                fprintf(out, "    %-58s done in %.3f s\n", text, e->left - e->entered);
            else
                fprintf(out, "    %-58s WAITS for %.1f s\n", text, now - e->entered);
        }
    }
}
