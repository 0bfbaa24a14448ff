/* Seeds for random numbers: splitmix64 (Steele, Lea and Flood 2014). */

#ifndef HILAT_SPLIT_H
#define HILAT_SPLIT_H

#include <stdint.h>

#define GOLDEN 0x9e3779b97f4a7c15u /* what it counts in */

/* The next number. */
static inline uint64_t split(uint64_t *at)
{
    uint64_t z = *at += GOLDEN;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

#endif
