"""Who speaks: what every frame of a signal carries, and every reader holds against what it expects.

A voice (core/signal.py) tells two teachers apart; an identity also says what a reader must know to make logits of what
was sent, and what differs when two are not the same.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from potstill.core.errors import SignalError
from potstill.core.signal import Voice


@dataclass(frozen=True, slots=True)
class Identity:
    """weights, tokenizer: SHA-256 of what is in memory (students/fingerprint.py). vocabulary_size: width of the logits.

    norm: which states are sent, e.g. `LlamaRMSNorm(eps=1e-05)` for those after this final norm; empty where the model
    has none. scale, softcap: as in `OutputHead`.
    """

    weights: str
    tokenizer: str
    vocabulary_size: int
    norm: str = ""
    scale: float = 1.0
    softcap: float | None = None

    @property
    def voice(self) -> Voice:
        """The voice of this teacher, the same whether it speaks here or over a wire (`ModelRecord.fingerprint`)."""
        joined = hashlib.sha256(f"{self.weights}:{self.tokenizer}".encode()).hexdigest()[:16]
        return Voice(teacher=joined, vocabulary_size=self.vocabulary_size)

    def as_meta(self) -> dict[str, Any]:
        """JSON values for a frame."""
        return asdict(self)

    @classmethod
    def from_meta(cls, meta: Any) -> Identity:
        """Raises SignalError for values that are not those of an identity."""
        names = {one.name for one in fields(cls)}
        if not isinstance(meta, Mapping) or meta.keys() != names or not _sound(meta):
            raise SignalError(
                f"the teacher does not say who it is ({', '.join(sorted(names))} are needed): ask a teacher of this "
                "version"
            )
        return cls(**meta)

    def refuse_another(self, other: Identity, place: str) -> None:
        """Raises SignalError naming each value that differs. self: who is expected. place: where `other` spoke."""
        mine, its = asdict(self), asdict(other)
        wrong = [f"{name} {_short(its[name])} and not {_short(mine[name])}" for name in mine if its[name] != mine[name]]
        if wrong:
            raise SignalError(
                f"{place} is by another teacher: {', '.join(wrong)}. Ask the teacher that was named, or name this one "
                "and start a new run"
            )


def _sound(meta: Mapping[str, Any]) -> bool:
    texts = all(isinstance(meta[name], str) and len(meta[name]) <= 200 for name in ("weights", "tokenizer", "norm"))
    size, scale, softcap = meta["vocabulary_size"], meta["scale"], meta["softcap"]
    return (
        texts
        and (type(size) is int and size > 0)
        and (isinstance(scale, float) and math.isfinite(scale) and scale != 0)
        and (softcap is None or (isinstance(softcap, float) and math.isfinite(softcap) and softcap > 0))
    )


def _short(value: Any) -> str:
    return f"{value[:12]}…" if isinstance(value, str) and len(value) > 40 else str(value)
