"""Terms of a loss that need whole logits, a block of positions at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from potstill.core.batch import Batch
from potstill.core.shapes import Scalar
from potstill.core.signal import HeadedStates
from potstill.divergences.logmass import widened
from potstill.divergences.reduce import weighted_mean

# Logits that are held at once, in entries: 256 MiB in fp32. Longer batches go block by block and are computed again in
# the backward pass.
BLOCK = 64 << 20


def blockwise(part: Callable[..., Tensor], rows: Sequence[Tensor], *, entries: int) -> Tensor:
    """The sum of `part` over blocks of the rows whose logits stay below BLOCK entries."""
    size = max(1, BLOCK // entries)
    blocks = list(zip(*(torch.split(one, size) for one in rows), strict=True))
    if len(blocks) == 1:
        return part(*blocks[0])
    found: list[Tensor] = [checkpoint(part, *block, use_reentrant=False) for block in blocks]
    return torch.stack(found).sum(0)


def label_loss(batch: Batch, student: HeadedStates, total: float) -> Scalar:
    """Cross-entropy of the labels over the student's whole vocabulary, the mean over the weights "hard"."""
    chosen_BT = batch.weights["hard"] != 0

    def part(states_ND: Tensor, targets_N: Tensor, weights_N: Tensor) -> Tensor:
        values_N = F.cross_entropy(student.head.logits(states_ND), targets_N, reduction="none")
        return weighted_mean(values_N, weights_N, total=total)

    rows = widened(student.states_BTD[chosen_BT]), batch.targets_BT[chosen_BT], batch.weights["hard"][chosen_BT]
    return blockwise(part, rows, entries=student.head.weight_VD.shape[0])
