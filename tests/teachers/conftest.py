"""A teacher whose logits are known, and batches for it."""

import pytest
import torch

from potstill.core.batch import Batch
from potstill.core.signal import DenseLogits, Signal, Voice


class Spoken:
    """A teacher that says `logits_RPV[row]` for each row of the batch."""

    def __init__(self, logits, name="spoken"):
        self.logits, self.asked = logits, 0
        self.voice = Voice(name, logits.shape[-1])

    def signal(self, batch, want):
        self.asked += len(batch.rows)
        return Signal(voice=self.voice, logits=DenseLogits(self.logits[list(batch.rows)]))


def batch_of(rows, positions=1):
    shape = (len(rows), positions)
    return Batch(
        ids=tuple(f"example-{row}" for row in rows),
        tokens_BL=torch.zeros(shape).long(),
        attention_BL=torch.ones(shape).bool(),
        targets_BT=torch.zeros(shape).long(),
        weights={"soft": torch.ones(shape), "hard": torch.zeros(shape)},
        rows=tuple(rows),
    )


@pytest.fixture
def spoken():
    return Spoken


@pytest.fixture
def rows():
    return batch_of
