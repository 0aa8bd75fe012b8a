"""Example by example, the better of two teachers: the teacher, its tutor, or the label alone where neither is right."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from potstill.core.batch import Batch
from potstill.core.errors import SignalError
from potstill.core.outcome import Loss
from potstill.core.shapes import LogitsBTV, Scalar, TargetsBT
from potstill.core.signal import DenseLogits, Outputs, Signal, Want
from potstill.divergences.kl import forward_kl
from potstill.divergences.logmass import widened
from potstill.divergences.reduce import weighted_mean
from potstill.objectives.fit import check_fit
from potstill.objectives.logits import Hinton
from potstill.objectives.settings import ObjectiveSettings

SOURCES = ("teacher", "tutor", "label")
TEACHER, TUTOR, LABEL = range(3)
Choice = Literal["closer", "teacher", "tutor", "label"]


def closer_sources(
    teacher_NV: Float[Tensor, "N V"],
    tutor_NV: Float[Tensor, "N V"],
    student_NV: Float[Tensor, "N V"],
    truth_N: Int[Tensor, " N"],
    known_N: Bool[Tensor, " N"],
    *,
    temperature: float,
) -> Int[Tensor, " N"]:
    """For each position the source to learn from, as a place in SOURCES.

    A source is right when its likeliest entry is the truth. Of the right ones it is the one with the smaller
    KL(source^T || student^T), the teacher where they are equally near; where neither is right, the label. Where nobody
    knows the truth, the teacher's first choice is taken for it, so the label is never chosen there.

    Our reading of TEID, of which an abstract is public: argmax over the sources of 1[right] * exp(-KL), which is the
    smaller KL among the right ones. Arguments are logits. Without gradient.
    """
    with torch.no_grad():
        truth_N = torch.where(known_N, truth_N, teacher_NV.argmax(-1))
        student = torch.log_softmax(widened(student_NV) / temperature, dim=-1)
        right, apart = [], []
        for source_NV in (teacher_NV, tutor_NV):
            right.append(source_NV.argmax(-1) == truth_N)
            apart.append(forward_kl(torch.log_softmax(widened(source_NV) / temperature, dim=-1), student))
        tutor_N = right[1] & (~right[0] | (apart[1] < apart[0]))
        return torch.where(tutor_N, TUTOR, TEACHER).masked_fill(~(right[0] | right[1]), LABEL)


class Chosen:
    """`Hinton` towards the source that each position's choice names; the cross-entropy of the label, with the weight
    and the denominator of the soft part, where that is the label:

        sum over positions of  soft_weight * ( T^2 D(source^T, student^T)  or  CE(label, student) )  / their number
        + hard_weight * CE(label, student)  as ever

    choose: `closer` (see `closer_sources`), or one source for all. With `teacher` or `tutor` for all, values and
    gradients are those of `Hinton` with that model alone, bit for bit. Neither source gets a gradient.
    """

    def __init__(self, settings: ObjectiveSettings, choose: Choice):
        self._settings, self._choose = settings, choose
        self._hinton = Hinton(settings)

    def want(self) -> Want:
        """Whole logits of both."""
        return Want()

    def counts(self, batch: Batch) -> dict[str, float]:
        """Those of `Hinton`: a position counts once, whatever it is taught by."""
        return self._hinton.counts(batch)

    def loss(
        self, batch: Batch, signal: Signal | None, outputs: Outputs, totals: Mapping[str, float] | None = None
    ) -> Loss:
        """As `core.protocols.Objective`; `shares` tells which part of the positions was taught by which source.

        Raises SignalError where a source is missing or does not fit, and where the label is to teach a row without one.
        """
        counts = self.counts(batch)
        totals = counts if totals is None else totals
        teacher_BTV, tutor_BTV, student_BTV = self._logits(signal, outputs)
        weights_BT = batch.weights["soft"]
        chosen_BT = self._chosen(batch, teacher_BTV, tutor_BTV, student_BTV)
        taught = dataclasses.replace(
            batch, weights={**batch.weights, "soft": weights_BT.masked_fill(chosen_BT == LABEL, 0.0)}
        )
        mixed_BTV = torch.where((chosen_BT == TUTOR).unsqueeze(-1), tutor_BTV, teacher_BTV)
        assert signal is not None, "it was looked at"
        said = dataclasses.replace(signal, logits=DenseLogits(mixed_BTV), tutor=None)
        found = self._hinton.loss(taught, said, outputs, totals)
        total, parts = found.total, dict(found.parts)
        if self._choose in ("closer", "label"):
            label = self._settings.soft_weight * self._label(batch, chosen_BT, student_BTV, totals["soft"])
            total, parts["label"] = total + label, float(label.detach())
        number = totals["soft"] or 1.0
        shares = {
            name: float(weights_BT[chosen_BT == place].sum()) / number
            for place, name in enumerate(SOURCES)
        }  # fmt: skip
        return Loss(total=total, parts=parts, counts=counts, shares=shares)

    def _logits(self, signal: Signal | None, outputs: Outputs) -> tuple[LogitsBTV, LogitsBTV, LogitsBTV]:
        """Of teacher, tutor and student; the first two without gradient."""
        student_BTV = outputs.logits_BTV
        assert student_BTV is not None, "a student that is asked for logits answers with them"
        teacher = check_fit(signal, student_BTV, self._settings)
        tutor = None if signal is None else signal.tutor
        if not isinstance(teacher, DenseLogits) or tutor is None or tutor.logits_BTV.shape != student_BTV.shape:
            sent = [None if one is None else type(one).__name__ for one in (teacher, tutor)]
            raise SignalError(
                f"teacher.choose needs whole logits {list(student_BTV.shape)} of a teacher and of a tutor, and they "
                f"sent {sent[0]} and {sent[1]}: name two teacher.models that speak as the student does, or remove it"
            )
        return teacher.logits_BTV.detach(), tutor.logits_BTV.detach(), student_BTV

    def _chosen(self, batch: Batch, teacher_BTV: LogitsBTV, tutor_BTV: LogitsBTV, student_BTV: LogitsBTV) -> TargetsBT:
        """Places in SOURCES; where nothing is taught, the teacher's, which nobody looks at."""
        if self._choose != "closer":
            return torch.full_like(batch.targets_BT, SOURCES.index(self._choose))
        counted_BT = batch.weights["soft"] != 0
        chosen_BT = torch.full_like(batch.targets_BT, TEACHER)
        chosen_BT[counted_BT] = closer_sources(
            teacher_BTV[counted_BT],
            tutor_BTV[counted_BT],
            student_BTV[counted_BT],
            batch.targets_BT[counted_BT],
            batch.weights["hard"][counted_BT] != 0,
            temperature=self._settings.temperature,
        )
        return chosen_BT

    def _label(self, batch: Batch, chosen_BT: TargetsBT, student_BTV: LogitsBTV, total: float) -> Scalar:
        weights_BT = batch.weights["soft"].masked_fill(chosen_BT != LABEL, 0.0)
        taught_BT = weights_BT != 0
        if bool((batch.weights["hard"][taught_BT] == 0).any()):
            raise SignalError(
                "teacher.choose is `label`, and some rows have none: set use: labelled, or choose: closer"
            )
        values_N = F.cross_entropy(widened(student_BTV[taught_BT]), batch.targets_BT[taught_BT], reduction="none")
        return weighted_mean(values_N, weights_BT[taught_BT], total=total)
