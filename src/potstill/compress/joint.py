"""A student that is made smaller while it learns: movement pruning, fewer bits, or both at once (JPQD).

    shaping = Shaping(twin, groups, Timetable(...))   # twin: gates and grids in place, an ordinary module
    ...                                               # a training that calls shaping.before(step) between two steps
    done = shaping.finish()                           # a plain, smaller transformers model, and its integers

All that changes is in the module's state (scores, masks, thresholds, steps of grids), or follows from the number of
the step, so a training that goes on from a save is the training that was not stopped. Joint pruning, quantisation and
distillation as NNCF had it until its release 3.0.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from potstill.compress.fake import InputGrid
from potstill.compress.fake_layers import FakeEmbedding, FakeLinear
from potstill.compress.grids import Steps
from potstill.compress.movement import Gate, Group, closed_share, first_threshold, gated_linears, regulariser, remove
from potstill.compress.plan import PrunePlan, plan_of
from potstill.compress.prune import apply
from potstill.compress.ptq import Codes
from potstill.compress.qat import finish, freeze_ranges
from potstill.compress.resolve import Resolved, refuse_number, resolve, units_kept
from potstill.compress.schedule import cubic
from potstill.core.batch import Batch
from potstill.core.errors import InputError
from potstill.core.outcome import Loss
from potstill.core.protocols import Objective
from potstill.core.signal import Outputs, Signal, Want
from potstill.students.axes import axes_of, block_of, sizes_of
from potstill.students.cut import positions


@dataclass(frozen=True, slots=True, kw_only=True)
class Timetable:
    """When what happens, in steps done. start, end: of the warm-up, None without movement. freeze: from when no range
    moves, None without grids. final: threshold at the end. pressure: lambda there. first_share: share of the scores
    that the first threshold masks. keep: units that stay in each block, by kind."""

    start: int | None = None
    end: int | None = None
    freeze: int | None = None
    final: float = 0.0
    pressure: float = 0.0
    first_share: float = 0.001
    keep: Mapping[str, int] = field(default_factory=dict)

    @property
    def settled(self) -> int:
        """The least number of steps after which the student has the shape and the grids that it leaves with."""
        return 1 + max(-1 if one is None else one for one in (self.end, self.freeze))

    def progress(self, step: int) -> float | None:
        """How far the warm-up is, 0 to 1; None before it and without movement."""
        if self.start is None or self.end is None or step < self.start:
            return None
        return min(1.0, (step - self.start) / (self.end - self.start))

    def threshold(self, step: int, first: Tensor) -> Tensor:
        """tau0 + g(u) (tau_f - tau0), g(u) = 1 - (1 - u)^3; -inf before the warm-up."""
        u = self.progress(step)
        return torch.full_like(first, -torch.inf) if u is None else first + cubic(u) * (self.final - first)

    def weight(self, step: int) -> float:
        """g(u) lambda_f; 0 before the warm-up, and after it, when scores learn no more."""
        u = self.progress(step)
        return 0.0 if u is None or u >= 1.0 else cubic(u) * self.pressure


def timetable(steps: int, *, warmup: tuple[float, float] | None, freeze_at: float | None) -> Timetable:
    """From shares of a training to steps. Raises InputError where they are so few that two of them fall together."""
    start, end = (None, None) if warmup is None else (round(share * steps) for share in warmup)
    freeze = None if freeze_at is None else round(freeze_at * steps)
    late = [one for one in (end, freeze) if one is not None]
    if (start is not None and end is not None and end <= start) or max(late, default=0) >= steps:
        raise InputError(
            f"compress: a training of {steps} steps has no room for a warm-up from {start} to {end} and ranges that "
            f"stand from {freeze}, with a step after them: train longer, or move their shares"
        )
    return Timetable(start=start, end=end, freeze=freeze)


@dataclass(frozen=True, slots=True)
class Compressed:
    """module: plain layers, its config says its size. plan: what was taken out, None where nothing was. codes: the
    integers of its weights, by layer, empty without grids. resolved: how the scores were settled."""

    module: nn.Module
    plan: PrunePlan | None
    codes: dict[str, Codes]
    resolved: Resolved | None


class Shaping:
    """The `core.protocols.Shaping` of one student. Raises ModelError for a number of units that cannot stay."""

    def __init__(self, module: nn.Module, groups: Sequence[Group], times: Timetable):
        self.module, self.groups, self.times = module, tuple(groups), times
        for group in groups:
            if group.kind in times.keep:
                refuse_number(group.kind, group.units, times.keep[group.kind])
        self._weight = 0.0

    @property
    def settled(self) -> int:
        """Evaluations before this step are of a student that is not the one that leaves."""
        return self.times.settled

    def before(self, step: int) -> None:
        """What is due when `step` steps are done. Doing it twice is doing it once."""
        times = self.times
        self._weight = times.weight(step)
        if times.progress(step) is not None and not any(gate.settled for gate in self._gates()):
            if step == times.start:
                first = first_threshold(self.groups, times.first_share)
                for gate in self._gates():
                    gate.first.copy_(first)
            for gate in self._gates():
                gate.threshold.copy_(times.threshold(step, gate.first))
            if step == times.end:
                resolve(self.groups, times.keep)
        if step == times.freeze:
            for linear in gated_linears(self.module).values():
                linear.close()  # a range that stands is one of the weights that stay
            freeze_ranges(self.module)

    def reach(self, step: int) -> None:
        """Give a module that was just built the parts that it has after `step` steps, before its state is loaded."""
        if self.times.end is not None and step > self.times.end:
            for gate in self._gates():
                gate.settle()
        if self.times.freeze is not None and step > self.times.freeze:
            for layer in self.module.modules():
                if isinstance(layer, (FakeLinear, FakeEmbedding)):
                    layer.weight_grid.fix(layer.weight)
                elif isinstance(layer, InputGrid):
                    layer.fix()

    def penalty(self) -> Tensor | None:
        """lambda(u) times the regulariser; None where it is 0."""
        return self._weight * regulariser(self.module) if self._weight else None

    def masked(self) -> float | None:
        """Share of the gated weights that is at zero now; None without gates."""
        return closed_share(self.groups) if self.groups else None

    def finish(self) -> Compressed:
        """The student that leaves. Raises ModelError while ranges still move."""
        resolved = resolve(self.groups, self.times.keep) if self.groups else None
        twin = copy.deepcopy(self.module)
        remove(twin)
        done = finish(twin) if self.times.freeze is not None else None
        plain = twin if done is None else done.module
        codes = {} if done is None else done.codes
        if resolved is None:
            return Compressed(plain, None, codes, None)
        plan = self._plan(plain, resolved.notes)
        return Compressed(apply(plain, plan), plan, cut_codes(codes, plain, plan), resolved)

    def _gates(self) -> Iterator[Gate]:
        return (gate for group in self.groups for gate in group.members.values())

    def _plan(self, module: nn.Module, notes: Sequence[str]) -> PrunePlan:
        """What the settled gates keep, as a plan for the student without gates."""
        shared = sizes_of(module).heads // sizes_of(module).groups
        heads = units_kept(self.groups, "heads")
        if (kept := units_kept(self.groups, "groups")) is not None:
            heads = [tuple(unit * shared + one for unit in row for one in range(shared)) for row in kept]
        return plan_of(module, heads=heads, neurons=units_kept(self.groups, "neurons"), notes=notes)


class Pressed:
    """An objective with the regulariser of a shaping beside it, once a step however many batches that has."""

    def __init__(self, objective: Objective, shaping: Shaping):
        self._objective, self._shaping = objective, shaping

    def want(self) -> Want:
        """What the objective itself wants."""
        return self._objective.want()

    def counts(self, batch: Batch) -> Mapping[str, float]:
        """Those of the objective itself."""
        return self._objective.counts(batch)

    def loss(
        self, batch: Batch, signal: Signal | None, outputs: Outputs, totals: Mapping[str, float] | None = None
    ) -> Loss:
        """As `core.protocols.Objective`; the part `importance` is lambda times the regulariser."""
        found, penalty = self._objective.loss(batch, signal, outputs, totals), self._shaping.penalty()
        if penalty is None:
            return found
        counts = self.counts(batch)
        whole = sum((counts if totals is None else totals).values())
        own = penalty * (sum(counts.values()) / whole if whole else 1.0)
        return replace(found, total=found.total + own, parts={**found.parts, "importance": float(own.detach())})


def cut_codes(codes: Mapping[str, Codes], module: nn.Module, plan: PrunePlan) -> dict[str, Codes]:
    """The integers that are left when a plan takes units out of the module that has them: rows with their steps,
    columns from rows whose step stands. Blocks and the width of the states must stay as they are."""
    axes, sizes, kept = axes_of(module), sizes_of(module), plan.kept()
    found = {}
    for name, one in codes.items():
        weight, layer = f"{name}.weight", block_of(module, f"{name}.weight")
        values, steps = one.codes, one.steps
        for axis, role in enumerate(axes[weight]):
            places = positions(kept, role, layer, sizes)
            if places is None:
                continue
            values = values.index_select(axis, places)
            if axis == 0 and steps.step.dim():
                steps = Steps(steps.step.index_select(0, places), steps.zero.index_select(0, places))
        found[name] = replace(one, codes=values, steps=steps)
    return found
