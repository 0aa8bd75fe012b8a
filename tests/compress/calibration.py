"""Rows with targets for tiny models: padded batches, and the same rows one by one without padding."""

from dataclasses import replace

import torch

from potstill.core.batch import next_token_targets
from tests.students.tiny import ENCODERS, batch_of, tiny


def rows_for(kind, rows=3, length=9, padded=(0, 2, 4)):
    batch = batch_of(rows=rows, length=length, padded=padded)
    if kind in ENCODERS:
        ones = torch.ones(rows, 1)
        targets = torch.arange(rows)[:, None] % 3
        return replace(batch, targets_BT=targets, weights={"hard": ones, "soft": ones}, rows=tuple(range(rows)))
    targets, weights = next_token_targets(batch.tokens_BL, batch.attention_BL)
    return replace(batch, targets_BT=targets, weights={"hard": weights, "soft": weights}, rows=tuple(range(rows)))


def alone(batch):
    """Each row as a batch of its own, without its padding."""
    for row in range(len(batch.ids)):
        one = batch.take([row])
        length = one.tokens_read
        short = {name: weight[:, :length] for name, weight in one.weights.items()}
        yield replace(
            one,
            tokens_BL=one.tokens_BL[:, :length],
            attention_BL=one.attention_BL[:, :length],
            targets_BT=one.targets_BT[:, :length],
            weights=short,
        )


def task_of(kind):
    return "classify" if kind in ENCODERS else "causal-lm"


def model(kind, dtype=torch.float64):
    return tiny(kind, task_of(kind)).to(dtype)
