"""Rows into a Batch: padding on the right, targets, weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from transformers import PreTrainedTokenizerBase

from potstill.core.batch import Batch, next_token_targets
from potstill.core.shapes import MaskBL, TokensBL
from potstill.core.task import Task
from potstill.data.encoded import Encoded
from potstill.data.masking import Masking, masking_of

# Takes rows and the epoch they are read in.
Collate = Callable[[Sequence[Encoded], int], Batch]


def collate(
    encoded: Sequence[Encoded], *, pad_id: int, task: Task, masking: Masking | None = None, epoch: int = 0
) -> Batch:
    """A Batch of the task's kind; L is the longest row.

    classify: targets [B, 1], "hard" is 1 where the label is known, "soft" is 1 everywhere.
    causal-lm: next-token targets [B, L]; "hard" and "soft" weigh the positions before learnt tokens.
    masked-lm (needs `masking`): no shift; targets are the hidden tokens, "hard" weighs those, "soft" weighs every real
    token, as DistilBERT averages its KL over (arXiv:1910.01108 and its published code).
    """
    return COLLATE[task](encoded, pad_id, masking, epoch)


def collator(
    tokenizer: PreTrainedTokenizerBase, task: Task, seed: int = 0, weights_V: Float[np.ndarray, " V"] | None = None
) -> Collate:
    """`collate` with what stays the same in a run; seed and weights_V (see `Masking`) only matter for masked-lm."""
    pad_id = next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)
    masking = masking_of(tokenizer, seed, weights_V) if task == "masked-lm" else None

    def bound(encoded: Sequence[Encoded], epoch: int) -> Batch:
        return collate(encoded, pad_id=int(pad_id), task=task, masking=masking, epoch=epoch)

    return bound


def _padded(rows: Sequence[np.ndarray], fill: int | bool, kind: torch.dtype) -> torch.Tensor:
    """[B, L] of the rows, filled on the right."""
    length = max(len(row) for row in rows)
    padded = torch.full((len(rows), length), fill, dtype=kind)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = torch.from_numpy(row)
    return padded


def _inputs(encoded: Sequence[Encoded], pad_id: int) -> tuple[TokensBL, MaskBL, TokensBL | None]:
    tokens = _padded([one.tokens for one in encoded], pad_id, torch.long)
    attention = _padded([np.ones(one.length, dtype=bool) for one in encoded], False, torch.bool)
    types = [one.token_types for one in encoded if one.token_types is not None]
    return tokens, attention, _padded(types, 0, torch.long) if len(types) == len(encoded) else None


def _names(encoded: Sequence[Encoded]) -> tuple[tuple[str, ...], tuple[int, ...], tuple[Mapping[str, str], ...]]:
    names = tuple("+".join(one.ids) for one in encoded)
    return names, tuple(one.row for one in encoded), tuple(one.slices for one in encoded)


def _classify(encoded: Sequence[Encoded], pad_id: int, masking: Masking | None, epoch: int) -> Batch:
    tokens, attention, types = _inputs(encoded, pad_id)
    known = torch.tensor([[float(one.label is not None)] for one in encoded])
    targets = torch.tensor([[one.label or 0] for one in encoded])
    weights = {"hard": known, "soft": torch.ones_like(known)}
    ids, rows, slices = _names(encoded)
    return Batch(ids, tokens, attention, targets, weights, types, rows, slices)


def _causal(encoded: Sequence[Encoded], pad_id: int, masking: Masking | None, epoch: int) -> Batch:
    tokens, attention, types = _inputs(encoded, pad_id)
    learnt = _padded([one.learnt for one in encoded], False, torch.bool)
    targets, weights = next_token_targets(tokens, learnt)
    ids, rows, slices = _names(encoded)
    return Batch(ids, tokens, attention, targets, {"hard": weights, "soft": weights}, types, rows, slices)


def _masked(encoded: Sequence[Encoded], pad_id: int, masking: Masking | None, epoch: int) -> Batch:
    if masking is None:
        raise ValueError("masked-lm needs a masking rule: pass masking_of(tokenizer, seed)")
    originals, attention, types = _inputs(encoded, pad_id)
    drawn = [masking.apply(one.tokens, epoch, one.row) for one in encoded]
    tokens = _padded([corrupted for corrupted, _ in drawn], pad_id, torch.long)
    hidden = _padded([chosen for _, chosen in drawn], False, torch.bool)
    weights = {"hard": hidden.float(), "soft": attention.float()}
    ids, rows, slices = _names(encoded)
    return Batch(ids, tokens, attention, originals * hidden, weights, types, rows, slices)


COLLATE: dict[Task, Callable[[Sequence[Encoded], int, Masking | None, int], Batch]] = {
    "classify": _classify,
    "causal-lm": _causal,
    "masked-lm": _masked,
}
