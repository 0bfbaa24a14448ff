/* Products of matrices in vectors.
 *
 * They read their second matrix in panels of COLUMNS columns, one panel after the other, each of them row by row. */

#ifndef HILAT_PRODUCTS_H
#define HILAT_PRODUCTS_H

#include <string.h>

#include "vectors.h"

/* A tile of a product is ROWS x COLUMNS numbers, which stay in vectors. AHEAD: how many rows before its turn a row is asked for. */
enum { ROWS = LANES == 16 ? 12 : 6, COLUMNS = 2 * LANES, AHEAD = 8 };

/* c (rows, COLUMNS) = or += a (rows, depth) times b (depth, COLUMNS). */
INLINE void tile(const int rows, int64_t depth, const float *a, int64_t a_row, int64_t a_deep, const float *b, float *c,
                 int64_t c_row, const int add)
{
    vec left[ROWS], right[ROWS];
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++) {
        left[i] = add ? load(c + i * c_row) : all(0);
        right[i] = add ? load(c + i * c_row + LANES) : all(0);
    }
    for (int64_t d = 0; d < depth; d++) {
        vec b_left = load(b + d * COLUMNS), b_right = load(b + d * COLUMNS + LANES);
#pragma GCC unroll 12
        for (int i = 0; i < rows; i++) {
            vec x = all(a[i * a_row + d * a_deep]);
            left[i] += x * b_left;
            right[i] += x * b_right;
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++) {
        store(c + i * c_row, left[i]);
        store(c + i * c_row + LANES, right[i]);
    }
}

/* c (rows, columns) = or += a (rows, depth) times panels b; columns are rounded up to whole panels. */
INLINE void product(int64_t rows, int64_t columns, int64_t depth, const float *a, int64_t a_row, int64_t a_deep,
                    const float *b, int64_t b_panel, float *c, int64_t c_row, const int add)
{
    for (int64_t j = 0; j < columns; j += COLUMNS, b += b_panel, c += COLUMNS) {
        int64_t i = 0;
        for (; i + ROWS <= rows; i += ROWS)
            tile(ROWS, depth, a + i * a_row, a_row, a_deep, b, c + i * c_row, c_row, add);
        for (; i + 2 <= rows; i += 2) tile(2, depth, a + i * a_row, a_row, a_deep, b, c + i * c_row, c_row, add);
        if (i < rows) tile(1, depth, a + i * a_row, a_row, a_deep, b, c + i * c_row, c_row, add);
    }
}

__attribute__((noinline)) static void times(int64_t rows, int64_t columns, int64_t depth, const float *a, int64_t a_row,
                                            const float *b, int64_t b_panel, float *c, int64_t c_row)
{
    product(rows, columns, depth, a, a_row, 1, b, b_panel, c, c_row, 0);
}

__attribute__((noinline)) static void add_times(int64_t rows, int64_t columns, int64_t depth, const float *a, int64_t a_row,
                                                const float *b, int64_t b_panel, float *c, int64_t c_row)
{
    product(rows, columns, depth, a, a_row, 1, b, b_panel, c, c_row, 1);
}

/* With a (depth, rows) turned. */
__attribute__((noinline)) static void add_turned_times(int64_t rows, int64_t columns, int64_t depth, const float *a,
                                                       int64_t a_deep, const float *b, int64_t b_panel, float *c,
                                                       int64_t c_row)
{
    product(rows, columns, depth, a, 1, a_deep, b, b_panel, c, c_row, 1);
}

/* Rows lie far from one another: the cache is told of those that come. */
INLINE void expect(const float *x, int64_t size)
{
    for (int64_t e = 0; e < size; e += 16) __builtin_prefetch(x + e);
}

/* Panels of x (n, size), each of its rows a row: (size / COLUMNS, rows, COLUMNS), `front` rows of zeros first. */
static void pack(const float *x, int64_t x_row, int64_t n, int64_t size, int64_t front, int64_t rows, float *panels)
{
    memset(panels, 0, up(size, COLUMNS) * rows * sizeof(float));
    for (int64_t i = 0; i < n; i++) {
        expect(x + (i + AHEAD) * x_row, size);
        for (int64_t e = 0; e < size; e += COLUMNS)
            memcpy(panels + e * rows + (i + front) * COLUMNS, x + i * x_row + e,
                   (size - e < COLUMNS ? size - e : COLUMNS) * sizeof(float));
    }
}

/* Panels of x (n, size) turned, each of its rows a column: (columns / COLUMNS, size, COLUMNS), `front` of zeros first. */
static void pack_turned(const float *x, int64_t x_row, int64_t n, int64_t size, int64_t front, int64_t columns, float *panels)
{
    memset(panels, 0, columns * size * sizeof(float));
    for (int64_t i = 0; i < n; i++) {
        int64_t at = i + front;
        expect(x + (i + AHEAD) * x_row, size);
        float *column = panels + at / COLUMNS * COLUMNS * size + at % COLUMNS;
        for (int64_t e = 0; e < size; e++) column[e * COLUMNS] = x[i * x_row + e];
    }
}

#endif
