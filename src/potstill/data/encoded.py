"""One row of tokens, before it meets others in a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Int


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """ids: the examples in it (several when packed). learnt: the tokens a causal model is to predict.

    label: class index of a classifier's row, None if only the teacher can label it. row: its position in the list it
    belongs to. token_types: for models that tell the texts of a pair apart. slices: those of its example; a packed row
    has none.
    """

    ids: tuple[str, ...]
    tokens: Int[np.ndarray, " L"]
    learnt: Bool[np.ndarray, " L"]
    token_types: Int[np.ndarray, " L"] | None = None
    label: int | None = None
    row: int = 0
    slices: Mapping[str, str] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Tokens."""
        return len(self.tokens)


def encoded_row(
    ids: tuple[str, ...],
    tokens: Sequence[int],
    learnt: Sequence[bool] | None = None,
    token_types: Sequence[int] | None = None,
    label: int | None = None,
) -> Encoded:
    """From plain lists to compact arrays (4 bytes a token)."""
    return Encoded(
        ids=ids,
        tokens=np.asarray(tokens, dtype=np.int32),
        learnt=np.ones(len(tokens), dtype=bool) if learnt is None else np.asarray(learnt, dtype=bool),
        token_types=None if token_types is None else np.asarray(token_types, dtype=np.int32),
        label=label,
    )
