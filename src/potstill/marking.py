"""The green-list mark put into text while it is generated: a logits processor for transformers' `generate`.

    model.generate(**inputs, do_sample=True, logits_processor=LogitsProcessorList([GreenList(Mark(key))]))

Entropy pays for it: where the model is sure of the next token the boost changes nothing, and nothing is marked there.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessor

from potstill.guard.watermark import Mark, green


class GreenList(LogitsProcessor):
    """Adds `mark.boost` to the logits of green tokens (Kirchenbauer et al. 2023, algorithm 2). A row with fewer tokens
    than the mark's window is left as it is."""

    def __init__(self, mark: Mark):
        self.mark = mark

    def __call__(self, input_ids: Int[Tensor, "B L"], scores: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        """Marked logits; the ones handed in are not changed."""
        window = self.mark.window
        if input_ids.shape[1] < window:
            return scores
        every_V = np.arange(scores.shape[1])
        before_BW = input_ids[:, -window:].cpu().numpy()
        lists = np.stack([green(self.mark, before_W[None], every_V) for before_W in before_BW])
        return scores + self.mark.boost * torch.from_numpy(lists).to(scores)
