"""Where a training stands, how it is saved, and how it begins: fresh or from the newest whole checkpoint.

A save always describes the moment between two steps. The `Boundary` is taken there, before the next batches are drawn,
so that a stop in the middle of a step (or of its accumulation) is saved as if the step had not begun.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as dump_tensors
from torch import Tensor

from potstill.core.errors import PotstillError, SignalError
from potstill.core.progress import Progress
from potstill.core.protocols import Heeding, Observer
from potstill.durable import replace_file, writing
from potstill.train.capture import (
    COMPANION,
    OPTIMISER,
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
from potstill.train.metrics import MetricsFile, UnkeptMetrics
from potstill.train.optimise import build_optimiser
from potstill.train.plan import TrainPlan
from potstill.train.precision import Precision, choose_bf16, has_native_bf16
from potstill.train.shards import local, settle
from potstill.train.state import Checkpoint, fresh_folder, latest_complete, prune_checkpoints, save_checkpoint
from potstill.train.step import backward
from potstill.train.stop import StopFlag

# Far enough apart that no two ranks of runs whose seeds are counted up draw the same numbers.
SEEDS_APART = 1_000_003
# What lies in slices on the ranks.
SLICED = (WEIGHTS, OPTIMISER)


@dataclass(slots=True)
class Standing:
    """How far a training is: all of it goes into `state.json`.

    window: sums of loss and parts since the last line of the curve, and window_steps how many steps they are of.
    evaluated: the step of the last evaluation. without_better: evaluations without a gain on `judged_by`, the value
    that the last gain reached.
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
    judged_by: float | None = None
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
    curve: MetricsFile | UnkeptMetrics
    standing: Standing
    before: Boundary
    kept: set[int]

    def notify(self, event: str, values: Mapping[str, Any]) -> None:
        """Tell every observer; and a source that heeds it, what was measured: from here on the moment between two steps
        is the one in which it knows."""
        now = self.standing
        progress = Progress(now.step, self.plan.max_steps, now.examples, now.tokens, dict(now.metrics))
        if event == "evaluate" and isinstance(self.plan.source, Heeding):
            self.plan.source.heed(progress)
            self.before = replace(self.before, source=json.dumps(dict(self.plan.source.state())))
        for observer in self.observers:
            observer.notice(event, progress, values)


def begin(
    plan: TrainPlan, *, flag: StopFlag, observers: Sequence[Observer], curve: MetricsFile | UnkeptMetrics
) -> Running:
    """Restore the newest whole checkpoint, or start from the seed. Raises what `latest_complete` raises."""
    if plan.objective.want().teacher and plan.teacher is None:
        raise SignalError("the objective learns from a teacher and there is none: name one, or set soft_weight to 0")
    notes: list[str] = []
    checkpoint = _newest(plan, notes)
    optimiser = build_optimiser(plan.module, plan.settings, head=plan.head, companion=plan.companion)
    plan.module.train()
    if checkpoint is None:
        precision = _decide_precision(plan, flag.check)
        standing, kept = Standing(), set[int]()
        seed_everything(_own_seed(plan))
    else:
        precision = Precision(**checkpoint.state["precision"])
        standing, kept = Standing(**checkpoint.state["standing"]), {checkpoint.step}
        plan.shaping.reach(checkpoint.step)
        _restore(plan, checkpoint, optimiser)
        if checkpoint.state["threads"] != torch.get_num_threads():
            threads = f"{checkpoint.state['threads']} threads before, {torch.get_num_threads()} now"
            notes.append(f"{threads}: sums may round differently from here on")
        if (ranks := checkpoint.state.get("ranks", 1)) != plan.ranks.size:
            notes.append(f"{ranks} ranks before, {plan.ranks.size} now: sums may round differently from here on")
    if not curve.cut(checkpoint.state["curve_position"] if checkpoint else 0):
        notes.append(f"{curve.path.name} is shorter than it was at the save: lines of the curve are lost")
    running = Running(plan, observers, optimiser, precision, curve, standing, boundary(plan), kept)
    resumed = checkpoint.folder.name if checkpoint else None
    running.notify("start", {"resumed": resumed, "bf16": precision.bf16, "because": precision.reason, "notes": notes})
    return running


def _newest(plan: TrainPlan, notes: list[str]) -> Checkpoint | None:
    """The newest whole checkpoint. The leader looks, since damaged ones are set aside: once, and not under the feet of
    the others."""

    def look() -> dict[str, Any]:
        found = latest_complete(plan.checkpoints, plan.fingerprint, notice=notes.append)
        return {"step": None} if found is None else {"step": found.step, "state": dict(found.state)}

    told = plan.ranks.lead(look)
    if told["step"] is None:
        return None
    return Checkpoint(plan.checkpoints / f"step-{told['step']}", told["step"], told["state"])


def _own_seed(plan: TrainPlan, step: int = 0) -> int:
    """Every rank draws its own dropout; the leader draws what one process would."""
    return plan.seed + SEEDS_APART * plan.ranks.rank + step


def _rng_file(rank: int) -> str:
    return f"rng-{rank}" if rank else "rng"


def _restore(plan: TrainPlan, checkpoint: Checkpoint, optimiser: torch.optim.AdamW) -> None:
    load_weights(checkpoint.folder, plan.module)
    if plan.companion is not None:
        load_weights(checkpoint.folder, plan.companion.module, COMPANION)
    restore_optimiser(optimiser, checkpoint.folder)
    plan.source.restore(checkpoint.state["source"])
    file = _rng_file(plan.ranks.rank)
    if (checkpoint.folder / f"{file}.safetensors").exists():
        restore_random_state(decode_random_state(checkpoint.tensors(file)))
    else:  # a rank that was not there when this was saved
        seed_everything(_own_seed(plan, checkpoint.step))


def _decide_precision(plan: TrainPlan, poll: Callable[[], None]) -> Precision:
    """As decided before in this folder, else now. On disk before the first step: a run killed before its first save
    must not decide otherwise when it starts again."""
    file = plan.folder / "precision.json"
    setting = plan.settings.bf16
    decided = plan.ranks.lead(lambda: json.loads(file.read_bytes()) if file.exists() else None)
    if decided is not None and decided["setting"] == setting:
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
    native = plan.ranks.lead(lambda: has_native_bf16(device.type))
    precision = choose_bf16(setting, probe, native=native, clock=plan.ranks.clock)
    return_to(plan, start)

    def write() -> None:
        with writing(file):
            replace_file(file, json.dumps({"setting": setting, "precision": asdict(precision)}).encode())

    plan.ranks.lead(write)
    return precision


def save(running: Running) -> None:
    """Write `step-N` unless it is there already, then thin out older saves. Raises DiskError or FolderError."""
    plan, step = running.plan, running.standing.step
    if step in running.kept:
        return
    started = time.perf_counter()
    state = {
        "step": step,
        "standing": asdict(running.standing),
        "precision": asdict(running.precision),
        "source": json.loads(running.before.source),
        "threads": torch.get_num_threads(),
        "ranks": plan.ranks.size,
        "curve_position": running.curve.position(),
    }
    best = running.standing.best_step or None
    tensors = _tensors(running)
    slices = _write_slices(plan, step, {name: tensors.pop(name) for name in SLICED}) if plan.ranks.size > 1 else None

    def write() -> None:
        save_checkpoint(
            plan.checkpoints, step, tensors=tensors, state=state, fingerprint=plan.fingerprint, folders=slices
        )
        prune_checkpoints(plan.checkpoints, limit=plan.settings.save_total_limit, keep=best)

    plan.ranks.lead(write)
    running.kept.add(step)
    running.notify("checkpoint", {"folder": f"step-{step}", "seconds": time.perf_counter() - started})


def _tensors(running: Running) -> dict[str, dict[str, Tensor]]:
    """By file: all that the leader writes, and of what is SLICED this rank's part."""
    plan = running.plan
    settle(plan.forward)
    states = plan.ranks.each(dump_tensors(encode_random_state(running.before.random)))
    tensors = {
        WEIGHTS: unique_tensors(plan.module)[0],
        OPTIMISER: optimiser_tensors(running.optimiser),
        **{_rng_file(rank): load_tensors(state) for rank, state in enumerate(states)},
    }
    if plan.companion is not None:
        tensors[COMPANION], _ = unique_tensors(plan.companion.module)
    return tensors


def _write_slices(plan: TrainPlan, step: int, groups: Mapping[str, Mapping[str, Tensor]]) -> Path:
    """Every rank writes its own, into a folder for each group. Returns where they lie, beside the checkpoint."""
    from potstill.train.slices import write_slices

    final, place = plan.checkpoints / f"step-{step}", plan.checkpoints / f".step-{step}.slices.partial"

    def begin() -> None:
        with writing(final):
            fresh_folder(place)

    def write() -> None:
        needed = sum(local(tensor).nbytes for group in groups.values() for tensor in group.values())
        with writing(final, needed=needed):
            for name, tensors in groups.items():
                write_slices(place / name, tensors, rank=plan.ranks.rank)

    plan.ranks.lead(begin)
    try:
        plan.ranks.everywhere(write)
    except PotstillError:
        plan.ranks.lead(lambda: shutil.rmtree(place, ignore_errors=True))
        raise
    return place
