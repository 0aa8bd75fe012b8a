"""Masked language modelling: which tokens are hidden, as a pure function of (seed, epoch, row)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from transformers import PreTrainedTokenizerBase

SHARE = 0.15
BECOMES_MASK = 0.8
BECOMES_RANDOM = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Masking:
    """BERT's rule (Devlin et al. 2019, arXiv:1810.04805, section 3.1): 15 % of the text tokens are chosen; of these
    80 % become the mask token, 10 % a random token, 10 % stay. Drawn anew each epoch (RoBERTa, arXiv:1907.11692, 4.1).

    special_ids are never chosen and never drawn. Any position of a run can be drawn again without the ones before it.
    weights_V: how likely each token is to be chosen, beside the others of its row; all alike where None. Then 15 % of a
    row, rounded up or down by chance so that the share is kept on average, are drawn without replacement.
    """

    seed: int
    mask_id: int
    special_ids: Int[np.ndarray, " S"]
    vocabulary_size: int
    weights_V: Float[np.ndarray, " V"] | None = None

    def apply(
        self, tokens: Int[np.ndarray, " L"], epoch: int, row: int
    ) -> tuple[Int[np.ndarray, " L"], Bool[np.ndarray, " L"]]:
        """Corrupted tokens, and where the model is to say the original: at least one position if any is text."""
        *drawn, rounding = uniforms((self.seed, epoch, row), 3 * len(tokens) + 1)
        choose, kind, draw = np.array(drawn).reshape(3, -1)
        text = ~np.isin(tokens, self.special_ids)
        if self.weights_V is None:
            chosen = text & (choose < SHARE)
            if text.any() and not chosen.any():
                chosen[np.flatnonzero(text)[np.argmin(choose[text])]] = True
        else:
            chosen = _weighted(text, choose, self.weights_V[tokens], rounding)
        ordinary = np.setdiff1d(np.arange(self.vocabulary_size), self.special_ids)
        corrupted = tokens.copy()
        masked = chosen & (kind < BECOMES_MASK)
        random = chosen & (kind >= BECOMES_MASK) & (kind < BECOMES_MASK + BECOMES_RANDOM)
        corrupted[masked] = self.mask_id
        corrupted[random] = ordinary[(draw[random] * len(ordinary)).astype(np.int64)]
        return corrupted, chosen


def masking_of(
    tokenizer: PreTrainedTokenizerBase, seed: int, weights_V: Float[np.ndarray, " V"] | None = None
) -> Masking:
    """The rule with a tokenizer's mask token, special tokens and vocabulary."""
    special = np.array(sorted(set(tokenizer.all_special_ids)), dtype=np.int32)
    return Masking(seed, int(tokenizer.mask_token_id), special, len(tokenizer), weights_V)


def smoothed(rows: Iterable[Int[np.ndarray, " _"]], vocabulary_size: int, power: float) -> Float[np.ndarray, " V"]:
    """count^-power of each token in these rows; a token that never occurs counts as seen once.

    Lample and Conneau 2019 (XLM, arXiv:1901.07291, section 3.3), with DistilBERT's power of 0.7 (its published code).
    """
    counts = np.zeros(vocabulary_size, dtype=np.int64)
    for row in rows:
        counts += np.bincount(row, minlength=vocabulary_size)
    return np.maximum(counts, 1).astype(np.float64) ** -power


def _weighted(
    text: Bool[np.ndarray, " L"],
    choose: Float[np.ndarray, " L"],
    weights: Float[np.ndarray, " L"],
    rounding: float,
) -> Bool[np.ndarray, " L"]:
    """The largest keys log(u) / w: a draw without replacement in proportion to w (Efraimidis and Spirakis 2006)."""
    number = int(SHARE * text.sum() + rounding)
    keys = np.where(text, np.log(np.maximum(choose, np.finfo(float).tiny)) / weights, -np.inf)
    best = np.argsort(-keys, kind="stable")[: max(number, int(text.any()))]
    chosen = np.zeros(len(text), dtype=bool)
    chosen[best] = True
    return chosen


def uniforms(key: tuple[int, ...], number: int) -> Float[np.ndarray, " N"]:
    """Numbers in [0, 1). From the raw stream of PCG64, which NumPy keeps for ever; its distributions it may change."""
    raw = np.random.PCG64(np.random.SeedSequence(key)).random_raw(number)
    return (raw >> np.uint64(11)) * 2.0**-53
