"""The compiled engine: native/tiles.cpp, built at installation where there is a compiler, for processors with AVX-512.

One thread works on one range at a time and forks nothing, so a busy core delays its own range only.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from potstill.divergences.tiles import BIN_BITS, RANGES, Range, Side, Slopes, Stats, Task, Totals, ranges, stored

PANEL, TILE = 64, 192  # as in native/

LOW_WORKSPACE, LARGEST_BLOCK, RECOMPUTING_BLOCK = 32 * 2**20, 512, 256
"""Bytes above the gradients in the low-memory mode; tokens at a time where all logits are computed again."""

SPARE = 9 * 2**20
"""Of those, what is left to threads, tiles and the allocator."""

WORTH_KEEPING = 0.25
"""Part of one side's logits below which small blocks cost more, by reading the heads more often, than is saved."""

NOBODY = 1e4
"""Normalisers of the tokens that fill a panel up: no entry has any probability, whatever the bias."""

_POINTER, _LONG, _INT, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32, ctypes.c_float


class _Side(ctypes.Structure):
    _fields_ = (
        ("head", _POINTER),
        ("words", _LONG),
        ("bias", _POINTER),
        ("states", _POINTER),
        ("store", _POINTER),
        ("kept", _LONG),
        ("stride", _LONG),
        ("scale", _FLOAT),
        ("softcap", _FLOAT),
        ("bf16", _INT),
    )


class _Problem(ctypes.Structure):
    _fields_ = (
        ("student", _Side),
        ("teacher", _Side),
        ("vocabulary", _LONG),
        ("panels", _LONG),
        ("width", _LONG),
        ("states_by_token", _POINTER),
        ("halves", _INT),
        ("hard", _INT),
        ("terms", _INT),
        ("adds", _INT),
        ("temperature", _FLOAT),
        ("variation", _FLOAT),
        ("weight", _FLOAT * 2),
        ("x", _FLOAT * 2),
        ("y", _FLOAT * 2),
        ("targets", _POINTER),
        ("head_keys", _POINTER),
        ("student_top", _POINTER),
        ("student_log", _POINTER),
        ("teacher_top", _POINTER),
        ("teacher_log", _POINTER),
        ("hard_log", _POINTER),
        ("forward_share", _POINTER),
        ("reverse_share", _POINTER),
        ("offset", _POINTER),
        ("coefficient", _POINTER),
        ("hard_coefficient", _POINTER),
        ("head_gradient", _POINTER),
        ("bias_gradient", _POINTER),
    )


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled walks, or None where they were not built, or built from other sources than these."""
    found = sorted(Path(__file__).parent.glob("_native*.so"))
    if not found:
        return None
    loaded = ctypes.CDLL(str(found[0]))
    # One that was built from other sources would read the problem at other places.
    if not loaded.potstill_tiles_support(0) or loaded.potstill_problem_bytes() != ctypes.sizeof(_Problem):
        return None
    problem = ctypes.POINTER(_Problem)
    loaded.potstill_walk_logits.argtypes = (problem, _LONG, _LONG, _POINTER, _POINTER)
    loaded.potstill_walk_sums.argtypes = (problem, _LONG, _LONG, _POINTER, ctypes.c_int, _POINTER)
    loaded.potstill_walk_mass.argtypes = (problem, _LONG, _LONG, _POINTER, ctypes.c_int, _POINTER, _POINTER)
    loaded.potstill_walk_gradients.argtypes = (problem, _LONG, _LONG, _POINTER, _POINTER)
    return loaded


def fits(task: Task) -> bool:
    """Whether the compiled engine can take this task: on the processor, fp32 or bf16 of even width."""
    code = library()
    if code is None:
        return False
    for side in (task.student, task.teacher):
        tensors = (side.states_ND, side.head.weight_VD)
        if any(one.device.type != "cpu" for one in tensors) or side.states_ND.dtype != side.head.weight_VD.dtype:
            return False
        if side.head.weight_VD.dtype == torch.bfloat16:
            if side.head.weight_VD.shape[1] % 2 or not code.potstill_tiles_support(1):
                return False
        elif side.head.weight_VD.dtype != torch.float32:
            return False
    return True


def low_block(task: Task) -> int:
    """Tokens at a time in the low-memory mode: as many as may keep all their logits; or as the gradient of the head
    lends its place to, where small blocks would keep less; or a panel that keeps a part."""
    vocabulary, tokens = len(task.student.head.weight_VD), len(task.student.states_ND)
    sizes = range(LARGEST_BLOCK, PANEL, -PANEL)
    for size in sizes:
        if room(task, size) >= 2 * vocabulary:
            return size
    # Both as a part of one side's logits, over all tokens.
    in_panels = room(task, PANEL) / vocabulary
    lent = [size for size in sizes if lends_to(task, size) and room(task, size)] if task.lends else []
    if lent and min(lent[0] / tokens, 1.0) > in_panels:
        return lent[0]
    return PANEL if in_panels >= WORTH_KEEPING else RECOMPUTING_BLOCK


def room(task: Task, tokens: int) -> int:
    """How many entries of one side fit into the low-memory mode's workspace, for a block of tokens."""
    student, teacher = task.student.head.weight_VD, task.teacher.head.weight_VD
    vocabulary, width = student.shape
    laid_out = 2 * width * student.element_size() + teacher.shape[1] * teacher.element_size()
    references = RANGES * _tiles(vocabulary) * 2 * 4
    taken = SPARE + tokens * (RANGES * width * 4 + laid_out + references)
    if student.dtype != torch.float32:
        taken += 4 * task.student.states_ND.numel()  # their gradient, before it is rounded
    return max(LOW_WORKSPACE - taken, 0) // (tokens * stored(task).itemsize)


def lends_to(task: Task, tokens: int) -> bool:
    """Whether the gradient of the head has room for one side's logits of a block, entry by entry, until it is written:
    each tile of logits lies where its own gradient will be, and is read before that comes."""
    head = task.student.head.weight_VD
    return tokens * stored(task).itemsize <= head.shape[1] * head.element_size()


class NativeEngine:
    """An Engine over the compiled walks. Holds the gradients it is asked for, in the dtype of the student."""

    def __init__(self, task: Task, *, states: bool, head: bool, bias: bool):
        code = library()
        assert code is not None, "`fits` was asked first"
        self._task, self._code = task, code
        self.workers = min(torch.get_num_threads(), RANGES)
        student = task.student
        vocabulary, width = student.head.weight_VD.shape
        self._alive: dict[str, Tensor] = {}  # what the C side points to
        self._problem = _Problem(vocabulary=vocabulary, width=width, temperature=task.temperature)
        self._problem.variation, self._problem.terms = task.form.variation, len(task.form.mixtures)
        for place, term in enumerate(task.form.mixtures):
            self._problem.weight[place], self._problem.x[place], self._problem.y[place] = term.weight, term.x, term.y
        self._problem.hard = task.targets_N is not None
        self._states_gradient_ND = torch.empty_like(student.states_ND, dtype=torch.float32) if states else None
        self._head_gradient_VD = torch.empty_like(student.head.weight_VD) if head else None
        self._bias_gradient_V = torch.zeros(vocabulary, dtype=torch.float32) if bias else None
        self._problem.head_gradient = _place(self._head_gradient_VD)
        self._problem.bias_gradient = _place(self._bias_gradient_V)
        self._fill("student", student)
        self._fill("teacher", task.teacher)
        tokens = min(task.block, _padded(len(student.states_ND)))
        self._partial = torch.empty(len(ranges(vocabulary)), tokens, width) if states else None
        self._problem.halves = stored(task) == torch.float16
        self._room = 2 * vocabulary if task.store else min(room(task, tokens), 2 * vocabulary)
        self._store = torch.empty(self._room * tokens, dtype=stored(task))
        wider = task.teacher.head.weight_VD.shape[1] >= width
        self._dearest_first = ("teacher", "student") if wider else ("student", "teacher")

    def begin(self, first: int, last: int) -> None:
        """Lay the states of the block out as panels of 64 tokens, zeros behind the last token."""
        self._rows = slice(first, last)
        tokens = self._tokens = _padded(last - first)
        self._problem.panels = tokens // PANEL
        self._problem.adds = first > 0
        self._reference = torch.empty(RANGES, _tiles(self._problem.vocabulary), 2, tokens)
        for name, side in (("student", self._task.student), ("teacher", self._task.teacher)):
            rows = F.pad(side.states_ND[first:last], (0, 0, 0, tokens - (last - first)))
            struct = getattr(self._problem, name)
            struct.states = self._point(f"{name}.states", _panels(_words(rows).T))
            if name == "student":
                self._problem.states_by_token = self._point("by_token", _by_token(rows))
        if self._task.targets_N is not None:
            targets = F.pad(self._task.targets_N[first:last], (0, tokens - (last - first)), value=-1)
            self._problem.targets = self._point("targets", targets.long())
        self._keep(tokens, first)

    def _keep(self, tokens: int, first: int) -> None:
        """Where the logits of this block are kept: those that are dear to compute again before the others."""
        vocabulary, gradient = self._problem.vocabulary, self._head_gradient_VD
        stride, taken = tokens * self._store.element_size(), 0
        lent = gradient is not None and not first and self._room < 2 * vocabulary and lends_to(self._task, tokens)
        for name in self._dearest_first:
            side = getattr(self._problem, name)
            if gradient is not None and lent:
                side.store, side.kept, side.stride = (
                    _place(gradient),
                    vocabulary,
                    gradient.stride(0) * gradient.element_size(),
                )
                lent = False
            else:
                side.kept, side.stride = min(self._room - taken, vocabulary), stride
                side.store = self._store.data_ptr() + taken * stride
                taken += side.kept

    def logits(self, part: Range) -> Stats:
        """See Engine."""
        stats = torch.zeros(8, self._tokens)
        stats[0] = stats[2] = -torch.inf
        self._code.potstill_walk_logits(self._problem, part.first, part.last, _place(stats), self._at(part))
        return Stats(*stats[:, : self._count])

    def fix(self, totals: Totals) -> None:
        """See Engine."""
        for field in dataclasses.fields(Totals):
            values = getattr(totals, field.name)
            setattr(self._problem, field.name, self._per_token(field.name, values, padding=NOBODY))

    def mass(self, part: Range, shift: int, prefix: Tensor) -> Tensor:
        """See Engine."""
        mass, wanted = torch.zeros(2**BIN_BITS, self._tokens), _pad(prefix.int(), self._tokens)
        self._code.potstill_walk_mass(
            self._problem, part.first, part.last, self._at(part), shift, _place(wanted), _place(mass)
        )
        return mass[:, : self._count]

    def fix_head(self, head_keys: Tensor) -> None:
        """See Engine."""
        self._problem.head_keys = self._per_token("head_keys", head_keys.int())

    def sums(self, part: Range, which: Literal["slopes", "gaps"]) -> Tensor:
        """See Engine."""
        sums = torch.zeros(2, self._tokens)
        self._code.potstill_walk_sums(
            self._problem, part.first, part.last, self._at(part), int(which == "gaps"), _place(sums)
        )
        return sums[:, : self._count]

    def slope(self, slopes: Slopes) -> None:
        """See Engine."""
        names = {"forward": "forward_share", "reverse": "reverse_share", "offset": "offset"}
        names |= {"soft": "coefficient", "hard": "hard_coefficient"}
        for name, field in names.items():
            setattr(self._problem, field, self._per_token(field, getattr(slopes, name)))

    def gradients(self, part: Range) -> None:
        """See Engine."""
        partial = None if self._partial is None else self._partial[part.index, : self._tokens].zero_()
        self._code.potstill_walk_gradients(self._problem, part.first, part.last, self._at(part), _place(partial))

    def end(self) -> None:
        """See Engine."""
        if self._partial is not None and self._states_gradient_ND is not None:
            torch.sum(self._partial[:, : self._count], dim=0, out=self._states_gradient_ND[self._rows])

    @property
    def held(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """See Engine."""
        return self._states_gradient_ND, self._head_gradient_VD, self._bias_gradient_V

    @property
    def _count(self) -> int:
        return int(self._rows.stop - self._rows.start)

    def _at(self, part: Range) -> int | None:
        return _place(self._reference[part.index])

    def _fill(self, name: str, side: Side) -> None:
        struct: Any = getattr(self._problem, name)
        struct.bf16 = side.head.weight_VD.dtype == torch.bfloat16
        struct.words = side.head.weight_VD.shape[1] // (2 if struct.bf16 else 1)
        struct.head = self._point(f"{name}.head", side.head.weight_VD)
        struct.scale, struct.softcap = side.head.scale, side.head.softcap or 0.0
        if side.head.bias_V is not None:
            struct.bias = self._point(f"{name}.bias", side.head.bias_V.float())

    def _per_token(self, name: str, values: Tensor, padding: float = 0.0) -> int | None:
        return self._point(name, _pad(values, self._tokens, padding))

    def _point(self, name: str, tensor: Tensor) -> int | None:
        self._alive[name] = tensor.contiguous()
        return _place(self._alive[name])


def _place(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _tiles(vocabulary: int) -> int:
    """At most, in a range."""
    return -(-vocabulary // RANGES // TILE) + 1


def _padded(tokens: int) -> int:
    return (tokens + PANEL - 1) // PANEL * PANEL


def _pad(values_n: Tensor, tokens: int, padding: float = 0.0) -> Tensor:
    return F.pad(values_n, (0, tokens - len(values_n)), value=padding).contiguous()


def _words(rows_ND: Tensor) -> Tensor:
    """32-bit words along the width: a float, or two neighbouring bf16."""
    return rows_ND.contiguous().view(torch.int32)


def _panels(words_KN: Tensor) -> Tensor:
    """[K, N] as N / 64 panels [K, 64]."""
    return words_KN.reshape(len(words_KN), -1, PANEL).transpose(0, 1).contiguous()


def _by_token(rows_ND: Tensor) -> Tensor:
    """The states as a right-hand side that is summed over tokens: words along the tokens, panels of 64 columns."""
    rows = F.pad(rows_ND, (0, -rows_ND.shape[1] % PANEL))
    if rows.dtype == torch.bfloat16:
        tokens, width = rows.shape
        rows = rows.reshape(tokens // 2, 2, width).transpose(1, 2).contiguous()
    return _panels(rows.contiguous().view(torch.int32).squeeze(-1))
