"""How hard a row is for this student under this teacher, from what both lose on the truth."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from potstill.core.errors import NumbersError
from potstill.core.shapes import LogitsBTV, TargetsBT, WeightsBT

# Nats. A teacher that is sure loses next to nothing, in floating point often exactly nothing.
SMALLEST_LOSS = 1e-4


def row_losses(logits_BTV: LogitsBTV, targets_BT: TargetsBT, weights_BT: WeightsBT) -> Float[Tensor, " B"]:
    """Mean cross-entropy of each row over its positions with a weight, nats, float64: the prompt does not count. A row
    without any such position has NaN. One row at a time: float64 logits of a whole batch of tokens would be large."""
    losses = torch.full((len(logits_BTV),), torch.nan, dtype=torch.float64)
    for row, (logits_TV, targets_T, weights_T) in enumerate(zip(logits_BTV, targets_BT, weights_BT, strict=True)):
        counted = weights_T != 0
        if bool(counted.any()):
            logprobs = logits_TV[counted].double().log_softmax(-1)
            nll = -logprobs.gather(-1, targets_T[counted].unsqueeze(-1)).squeeze(-1)
            losses[row] = ((nll * weights_T[counted]).sum() / weights_T[counted].sum()).cpu()
    return losses


def difficulty(student_N: Float[np.ndarray, " N"], teacher_N: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """Distillation difficulty score: the student's loss over the teacher's, both on the ground truth.

    He et al. 2025, DA-KD (ICML 2025). High where the teacher knows and the student does not; about 1 where both fail,
    as on a wrong label. A teacher's loss below 1e-4 nats, zero included, counts as 1e-4 (ours: the paper does not say),
    so the score stays finite and ranks rows of a sure teacher by what the student loses; a student's loss of zero
    scores zero.

    Raises:
        NumbersError: a loss that is not finite or below zero, with the position of the row.
    """
    for who, losses in (("student", student_N), ("teacher", teacher_N)):
        unsound = np.flatnonzero(~(np.isfinite(losses) & (losses >= 0)))
        if len(unsound):
            raise NumbersError(
                f"row {unsound[0]}: the {who}'s loss on the truth is {losses[unsound[0]]}, so it has no difficulty: "
                f"look at the row, or remove order.difficulty"
            )
    return student_N / np.maximum(teacher_N, SMALLEST_LOSS)
