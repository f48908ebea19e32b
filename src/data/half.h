/* IEEE half precision as 16 bits: conversion by integer arithmetic, the same on every machine.
 * What it is not: arithmetic in half precision. */
#ifndef MR_DATA_HALF_H
#define MR_DATA_HALF_H

#include <stdint.h>
#include <string.h>

/* Exact. */
static inline float mr_half_to_float(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, e = (h >> 10) & 31u, m = h & 0x3FFu, bits;
    if (e == 31) {
        bits = sign | 0x7F800000u | (m << 13);
    } else if (e) {
        bits = sign | ((e + 112u) << 23) | (m << 13);
    } else if (m) {
        /* Subnormal: m * 2^-24; shift until the implicit one is in place. */
        uint32_t shift = 0;
        while (!(m & 0x400u)) {
            m <<= 1;
            shift++;
        }
        bits = sign | ((113u - shift) << 23) | ((m & 0x3FFu) << 13);
    } else {
        bits = sign;
    }
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* Round to nearest, ties to even; too large becomes infinity, NaN stays NaN. */
static inline uint16_t mr_float_to_half(float f)
{
    uint32_t b;
    memcpy(&b, &f, sizeof b);
    uint32_t sign = (b >> 16) & 0x8000u, a = b & 0x7FFFFFFFu;
    if (a > 0x7F800000u) return (uint16_t)(sign | 0x7E00u);
    if (a >= 0x47800000u) return (uint16_t)(sign | 0x7C00u); /* >= 65536 */
    uint32_t e = a >> 23, m = a & 0x7FFFFFu, keep, rest, half;
    if (e >= 113) {
        keep = ((e - 112) << 10) | (m >> 13);
        rest = m & 0x1FFFu;
        half = 0x1000u;
    } else {
        if (e < 102) return (uint16_t)sign; /* below half of the smallest subnormal */
        uint32_t shift = 126 - e;           /* 14 .. 24 bits are dropped */
        m |= 0x800000u;
        keep = m >> shift;
        rest = m & ((1u << shift) - 1);
        half = 1u << (shift - 1);
    }
    if (rest > half || (rest == half && (keep & 1))) keep++;
    return (uint16_t)(sign | keep);
}

static inline int mr_half_is_finite(uint16_t h) { return (h & 0x7C00u) != 0x7C00u; }

#endif
