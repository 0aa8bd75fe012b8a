"""The order of the walks over one block of tokens, and the arithmetic between them: one number for each token.

logits of every range -> log-normalisers, both KLs -> (mixtures: value and mean slope) -> gradients of every range
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from potstill.divergences.adaptive import HEAD_MASS
from potstill.divergences.tiles import BIN_BITS, KEY_BITS, Engine, Range, Slopes, Stats, Task, Totals, ranges

Made = TypeVar("Made")


@runtime_checkable
class Each(Protocol):
    """Does one walk over every range, side by side where the engine can."""

    def __call__(self, walk: Callable[[Range], Made]) -> list[Made]:
        """What the walk gives, in the order of the ranges."""
        ...


def walk_blocks(task: Task, engine: Engine, soft_N: Tensor, hard_N: Tensor, *, differentiate: bool) -> Tensor:
    """[2]: sum_n soft_n D_n and sum_n hard_n CE_n over all tokens; the gradients of their sum stay with the engine."""
    tokens, parts = len(task.student.states_ND), ranges(len(task.student.head.weight_VD))
    dtype = torch.promote_types(task.student.states_ND.dtype, torch.float32)
    soft_N, hard_N = soft_N.to(dtype), hard_N.to(dtype)
    parts_2 = soft_N.new_zeros(2)
    with ThreadPoolExecutor(max(engine.workers, 1)) as pool:

        def each(walk: Callable[[Range], Made]) -> list[Made]:
            return list(pool.map(walk, parts)) if engine.workers > 1 else [walk(part) for part in parts]

        for first in range(0, tokens, task.block):
            rows = slice(first, min(first + task.block, tokens))
            engine.begin(rows.start, rows.stop)
            stats = merged(each(engine.logits), task.temperature)
            totals = _totals(stats)
            engine.fix(totals)
            value, slopes = _slopes(task, engine, each, stats, totals)
            parts_2[0] += (soft_N[rows] * value).sum()
            if task.targets_N is not None:
                below = (stats.max_s - stats.target) * task.temperature
                parts_2[1] += (hard_N[rows] * (below + totals.hard_log)).sum()
            if differentiate:
                scale = task.student.head.scale
                soft, hard = soft_N[rows] * (scale / task.temperature), hard_N[rows] * scale
                engine.slope(dataclasses.replace(slopes, soft=soft, hard=hard))
                each(engine.gradients)
                engine.end()
    return parts_2


def merged(parts: list[Stats], temperature: float) -> Stats:
    """Sums over the whole vocabulary from those over its ranges."""
    of = {field.name: torch.stack([getattr(part, field.name) for part in parts]) for field in dataclasses.fields(Stats)}
    max_s, max_t = of["max_s"].amax(0), of["max_t"].amax(0)
    fade_s, fade_t = (of["max_s"] - max_s).exp(), (of["max_t"] - max_t).exp()
    sum_s = (of["sum_s"] * fade_s).sum(0)
    hard = (of["sum_hard"] * ((of["max_s"] - max_s) * temperature).exp()).sum(0)
    return Stats(
        max_s=max_s,
        sum_s=sum_s,
        max_t=max_t,
        sum_t=(of["sum_t"] * fade_t).sum(0),
        gap_s=(of["gap_s"] * fade_s).sum(0),
        gap_t=(of["gap_t"] * fade_t).sum(0),
        sum_hard=sum_s if temperature == 1 else hard,
        target=of["target"].sum(0),
    )


def _totals(stats: Stats) -> Totals:
    return Totals(
        student_top=stats.max_s,
        student_log=stats.sum_s.log(),
        teacher_top=stats.max_t,
        teacher_log=stats.sum_t.log(),
        hard_log=stats.sum_hard.log(),
    )


def _slopes(task: Task, engine: Engine, each: Each, stats: Stats, totals: Totals) -> tuple[Tensor, Slopes]:
    """The divergence of each token, and what its gradient needs; soft and hard are left for the caller."""
    form = task.form
    gap = (stats.max_s - stats.max_t) + (totals.student_log - totals.teacher_log)
    forward, reverse = stats.gap_t / stats.sum_t + gap, stats.gap_s / stats.sum_s - gap
    none = torch.zeros_like(forward)
    if form.mixtures or form.variation:
        value, offset = torch.stack(each(lambda part: engine.sums(part, "slopes"))).sum(0)
        return value, Slopes(none, none, offset, none, none)
    share_f, share_r = none + form.forward, none + form.reverse
    if form.adaptive:
        share_f = _head_share(engine, each, none)
        share_r = 1.0 - share_f
    # A share of zero silences its KL, even one that overflowed.
    value = torch.where(share_f > 0, share_f * forward, 0.0) + torch.where(share_r > 0, share_r * reverse, 0.0)
    return value, Slopes(share_f, share_r, torch.where(share_r > 0, reverse, 0.0), none, none)


def _head_share(engine: Engine, each: Each, none: Tensor) -> Tensor:
    """adaptive.py's share of forward KL. The edge of the head is found by sorting the teacher's mass eight bits of the
    key at a time, from the first choice down, until one step of 2^-19 nats holds the entry that passes HEAD_MASS."""
    keys, above = torch.zeros_like(none, dtype=torch.long), none
    for shift in range(KEY_BITS - BIN_BITS, -1, -BIN_BITS):
        mass = torch.stack(each(partial(engine.mass, shift=shift, prefix=keys))).sum(0)
        running = above + mass.cumsum(0)
        found = (running <= HEAD_MASS).sum(0).clamp(max=2**BIN_BITS - 1)
        before = running.gather(0, (found - 1).clamp(min=0).unsqueeze(0)).squeeze(0)
        above = torch.where(found > 0, before, above)
        keys = (keys << BIN_BITS) | found
    engine.fix_head(keys.clamp(min=1))
    head, total = torch.stack(each(lambda part: engine.sums(part, "gaps"))).sum(0)
    return torch.where(total > 0, head / total.clamp_min(torch.finfo(total.dtype).tiny), 0.5)
