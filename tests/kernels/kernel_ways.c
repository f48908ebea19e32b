/* Outputs of a kernel under test, kept and compared between thread counts. */
#include "kernel_ways.h"

#include <omp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

outputs outputs_of(int n, ...)
{
    outputs o = {.n = n, .threads = omp_get_max_threads()};
    va_list ap;
    va_start(ap, n);
    for (int i = 0; i < n; i++) {
        o.p[i] = va_arg(ap, pair *);
        o.before[i] = pair_copy(o.p[i]);
        o.first[i] = pair_copy(o.p[i]);
    }
    va_end(ap);
    return o;
}

static void put(const pair *to, const pair *from)
{
    memcpy(to->d, from->d, (size_t)to->n * sizeof *to->d);
    memcpy(to->f, from->f, (size_t)to->n * sizeof *to->f);
}

void outputs_begin(outputs *o, int way)
{
    omp_set_num_threads(way ? 3 : 1);
    for (int i = 0; i < o->n; i++)
        if (o->p[i]->n) put(o->p[i], &o->before[i]);
}

void outputs_end(outputs *o, int way)
{
    omp_set_num_threads(o->threads);
    for (int i = 0; i < o->n; i++) {
        const pair *p = o->p[i];
        if (p->n && !way) put(&o->first[i], p);
        if (p->n && way &&
            (memcmp(p->d, o->first[i].d, (size_t)p->n * sizeof *p->d) ||
             memcmp(p->f, o->first[i].f, (size_t)p->n * sizeof *p->f)))
            fail_msg("output %d: 1 thread and 3 threads give other bits", i);
        if (!way) continue;
        pair_free(&o->before[i]);
        pair_free(&o->first[i]);
    }
}
