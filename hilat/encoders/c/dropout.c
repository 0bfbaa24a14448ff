/* Dropout whose masks are drawn from a stream of SFC64 (Doty-Humphrey, PractRand), a quarter of each number's 64 bits to a
 * weight: the numbers that numpy's generator of that name gives, so that masks are the same with a C compiler and without. */

#include "vectors.h"

enum { WORDS = 128 };

typedef int16_t quarters __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

struct stream {
    uint64_t a, b, c, count;
};

static inline uint64_t next(struct stream *stream)
{
    uint64_t drawn = stream->a + stream->b + stream->count++;
    stream->a = stream->b ^ (stream->b >> 11);
    stream->b = stream->c + (stream->c << 3);
    stream->c = ((stream->c << 24) | (stream->c >> 40)) + drawn;
    return drawn;
}

/* out (n,): each number of x (of ones where that is 0) times 1 where 16 random bits, read as a signed number, are below the
 * threshold, times 0 elsewhere, and then times scale. out may be x. */
void drop(struct stream *given, int32_t threshold, float scale, const float *x, int64_t n, float *out)
{
    struct stream stream = *given;
    union {
        uint64_t words[WORDS];
        int16_t bits[4 * WORDS];
    } drawn = {{0}};
    for (int64_t i = 0; i < n; i += 4 * WORDS) {
        int64_t m = n - i < 4 * WORDS ? n - i : 4 * WORDS, j = 0;
        for (int64_t w = 0; w < (m + 3) / 4; w++) drawn.words[w] = next(&stream);
        for (; j + LANES <= m; j += LANES) {
            ivec kept = __builtin_convertvector(*(const quarters *)(drawn.bits + j), ivec) < threshold;
            vec weight = choose(kept, all(1), all(0));
            if (x) weight *= load(x + i + j);
            store(out + i + j, weight * scale);
        }
        for (; j < m; j++) out[i + j] = (x ? x[i + j] : 1) * (drawn.bits[j] < threshold) * scale;
    }
    *given = stream;
}
