"""The engine that runs everywhere: the same walks in plain PyTorch, on any device and dtype."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from potstill.divergences.mixtures import Form
from potstill.divergences.tiles import BIN_BITS, KEY_BITS, KEY_STEP, Range, Side, Slopes, Stats, Task, Totals, ranges

TILE = 4096
"""Entries of the vocabulary that one step looks at."""


class TorchEngine:
    """An Engine in PyTorch. Logits and sums are at least fp32, products of bf16 included; threads are PyTorch's own."""

    workers = 1

    def __init__(self, task: Task, *, states: bool, head: bool, bias: bool):
        student = task.student
        self._task, self._dtype = task, torch.promote_types(student.states_ND.dtype, torch.float32)
        self._states = torch.zeros_like(student.states_ND, dtype=self._dtype) if states else None
        self._head = torch.zeros_like(student.head.weight_VD) if head else None
        self._bias = student.head.weight_VD.new_zeros(len(student.head.weight_VD), dtype=self._dtype) if bias else None
        self._ranges = len(ranges(len(student.head.weight_VD)))
        self._kept: tuple[Tensor, ...] | None = None
        if task.store:
            shape = (min(task.block, len(student.states_ND)), len(student.head.weight_VD))
            self._kept = tuple(student.states_ND.new_empty(shape, dtype=self._dtype) for _ in range(2))

    def begin(self, first: int, last: int) -> None:
        """See Engine."""
        self._rows = slice(first, last)
        self._targets = None if self._task.targets_N is None else self._task.targets_N[self._rows]
        student = self._task.student.states_ND
        self._partial = student.new_zeros(self._ranges, last - first, student.shape[1], dtype=self._dtype)

    def logits(self, part: Range) -> Stats:
        """See Engine. All of a range at once: its sums are then relative to its own maxima."""
        rows = self._rows.stop - self._rows.start
        stats = [torch.zeros(rows, dtype=self._dtype, device=self._partial.device) for _ in range(8)]
        stats[0] -= torch.inf
        stats[2] -= torch.inf
        for first, last in _tiles(part):
            s, t = self._project(self._task.student, first, last), self._project(self._task.teacher, first, last)
            if self._kept is not None:
                for kept, computed in zip(self._kept, (s, t), strict=True):
                    kept[:rows, first:last] = computed
            self._observe(stats, s, t, first)
        return Stats(*stats)

    def fix(self, totals: Totals) -> None:
        """See Engine."""
        self._totals = totals

    def mass(self, part: Range, shift: int, prefix: Tensor) -> Tensor:
        """See Engine."""
        rows = len(prefix)
        mass = torch.zeros(rows, 2**BIN_BITS, dtype=self._dtype, device=prefix.device)
        for first, last in _tiles(part):
            t = self._fetch(1, first, last)
            bits = self._keys(t) >> shift
            mine = (bits >> BIN_BITS) == prefix.unsqueeze(1)
            p = self._logprobs(first, last)[1].exp()
            mass.scatter_add_(1, bits & (2**BIN_BITS - 1), torch.where(mine, p, 0.0))
        return mass.T

    def fix_head(self, head_keys: Tensor) -> None:
        """See Engine."""
        self._head_keys = head_keys

    def sums(self, part: Range, which: Literal["slopes", "gaps"]) -> Tensor:
        """See Engine."""
        sums = torch.zeros(2, self._rows.stop - self._rows.start, dtype=self._dtype, device=self._partial.device)
        for first, last in _tiles(part):
            t = self._fetch(1, first, last)
            log_q, log_p = self._logprobs(first, last)
            p, q = log_p.exp(), log_q.exp()
            if which == "gaps":
                gaps = (p - q).abs()
                head = self._keys(t) < self._head_keys.unsqueeze(1)
                sums += torch.stack([torch.where(head, gaps, 0.0).sum(1), gaps.sum(1)])
            else:
                value, slope = slope_of(self._task.form, p, q)
                sums += torch.stack([value.sum(1), (q * slope).sum(1)])
        return sums

    def slope(self, slopes: Slopes) -> None:
        """See Engine."""
        self._slopes = slopes

    def gradients(self, part: Range) -> None:
        """See Engine."""
        student = self._task.student
        for first, last in _tiles(part):
            change = self._change(first, last)
            if self._bias is not None:
                self._bias[first:last] += change.sum(0)
            if self._head is not None:
                wide = self._head[first:last].to(self._dtype) + change.T @ student.states_ND[self._rows].to(self._dtype)
                self._head[first:last] = wide.to(self._head.dtype)
            if self._states is not None:
                self._partial[part.index] += change @ student.head.weight_VD[first:last].to(self._dtype)

    def end(self) -> None:
        """See Engine."""
        if self._states is not None:
            self._states[self._rows] = self._partial.sum(0)

    @property
    def held(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """See Engine."""
        return self._states, self._head, self._bias

    def _project(self, side: Side, first: int, last: int) -> Tensor:
        z = side.states_ND[self._rows].to(self._dtype) @ side.head.weight_VD[first:last].to(self._dtype).T
        if side.head.bias_V is not None:
            z += side.head.bias_V[first:last]
        z *= side.head.scale
        if side.head.softcap is not None:
            z = torch.tanh(z / side.head.softcap) * side.head.softcap
        return z / self._task.temperature

    def _fetch(self, which: int, first: int, last: int) -> Tensor:
        """The logits over T of the student (0) or the teacher (1), kept or computed again."""
        if self._kept is not None:
            return self._kept[which][: self._rows.stop - self._rows.start, first:last]
        return self._project((self._task.student, self._task.teacher)[which], first, last)

    def _logprobs(self, first: int, last: int) -> tuple[Tensor, Tensor]:
        s, t, known = self._fetch(0, first, last), self._fetch(1, first, last), self._totals
        log_q = (s - known.student_top.unsqueeze(1)) - known.student_log.unsqueeze(1)
        return log_q, (t - known.teacher_top.unsqueeze(1)) - known.teacher_log.unsqueeze(1)

    def _observe(self, stats: list[Tensor], s: Tensor, t: Tensor, first: int) -> None:
        """Bring the running sums of Stats, in its order, to the maxima that include this tile."""
        old_s, old_t = stats[0].clone(), stats[2].clone()
        stats[0], stats[2] = torch.maximum(old_s, s.amax(1)), torch.maximum(old_t, t.amax(1))
        e_s, e_t = (s - stats[0].unsqueeze(1)).exp(), (t - stats[2].unsqueeze(1)).exp()
        fade_s, fade_t = (old_s - stats[0]).exp(), (old_t - stats[2]).exp()
        stats[1] = stats[1] * fade_s + e_s.sum(1)
        stats[3] = stats[3] * fade_t + e_t.sum(1)
        stats[4] = stats[4] * fade_s + (e_s * (s - t)).sum(1)
        stats[5] = stats[5] * fade_t + (e_t * (t - s)).sum(1)
        if self._targets is None:
            return
        warm = self._task.temperature
        hard = ((s - stats[0].unsqueeze(1)) * warm).exp().sum(1)
        stats[6] = stats[6] * ((old_s - stats[0]) * warm).exp() + hard
        rows, columns = self._targeted(first, s.shape[1])
        stats[7][rows] = s[rows, columns]

    def _targeted(self, first: int, width: int) -> tuple[Tensor, Tensor]:
        """Rows whose target lies in the tile, and its column there."""
        assert self._targets is not None, "only asked where there are targets"
        columns = self._targets - first
        rows = ((columns >= 0) & (columns < width)).nonzero().squeeze(1)
        return rows, columns[rows]

    def _change(self, first: int, last: int) -> Tensor:
        """dloss/dlogit before scale and softcap."""
        slopes, softcap = self._slopes, self._task.student.head.softcap
        log_q, log_p = self._logprobs(first, last)
        p, q = log_p.exp(), log_q.exp()
        if self._task.form.mixtures or self._task.form.variation:
            change = q * (slope_of(self._task.form, p, q)[1] - slopes.offset.unsqueeze(1))
        else:
            gap = log_q - log_p - slopes.offset.unsqueeze(1)
            change = slopes.forward.unsqueeze(1) * (q - p) + slopes.reverse.unsqueeze(1) * q * gap
        change = change * slopes.soft.unsqueeze(1)
        s, warm = self._fetch(0, first, last), self._task.temperature
        if self._targets is not None:
            below = (s - self._totals.student_top.unsqueeze(1)) * warm
            change += slopes.hard.unsqueeze(1) * (below - self._totals.hard_log.unsqueeze(1)).exp()
            rows, columns = self._targeted(first, last - first)
            change[rows, columns] -= slopes.hard[rows]
        return change if softcap is None else change * (1.0 - (s * warm / softcap) ** 2)

    def _keys(self, t: Tensor) -> Tensor:
        steps = (self._totals.teacher_top.unsqueeze(1) - t) / KEY_STEP
        return steps.clamp(max=2.0**KEY_BITS - 1).long()


def slope_of(form: Form, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """The value of a form's mixtures and total variation for each entry, and its derivative with respect to q."""
    value, slope = torch.zeros_like(q), torch.zeros_like(q)
    tiny = torch.finfo(q.dtype).tiny
    for term in form.mixtures:
        a, b = term.x * p + (1 - term.x) * q, term.y * p + (1 - term.y) * q
        ratio = a.clamp(min=tiny) / b.clamp(min=tiny)
        value += term.weight * a * ratio.log()
        slope += term.weight * ((1 - term.x) * (ratio.log() + 1) - (1 - term.y) * ratio)
    if form.variation:
        value += 0.5 * form.variation * (p - q).abs()
        slope += 0.5 * form.variation * torch.sign(q - p)
    return value, slope


def _tiles(part: Range) -> list[tuple[int, int]]:
    return [(first, min(first + TILE, part.last)) for first in range(part.first, part.last, TILE)]
