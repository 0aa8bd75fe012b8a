"""Which rows a model gets right, row by row, on the way through another measurement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from potstill.core.batch import Batch
from potstill.core.protocols import Forward
from potstill.core.signal import Outputs, Want


@dataclass(frozen=True, slots=True)
class RightRows:
    """A Forward that notes, for every row that passes, whether the model's first choice is the truth at each position
    that counts ("hard" weight above 0): the class of a classifier; for a language model, all of the answer, which is
    then what it would write greedily. Rows of which nothing counts are not noted.

    right: position of the row in its data set -> whether it was right.
    """

    forward: Forward
    right: dict[int, bool] = field(default_factory=dict)

    def __call__(self, batch: Batch, want: Want) -> Outputs:
        """The model's own answer."""
        outputs = self.forward(batch, want)
        assert outputs.logits_BTV is not None, "whoever is measured answers with logits"
        hit_BT = outputs.logits_BTV.argmax(-1).cpu() == batch.targets_BT.cpu()
        counted_BT = batch.weights["hard"].cpu() > 0
        for row, right, counted in zip(
            batch.rows, (hit_BT | ~counted_BT).all(-1).tolist(), counted_BT.any(-1).tolist(), strict=True
        ):
            if counted:
                self.right[row] = right
        return outputs

    def shares(self, group_of: Mapping[int, str]) -> dict[str, float]:
        """Share of right rows in each group. group_of: the group of each row that is asked for."""
        found: dict[str, list[bool]] = {}
        for row, right in self.right.items():
            if row in group_of:
                found.setdefault(group_of[row], []).append(right)
        return {group: sum(some) / len(some) for group, some in found.items()}
