"""The engine for CUDA devices: products by cuBLAS on tiles of the vocabulary, the walks between them in Triton.

Why not one kernel for both, by tl.dot: four fifths of the time are products, at which cuBLAS is hard to beat and needs
no tuning for each device; what is left reads and writes a tile of logits once, which stays in the second-level cache.
Products of bf16 are summed and handed over in fp32, so logits are not rounded to bf16 as a library's own would be.

All workspace together stays below 512 MB, of which nearly all is the logits of a block of tokens, as half where the
student is bf16: 896 tokens at 128,256 entries. The gradient of the head is read and written once for each block, so
blocks must be large. Without kept logits ("low") it is a few tiles, whatever the vocabulary.

Nothing here was timed on a device yet. The walks are proved by Triton's interpreter on the processor, and each is
compiled for a device there (tests/divergences/test_triton.py).
"""

from __future__ import annotations

import importlib.util
from dataclasses import fields
from typing import Any, Literal

import torch
from torch import Tensor

from potstill.divergences.tiles import (
    BIN_BITS,
    KEY_BITS,
    KEY_STEP,
    RANGES,
    Range,
    Side,
    Slopes,
    Stats,
    Task,
    Totals,
    stored,
)

TILE, TILES_AT_ONCE = 4096, 4
"""Entries of the vocabulary in one product of logits; how many such tiles one product of gradients takes."""

SHAPE = (1, 2048)
"""Tokens and entries that one program looks at. Entries divide a TILE."""

_KEYS: dict[str, Any] = {"KEY_STEPS": 1.0 / KEY_STEP, "LAST_KEY": 2.0**KEY_BITS - 1.0}

WORKSPACE = 512 * 2**20
SMALLEST_BLOCK, LARGEST_BLOCK, LOW_BLOCK = 64, 4096, 1024


def fits(task: Task) -> bool:
    """Whether this engine can take the task: fp32 or bf16 on one CUDA device of at least Ampere, where Triton is."""
    sides = [one for side in (task.student, task.teacher) for one in (side.states_ND, side.head.weight_VD)]
    device = sides[0].device
    if device.type != "cuda" or torch.version.hip is not None or importlib.util.find_spec("triton") is None:
        return False
    if any(one.device != device or one.dtype not in (torch.float32, torch.bfloat16) for one in sides):
        return False
    if sides[0].dtype != sides[1].dtype or sides[2].dtype != sides[3].dtype:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


def block(task: Task) -> int:
    """Tokens at a time, so that all workspace stays below WORKSPACE."""
    if not task.store:
        return LOW_BLOCK
    entries, width = task.student.head.weight_VD.shape
    size = task.student.head.weight_VD.element_size()
    per_token = 2 * entries * stored(task).itemsize + 2 * TILE * 4 + TILES_AT_ONCE * TILE * size + 2 * width * 4
    affordable = WORKSPACE // per_token // SMALLEST_BLOCK * SMALLEST_BLOCK
    return min(max(affordable, SMALLEST_BLOCK), LARGEST_BLOCK)


class TritonEngine:
    """An Engine on a CUDA device. Holds the gradients it is asked for, that of the head in the dtype of the student."""

    workers = 1

    def __init__(self, task: Task, *, states: bool, head: bool, bias: bool):
        from potstill.divergences import kernels_triton

        self._task, self._kernels, student = task, kernels_triton, task.student
        entries, new = len(student.head.weight_VD), student.states_ND.new_empty
        self._states = torch.empty_like(student.states_ND, dtype=torch.float32) if states else None
        self._head = torch.zeros_like(student.head.weight_VD) if head else None
        self._bias = torch.zeros(entries, dtype=torch.float32, device=student.states_ND.device) if bias else None
        tokens = min(task.block, len(student.states_ND))
        self._kept = new(2, tokens, entries, dtype=stored(task)) if task.store else None
        self._halves = self._kept is not None and self._kept.dtype == torch.float16
        self._tiles = -(-entries // RANGES // TILE) + 1
        self._tile = None if task.store and not self._halves else new(2, tokens * TILE, dtype=torch.float32)
        self._reference = new(2, RANGES * self._tiles, tokens, dtype=torch.float32) if self._halves else None
        self._change = new(tokens * TILE * self._at_once) if states or head or bias else None
        parts = [(term.weight, term.x, term.y) for term in task.form.mixtures] + [(0.0, 0.0, 0.0)] * 2
        self._form = (task.form.variation, *parts[0], *parts[1])

    def begin(self, first: int, last: int) -> None:
        """See Engine."""
        self._rows, self._count = slice(first, last), last - first
        self._targets = None if self._task.targets_N is None else self._task.targets_N[self._rows].int().contiguous()
        student = self._task.student.states_ND
        self._partial = student.new_zeros(self._count, student.shape[1], dtype=torch.float32)

    def logits(self, part: Range) -> Stats:
        """See Engine."""
        stats = self._partial.new_zeros(8, self._count)
        stats[0] = stats[2] = -torch.inf
        for first, last in _steps(part, TILE):
            s, t = self._project(0, first, last), self._project(1, first, last)
            halves = self._kept[:, :, first:last] if self._kept is not None and self._halves else (None, None)
            stride = self._task.student.head.weight_VD.shape[0]
            references = self._references(part, first)
            self._launch(
                "observe",
                (s, t, s.stride(0), *halves, stride, *references, stats, self._targets, first, self._task.temperature),
                last - first,
            )
        return Stats(*stats)

    def fix(self, totals: Totals) -> None:
        """See Engine."""
        self._known = torch.stack([getattr(totals, field.name) for field in fields(Totals)])

    def mass(self, part: Range, shift: int, prefix: Tensor) -> Tensor:
        """See Engine."""
        mass = torch.zeros(self._count, 2**BIN_BITS, dtype=torch.long, device=prefix.device)
        wanted = prefix.int()
        for first, last in _steps(part, TILE * self._at_once):
            _, t, stride, _, reference = self._fetch(part, first, last, student=False)
            self._launch(
                "sort_mass",
                (t, stride, reference, self._known, mass, wanted, shift),
                last - first,
                BITS=BIN_BITS,
                TILE=TILE,
                **_KEYS,
            )
        by_bin: Tensor = (mass * (1.0 / self._kernels.MASS_STEPS.value)).to(torch.float32).T
        return by_bin

    def fix_head(self, head_keys: Tensor) -> None:
        """See Engine."""
        self._head_keys = head_keys.int()

    def sums(self, part: Range, which: Literal["slopes", "gaps"]) -> Tensor:
        """See Engine."""
        sums = self._partial.new_zeros(2, self._count)
        for first, last in _steps(part, TILE * self._at_once):
            given = (*self._fetch(part, first, last), self._known, sums)
            if which == "gaps":
                self._launch("sum_gaps", (*given, self._head_keys), last - first, TILE=TILE, **_KEYS)
            else:
                terms = len(self._task.form.mixtures)
                self._launch("sum_slopes", given, last - first, self._form, TERMS=terms, TILE=TILE)
        return sums

    def slope(self, slopes: Slopes) -> None:
        """See Engine."""
        self._slopes = torch.stack([getattr(slopes, field.name) for field in fields(Slopes)])

    def gradients(self, part: Range) -> None:
        """See Engine."""
        student, form = self._task.student, self._task.form
        assert self._change is not None, "somebody wants a gradient"
        for first, last in _steps(part, TILE * self._at_once):
            width = last - first
            change = self._change[: self._count * width].view(self._count, width)
            given = (*self._fetch(part, first, last), self._known, self._slopes, self._targets, first, change)
            self._launch(
                "differentiate",
                given,
                width,
                (student.head.softcap, self._task.temperature, *self._form),
                side_by_side=True,
                MIXED=bool(form.mixtures or form.variation),
                TERMS=len(form.mixtures),
                TILE=TILE,
            )
            if self._bias is not None:
                self._bias[first:last] += change.sum(0, dtype=torch.float32)
            if self._head is not None:
                self._head[first:last].addmm_(change.T, student.states_ND[self._rows])
            if self._states is not None:
                self._partial = _add_product(self._partial, change, student.head.weight_VD[first:last])

    def end(self) -> None:
        """See Engine."""
        if self._states is not None:
            self._states[self._rows] = self._partial

    @property
    def held(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """See Engine."""
        return self._states, self._head, self._bias

    @property
    def _at_once(self) -> int:
        return TILES_AT_ONCE if self._task.store else 1

    def _project(self, which: int, first: int, last: int) -> Tensor:
        """fp32 logits over T of the student (0) or teacher (1), where they are kept, or in a tile used over again."""
        side = (self._task.student, self._task.teacher)[which]
        if self._tile is None:
            assert self._kept is not None, "there is either a tile or a place for all of them"
            z = self._kept[which, : self._count, first:last]
        else:
            z = self._tile[which, : self._count * (last - first)].view(self._count, last - first)
        _product(side.states_ND[self._rows], side.head.weight_VD[first:last].T, out=z)
        if not self._is_plain(side):
            bias = None if side.head.bias_V is None else side.head.bias_V[first:last].float()
            given = (z, z.stride(0), bias, side.head.scale, side.head.softcap, self._task.temperature)
            self._launch("finish", given, last - first, side_by_side=True)
        return z

    def _is_plain(self, side: Side) -> bool:
        head = side.head
        return head.bias_V is None and head.scale == 1 and head.softcap is None and self._task.temperature == 1

    def _fetch(self, part: Range, first: int, last: int, *, student: bool = True) -> tuple[Any, ...]:
        """Logits of both sides, how far their rows are apart, and what they are relative to."""
        if self._kept is None:
            s = self._project(0, first, last) if student else None
            t = self._project(1, first, last)
            return s, t, t.stride(0), None, None
        s, t = self._kept[:, : self._count, first:last]
        return s, t, s.stride(0), *self._references(part, first)

    def _references(self, part: Range, first: int) -> tuple[Tensor | None, Tensor | None]:
        """[tiles, tokens] of both sides, from the tile that begins at `first`."""
        if self._reference is None:
            return None, None
        held = self._reference.view(2, -1)[:, : RANGES * self._tiles * self._count].view(2, -1, self._count)
        student, teacher = held[:, part.index * self._tiles + (first - part.first) // TILE :]
        return student, teacher

    def _launch(
        self, name: str, given: tuple[Any, ...], width: int, more: tuple[Any, ...] = (), *, side_by_side: bool = False,
        **constants: Any,
    ) -> None:  # fmt: skip
        """One program for each few tokens, and, where nothing is summed, for each few entries."""
        rows, columns = SHAPE[0], min(SHAPE[1], TILE)
        grid = (-(-self._count // rows), -(-width // columns) if side_by_side else 1)
        with torch.cuda.device_of(self._partial):  # type: ignore[no-untyped-call]
            getattr(self._kernels, name)[grid](
                *given, self._count, width, *more, ROWS=rows, COLUMNS=columns, **constants
            )


def _product(a: Tensor, b: Tensor, *, out: Tensor) -> None:
    """a @ b in the dtype of `out`, in which it is summed. Only CUDA's products can be of another dtype than a and b."""
    if a.dtype == out.dtype:
        torch.mm(a, b, out=out)
    elif a.is_cuda:
        torch.mm(a, b, out_dtype=out.dtype, out=out)
    else:
        torch.mm(a.to(out.dtype), b.to(out.dtype), out=out)


def _add_product(sums: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """sums + a @ b in the dtype of sums, which may be overwritten."""
    if a.dtype == sums.dtype:
        return sums.addmm_(a, b)
    if a.is_cuda:
        return torch.addmm(sums, a, b, out_dtype=sums.dtype)
    return sums.addmm_(a.to(sums.dtype), b.to(sums.dtype))


def _steps(part: Range, size: int) -> list[tuple[int, int]]:
    return [(first, min(first + size, part.last)) for first in range(part.first, part.last, size)]
