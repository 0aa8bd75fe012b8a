"""A Batch: tokens, targets and a weight per named span. The only place that shifts tokens to next-token targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from potstill.core.shapes import MaskBL, TargetsBT, TokensBL, WeightsBT


@dataclass(frozen=True, slots=True)
class Batch:
    """What teacher and student both read.

    ids: one example id per row (packed rows join theirs with "+"). tokens_BL and attention_BL go into the model.
    targets_BT: what is predicted at each position (class index when T = 1); where nothing is known the target is 0
    and its weight in "hard" is 0. weights: span name -> [B, T]; "hard" weighs the known targets, "soft" the positions
    where the teacher is asked. The two differ for rows without a label. rows: positions of the rows in their data set.
    slices: the named groups of each row, () where nobody keeps them.
    """

    ids: tuple[str, ...]
    tokens_BL: TokensBL
    attention_BL: MaskBL
    targets_BT: TargetsBT
    weights: Mapping[str, WeightsBT]
    token_types_BL: TokensBL | None = None
    rows: tuple[int, ...] = field(default=())
    slices: tuple[Mapping[str, str], ...] = field(default=())

    @property
    def tokens_read(self) -> int:
        """Tokens that are not padding."""
        return int(self.attention_BL.sum())

    def take(self, rows: Sequence[int]) -> Batch:
        """Some of the rows, in this order, with all that belongs to them."""
        chosen = list(rows)
        return Batch(
            ids=tuple(self.ids[row] for row in chosen),
            tokens_BL=self.tokens_BL[chosen],
            attention_BL=self.attention_BL[chosen],
            targets_BT=self.targets_BT[chosen],
            weights={name: weights_BT[chosen] for name, weights_BT in self.weights.items()},
            token_types_BL=None if self.token_types_BL is None else self.token_types_BL[chosen],
            rows=tuple(self.rows[row] for row in chosen) if self.rows else (),
            slices=tuple(self.slices[row] for row in chosen) if self.slices else (),
        )


def next_token_targets(tokens_BL: TokensBL, learnt_BL: MaskBL) -> tuple[TargetsBT, WeightsBT]:
    """Targets and weights of a causal language model.

    Position t predicts token t+1, so its weight is 1 exactly when token t+1 is one to be learnt. The last position
    predicts nothing: target 0, weight 0. Returns [B, L] each.
    """
    targets = torch.zeros_like(tokens_BL)
    targets[:, :-1] = tokens_BL[:, 1:]
    weights = torch.zeros(tokens_BL.shape, dtype=torch.float32)
    weights[:, :-1] = learnt_BL[:, 1:].float()
    return targets * weights.long(), weights
