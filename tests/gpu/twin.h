/* Buffers held twice, for the CPU table on the host and for the tested table on its device. */
#ifndef MR_TESTS_TWIN_H
#define MR_TESTS_TWIN_H

#include "kernels/kernels.h"
#include "tensor/device.h"

typedef struct twin {
    void *host, *dev;
    int64_t n;
    size_t width;    /* bytes of an element */
    bool is_rounded; /* float on the host, bf16 on the device */
    bool is_summed;  /* a real that a kernel makes of what it has rounded: compared as if rounded */
} twin;

typedef struct twin_world {
    mr_device *dev;
    const mr_kernels *cpu, *tested;
    bool is_bf16; /* the tested table has activations in bf16 */
    mr_step_state state;
    mr_exec cpu_ex, ex;
    twin slot[64];
    int n_made, failed;
    bool covered[256]; /* by index of the kernel list */
} twin_world;

void twin_world_make(twin_world *w, mr_device *dev, const mr_kernels *tested, bool is_bf16);
void twin_world_free(twin_world *w);
/* n reals in [-1, 1); the same on both sides. They live until twin_release. */
twin *twin_reals(twin_world *w, int64_t n);
/* The same for an mr_act or mr_mat: in bf16 on the device if the tested table stores them so, and
 * then numbers of bf16 on the host as well. */
twin *twin_acts(twin_world *w, int64_t n);
twin *twin_of(twin_world *w, int64_t n, bool is_act);
twin *twin_positive(twin_world *w, int64_t n); /* in [0.1, 1.1) */
twin *twin_doubles(twin_world *w, int64_t n);
/* n of bf16 in [-scale, scale) */
twin *twin_halves(twin_world *w, int64_t n, double scale);
/* n 4-byte integers, f(i) = (mul * i + add) % mod */
twin *twin_ints(twin_world *w, int64_t n, int64_t mul, int64_t add, int64_t mod);
/* [n + 1] starts of rows with the lengths of `len` */
twin *twin_starts(twin_world *w, const twin *len);
/* The host's elements, which were changed, once more to the device; those of an mr_act rounded on
 * both sides. Returns t. */
twin *twin_send(twin_world *w, twin *t);
void twin_release(twin_world *w);
/* Compares both sides: |difference| <= 2e-5 (1 + sqrt(K / 100)) RMS; in bf16 1/128 of
 * the number and of the RMS more, times the same length (two roundings, and those of long sums that
 * are made in parts), and then the host takes over the device's, so that
 * what follows starts from the same. */
void twin_same(twin_world *w, const char *kernel, const char *what, const twin *t, int64_t K);
/* As bytes: integers, and what must be exact; in bf16 the host's number rounded. */
void twin_equal(twin_world *w, const char *kernel, const char *what, const twin *t);
/* bf16 that was rounded from nearly the same numbers: the neighbour at most, and that seldom. */
void twin_near(twin_world *w, const char *kernel, const char *what, const twin *t);
void twin_cover(twin_world *w, const char *kernel);

/* Calls kernel `name` of both tables. Inside, A(t) is the address of a twin on the side at hand and
 * EX its mr_exec. */
#define A(t) (side_ ? (t)->dev : (t)->host)
#define EX (side_ ? &w->ex : &w->cpu_ex)
/* Column c of a row of acts. */
#define COLUMN(t, c) ((char *)A(t) + (c) * (side_ && (t)->is_rounded ? 2 : 4))
#define BOTH(name, ...)                                                                            \
    do {                                                                                           \
        twin_cover(w, #name);                                                                      \
        for (int side_ = 0; side_ < 2; side_++) {                                                  \
            if (side_) w->dev->enter(w->dev);                                                      \
            (side_ ? w->tested : w->cpu)->name(__VA_ARGS__);                                       \
            if (side_) w->dev->leave(w->dev);                                                      \
        }                                                                                          \
    } while (0)

void cases_b(twin_world *w);
void cases_c(twin_world *w);
void cases_d(twin_world *w);
void cases_e(twin_world *w);
void cases_f(twin_world *w);

#endif
