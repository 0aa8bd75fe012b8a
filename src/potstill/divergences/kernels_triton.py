"""The walks between the products, as Triton kernels: the only file that imports Triton, and only when it is used.

Every kernel looks at a tile of fp32 logits, or of half ones relative to a running maximum, [tokens, width] with rows
`stride` apart. One program owns ROWS tokens and adds up along the vocabulary itself, COLUMNS at a time: no sum of
floating-point numbers is left to atomics, so a result has the same bits each time. The formulas are those of
mixtures.py and walks.py, as in tiles_torch.py.
"""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl

SMALLEST = tl.constexpr(1e-37)
"""Stands for a probability that underflowed, where its logarithm is taken."""

LOWEST_HALF = tl.constexpr(-65504.0)

MASS_STEPS = tl.constexpr(2.0**50)
"""Mass is added up as whole numbers of 2^-50: whole numbers may be added in any order."""


@triton.jit
@no_type_check
def finish(z, stride, bias, scale, softcap, temperature, tokens, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """In place: softcap(scale * (z + bias)) / temperature. tanh(x) = 1 - 2 / (e^2x + 1), good at both ends."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    live = columns < width
    mask = (rows < tokens)[:, None] & live[None, :]
    place = z + rows.to(tl.int64)[:, None] * stride + columns[None, :]
    value = tl.load(place, mask=mask, other=0.0)
    if bias is not None:
        value += tl.load(bias + columns, mask=live, other=0.0)[None, :]
    value *= scale
    if softcap is not None:
        value = softcap * (1.0 - 2.0 / (tl.exp(2.0 * value / softcap) + 1.0))
    tl.store(place, value / temperature, mask=mask)


@triton.jit
@no_type_check
def highest(z, stride, before, rows, live, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The maxima of the rows of a tile and of what was `before`."""
    top = before
    for start in range(0, width, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        place = z + rows.to(tl.int64)[:, None] * stride + columns[None, :]
        value = tl.load(place, mask=live[:, None] & (columns < width)[None, :], other=-float("inf"))
        top = tl.maximum(top, tl.max(value, 1))
    return top


@triton.jit
@no_type_check
def observe(
    s, t, stride, half_s, half_t, half_stride, reference_s, reference_t, stats, targets, first, temperature,
    tokens, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Bring the running sums of tiles.Stats, [8, tokens], to the maxima that include this tile; keep it as half."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    live = rows < tokens
    at = rows.to(tl.int64)[:, None]
    old_s = tl.load(stats + rows, mask=live, other=0.0)
    old_t = tl.load(stats + 2 * tokens + rows, mask=live, other=0.0)
    max_s = highest(s, stride, old_s, rows, live, width, ROWS, COLUMNS)
    max_t = highest(t, stride, old_t, rows, live, width, ROWS, COLUMNS)
    fade_s, fade_t = tl.exp(old_s - max_s), tl.exp(old_t - max_t)
    sum_s = fade_s * tl.load(stats + tokens + rows, mask=live, other=0.0)
    sum_t = fade_t * tl.load(stats + 3 * tokens + rows, mask=live, other=0.0)
    gap_s = fade_s * tl.load(stats + 4 * tokens + rows, mask=live, other=0.0)
    gap_t = fade_t * tl.load(stats + 5 * tokens + rows, mask=live, other=0.0)
    hard = tl.zeros([ROWS], tl.float32)
    found = tl.zeros([ROWS], tl.float32)
    if targets is not None:
        wanted = tl.load(targets + rows, mask=live, other=-1) - first
        hard += tl.exp((old_s - max_s) * temperature) * tl.load(stats + 6 * tokens + rows, mask=live, other=0.0)
        found += tl.load(stats + 7 * tokens + rows, mask=live, other=0.0)
    for start in range(0, width, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        mask = live[:, None] & (columns < width)[None, :]
        z_s = tl.load(s + at * stride + columns[None, :], mask=mask, other=0.0)
        z_t = tl.load(t + at * stride + columns[None, :], mask=mask, other=0.0)
        below_s, below_t = z_s - max_s[:, None], z_t - max_t[:, None]
        e_s, e_t = tl.where(mask, tl.exp(below_s), 0.0), tl.where(mask, tl.exp(below_t), 0.0)
        sum_s += tl.sum(e_s, 1)
        sum_t += tl.sum(e_t, 1)
        gap_s += tl.sum(e_s * (z_s - z_t), 1)
        gap_t += tl.sum(e_t * (z_t - z_s), 1)
        if targets is not None:
            hard += tl.sum(tl.where(mask, tl.exp(below_s * temperature), 0.0), 1)
            found += tl.sum(tl.where(mask & (columns[None, :] == wanted[:, None]), z_s, 0.0), 1)
        if half_s is not None:
            tl.store(
                half_s + at * half_stride + columns[None, :], tl.maximum(below_s, -65504.0).to(tl.float16), mask=mask
            )
            tl.store(
                half_t + at * half_stride + columns[None, :], tl.maximum(below_t, -65504.0).to(tl.float16), mask=mask
            )
    if half_s is not None:
        tl.store(reference_s + rows, max_s, mask=live)
        tl.store(reference_t + rows, max_t, mask=live)
    tl.store(stats + rows, max_s, mask=live)
    tl.store(stats + tokens + rows, sum_s, mask=live)
    tl.store(stats + 2 * tokens + rows, max_t, mask=live)
    tl.store(stats + 3 * tokens + rows, sum_t, mask=live)
    tl.store(stats + 4 * tokens + rows, gap_s, mask=live)
    tl.store(stats + 5 * tokens + rows, gap_t, mask=live)
    tl.store(stats + 6 * tokens + rows, hard, mask=live)
    tl.store(stats + 7 * tokens + rows, found, mask=live)


@triton.jit
@no_type_check
def logits_at(z, stride, reference, tokens, start, rows, columns, mask, TILE: tl.constexpr):
    """COLUMNS logits of ROWS tokens, whether kept as they are or relative to the reference of their tile."""
    place = z + rows.to(tl.int64)[:, None] * stride + columns[None, :]
    value = tl.load(place, mask=mask, other=0.0).to(tl.float32)
    if reference is not None:
        value += tl.load(reference + (start // TILE) * tokens + rows, mask=rows < tokens, other=0.0)[:, None]
    return value


@triton.jit
@no_type_check
def log_share(z, known, which, tokens, rows):
    """(z - top) - log(sum); known: tiles.Totals as [5, tokens], which: 0 the student, 2 the teacher."""
    top = tl.load(known + which * tokens + rows, mask=rows < tokens, other=0.0)
    log_sum = tl.load(known + (which + 1) * tokens + rows, mask=rows < tokens, other=0.0)
    return (z - top[:, None]) - log_sum[:, None]


@triton.jit
@no_type_check
def key_of(t, known, tokens, rows, KEY_STEPS: tl.constexpr, LAST_KEY: tl.constexpr):
    """How far below the teacher's first choice, as a whole number of steps."""
    top = tl.load(known + 2 * tokens + rows, mask=rows < tokens, other=0.0)
    return tl.minimum(tl.maximum((top[:, None] - t) * KEY_STEPS, 0.0), LAST_KEY).to(tl.int32)


@triton.jit
@no_type_check
def mixture_of(p, q, weight, x, y):
    """The value of one mixture for each entry, and its derivative with respect to q."""
    a = x * p + (1.0 - x) * q
    b = y * p + (1.0 - y) * q
    ratio = tl.maximum(a, SMALLEST) / tl.maximum(b, SMALLEST)
    log_ratio = tl.log(ratio)
    return weight * a * log_ratio, weight * ((1.0 - x) * (log_ratio + 1.0) - (1.0 - y) * ratio)


@triton.jit
@no_type_check
def slope_of(p, q, variation, w_0, x_0, y_0, w_1, x_1, y_1, TERMS: tl.constexpr):
    """The value of the mixtures and the total variation for each entry, and its derivative with respect to q."""
    value = 0.5 * variation * tl.abs(p - q)
    slope = 0.5 * variation * ((q > p).to(tl.float32) - (q < p).to(tl.float32))
    if TERMS > 0:
        one, gain = mixture_of(p, q, w_0, x_0, y_0)
        value += one
        slope += gain
    if TERMS > 1:
        one, gain = mixture_of(p, q, w_1, x_1, y_1)
        value += one
        slope += gain
    return value, slope


@triton.jit
@no_type_check
def sum_slopes(
    s, t, stride, reference_s, reference_t, known, sums, tokens, width, variation, w_0, x_0, y_0, w_1, x_1, y_1,
    TERMS: tl.constexpr, TILE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Added to sums, [2, tokens]: the value, and sum_v q_v dvalue/dq_v."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    live = rows < tokens
    value = tl.load(sums + rows, mask=live, other=0.0)
    mean = tl.load(sums + tokens + rows, mask=live, other=0.0)
    for start in range(0, width, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        mask = live[:, None] & (columns < width)[None, :]
        z_s = logits_at(s, stride, reference_s, tokens, start, rows, columns, mask, TILE)
        z_t = logits_at(t, stride, reference_t, tokens, start, rows, columns, mask, TILE)
        q, p = tl.exp(log_share(z_s, known, 0, tokens, rows)), tl.exp(log_share(z_t, known, 2, tokens, rows))
        one, slope = slope_of(p, q, variation, w_0, x_0, y_0, w_1, x_1, y_1, TERMS)
        value += tl.sum(tl.where(mask, one, 0.0), 1)
        mean += tl.sum(tl.where(mask, q * slope, 0.0), 1)
    tl.store(sums + rows, value, mask=live)
    tl.store(sums + tokens + rows, mean, mask=live)


@triton.jit
@no_type_check
def sum_gaps(
    s, t, stride, reference_s, reference_t, known, sums, head_keys, tokens, width,
    KEY_STEPS: tl.constexpr, LAST_KEY: tl.constexpr, TILE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Added to sums, [2, tokens]: |p - q| over the head of the teacher's distribution, and over everything."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    live = rows < tokens
    head = tl.load(sums + rows, mask=live, other=0.0)
    whole = tl.load(sums + tokens + rows, mask=live, other=0.0)
    edge = tl.load(head_keys + rows, mask=live, other=0)
    for start in range(0, width, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        mask = live[:, None] & (columns < width)[None, :]
        z_s = logits_at(s, stride, reference_s, tokens, start, rows, columns, mask, TILE)
        z_t = logits_at(t, stride, reference_t, tokens, start, rows, columns, mask, TILE)
        q, p = tl.exp(log_share(z_s, known, 0, tokens, rows)), tl.exp(log_share(z_t, known, 2, tokens, rows))
        gaps = tl.where(mask, tl.abs(p - q), 0.0)
        head += tl.sum(tl.where(key_of(z_t, known, tokens, rows, KEY_STEPS, LAST_KEY) < edge[:, None], gaps, 0.0), 1)
        whole += tl.sum(gaps, 1)
    tl.store(sums + rows, head, mask=live)
    tl.store(sums + tokens + rows, whole, mask=live)


@triton.jit
@no_type_check
def sort_mass(
    t, stride, reference_t, known, mass, prefix, shift, tokens, width, BITS: tl.constexpr,
    KEY_STEPS: tl.constexpr, LAST_KEY: tl.constexpr, TILE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Added to mass, [tokens, 2^BITS] whole numbers: the teacher's, by the bits above `shift` of keys with a prefix."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    live = rows < tokens
    wanted = tl.load(prefix + rows, mask=live, other=-1)
    for start in range(0, width, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        mask = live[:, None] & (columns < width)[None, :]
        z_t = logits_at(t, stride, reference_t, tokens, start, rows, columns, mask, TILE)
        bits = key_of(z_t, known, tokens, rows, KEY_STEPS, LAST_KEY) >> shift
        steps = (tl.exp(log_share(z_t, known, 2, tokens, rows)) * MASS_STEPS).to(tl.int64)
        mine = mask & ((bits >> BITS) == wanted[:, None]) & (steps > 0)
        place = mass + rows.to(tl.int64)[:, None] * (1 << BITS) + (bits & ((1 << BITS) - 1))
        tl.atomic_add(place, steps, mask=mine)


@triton.jit
@no_type_check
def differentiate(
    s, t, stride, reference_s, reference_t, known, slopes, targets, first, change, tokens, width, softcap, temperature,
    variation, w_0, x_0, y_0, w_1, x_1, y_1,
    MIXED: tl.constexpr, TERMS: tl.constexpr, TILE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """change, [tokens, width]: dloss/dlogit before scale and softcap. slopes: tiles.Slopes as [5, tokens]."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    start = tl.program_id(1) * COLUMNS
    columns = start + tl.arange(0, COLUMNS)
    live = rows < tokens
    mask = live[:, None] & (columns < width)[None, :]
    z_s = logits_at(s, stride, reference_s, tokens, start, rows, columns, mask, TILE)
    z_t = logits_at(t, stride, reference_t, tokens, start, rows, columns, mask, TILE)
    log_q, log_p = log_share(z_s, known, 0, tokens, rows), log_share(z_t, known, 2, tokens, rows)
    q, p = tl.exp(log_q), tl.exp(log_p)
    offset = tl.load(slopes + 2 * tokens + rows, mask=live, other=0.0)[:, None]
    if MIXED:
        _, slope = slope_of(p, q, variation, w_0, x_0, y_0, w_1, x_1, y_1, TERMS)
        gradient = q * (slope - offset)
    else:
        forward = tl.load(slopes + rows, mask=live, other=0.0)[:, None]
        reverse = tl.load(slopes + tokens + rows, mask=live, other=0.0)[:, None]
        gradient = forward * (q - p) + reverse * q * (log_q - log_p - offset)
    gradient *= tl.load(slopes + 3 * tokens + rows, mask=live, other=0.0)[:, None]
    if targets is not None:
        hard = tl.load(slopes + 4 * tokens + rows, mask=live, other=0.0)[:, None]
        top = tl.load(known + rows, mask=live, other=0.0)[:, None]
        hard_log = tl.load(known + 4 * tokens + rows, mask=live, other=0.0)[:, None]
        wanted = tl.load(targets + rows, mask=live, other=-1)[:, None] - first
        label = (columns[None, :] == wanted).to(tl.float32)
        gradient += hard * (tl.exp((z_s - top) * temperature - hard_log) - label)
    if softcap is not None:
        share = z_s * temperature / softcap
        gradient *= 1.0 - share * share
    tl.store(change + rows.to(tl.int64)[:, None] * width + columns[None, :], gradient, mask=mask)
