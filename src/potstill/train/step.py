"""One optimiser step: some micro-batches, one update, or none at all when a number is not finite.

Denominators are global: the counts of all micro-batches are added up before the first forward pass, so that cutting a
batch into pieces, or sharing the pieces out over ranks, changes nothing. What is not finite is found before the update
and reported with the ids of the rows; the gradients are dropped and the weights stay as they were.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from potstill.core.batch import Batch
from potstill.core.outcome import Loss
from potstill.core.signal import DenseLogits, HeadedStates, Outputs, Signal, Want
from potstill.train.optimise import bound_gradients, gradient_norm
from potstill.train.plan import TrainPlan
from potstill.train.ranks import share
from potstill.train.shards import whole

SHOWN = 3


@dataclass(frozen=True, slots=True)
class Bad:
    """part: what was not finite, in words. ids: rows it was seen on, or the rows it can have come from."""

    part: str
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """loss, parts, shares: over the whole step. grad_norm: before clipping. bad: why no update was made, else None."""

    loss: float
    parts: Mapping[str, float]
    grad_norm: float
    bad: Bad | None = None
    shares: Mapping[str, float] = field(default_factory=dict)


def take_step(
    plan: TrainPlan,
    optimiser: torch.optim.Optimizer,
    batches: Sequence[Batch],
    *,
    bf16: bool,
    poll: Callable[[], None],
) -> StepOutcome:
    """Forward and backward over the micro-batches, then clip and update.

    poll: called before each micro-batch; may raise to stop, which leaves weights and optimiser as they were.
    """
    totals = Counter[str]()
    for batch in batches:
        totals.update(plan.objective.counts(batch))
    if not any(totals.values()):
        return _refused(optimiser, "weights (they are all zero: there is nothing to learn)", batches)
    loss, parts, shares = 0.0, Counter[str](), Counter[str]()
    for batch in share(plan.ranks, batches):
        poll()
        found, bad = backward(plan, batch, totals, bf16=bf16)
        if bad is not None or found is None:
            optimiser.zero_grad(set_to_none=True)
            return StepOutcome(math.nan, {}, math.nan, bad)
        loss += float(found.total.detach())
        parts.update(found.parts)
        shares.update(found.shares)
    if plan.companion is not None:
        plan.ranks.add_up([p.grad for p in plan.companion.module.parameters() if p.grad is not None])
    named = {"part": parts, "share": shares}
    told = {f"{kind}.{name}": value for kind, one in named.items() for name, value in one.items()}
    sums = plan.ranks.summed({"loss": loss, **told})
    norm = gradient_norm(optimiser)
    if not math.isfinite(float(norm)):
        return _refused(optimiser, f"gradient of {_worst(optimiser)}", batches)
    bound_gradients(optimiser, norm, plan.settings.max_grad_norm)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    over = {kind: {name: sums[f"{kind}.{name}"] for name in one} for kind, one in named.items()}
    return StepOutcome(sums["loss"], over["part"], float(norm), shares=over["share"])


def backward(
    plan: TrainPlan, batch: Batch, totals: Mapping[str, float], *, bf16: bool
) -> tuple[Loss | None, Bad | None]:
    """Add one micro-batch's gradients, unless the teacher or the loss is not finite, here or on another rank."""
    want = plan.objective.want()
    signal = plan.ranks.everywhere(lambda: _asked(plan, batch, want))
    if bad := _agreed(plan, None if signal is None else unsound_signal(signal, batch)):
        return None, bad
    loss = plan.objective.loss(batch, signal, student_outputs(plan, batch, want.of_student, bf16=bf16), totals)
    if bad := _agreed(plan, _unsound_loss(loss, batch)):
        return None, bad
    loss.total.backward()
    return loss, None


def _asked(plan: TrainPlan, batch: Batch, want: Want) -> Signal | None:
    return plan.teacher.signal(batch, want) if plan.teacher is not None and want.teacher else None


def _agreed(plan: TrainPlan, bad: Bad | None) -> Bad | None:
    """What is bad on one rank keeps all from the update."""
    told = plan.ranks.first(None if bad is None else dataclasses.asdict(bad))
    return None if told is None else Bad(told["part"], tuple(told["ids"]))


def _unsound_loss(loss: Loss, batch: Batch) -> Bad | None:
    if math.isfinite(float(loss.total.detach())):
        return None
    names = [name for name, value in loss.parts.items() if not math.isfinite(value)]
    return Bad(f"loss ({', '.join(names) or 'total'} is {float(loss.total.detach())})", batch.ids)


def student_outputs(plan: TrainPlan, batch: Batch, want: Want, *, bf16: bool) -> Outputs:
    """The student's answer. Logits leave autocast as float32: a log-probability of a bf16 logit is off by percents.
    Last states and their head leave it as bf16, which is what autocast would multiply them in."""
    device = next(plan.module.parameters()).device.type
    with torch.autocast(device, dtype=torch.bfloat16, enabled=bf16):
        outputs = plan.forward(batch, want)
    if not bf16:
        return outputs
    if outputs.headed is not None:
        head = dataclasses.replace(outputs.headed.head, weight_VD=outputs.headed.head.weight_VD.bfloat16())
        return dataclasses.replace(outputs, headed=HeadedStates(outputs.headed.states_BTD.bfloat16(), head))
    if outputs.logits_BTV is None:
        return outputs
    return dataclasses.replace(outputs, logits_BTV=outputs.logits_BTV.float())


def unsound_signal(signal: Signal, batch: Batch) -> Bad | None:
    """NaN or an infinity in what the teacher said. -inf is a sound sparse log-probability (mass zero), and no logit."""
    for name, tensor, allows_zero_mass in _spoken(signal):
        # The sum is finite only if all are: one pass and no mask; it may overflow, so the mask has the last word.
        if math.isfinite(float(tensor.sum())):
            continue
        wrong = torch.isnan(tensor) | (tensor == math.inf) if allows_zero_mass else ~torch.isfinite(tensor)
        rows = wrong.flatten(1).any(dim=1)
        if rows.any():
            return Bad(name, tuple(batch.ids[int(row)] for row in rows.nonzero()))
    return None


def _spoken(signal: Signal) -> list[tuple[str, Tensor, bool]]:
    spoken: list[tuple[str, Tensor, bool]] = []
    if isinstance(signal.logits, DenseLogits):
        spoken.append(("teacher's logits", signal.logits.logits_BTV, False))
    elif isinstance(signal.logits, HeadedStates):
        spoken.append(("teacher's last states", signal.logits.states_BTD, False))
    elif signal.logits is not None:
        spoken.append(("teacher's log-probabilities", signal.logits.logprobs_BTK, True))
        spoken.append(("teacher's log tail mass", signal.logits.log_tail_BT, True))
    if signal.tutor is not None:
        spoken.append(("tutor's logits", signal.tutor.logits_BTV, False))
    for kind in (signal.hidden, signal.attentions, signal.scores):
        if kind is not None:
            spoken += [(f"teacher's layer {layer}", tensor, False) for layer, tensor in kind.layers.items()]
    return spoken


def _worst(optimiser: torch.optim.Optimizer) -> str:
    names = [
        name
        for group in optimiser.param_groups
        for name, p in zip(group["param_names"], group["params"], strict=True)
        if p.grad is not None and not torch.isfinite(whole(p.grad)).all()
    ]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (", ".join(names[:SHOWN]) + more) or "all parameters together (their norm overflows)"


def _refused(optimiser: torch.optim.Optimizer, part: str, batches: Sequence[Batch]) -> StepOutcome:
    optimiser.zero_grad(set_to_none=True)
    return StepOutcome(math.nan, {}, math.nan, Bad(part, tuple(name for batch in batches for name in batch.ids)))
