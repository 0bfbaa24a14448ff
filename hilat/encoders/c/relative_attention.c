/* XLNet's attention in the vectors of a processor: relative_attention.py says which scores, relative_attention_compiled.py what
 * a job is given. A task is one head of one chunk, done in strips of queries that stay in the cache.
 *
 * A strip's relative scores come first, for the keys that lie between its first query and the last key and its last query and
 * the first key, in rows of `wide` numbers. The first key of row a stands strip - 1 - a numbers in, so that the same memory with
 * rows of wide - 1 numbers has the scores by key: there the scores of keys are added. Gradients of scores are written in the
 * same way, and read in both. */

#include "noise.h"
#include "products.h"

enum { STRIP = LANES == 16 ? 96 : 48 };

/* As `Job` in relative_attention_compiled.py, which says what each is. */
struct job {
    int64_t chunks, tokens, heads, size;
    const float *qkv, *r, *shift, *segments;
    const int32_t *kinds;
    const float *padding;
    uint64_t seed;
    int32_t threshold;
    float scale;
    float *output, *sums, *weights;
    const float *slope;
    float *to_qkv, *to_r, *to_shift, *to_segments;
};

/* Sizes, and the memory of one thread. */
struct room {
    int64_t strip, wide, tokens, size, shift, r_rows, needed;
    float *r_turned, *r_panels, *to_r;                              /* of a head */
    float *k_turned, *k_panels, *v_turned, *v_panels, *to_k, *to_v; /* of a chunk */
    float *q, *q_r, *down, *scores, *p, *dropped, *mixed;           /* of a strip */
    float *q_panels, *q_r_panels, *down_panels, *drawn;
};

INLINE float *take(float **from, int64_t count)
{
    float *taken = *from;
    *from += up(count, 16);
    return taken;
}

static struct room room_in(float *memory, int64_t tokens, int64_t size)
{
    struct room room = {.strip = up(tokens, COLUMNS) < STRIP ? up(tokens, COLUMNS) : STRIP};
    float *at = memory;
    int64_t t = room.tokens = up(tokens, COLUMNS), e = room.size = up(size, COLUMNS), s = room.strip;
    room.wide = t + s;
    /* Relative key c of r is row c + shift, which makes the first of each strip the first of a panel. */
    room.shift = s + (COLUMNS - (tokens + 1) % COLUMNS) % COLUMNS;
    room.r_rows = up(tokens + 1 + room.shift + t, COLUMNS);
    room.r_turned = take(&at, room.r_rows * size);
    room.r_panels = take(&at, room.r_rows * e);
    room.to_r = take(&at, room.r_rows * e);
    room.k_turned = take(&at, t * size);
    room.k_panels = take(&at, t * e);
    room.v_turned = take(&at, t * size);
    room.v_panels = take(&at, t * e);
    room.to_k = take(&at, t * e);
    room.to_v = take(&at, t * e);
    room.q = take(&at, s * size);
    room.q_r = take(&at, s * size);
    room.down = take(&at, s * size);
    room.scores = take(&at, s * room.wide);
    room.p = take(&at, s * t);
    room.dropped = take(&at, s * t);
    room.mixed = take(&at, s * e);
    room.q_panels = take(&at, s * e);
    room.q_r_panels = take(&at, s * e);
    room.down_panels = take(&at, s * e);
    room.drawn = take(&at, up(t, DRAWS));
    room.needed = at - memory;
    return room;
}

int64_t room_needed(int64_t tokens, int64_t size) { return room_in(0, tokens, size).needed; }

/* How many numbers a row of weights takes. */
int64_t padded(int64_t tokens) { return up(tokens, COLUMNS); }

/* One head of one chunk. */
struct task {
    const struct job *job;
    struct room *room;
    int64_t h, b;
    const float *q, *k, *v, *r, *shift, *s, *g, *padding;
    const int32_t *kinds;
    int64_t row, r_row; /* from a token's numbers to the next one's */
};

static struct task task_of(const struct job *job, struct room *room, int64_t number)
{
    int64_t width = job->heads * job->size;
    struct task task = {.job = job, .room = room, .h = number / job->chunks, .b = number % job->chunks};
    task.row = 3 * width, task.r_row = width;
    task.q = job->qkv + task.b * job->tokens * task.row + task.h * job->size;
    task.k = task.q + width, task.v = task.k + width;
    task.r = job->r + task.h * job->size;
    task.shift = job->shift + task.h * job->size;
    task.kinds = job->kinds ? job->kinds + task.b * job->tokens : 0;
    task.s = job->kinds ? job->segments + task.h * job->size : 0;
    task.g = job->kinds ? task.s + width : 0;
    task.padding = job->padding ? job->padding + task.b * job->tokens : 0;
    return task;
}

/* What query i makes of segments of another kind: (q + s) . g. */
static float other(const struct task *task, int64_t i)
{
    float sum = 0;
    for (int64_t e = 0; e < task->job->size; e++) sum += (task->q[i * task->row + e] + task->s[e]) * task->g[e];
    return sum;
}

INLINE int64_t rows_of(const struct task *task, int64_t first)
{
    int64_t left = task->job->tokens - first;
    return left < task->room->strip ? left : task->room->strip;
}

/* A strip's first relative key, as a row of r's panels. */
INLINE int64_t first_r(const struct task *task, int64_t first)
{
    return task->job->tokens - first - task->room->strip + 1 + task->room->shift;
}

static void read_queries(const struct task *task, int64_t first)
{
    int64_t size = task->job->size;
    for (int64_t i = 0; i < rows_of(task, first); i++) {
        const float *q = task->q + (first + i) * task->row;
        float *to = task->room->q + i * size, *to_r = task->room->q_r + i * size;
        expect(q + AHEAD * task->row, size);
        for (int64_t e = 0; e < size; e++) {
            to[e] = q[e];
            to_r[e] = q[e] + task->shift[e];
        }
    }
}

/* The row of scores by key of query `first` + a: where it is. */
INLINE float *by_key(const struct room *room, int64_t a) { return room->scores + room->strip - 1 + a * (room->wide - 1); }

/* To the scores x of query i, by key, adds what segments and padding bring, and -inf past the last token; the largest. */
INLINE float masked(const struct task *task, int64_t i, float *x, const int kinds, const int padding)
{
    int64_t tokens = task->job->tokens, j = 0;
    vec same = all(kinds ? other(task, i) : 0), most = all(-__builtin_inff());
    ivec kind = (kinds ? task->kinds[i] : 0) - (ivec){0};
    float own = x[i] - same[0];
    for (; j + LANES <= tokens; j += LANES) {
        vec y = load(x + j);
        if (kinds) y -= (vec)((ivec)same & (*(const ivec *)(task->kinds + j) == kind));
        if (padding) y += load(task->padding + j);
        if (kinds || padding) store(x + j, y);
        most = choose(y > most, y, most);
    }
    for (; j < tokens; j++) {
        if (kinds && task->kinds[j] == kind[0]) x[j] -= same[0];
        if (padding) x[j] += task->padding[j];
        most[0] = x[j] > most[0] ? x[j] : most[0];
    }
    for (; j < task->room->tokens; j++) x[j] = -__builtin_inff();
    if (padding) x[i] = own; /* each token sees itself */
    for (int lane = 0; lane < LANES; lane++) own = most[lane] > own ? most[lane] : own;
    return own;
}

/* A strip's scores, by key, and the largest of each row. */
static void score(const struct task *task, int64_t first, float *most)
{
    struct room *room = task->room;
    int64_t size = task->job->size, rows = rows_of(task, first);
    times(rows, room->wide, size, room->q_r, size, room->r_turned + first_r(task, first) * size, COLUMNS * size,
          room->scores, room->wide);
    add_times(rows, room->tokens, size, room->q, size, room->k_turned, COLUMNS * size, by_key(room, 0), room->wide - 1);
    for (int64_t a = 0; a < rows; a++) {
        float *x = by_key(room, a);
        if (task->kinds)
            most[a] = task->padding ? masked(task, first + a, x, 1, 1) : masked(task, first + a, x, 1, 0);
        else
            most[a] = task->padding ? masked(task, first + a, x, 0, 1) : masked(task, first + a, x, 0, 0);
    }
}

static void attend(const struct task *task, struct noise *noise)
{
    const struct job *job = task->job;
    struct room *room = task->room;
    int64_t size = job->size, tokens = job->tokens;
    pack_turned(task->k, task->row, tokens, size, 0, room->tokens, room->k_turned);
    pack(task->v, task->row, tokens, size, 0, tokens, room->v_panels);
    for (int64_t first = 0; first < tokens; first += room->strip) {
        int64_t rows = rows_of(task, first);
        float most[STRIP], inverse[STRIP];
        read_queries(task, first);
        score(task, first, most);
        for (int64_t a = 0; a < rows; a++) {
            float *x = by_key(room, a), *kept = 0;
            int64_t at = (task->h * job->chunks + task->b) * tokens + first + a;
            vec sum = all(0);
            for (int64_t j = 0; j < room->tokens; j += LANES) {
                vec e = exponential(load(x + j) - most[a]);
                sum += e;
                store(x + j, e);
            }
            float whole = total(sum);
            inverse[a] = 1.0f / whole;
            if (job->sums) job->sums[2 * at] = most[a], job->sums[2 * at + 1] = inverse[a];
            if (job->weights) kept = job->weights + at * room->tokens;
            if (job->threshold != INT32_MAX) {
                draw_row(noise, job->threshold, tokens, (int32_t *)room->drawn);
                for (int64_t j = 0; j < room->tokens; j += LANES) {
                    ivec keep = *(const ivec *)(room->drawn + j);
                    vec e = load(x + j);
                    store(x + j, (vec)((ivec)e & keep));
                    if (kept) store(kept + j, choose(keep, e, -e) * inverse[a]);
                }
            } else if (kept)
                for (int64_t j = 0; j < room->tokens; j += LANES) store(kept + j, load(x + j) * inverse[a]);
            inverse[a] *= job->scale;
        }
        times(rows, room->size, tokens, by_key(room, 0), room->wide - 1, room->v_panels, tokens * COLUMNS, room->mixed,
              room->size);
        for (int64_t a = 0; a < rows; a++) {
            float *to = job->output + ((task->b * tokens + first + a) * job->heads + task->h) * size;
            for (int64_t e = 0; e < size; e++) to[e] = room->mixed[a * room->size + e] * inverse[a];
        }
    }
}

/* A strip's weights, before and after dropout, in rows of room->tokens numbers. */
struct weights {
    const float *before, *after;
};

static struct weights weights_again(const struct task *task, int64_t first, struct noise *noise)
{
    const struct job *job = task->job;
    struct room *room = task->room;
    const int drops = job->threshold != INT32_MAX;
    int64_t at = (task->h * job->chunks + task->b) * job->tokens + first, n = room->tokens;
    const float *kept = job->weights ? job->weights + at * n : 0;
    float most[STRIP];
    if (kept && !drops) return (struct weights){kept, kept};
    if (!kept) score(task, first, most);
    for (int64_t a = 0; a < rows_of(task, first); a++) {
        float *x = by_key(room, a), *before = room->p + a * n, *after = room->dropped + a * n;
        if (kept) {
            for (int64_t j = 0; j < n; j += LANES) {
                vec w = load(kept + a * n + j);
                store(before + j, (vec)((ivec)w & INT32_MAX));
                store(after + j, choose(w < 0.0f, all(0), w));
            }
            continue;
        }
        if (drops) draw_row(noise, job->threshold, job->tokens, (int32_t *)room->drawn);
        for (int64_t j = 0; j < n; j += LANES) {
            vec w = exponential(load(x + j) - job->sums[2 * (at + a)]) * job->sums[2 * (at + a) + 1];
            store(before + j, w);
            if (drops) store(after + j, (vec)((ivec)w & *(const ivec *)(room->drawn + j)));
        }
    }
    return (struct weights){room->p, drops ? room->dropped : room->p};
}

/* The row of gradients of scores by key, in the place of those of weights; the sum of those of keys of the query's kind. */
INLINE float to_scores(const struct task *task, int64_t i, float *x, const float *before, const float *after, float mean)
{
    int64_t tokens = task->job->tokens, j = 0;
    float same = 0;
    for (; j < task->room->tokens; j += LANES) store(x + j, load(after + j) * load(x + j) - load(before + j) * mean);
    if (task->kinds) {
        vec sum = all(0);
        ivec kind = task->kinds[i] - (ivec){0};
        for (j = 0; j + LANES <= tokens; j += LANES)
            sum += (vec)((ivec)load(x + j) & (*(const ivec *)(task->kinds + j) == kind));
        for (; j < tokens; j++) same += task->kinds[j] == kind[0] ? x[j] : 0.0f;
        same += total(sum);
    }
    return same;
}

/* Gradients of a strip; those of keys, values and relative keys are added to the room's. */
static void turn_strip(const struct task *task, int64_t first, struct noise *noise)
{
    const struct job *job = task->job;
    struct room *room = task->room;
    int64_t size = job->size, tokens = job->tokens, width = job->heads * size, rows = rows_of(task, first);
    int64_t by = room->wide - 1, at = first_r(task, first);
    float to_other[STRIP], mean[STRIP];
    struct weights weights;
    read_queries(task, first);
    for (int64_t a = 0; a < rows; a++) {
        int64_t row = ((task->b * tokens + first + a) * job->heads + task->h) * size;
        float sum = 0;
        for (int64_t e = 0; e < size; e++) {
            sum += job->slope[row + e] * job->output[row + e];
            room->down[a * size + e] = job->slope[row + e] * job->scale;
        }
        mean[a] = sum;
    }
    weights = weights_again(task, first, noise);
    times(rows, room->tokens, size, room->down, size, room->v_turned, COLUMNS * size, by_key(room, 0), by);
    for (int64_t a = 0; a < rows; a++) {
        float *x = by_key(room, a), *row = room->scores + a * room->wide;
        to_other[a] = -to_scores(task, first + a, x, weights.before + a * room->tokens, weights.after + a * room->tokens,
                                 mean[a]);
        /* What no key stands behind. */
        memset(row, 0, (x - row) * sizeof(float));
        memset(x + room->tokens, 0, (row + room->wide - x - room->tokens) * sizeof(float));
    }
    pack(room->down, size, rows, size, 0, room->strip, room->down_panels);
    add_turned_times(tokens, room->size, rows, weights.after, room->tokens, room->down_panels, room->strip * COLUMNS,
                     room->to_v, room->size);
    pack(room->q, size, rows, size, 0, room->strip, room->q_panels);
    add_turned_times(tokens, room->size, rows, by_key(room, 0), by, room->q_panels, room->strip * COLUMNS, room->to_k,
                     room->size);
    if (job->to_r) {
        pack(room->q_r, size, rows, size, 0, room->strip, room->q_r_panels);
        add_turned_times(room->wide, room->size, rows, room->scores, room->wide, room->q_r_panels, room->strip * COLUMNS,
                         room->to_r + at * room->size, room->size);
    }
    times(rows, room->size, room->wide, room->scores, room->wide, room->r_panels + at * COLUMNS, room->r_rows * COLUMNS,
          room->mixed, room->size);
    if (job->to_shift)
        for (int64_t e = 0; e < size; e++) {
            float sum = 0;
            for (int64_t a = 0; a < rows; a++) sum += room->mixed[a * room->size + e];
            job->to_shift[task->h * size + e] += sum;
        }
    add_times(rows, room->size, tokens, by_key(room, 0), by, room->k_panels, tokens * COLUMNS, room->mixed, room->size);
    for (int64_t a = 0; a < rows; a++) {
        float *to = job->to_qkv + (task->b * tokens + first + a) * task->row + task->h * size;
        for (int64_t e = 0; e < size; e++)
            to[e] = room->mixed[a * room->size + e] + (task->kinds ? to_other[a] * task->g[e] : 0.0f);
    }
    if (!task->kinds || !job->to_segments) return;
    for (int64_t e = 0; e < size; e++) {
        float to_s = 0, to_g = 0;
        for (int64_t a = 0; a < rows; a++) {
            to_s += to_other[a] * task->g[e];
            to_g += to_other[a] * (room->q[a * size + e] + task->s[e]);
        }
        job->to_segments[task->h * size + e] += to_s;
        job->to_segments[width + task->h * size + e] += to_g;
    }
}

static void turn_back(const struct task *task, struct noise *noise)
{
    const struct job *job = task->job;
    struct room *room = task->room;
    int64_t size = job->size, tokens = job->tokens, width = job->heads * size;
    float *to = job->to_qkv + task->b * tokens * task->row + task->h * size;
    if (!job->weights) pack_turned(task->k, task->row, tokens, size, 0, room->tokens, room->k_turned);
    pack(task->k, task->row, tokens, size, 0, tokens, room->k_panels);
    pack_turned(task->v, task->row, tokens, size, 0, room->tokens, room->v_turned);
    memset(room->to_k, 0, tokens * room->size * sizeof(float));
    memset(room->to_v, 0, tokens * room->size * sizeof(float));
    for (int64_t first = 0; first < tokens; first += room->strip) turn_strip(task, first, noise);
    for (int64_t j = 0; j < tokens; j++) {
        memcpy(to + j * task->row + width, room->to_k + j * room->size, size * sizeof(float));
        memcpy(to + j * task->row + 2 * width, room->to_v + j * room->size, size * sizeof(float));
    }
}

/* Gradients of a head's relative keys, added to the job's. */
static void add_to_r(const struct job *job, const struct room *room, int64_t h)
{
    for (int64_t c = 0; c < 2 * job->tokens; c++) {
        float *to = job->to_r + (c * job->heads + h) * job->size;
        for (int64_t e = 0; e < job->size; e++) to[e] += room->to_r[(c + room->shift) * room->size + e];
    }
}

/* The outputs of tasks first to last - 1, head by head. */
void attention(const struct job *job, int64_t first, int64_t last, float *memory)
{
    struct room room = room_in(memory, job->tokens, job->size);
    for (int64_t number = first; number < last; number++) {
        struct task task = task_of(job, &room, number);
        struct noise noise = noise_of(job->seed, number);
        if (number == first || task.b == 0)
            pack_turned(task.r, task.r_row, 2 * job->tokens, job->size, room.shift, room.r_rows, room.r_turned);
        attend(&task, &noise);
    }
}

/* Their gradients: those of queries, keys and values are written, the others added. */
void attention_backward(const struct job *job, int64_t first, int64_t last, float *memory)
{
    struct room room = room_in(memory, job->tokens, job->size);
    for (int64_t number = first; number < last; number++) {
        struct task task = task_of(job, &room, number);
        struct noise noise = noise_of(job->seed, number);
        if (number == first || task.b == 0) {
            if (!job->weights)
                pack_turned(task.r, task.r_row, 2 * job->tokens, job->size, room.shift, room.r_rows, room.r_turned);
            pack(task.r, task.r_row, 2 * job->tokens, job->size, room.shift, room.r_rows, room.r_panels);
            memset(room.to_r, 0, room.r_rows * room.size * sizeof(float));
        }
        turn_back(&task, &noise);
        if (job->to_r && (number + 1 == last || task.b + 1 == job->chunks)) add_to_r(job, &room, task.h);
    }
}

/* As `Share` and `Team` in relative_attention_compiled.py. */
struct share {
    const struct job *job;
    int64_t first, last;
    float *memory;
};

struct team {
    void (*function)(const struct job *, int64_t, int64_t, float *);
    const struct share *shares;
    int32_t count, next;
};

/* What each thread of a team does: the next share, until none is left. */
void work(struct team *team)
{
    for (int32_t i; (i = __atomic_fetch_add(&team->next, 1, __ATOMIC_RELAXED)) < team->count;) {
        const struct share *share = team->shares + i;
        team->function(share->job, share->first, share->last, share->memory);
    }
}
