/* Random numbers that are the same whatever the width of vectors, the number of threads and the order of tasks: xoshiro128++
 * (Blackman and Vigna 2021) in lanes, seeded by splitmix64 for each task. */

#ifndef HILAT_NOISE_H
#define HILAT_NOISE_H

#include "split.h"

enum { DRAWS = 8 };

typedef uint32_t draw __attribute__((vector_size(4 * DRAWS), aligned(4), may_alias));
typedef int32_t drawn __attribute__((vector_size(4 * DRAWS), aligned(4), may_alias));

struct noise {
    draw state[4];
};

static struct noise noise_of(uint64_t seed, int64_t task)
{
    struct noise noise;
    uint64_t at = seed + (uint64_t)task * 0xd1342543de82ef95u;
    for (int i = 0; i < 4; i++)
        for (int lane = 0; lane < DRAWS; lane++) noise.state[i][lane] = (uint32_t)(split(&at) >> 32);
    return noise;
}

static inline draw turn(draw x, int by) { return (x << by) | (x >> (32 - by)); }

/* The next n: all bits set where a weight is kept, none where it is dropped. */
static void draw_row(struct noise *noise, int32_t threshold, int64_t n, int32_t *row)
{
    draw a = noise->state[0], b = noise->state[1], c = noise->state[2], d = noise->state[3];
    for (int64_t j = 0; j < n; j += DRAWS) {
        draw next = turn(a + d, 7) + a, old = b << 9;
        c ^= a, d ^= b, b ^= c, a ^= d, c ^= old, d = turn(d, 11);
        *(drawn *)(row + j) = (drawn)next < threshold;
    }
    noise->state[0] = a, noise->state[1] = b, noise->state[2] = c, noise->state[3] = d;
}

#endif
