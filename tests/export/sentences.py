"""Rows for the tiny students of this folder."""

import numpy as np
import torch

from potstill.core.batch import Batch
from potstill.export.rows import Rows


def batch(tokens, types=None, label=0):
    tokens = torch.tensor([tokens])
    return Batch(
        ids=("x",),
        rows=(0,),
        tokens_BL=tokens,
        attention_BL=torch.ones_like(tokens, dtype=torch.bool),
        targets_BT=torch.tensor([[label]]),
        weights={"hard": torch.ones(1, 1), "soft": torch.ones(1, 1)},
        token_types_BL=torch.zeros_like(tokens) if types is None else types,
    )


def rows():
    draw = np.random.default_rng(0)
    made = [batch(draw.integers(5, 14, size=draw.integers(3, 9)).tolist(), label=row % 3) for row in range(60)]
    return Rows(calibration=made[:30], held_out=made[30:])
