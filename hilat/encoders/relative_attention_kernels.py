"""The Triton kernels of `hilat.encoders.relative_attention_triton`, where the scores and the letters are explained."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def kept(seed, row, column, threshold):
    """Whether the numbers of rows (R,) and columns (N,) stay, (R, N): a hash of 32 bits above a threshold.

    Rows are mixed by MurmurHash3's finaliser, once; columns then step by the golden ratio and take one more product.
    """
    x = (row + seed).to(tl.uint32, bitcast=True)
    x = (x ^ (x >> 16)) * 0x85EBCA6B
    x = (x ^ (x >> 13)) * 0xC2B2AE35
    x = x ^ (x >> 16)
    x = x[:, None] + (column.to(tl.uint32, bitcast=True) * 0x9E3779B1)[None, :]
    return (x ^ (x >> 15)) * 0x2C1B3C6D >= threshold


@triton.jit
def _turned(x, back: tl.constexpr, N: tl.constexpr):
    """Row a of (N, N) turned right by a places; left with `back`."""
    row = tl.arange(0, N)[:, None]
    column = tl.arange(0, N)[None, :]
    back_or_on: tl.constexpr = 1 if back else -1
    return tl.gather(x, (column + back_or_on * row) & (N - 1), 1)


@triton.jit
def _rows(base, first, count, stride, N: tl.constexpr, E: tl.constexpr):
    """Rows first .. first + N - 1 of a matrix of `count` rows, (N, E); zeros outside."""
    row = first + tl.arange(0, N)
    at = base + row[:, None] * stride + tl.arange(0, E)[None, :]
    return tl.load(at, mask=((row >= 0) & (row < count))[:, None], other=0.0)


@triton.jit
def _vector(vectors, number: tl.constexpr, h, width, E: tl.constexpr):
    """One of the four vectors (1, E) of a head."""
    return tl.load(vectors + number * width + h * E + tl.arange(0, E))[None, :]


@triton.jit
def _other_segment(mark_i, mark_j):
    """Whether queries and keys are of different segments (N, N)."""
    kind_i = tl.where(mark_i < 0, -1 - mark_i, mark_i)
    kind_j = tl.where(mark_j < 0, -1 - mark_j, mark_j)
    return kind_i[:, None] != kind_j[None, :]


@triton.jit
def _marked(s, apart, mark_i, marks, i0, j0, tokens, N: tl.constexpr):
    """Scores (N, N) with the segments' term; -inf where a query does not see a key."""
    row = i0 + tl.arange(0, N)
    j = j0 + tl.arange(0, N)
    mark_j = tl.load(marks + j, mask=j < tokens, other=-1)
    s += tl.where(_other_segment(mark_i, mark_j), apart[:, None], 0.0)
    visible = (j < tokens)[None, :] & ((mark_j >= 0)[None, :] | (row[:, None] == j[None, :]))
    return tl.where(visible, s, float("-inf"))


@triton.jit(do_not_specialize=["seed"])
def forward(
    qkv, r, vectors, marks, blocks, out, rest, lse, scale, seed, threshold, tokens, heads,
    E: tl.constexpr, N: tl.constexpr, MARKED: tl.constexpr, DROPS: tl.constexpr,
):  # fmt: skip
    """Outputs of a block of queries of one head of one chunk."""
    i0 = tl.program_id(0) * N
    b = tl.program_id(1) // heads
    h = tl.program_id(1) % heads
    width = heads * E
    chunk = qkv + b.to(tl.int64) * tokens * 3 * width + h * E
    m = tl.arange(0, N)
    row = i0 + m
    q = _rows(chunk, i0, tokens, 3 * width, N, E)
    qc = (q + _vector(vectors, 0, h, width, E)).to(q.dtype)
    qr = (q + _vector(vectors, 1, h, width, E)).to(q.dtype)
    mark = 0
    if MARKED:
        marks += b * tokens
        blocks += b * tl.num_programs(0)
        mark = tl.load(blocks + tl.program_id(0))
        mark_i = tl.load(marks + row, mask=row < tokens, other=-1)
        apart = tl.sum((q + _vector(vectors, 2, h, width, E)) * _vector(vectors, 3, h, width, E), 1)
    near = r + h * E
    best = tl.full([N], -1e30, tl.float32)
    total = tl.zeros([N], tl.float32)
    mixed = tl.zeros([N, E], tl.float32)
    for j0 in range(0, tokens, N):
        # Not kept from the block before, though it is that one's `high`: Triton 3.6 then gives wrong sums for E = 64.
        low = tl.dot(qr, tl.trans(_rows(near, tokens - i0 + j0 - N, 2 * tokens, width, N, E)))
        high = tl.dot(qr, tl.trans(_rows(near, tokens - i0 + j0, 2 * tokens, width, N, E)))
        k = _rows(chunk + width, j0, tokens, 3 * width, N, E)
        s = tl.dot(qc, tl.trans(k)) + _turned(tl.where(m[:, None] + m[None, :] < N, high, low), False, N)
        if MARKED:
            if (mark < 0) | (mark != tl.load(blocks + j0 // N)):
                s = _marked(s, apart, mark_i, marks, i0, j0, tokens, N)
        s *= scale * 1.4426950408889634
        now = tl.maximum(best, tl.max(s, 1))
        shrink = tl.exp2(best - now)
        p = tl.exp2(s - now[:, None])
        total = total * shrink + tl.sum(p, 1)
        if DROPS:
            p = tl.where(kept(seed, tl.program_id(1) * tokens + row, j0 + m, threshold), p, 0.0)
        v = _rows(chunk + 2 * width, j0, tokens, 3 * width, N, E)
        mixed = mixed * shrink[:, None] + tl.dot(p.to(v.dtype), v)
        best = now
    if DROPS:
        total *= (4294967296.0 - threshold) / 4294967296.0
    at = (b.to(tl.int64) * tokens + row[:, None]) * width + h * E + tl.arange(0, E)[None, :]
    mixed /= total[:, None]
    half = mixed.to(out.dtype.element_ty)
    tl.store(out + at, half, mask=(row < tokens)[:, None])
    if rest is not None:
        tl.store(rest + at, (mixed - half.to(tl.float32)).to(out.dtype.element_ty), mask=(row < tokens)[:, None])
    if DROPS:
        total *= 4294967296.0 / (4294967296.0 - threshold)
    tl.store(lse + tl.program_id(1) * tokens + row, best + tl.log2(total), mask=row < tokens)


@triton.jit(do_not_specialize=["seed"])
def backward_scores(
    qkv, r, vectors, marks, blocks, out, rest, lse, slope, weights, to_scores, to_others,
    scale, seed, threshold, tokens, heads,
    E: tl.constexpr, N: tl.constexpr, MARKED: tl.constexpr, DROPS: tl.constexpr,
):  # fmt: skip
    """Of a block of queries: weights, gradients of scores, and their sums (T,) over keys of another segment."""
    i0 = tl.program_id(0) * N
    b = tl.program_id(1) // heads
    h = tl.program_id(1) % heads
    width = heads * E
    token = b.to(tl.int64) * tokens
    chunk = qkv + token * 3 * width + h * E
    m = tl.arange(0, N)
    row = i0 + m
    inside = row < tokens
    q = _rows(chunk, i0, tokens, 3 * width, N, E)
    qc = (q + _vector(vectors, 0, h, width, E)).to(q.dtype)
    qr = (q + _vector(vectors, 1, h, width, E)).to(q.dtype)
    mark = 0
    to_other = tl.zeros([N], tl.float32)
    if MARKED:
        marks += b * tokens
        blocks += b * tl.num_programs(0)
        mark = tl.load(blocks + tl.program_id(0))
        mark_i = tl.load(marks + row, mask=inside, other=-1)
        apart = tl.sum((q + _vector(vectors, 2, h, width, E)) * _vector(vectors, 3, h, width, E), 1)
    down = _rows(slope + token * width + h * E, i0, tokens, width, N, E)
    whole = _rows(out + token * width + h * E, i0, tokens, width, N, E).to(tl.float32)
    whole += _rows(rest + token * width + h * E, i0, tokens, width, N, E)
    own = tl.sum(down.to(tl.float32) * whole, 1)
    norm = tl.load(lse + tl.program_id(1) * tokens + row, mask=inside, other=0.0)
    near = r + h * E
    grid = (tl.program_id(1).to(tl.int64) * tokens + row) * tokens
    for j0 in range(0, tokens, N):
        low = tl.dot(qr, tl.trans(_rows(near, tokens - i0 + j0 - N, 2 * tokens, width, N, E)))
        high = tl.dot(qr, tl.trans(_rows(near, tokens - i0 + j0, 2 * tokens, width, N, E)))
        k = _rows(chunk + width, j0, tokens, 3 * width, N, E)
        s = tl.dot(qc, tl.trans(k)) + _turned(tl.where(m[:, None] + m[None, :] < N, high, low), False, N)
        if MARKED:
            if (mark < 0) | (mark != tl.load(blocks + j0 // N)):
                s = _marked(s, apart, mark_i, marks, i0, j0, tokens, N)
        p = tl.exp2(s * (scale * 1.4426950408889634) - norm[:, None])
        to_p = tl.dot(down, tl.trans(_rows(chunk + 2 * width, j0, tokens, 3 * width, N, E)))
        j = j0 + m
        at = grid[:, None] + j[None, :]
        inner = inside[:, None] & (j < tokens)[None, :]
        if DROPS:
            stays = kept(seed, tl.program_id(1) * tokens + row, j, threshold)
            factor = tl.where(stays, 4294967296.0 / (4294967296.0 - threshold), 0.0)
            tl.store(weights + at, (p * factor).to(q.dtype), mask=inner)
            to_p *= factor
        else:
            tl.store(weights + at, p.to(q.dtype), mask=inner)
        to_s = p * (to_p - own[:, None]) * scale
        tl.store(to_scores + at, to_s.to(q.dtype), mask=inner)
        if MARKED:
            if (mark < 0) | (mark != tl.load(blocks + j0 // N)):
                mark_j = tl.load(marks + j, mask=j < tokens, other=-1)
                to_other += tl.sum(tl.where(_other_segment(mark_i, mark_j), to_s, 0.0), 1)
    if MARKED:
        tl.store(to_others + tl.program_id(1) * tokens + row, to_other, mask=inside)


@triton.jit
def backward_queries(
    qkv, r, vectors, to_scores, to_others, to_qkv, sums, tokens, heads,
    E: tl.constexpr, N: tl.constexpr, MARKED: tl.constexpr,
):  # fmt: skip
    """Gradients of a block of queries, and its sums for the four vectors."""
    i0 = tl.program_id(0) * N
    b = tl.program_id(1) // heads
    h = tl.program_id(1) % heads
    width = heads * E
    token = b.to(tl.int64) * tokens
    chunk = qkv + token * 3 * width + h * E
    e = tl.arange(0, E)
    m = tl.arange(0, N)
    row = i0 + m
    inside = row < tokens
    grid = to_scores + (tl.program_id(1).to(tl.int64) * tokens + row[:, None]) * tokens
    to_qc = tl.zeros([N, E], tl.float32)
    to_qr = tl.zeros([N, E], tl.float32)
    for step in range(0, tokens + N, N):
        # Distance number T - i0 - N + step + column: row a's key is a + step + column - N.
        j = (m[:, None] + m[None, :]) + (step - N)
        turned = tl.load(grid + j, mask=inside[:, None] & (j >= 0) & (j < tokens), other=0.0)
        to_qr += tl.dot(turned, _rows(r + h * E, tokens - i0 - N + step, 2 * tokens, width, N, E))
        j = (step + m)[None, :]
        straight = tl.load(grid + j, mask=inside[:, None] & (j < tokens), other=0.0)
        to_qc += tl.dot(straight, _rows(chunk + width, step, tokens, 3 * width, N, E))
    part = sums + (tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)) * 4 * E + e
    tl.store(part, tl.sum(to_qc, 0))
    tl.store(part + E, tl.sum(to_qr, 0))
    to_q = to_qc + to_qr
    if MARKED:
        to_other = tl.load(to_others + tl.program_id(1) * tokens + row, mask=inside, other=0.0)[:, None]
        g = _vector(vectors, 3, h, width, E)
        q = _rows(chunk, i0, tokens, 3 * width, N, E)
        to_q += to_other * g
        tl.store(part + 2 * E, tl.sum(to_other * g, 0))
        tl.store(part + 3 * E, tl.sum(to_other * (q + _vector(vectors, 2, h, width, E)), 0))
    at = to_qkv + (token + row[:, None]) * 3 * width + h * E + e[None, :]
    tl.store(at, to_q.to(to_qkv.dtype.element_ty), mask=inside[:, None])


@triton.jit
def backward_keys(qkv, vectors, slope, to_qkv, weights, to_scores, tokens, heads, E: tl.constexpr, N: tl.constexpr):
    """Gradients of a block of keys and values."""
    j0 = tl.program_id(0) * N
    b = tl.program_id(1) // heads
    h = tl.program_id(1) % heads
    width = heads * E
    token = b.to(tl.int64) * tokens
    e = tl.arange(0, E)
    column = j0 + tl.arange(0, N)
    u = tl.load(vectors + h * E + e)[None, :]
    grid = tl.program_id(1).to(tl.int64) * tokens * tokens
    to_k = tl.zeros([N, E], tl.float32)
    to_v = tl.zeros([N, E], tl.float32)
    for i0 in range(0, tokens, N):
        row = i0 + tl.arange(0, N)
        at = grid + row[:, None] * tokens + column[None, :]
        inner = (row < tokens)[:, None] & (column < tokens)[None, :]
        q = _rows(qkv + token * 3 * width + h * E, i0, tokens, 3 * width, N, E)
        qc = (q + u).to(q.dtype)
        to_k += tl.dot(tl.trans(tl.load(to_scores + at, mask=inner, other=0.0)), qc)
        down = _rows(slope + token * width + h * E, i0, tokens, width, N, E)
        to_v += tl.dot(tl.trans(tl.load(weights + at, mask=inner, other=0.0)), down)
    at = to_qkv + (token + column[:, None]) * 3 * width + h * E + e[None, :]
    tl.store(at + width, to_k.to(to_qkv.dtype.element_ty), mask=(column < tokens)[:, None])
    tl.store(at + 2 * width, to_v.to(to_qkv.dtype.element_ty), mask=(column < tokens)[:, None])


@triton.jit
def backward_relative(
    qkv, vectors, to_scores, parts, tokens, heads, chunks, per_part, E: tl.constexpr, N: tl.constexpr
):
    """Gradients of a block of relative keys, from some of the chunks."""
    c0 = tl.program_id(0) * N
    h = tl.program_id(1)
    width = heads * E
    e = tl.arange(0, E)
    m = tl.arange(0, N)
    w = tl.load(vectors + width + h * E + e)[None, :]
    to_r = tl.zeros([N, E], tl.float32)
    # Of query i and distance number c the key is j = i + c - T. The blocks of queries with a key in 0 .. T - 1:
    first = tl.maximum(0, (tokens - c0 - 2 * N + 2) // N) * N
    last = tl.minimum(tokens, 2 * tokens - c0)
    b0 = tl.program_id(2) * per_part
    chunk = qkv + b0.to(tl.int64) * tokens * 3 * width + h * E
    grid = to_scores + (b0.to(tl.int64) * heads + h) * tokens * tokens
    for _ in range(b0, tl.minimum(b0 + per_part, chunks)):
        for i0 in range(first, last, N):
            row = i0 + m
            j = row[:, None] + (c0 + m)[None, :] - tokens
            inner = (row < tokens)[:, None] & (j >= 0) & (j < tokens)
            turned = tl.load(grid + row[:, None] * tokens + j, mask=inner, other=0.0)
            q = _rows(chunk, i0, tokens, 3 * width, N, E)
            to_r += tl.dot(tl.trans(turned), (q + w).to(q.dtype))
        chunk += tokens * 3 * width
        grid += heads * tokens * tokens
    c = c0 + m
    at = parts + (tl.program_id(2) * 2 * tokens + c[:, None]) * width + h * E + e[None, :]
    tl.store(at, to_r, mask=(c < 2 * tokens)[:, None])
