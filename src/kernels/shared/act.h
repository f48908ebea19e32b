/* Activations and the exponential, as inline functions that vectorise (CPU) and run on a device.
 * The float forms are own polynomials, because the C library's erff and expf are calls; the double
 * forms are the C library's. Error of the float forms (tests/kernels/test_act.c): relative below
 * 4e-7 for exp, erf, sigmoid, silu, and gelu at x >= 0; absolute below 4e-7 for gelu at x < 0,
 * where 1 + erf cancels, and for the two gradients, which cross zero. A GPU has exp and erf of its
 * own, to two units in the last place and in a third of the instructions, within the same range. */
#ifndef MR_KERNELS_SHARED_ACT_H
#define MR_KERNELS_SHARED_ACT_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "base/rng.h"

MR_HD float mr_expf(float x)
{
    /* exp(x) = 2^n * exp(r), |r| <= ln2/2; degree-6 polynomial; clamped to the finite range */
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
#ifdef __CUDA_ARCH__
    return expf(x);
#else
    float n = rintf(x * 1.44269504088896341f);
    float r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    /* Unsigned: the product of a NaN wraps; p is NaN then, and so is the result. */
    uint32_t bits = ((uint32_t)(int32_t)n + 127u) * 8388608u;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return p * scale;
#endif
}

MR_HD float mr_erff(float x)
{
#ifdef __CUDA_ARCH__
    return erff(x);
#else
    /* |x| < 0.5: odd series; else 1 - t exp(-x^2 + polynomial in t), t = 1 / (1 + |x| / 2) */
    float a = fabsf(x), s = x * x;
    float small = -1.0f / 1320.0f;
    small = small * s + 1.0f / 216.0f;
    small = small * s - 1.0f / 42.0f;
    small = small * s + 1.0f / 10.0f;
    small = small * s - 1.0f / 3.0f;
    small = (small * s + 1.0f) * x * 1.12837916709551f;
    float t = 1.0f / (1.0f + 0.5f * a);
    float q = 0.17087277f;
    q = q * t - 0.82215223f;
    q = q * t + 1.48851587f;
    q = q * t - 1.13520398f;
    q = q * t + 0.27886807f;
    q = q * t - 0.18628806f;
    q = q * t + 0.09678418f;
    q = q * t + 0.37409196f;
    q = q * t + 1.00002368f;
    q = q * t - 1.26551223f;
    float large = 1.0f - t * mr_expf(-s + q);
    large = x < 0.0f ? -large : large;
    return a < 0.5f ? small : large;
#endif
}

/* 1 / x of 1 <= x < 2e38. */
MR_HD float mr_inversef(float x)
{
#ifdef __CUDA_ARCH__
    return __fdividef(1.0f, x);
#else
    return 1.0f / x;
#endif
}

MR_HD double mr_exp_f64(double x) { return exp(x); }
MR_HD double mr_erf_f64(double x) { return erf(x); }

#define mr_exp(x) _Generic((x), float : mr_expf, double : mr_exp_f64)(x)

MR_HD float mr_geluf(float x) { return 0.5f * x * (1.0f + mr_erff(x * 0.70710678118654752f)); }
MR_HD double mr_gelu_f64(double x) { return 0.5 * x * (1.0 + erf(x * 0.70710678118654752440)); }
MR_HD float mr_gelu_gradf(float x)
{
    return 0.5f * (1.0f + mr_erff(x * 0.70710678118654752f)) +
           x * 0.39894228040143268f * mr_expf(-0.5f * x * x);
}
MR_HD double mr_gelu_grad_f64(double x)
{
    return 0.5 * (1.0 + erf(x * 0.70710678118654752440)) +
           x * 0.39894228040143267794 * exp(-0.5 * x * x);
}
MR_HD float mr_sigmoidf(float x) { return mr_inversef(1.0f + mr_expf(-x)); }
MR_HD double mr_sigmoid_f64(double x) { return 1.0 / (1.0 + exp(-x)); }
MR_HD float mr_siluf(float x) { return x * mr_sigmoidf(x); }
MR_HD double mr_silu_f64(double x) { return x * mr_sigmoid_f64(x); }
MR_HD float mr_silu_gradf(float x)
{
    /* 1 - s as e s: the difference itself would lose all digits at large x */
    float e = mr_expf(-x), s = mr_inversef(1.0f + e);
    return s * (1.0f + x * (e * s));
}
MR_HD double mr_silu_grad_f64(double x)
{
    double s = mr_sigmoid_f64(x);
    return s * (1.0 + x * (1.0 - s));
}

#ifndef __cplusplus
#define mr_gelu(x) _Generic((x), float : mr_geluf, double : mr_gelu_f64)(x)
#define mr_gelu_grad(x) _Generic((x), float : mr_gelu_gradf, double : mr_gelu_grad_f64)(x)
#define mr_sigmoid(x) _Generic((x), float : mr_sigmoidf, double : mr_sigmoid_f64)(x)
#define mr_silu(x) _Generic((x), float : mr_siluf, double : mr_silu_f64)(x)
#define mr_silu_grad(x) _Generic((x), float : mr_silu_gradf, double : mr_silu_grad_f64)(x)
#endif

#endif
