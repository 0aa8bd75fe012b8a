"""Hinton's objective without logits: from the last states and heads of both sides, as `divergences.chunked` does it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from potstill.core.batch import Batch
from potstill.core.outcome import Loss
from potstill.core.shapes import Scalar
from potstill.core.signal import HeadedStates, Outputs, Signal, Want
from potstill.divergences.chunked import form_of, linear_losses, side_of
from potstill.divergences.reduce import mean_scale
from potstill.objectives.blockwise import label_loss
from potstill.objectives.fit import check_states
from potstill.objectives.logits import Hinton


class FusedHinton(Hinton):
    """The value and the gradients of `Hinton`; neither side's logits ever exist whole, in memory or in the graph."""

    def want(self) -> Want:
        """Last states and heads of both sides."""
        return Want(headed=True)

    def loss(
        self, batch: Batch, signal: Signal | None, outputs: Outputs, totals: Mapping[str, float] | None = None
    ) -> Loss:
        """As `Hinton.loss`. Raises SignalError where one side sends no states, or the two do not fit each other."""
        counts = self.counts(batch)
        totals = counts if totals is None else totals
        signal, teacher, student = check_states(signal, outputs, "objective.fused")
        scales = {
            part: weight * mean_scale(counts[part], total=totals[part], temperature=temperature)
            for part, weight, temperature in self._terms()
        }
        ours = student.head
        if signal.entries_K is not None:
            # The labels are among all entries, the divergence is over some: two heads, so two passes.
            ours = ours.over(signal.entries_K.to(ours.weight_VD.device))
        together = signal.entries_K is None and "hard" in self._weights
        total, sums = self._pass(batch, teacher, HeadedStates(student.states_BTD, ours), scales, hard=together)
        parts = {"soft": float(sums[0])}
        if together:
            parts["hard"] = float(sums[1])
        elif "hard" in self._weights:
            labels = self._weights["hard"] * label_loss(batch, student, totals["hard"])
            total, parts["hard"] = total + labels, float(labels.detach())
        return Loss(total=total, parts=parts, counts=counts)

    def _terms(self) -> list[tuple[str, float, float]]:
        temperatures = {"soft": self._settings.temperature, "hard": 1.0}
        return [(part, weight, temperatures[part]) for part, weight in self._weights.items()]

    def _pass(
        self, batch: Batch, teacher: HeadedStates, student: HeadedStates, scales: Mapping[str, float], *, hard: bool
    ) -> tuple[Scalar, Float[Tensor, 2]]:
        soft_BT = batch.weights["soft"] * scales["soft"]
        hard_BT = batch.weights["hard"] * scales["hard"] if hard else torch.zeros_like(soft_BT)
        chosen_BT = (soft_BT != 0) | (hard_BT != 0)
        # Products are made in the student's dtype on both sides, as they would be for whole logits under autocast.
        multiplied = student.states_BTD.dtype
        spoken = dataclasses.replace(teacher.head, weight_VD=teacher.head.weight_VD.to(multiplied))
        summed = torch.promote_types(multiplied, torch.float32)
        return linear_losses(
            side_of("student", student.states_BTD[chosen_BT], student.head),
            side_of("teacher", teacher.states_BTD[chosen_BT].to(multiplied), spoken),
            form_of(self._settings.divergence, self._settings.parameters),
            temperature=self._settings.temperature,
            soft_N=soft_BT[chosen_BT].to(summed),
            hard_N=hard_BT[chosen_BT].to(summed),
            targets_N=batch.targets_BT[chosen_BT] if hard else None,
        )
