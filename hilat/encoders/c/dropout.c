/* Dropout whose masks are drawn from SFC64 (Doty-Humphrey, PractRand), a quarter of each number's 64 bits to a weight, in four
 * streams side by side for each block of numbers. numpy's generator of that name gives the same, so that masks are the same with
 * a C compiler and without, and blocks can be shared among threads. */

#include "split.h"
#include "vectors.h"

enum { BLOCK = 65536, STREAMS = 4, STEPS = 32, AT_ONCE = 4 * STREAMS * STEPS };

typedef int16_t quarters __attribute__((vector_size(2 * LANES), aligned(2), may_alias));
typedef uint64_t words __attribute__((vector_size(8 * STREAMS)));

/* As `Job` in dropout_compiled.py, which says what each is. */
struct job {
    uint64_t seed;
    const float *x;
    float *out;
    int64_t count, next;
    int32_t threshold;
    float scale;
};

static void drop(const struct job *job, int64_t block)
{
    int64_t first = block * BLOCK, last = job->count - first < BLOCK ? job->count : first + BLOCK;
    uint64_t at = job->seed + (uint64_t)block * 3 * STREAMS * GOLDEN;
    words state[3], counter = {0};
    for (int i = 0; i < 3; i++)
        for (int stream = 0; stream < STREAMS; stream++) state[i][stream] = split(&at);
    words a = state[0], b = state[1], c = state[2];
    union {
        words numbers[STEPS];
        int16_t bits[AT_ONCE];
    } drawn;
    for (int64_t i = first; i < last; i += AT_ONCE) {
        const float *x = job->x ? job->x + i : 0;
        float *out = job->out + i;
        int64_t m = last - i < AT_ONCE ? last - i : AT_ONCE, j = 0;
        for (int s = 0; s < STEPS; s++) {
            words next = drawn.numbers[s] = a + b + ++counter;
            a = b ^ (b >> 11);
            b = c + (c << 3);
            c = ((c << 24) | (c >> 40)) + next;
        }
        for (; j + LANES <= m; j += LANES) {
            ivec kept = __builtin_convertvector(*(const quarters *)(drawn.bits + j), ivec) < job->threshold;
            vec weight = choose(kept, all(1), all(0));
            if (x) weight *= load(x + j);
            store(out + j, weight * job->scale);
        }
        for (; j < m; j++) out[j] = (x ? x[j] : 1) * (drawn.bits[j] < job->threshold) * job->scale;
    }
}

/* What each thread does: the next block, until none is left. */
void work(struct job *job)
{
    for (int64_t i; (i = __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED)) * BLOCK < job->count;) drop(job, i);
}
