/* Vectors of a processor, whatever their width. */

#ifndef HILAT_VECTORS_H
#define HILAT_VECTORS_H

#include <stdint.h>

#ifndef LANES /* how many numbers a vector has */
#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
#endif

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
#define INLINE static inline __attribute__((always_inline))

INLINE vec load(const float *x) { return *(const vec *)x; }
INLINE void store(float *x, vec value) { *(vec *)x = value; }
INLINE vec all(float x) { return x - (vec){0}; }
INLINE vec choose(ivec mask, vec yes, vec no) { return (vec)(((ivec)yes & mask) | ((ivec)no & ~mask)); }
INLINE int64_t up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

INLINE float total(vec x)
{
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += x[i];
    return sum;
}

/* exp(x) for x <= 88, within 2 units in the last place; 0 below -87. */
INLINE vec exponential(vec x)
{
    const float magic = 12582912.0f; /* 1.5 x 2^23: adding it rounds to whole numbers */
    vec shifted = x * 1.44269504088896341f + magic, whole = shifted - magic;
    vec rest = x - whole * 0.693359375f - whole * -2.12194440e-4f;
    vec sum = rest * 1.9875691500e-4f + 1.3981999507e-3f;
    sum = sum * rest + 8.3334519073e-3f;
    sum = sum * rest + 4.1665795894e-2f;
    sum = sum * rest + 1.6666665459e-1f;
    sum = sum * rest + 5.0000001201e-1f;
    sum = sum * rest * rest + rest + 1.0f;
    ivec power = ((ivec)shifted - (ivec)all(magic) + 127) << 23;
    return choose(x < all(-87.0f), all(0), sum * (vec)power); /* NaN stays NaN */
}

#endif
