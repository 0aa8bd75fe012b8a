"""Dual-space distillation: teacher and student of different widths, compared in both of their output spaces.

The projections are parameters of the objective. They learn beside the student, are saved with the training, and are no
part of what is exported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from potstill.core.batch import Batch
from potstill.core.errors import SignalError
from potstill.core.outcome import Loss
from potstill.core.shapes import Scalar, WeightsBT
from potstill.core.signal import HeadedStates, OutputHead, Outputs, Signal, Want
from potstill.divergences.catalogue import DIVERGENCES
from potstill.divergences.logmass import widened
from potstill.divergences.reduce import weighted_mean
from potstill.objectives.blockwise import blockwise, label_loss
from potstill.objectives.fit import check_states
from potstill.objectives.settings import ObjectiveSettings

PARTS = ("projector", "projected", "teacher_space")


class Projections(nn.Module):
    """Two linear maps between last states: `student_to_teacher` [Ds, Dt] and `teacher_to_student` [Dt, Ds]."""

    def __init__(self, student: OutputHead, teacher: OutputHead):
        """Both start where a projected state has the logits it had: P W_to^T = W_from^T, solved in least squares.

        Raises SignalError when the heads are not over the same entries.
        """
        super().__init__()
        ours, theirs = student.weight_VD.shape[0], teacher.weight_VD.shape[0]
        if ours != theirs:
            raise SignalError(
                f"the student's head has {ours} rows and the teacher's {theirs}: a projection needs one vocabulary; "
                "use models with one tokenizer, and teacher.vocabulary: padded where only their tables differ in length"
            )
        self.student_to_teacher = nn.Parameter(matching(student, teacher))
        self.teacher_to_student = nn.Parameter(matching(teacher, student))


def matching(source: OutputHead, target: OutputHead) -> Float[Tensor, "from to"]:
    """P = W_from^T (W_to^T)^+, the projection after which a state's logits under the target's head are nearest to its
    logits under its own; equal where the target's columns span the source's.

    Zhang et al. 2025, DSKD (arXiv:2504.11426), initialisation by pseudo-inverse. Biases and soft-caps do not enter;
    scales do. Solved through the Gram matrix of the target in double precision, which is small whatever the vocabulary.
    """
    source_VS = source.scale * source.weight_VD.detach().double()
    target_VT = target.scale * target.weight_VD.detach().double()
    gram_TT = target_VT.T @ target_VT
    found_TS: Tensor = torch.linalg.pinv(gram_TT, hermitian=True) @ (target_VT.T @ source_VS)
    return found_TS.T.float().contiguous()


class DualSpace:
    """soft_weight * (projector + projected + teacher_space) + hard_weight * cross-entropy(label, student at T = 1).

    With h the last states, p the teacher's choice (its argmax), and each softmax under the head of its space:

        projector      cross-entropy(p, softmax(P_ts h_t)) under the student's head, held fixed: trains P_ts alone
        projected      T^2 D(softmax(P_ts h_t / T), student) where the projected teacher's first choice is p: trains the
                       student, the projected side held fixed
        teacher_space  T^2 D(teacher, softmax(P_st h_s / T)) under the teacher's head: trains the student and P_st

    Zhang et al. 2024 and 2025 (DSKD, arXiv:2406.17328 and 2504.11426); D is any divergence of the catalogue. We depart
    in three points: P_st is learnt too, from the same start that DSKD computes anew in each step; every part is a mean
    over the weights "soft" (positions where the projected teacher disagrees count as 0 in `projected`); and the fixed
    head is the student's present one, not that of its start.
    """

    def __init__(self, settings: ObjectiveSettings, projections: Projections):
        row = DIVERGENCES[settings.divergence]
        self.projections = projections
        self._divergence = row.function
        self._parameters = {**row.parameters, **settings.parameters}
        self._settings = settings
        weights = {"soft": settings.soft_weight, "hard": settings.hard_weight}
        self._weights = {part: weight for part, weight in weights.items() if weight > 0}

    def want(self) -> Want:
        """Last states and heads of both sides."""
        return Want(headed=True)

    def counts(self, batch: Batch) -> dict[str, float]:
        """The sum of weights behind the soft parts and the hard one."""
        return {part: float(batch.weights[part].sum()) for part in self._weights}

    def loss(
        self, batch: Batch, signal: Signal | None, outputs: Outputs, totals: Mapping[str, float] | None = None
    ) -> Loss:
        """As `core.protocols.Objective`. Raises SignalError when either side sends no states, or states that do not fit
        the projections."""
        counts = self.counts(batch)
        totals = counts if totals is None else totals
        signal, teacher, student = check_states(signal, outputs, "objective.projection")
        self._check_widths(teacher, student)
        parts = self._soft(batch.weights["soft"], teacher, student, signal, totals["soft"])
        if "hard" in self._weights:
            parts["hard"] = self._weights["hard"] * label_loss(batch, student, totals["hard"])
        total = torch.stack(list(parts.values())).sum()
        return Loss(total=total, parts={part: float(value.detach()) for part, value in parts.items()}, counts=counts)

    def _check_widths(self, teacher: HeadedStates, student: HeadedStates) -> None:
        widths = student.states_BTD.shape[-1], teacher.states_BTD.shape[-1]
        if widths != tuple(self.projections.student_to_teacher.shape):
            raise SignalError(
                f"student and teacher send states of widths {widths}, and the projections are for "
                f"{tuple(self.projections.student_to_teacher.shape)}: start with the models they were made for"
            )

    def _soft(
        self, weights_BT: WeightsBT, teacher: HeadedStates, student: HeadedStates, signal: Signal, total: float
    ) -> dict[str, Scalar]:
        chosen_BT, entries_K = weights_BT != 0, signal.entries_K
        ours = student.head if entries_K is None else student.head.over(entries_K.to(student.head.weight_VD.device))

        def parts(student_NS: Tensor, teacher_NT: Tensor, weights_N: Tensor) -> Tensor:
            return self._parts(HeadedRows(student_NS, ours), HeadedRows(teacher_NT, teacher.head), weights_N, total)

        rows = widened(student.states_BTD[chosen_BT]), widened(teacher.states_BTD[chosen_BT]).detach()
        found_P = blockwise(parts, (*rows, weights_BT[chosen_BT]), entries=ours.weight_VD.shape[0])
        return dict(zip(PARTS, self._weights["soft"] * found_P, strict=True))

    def _parts(
        self, student: HeadedRows, teacher: HeadedRows, weights_N: Float[Tensor, " N"], total: float
    ) -> Float[Tensor, " P"]:
        to_student, to_teacher = self.projections.teacher_to_student, self.projections.student_to_teacher
        teacher_NV = teacher.head.logits(teacher.states_ND)
        choice_N = teacher_NV.argmax(-1)
        seen_NV = _fixed(student.head).logits(teacher.states_ND @ to_student.to(teacher.states_ND.dtype))
        projector = weighted_mean(F.cross_entropy(seen_NV, choice_N, reduction="none"), weights_N, total=total)
        agreed_N = (seen_NV.argmax(-1) == choice_N).to(weights_N.dtype)
        projected = self._mean(seen_NV.detach(), student.head.logits(student.states_ND), weights_N * agreed_N, total)
        there_ND = student.states_ND @ to_teacher.to(student.states_ND.dtype)
        teacher_space = self._mean(teacher_NV, teacher.head.logits(there_ND), weights_N, total)
        return torch.stack([projector, projected, teacher_space])

    def _mean(
        self,
        target_NV: Float[Tensor, "N V"],
        logits_NV: Float[Tensor, "N V"],
        weights_N: Float[Tensor, " N"],
        total: float,
    ) -> Scalar:
        temperature = self._settings.temperature
        pair = [torch.log_softmax(one / temperature, dim=-1) for one in (target_NV, logits_NV)]
        values_N = self._divergence(*pair, **self._parameters)
        return weighted_mean(values_N, weights_N, total=total, temperature=temperature)


@dataclass(frozen=True, slots=True)
class HeadedRows:
    """The states of some positions, and their head."""

    states_ND: Float[Tensor, "N D"]
    head: OutputHead


def _fixed(head: OutputHead) -> OutputHead:
    bias = None if head.bias_V is None else head.bias_V.detach()
    return OutputHead(head.weight_VD.detach(), bias, head.scale, head.softcap)
