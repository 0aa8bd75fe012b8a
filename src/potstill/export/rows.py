"""Rows that an export may look at: to calibrate a quantiser, and to compare what it made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from potstill.core.batch import Batch


@dataclass(frozen=True, slots=True)
class Rows:
    """calibration: of the training rows. held_out: of rows that nothing was learnt from."""

    calibration: Sequence[Batch] = ()
    held_out: Sequence[Batch] = ()


NO_ROWS = Rows()


def tensors_of(batch: Batch, names: Sequence[str]) -> list[Tensor]:
    """A batch as a graph with these inputs takes it, each [B, L]."""
    found = {
        "input_ids": batch.tokens_BL,
        "attention_mask": batch.attention_BL.long(),
        "token_type_ids": batch.token_types_BL,
    }
    return [found[name] for name in names]
