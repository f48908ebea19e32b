/* Half precision for kernels that an ordinary compiler translates: storage and widening. */
#ifndef MR_EMULATE_CUDA_FP16_H
#define MR_EMULATE_CUDA_FP16_H

#include <math.h>
#include <stdint.h>

struct __half {
    uint16_t bits;
};

static inline float __half2float(__half h)
{
    int e = h.bits >> 10 & 31, m = h.bits & 1023;
    float v = e == 31 ? (m ? NAN : INFINITY)
              : e     ? ldexpf((float)(m + 1024), e - 25)
                      : ldexpf((float)m, -24);
    return h.bits >> 15 ? -v : v;
}

#endif
