"""Where a training stands, how it is saved, and how it begins: fresh or from the newest whole checkpoint.

A save always describes the moment between two steps. The `Boundary` is taken there, before the next batches are drawn,
so that a stop in the middle of a step (or of its accumulation) is saved as if the step had not begun.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from potstill.core.errors import SignalError
from potstill.core.progress import Progress
from potstill.core.protocols import Observer
from potstill.durable import replace_file, writing
from potstill.train.capture import (
    COMPANION,
    WEIGHTS,
    changing_buffers,
    load_weights,
    optimiser_tensors,
    restore_buffers,
    restore_optimiser,
    unique_tensors,
)
from potstill.train.determinism import (
    RandomState,
    decode_random_state,
    encode_random_state,
    random_state,
    restore_random_state,
    seed_everything,
)
from potstill.train.metrics import MetricsFile
from potstill.train.optimise import build_optimiser
from potstill.train.plan import TrainPlan
from potstill.train.precision import Precision, choose_bf16, has_native_bf16
from potstill.train.state import Checkpoint, latest_complete, prune_checkpoints, save_checkpoint
from potstill.train.step import backward
from potstill.train.stop import StopFlag


@dataclass(slots=True)
class Standing:
    """How far a training is: all of it goes into `state.json`.

    window: sums of loss and parts since the last line of the curve, and window_steps how many steps they are of.
    evaluated: the step of the last evaluation. without_better: evaluations since the best one.
    """

    step: int = 0
    examples: int = 0
    tokens: int = 0
    seconds: float = 0.0
    skipped: int = 0
    evaluated: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    best_step: int = 0
    best_value: float | None = None
    without_better: int = 0
    window: dict[str, float] = field(default_factory=dict)
    window_steps: int = 0


@dataclass(frozen=True, slots=True)
class Boundary:
    """The moment between two steps: where the source and the generators stand, and the buffers that forward changes."""

    source: str
    random: RandomState
    buffers: Mapping[str, Tensor]


def boundary(plan: TrainPlan) -> Boundary:
    """Now. The source's state is kept as text, so that it cannot change under us."""
    return Boundary(json.dumps(dict(plan.source.state())), random_state(), changing_buffers(plan.module))


def return_to(plan: TrainPlan, before: Boundary) -> None:
    """Undo what drawing batches, dropout and forward passes changed since."""
    plan.source.restore(json.loads(before.source))
    restore_random_state(before.random)
    restore_buffers(plan.module, before.buffers)


@dataclass(slots=True)
class Running:
    """A training under way. kept: the saves of this run that are known to be whole."""

    plan: TrainPlan
    observers: Sequence[Observer]
    optimiser: torch.optim.AdamW
    precision: Precision
    curve: MetricsFile
    standing: Standing
    before: Boundary
    kept: set[int]

    def notify(self, event: str, values: Mapping[str, Any]) -> None:
        """Tell every observer."""
        now = self.standing
        progress = Progress(now.step, self.plan.max_steps, now.examples, now.tokens, dict(now.metrics))
        for observer in self.observers:
            observer.notice(event, progress, values)


def begin(plan: TrainPlan, *, flag: StopFlag, observers: Sequence[Observer], curve: MetricsFile) -> Running:
    """Restore the newest whole checkpoint, or start from the seed. Raises what `latest_complete` raises."""
    if plan.objective.want().teacher and plan.teacher is None:
        raise SignalError("the objective learns from a teacher and there is none: name one, or set soft_weight to 0")
    notes: list[str] = []
    checkpoint = latest_complete(plan.checkpoints, plan.fingerprint, notice=notes.append)
    optimiser = build_optimiser(plan.module, plan.settings, head=plan.head, companion=plan.companion)
    plan.module.train()
    if checkpoint is None:
        precision = _decide_precision(plan, flag.check)
        standing, kept = Standing(), set[int]()
        seed_everything(plan.seed)
    else:
        precision = Precision(**checkpoint.state["precision"])
        standing, kept = Standing(**checkpoint.state["standing"]), {checkpoint.step}
        _restore(plan, checkpoint, optimiser)
        if checkpoint.state["threads"] != torch.get_num_threads():
            threads = f"{checkpoint.state['threads']} threads before, {torch.get_num_threads()} now"
            notes.append(f"{threads}: sums may round differently from here on")
    if not curve.cut(checkpoint.state["curve_position"] if checkpoint else 0):
        notes.append(f"{curve.path.name} is shorter than it was at the save: lines of the curve are lost")
    running = Running(plan, observers, optimiser, precision, curve, standing, boundary(plan), kept)
    resumed = checkpoint.folder.name if checkpoint else None
    running.notify("start", {"resumed": resumed, "bf16": precision.bf16, "because": precision.reason, "notes": notes})
    return running


def _restore(plan: TrainPlan, checkpoint: Checkpoint, optimiser: torch.optim.AdamW) -> None:
    load_weights(checkpoint.folder, plan.module)
    if plan.companion is not None:
        load_weights(checkpoint.folder, plan.companion.module, COMPANION)
    restore_optimiser(optimiser, checkpoint.tensors("optimizer"))
    plan.source.restore(checkpoint.state["source"])
    restore_random_state(decode_random_state(checkpoint.tensors("rng")))


def _decide_precision(plan: TrainPlan, poll: Callable[[], None]) -> Precision:
    """As decided before in this folder, else now. On disk before the first step: a run killed before its first save
    must not decide otherwise when it starts again."""
    file = plan.folder / "precision.json"
    setting = plan.settings.bf16
    if file.exists():
        decided = json.loads(file.read_bytes())
        if decided["setting"] == setting:
            return Precision(**decided["precision"])
    start, gradients = boundary(plan), [p for one in plan.learning for p in one.parameters() if p.requires_grad]
    batch = plan.source.next() if setting == "auto" else None

    def probe(bf16: bool) -> None:
        poll()
        assert batch is not None
        backward(plan, batch, plan.objective.counts(batch), bf16=bf16)
        for parameter in gradients:
            parameter.grad = None

    device = next(plan.module.parameters()).device
    precision = choose_bf16(setting, probe, native=has_native_bf16(device.type))
    return_to(plan, start)
    with writing(file):
        replace_file(file, json.dumps({"setting": setting, "precision": asdict(precision)}).encode())
    return precision


def save(running: Running) -> None:
    """Write `step-N` unless it is there already, then thin out older saves. Raises DiskError or FolderError."""
    plan, step = running.plan, running.standing.step
    if step in running.kept:
        return
    started = time.perf_counter()
    weights, aliases = unique_tensors(plan.module)
    tensors = {
        WEIGHTS: weights,
        "optimizer": optimiser_tensors(running.optimiser),
        "rng": encode_random_state(running.before.random),
    }
    notes = {WEIGHTS: {"aliases": json.dumps(aliases)}}
    if plan.companion is not None:
        tensors[COMPANION], aliases = unique_tensors(plan.companion.module)
        notes[COMPANION] = {"aliases": json.dumps(aliases)}
    state = {
        "step": step,
        "standing": asdict(running.standing),
        "precision": asdict(running.precision),
        "source": json.loads(running.before.source),
        "threads": torch.get_num_threads(),
        "curve_position": running.curve.position(),
    }
    saved = save_checkpoint(
        plan.checkpoints, step, tensors=tensors, state=state, fingerprint=plan.fingerprint, notes=notes
    )
    running.kept.add(step)
    best = running.standing.best_step or None
    prune_checkpoints(plan.checkpoints, limit=plan.settings.save_total_limit, keep=best)
    running.notify("checkpoint", {"folder": saved.folder.name, "seconds": time.perf_counter() - started})
