/* bf16 as 16 bits: the upper half of a float32, with its exponent and 7 bits behind the point.
 * Conversion by integer arithmetic, the same on every machine. A finite number is rounded by at
 * most 2^-8 of itself. What it is not: arithmetic in bf16. */
#ifndef MR_KERNELS_SHARED_BF16_H
#define MR_KERNELS_SHARED_BF16_H

#include <stdint.h>
#include <string.h>

#include "base/rng.h"

/* Exact. */
MR_HD float mr_bf16_to_float(uint16_t h)
{
    uint32_t bits = (uint32_t)h << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* Round to nearest, ties to even; too large becomes infinity, NaN stays NaN (and becomes quiet). */
MR_HD uint16_t mr_float_to_bf16(float f)
{
    uint32_t b;
    memcpy(&b, &f, sizeof b);
    uint32_t up = (b + 0x7FFFu + (b >> 16 & 1u)) >> 16;
    return (uint16_t)((b & 0x7FFFFFFFu) > 0x7F800000u ? b >> 16 | 0x40u : up);
}

/* Rows of bf16 are stored this many elements apart, so that each starts at a multiple of 16 bytes.
 */
MR_HD int64_t mr_bf16_pitch(int64_t w) { return (w + 7) / 8 * 8; }

#endif
