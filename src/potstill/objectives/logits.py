"""Hinton's objective: a teacher's softened distribution and the true labels, each with its own denominator."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from potstill.core.batch import Batch
from potstill.core.outcome import Loss
from potstill.core.shapes import LogitsBTV, Scalar, WeightsBT
from potstill.core.signal import DenseLogits, Outputs, Signal, SparseLogprobs, Want
from potstill.divergences.catalogue import DIVERGENCES
from potstill.divergences.logmass import widened
from potstill.divergences.reduce import weighted_mean
from potstill.divergences.sparse import on_support, top_k
from potstill.objectives.fit import check_fit
from potstill.objectives.settings import ObjectiveSettings


class Hinton:
    """soft_weight * T^2 * D(teacher at T, student at T) + hard_weight * cross-entropy(label, student at T = 1).

    Hinton, Vinyals and Dean 2015 (arXiv:1503.02531), section 2, with any divergence D of the catalogue. The soft part
    is the mean over the weights "soft" of the batch, the hard part over "hard": rows without a label, or without a
    teacher, never dilute the other part. A part whose weight is 0 is absent from `counts` and from the loss.
    """

    def __init__(self, settings: ObjectiveSettings):
        row = DIVERGENCES[settings.divergence]
        self._divergence = row.function
        self._parameters = {**row.parameters, **settings.parameters}
        self._settings = settings
        weights = {"soft": settings.soft_weight, "hard": settings.hard_weight}
        self._weights = {part: weight for part, weight in weights.items() if weight > 0}

    def want(self) -> Want:
        """Logits of the teacher, if it is listened to; its k largest do where `top_k` is set, at the temperature
        that they are compared at: there is no other for them."""
        k = self._settings.top_k
        temperature = 1.0 if k is None else self._settings.temperature
        return Want(teacher="soft" in self._weights, logits=True, top_k=k, temperature=temperature)

    def counts(self, batch: Batch) -> dict[str, float]:
        """The sum of weights behind each part."""
        return {part: float(batch.weights[part].sum()) for part in self._weights}

    def loss(
        self, batch: Batch, signal: Signal | None, outputs: Outputs, totals: Mapping[str, float] | None = None
    ) -> Loss:
        """The loss of one batch; `totals` replace its own counts as denominators (see core.protocols.Objective).

        Only positions with a weight are computed. Parts are what each contributes to the total. A batch without any
        weight gives 0, attached to the graph. Raises SignalError where the signal does not fit the student or T.
        """
        counts = self.counts(batch)
        totals = counts if totals is None else totals
        assert outputs.logits_BTV is not None, "a student that is asked for logits answers with them"
        parts: dict[str, Scalar] = {}
        if "soft" in self._weights:
            parts["soft"] = self._weights["soft"] * self._soft(batch, signal, outputs.logits_BTV, totals["soft"])
        if "hard" in self._weights:
            parts["hard"] = self._weights["hard"] * self._hard(batch, outputs.logits_BTV, totals["hard"])
        total = torch.stack(list(parts.values())).sum()
        return Loss(total=total, parts={part: float(value.detach()) for part, value in parts.items()}, counts=counts)

    def _soft(self, batch: Batch, signal: Signal | None, student_BTV: LogitsBTV, total: float) -> Scalar:
        teacher = check_fit(signal, student_BTV, self._settings)
        weights_BT, temperature = batch.weights["soft"], self._settings.temperature
        student = _weighed(student_BTV, weights_BT)
        if signal is not None and signal.entries_K is not None:
            student = student.index_select(-1, signal.entries_K.to(student.device))
        student_logprobs = torch.log_softmax(student / temperature, dim=-1)
        pair = self._pair(teacher, weights_BT, student_logprobs)
        values = self._divergence(*pair, **self._parameters)
        return weighted_mean(values, _weights(weights_BT), total=total, temperature=temperature)

    def _pair(
        self, teacher: DenseLogits | SparseLogprobs, weights_BT: WeightsBT, student_logprobs: Float[Tensor, "1 N V"]
    ) -> tuple[Float[Tensor, "1 N support"], Float[Tensor, "1 N support"]]:
        """Log-distributions of teacher (without gradient) and student over the same entries, at the temperature."""
        settings = self._settings
        if isinstance(teacher, SparseLogprobs):
            return on_support(_entries(teacher, weights_BT), student_logprobs, missing_mass=settings.missing_mass)
        logits = _weighed(teacher.logits_BTV, weights_BT).detach()
        if settings.top_k is not None:
            kept = top_k(logits, k=settings.top_k, temperature=settings.temperature)
            return on_support(kept, student_logprobs, missing_mass=settings.missing_mass)
        return torch.log_softmax(logits / settings.temperature, dim=-1), student_logprobs

    def _hard(self, batch: Batch, student_BTV: LogitsBTV, total: float) -> Scalar:
        weights_BT = batch.weights["hard"]
        targets = batch.targets_BT[weights_BT != 0]
        values = F.cross_entropy(_weighed(student_BTV, weights_BT).squeeze(0), targets, reduction="none")
        return weighted_mean(values.unsqueeze(0), _weights(weights_BT), total=total)


def _weighed(logits_BTV: LogitsBTV, weights_BT: WeightsBT) -> Float[Tensor, "1 N V"]:
    """The positions that count, as one row in at least fp32. Prompts and padding cost neither time nor memory, and
    whatever they hold (NaN included) reaches neither the loss nor the gradient."""
    return widened(logits_BTV[weights_BT != 0]).unsqueeze(0)


def _weights(weights_BT: WeightsBT) -> Float[Tensor, "1 N"]:
    return weights_BT[weights_BT != 0].unsqueeze(0)


def _entries(teacher: SparseLogprobs, weights_BT: WeightsBT) -> SparseLogprobs:
    """The positions that count of a sparse signal, as one row, without gradient."""
    chosen_BT = weights_BT != 0
    return SparseLogprobs(
        indices_BTK=teacher.indices_BTK[chosen_BT].unsqueeze(0),
        logprobs_BTK=teacher.logprobs_BTK[chosen_BT].unsqueeze(0).detach(),
        log_tail_BT=teacher.log_tail_BT[chosen_BT].unsqueeze(0).detach(),
        temperature=teacher.temperature,
    )
