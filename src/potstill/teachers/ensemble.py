"""Several teachers that speak as one."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from typing import Literal

import torch

from potstill.core.batch import Batch
from potstill.core.errors import SignalError
from potstill.core.protocols import Teacher
from potstill.core.shapes import LogitsBTV
from potstill.core.signal import DenseLogits, Signal, Voice, Want
from potstill.teachers.ahead import forewarn, release

Combine = Literal["arithmetic", "geometric"]
_WHOLE = Want(top_k=None)


class Ensemble:
    """The weighted mean of several teachers' distributions, as logits over their common vocabulary.

    `arithmetic`: softmax(signal / T) = sum_k w_k softmax(z_k / T), the distribution that minimises
    sum_k w_k KL(p_k || q): it pairs with forward KL (Hinton, Vinyals and Dean 2015, section 2). A mean of probabilities
    exists at one temperature only, so the ensemble is given the objective's; its logits are T times the mean's log.
    `geometric`: the signal is sum_k w_k z_k, at any temperature; it minimises sum_k w_k KL(q || p_k): it pairs with
    reverse KL.
    """

    def __init__(
        self,
        members: Sequence[Teacher],
        *,
        combine: Combine = "arithmetic",
        weights: Sequence[float] | None = None,
        temperature: float = 1.0,
    ):
        """weights: positive, one per member, scaled to sum to 1; uniform when absent.

        Raises SignalError when the members' vocabularies differ in size, ValueError when members or weights are unfit.
        """
        given = [1.0] * len(members) if weights is None else list(weights)
        if not members or len(given) != len(members) or min(given) <= 0:
            raise ValueError(f"{len(members)} members with weights {given}: give each member one weight above 0")
        self._members = tuple(members)
        self._weights = tuple(weight / sum(given) for weight in given)
        self._combine = combine
        self._temperature = temperature
        self._voice = self._common_voice()

    @property
    def voice(self) -> Voice:
        """A fingerprint of the members, their weights and how they are combined."""
        return self._voice

    def signal(self, batch: Batch, want: Want) -> Signal:
        """The combined logits, fp32. Raises SignalError when states or attentions are wanted, or a member sends no
        dense logits. Members speak one after the other: never more than one member's logits are held beside the sum."""
        if want.inside:
            raise SignalError(
                "an ensemble has no hidden states or attentions of its own: take one teacher for an objective on layers"
            )
        combined: LogitsBTV | None = None
        entries: list[torch.Tensor | None] = []
        with torch.no_grad():
            for member, weight in zip(self._members, self._weights, strict=True):
                said = member.signal(batch, _WHOLE)
                entries.append(said.entries_K)
                term = self._term(_dense(said, member, entries[0]), weight)
                combined = term if combined is None else self._joined(combined, term)
            assert combined is not None, "an ensemble has members"
            scale = self._temperature if self._combine == "arithmetic" else 1.0
            return Signal(voice=self._voice, logits=DenseLogits(combined * scale), entries_K=entries[0])

    def expect(self, batch: Batch, want: Want) -> None:
        """Members elsewhere are told of a batch that they will be asked about."""
        for member in self._members:
            forewarn(member, batch, _WHOLE)

    def forget(self, batch: Batch | None = None) -> None:
        """See `Forewarned`."""
        for member in self._members:
            release(member, batch)

    def _term(self, logits_BTV: LogitsBTV, weight: float) -> LogitsBTV:
        logits = logits_BTV if logits_BTV.dtype == torch.float64 else logits_BTV.float()
        if self._combine == "geometric":
            return weight * logits
        return torch.log_softmax(logits / self._temperature, dim=-1) + math.log(weight)

    def _joined(self, one_BTV: LogitsBTV, other_BTV: LogitsBTV) -> LogitsBTV:
        return one_BTV + other_BTV if self._combine == "geometric" else torch.logaddexp(one_BTV, other_BTV)

    def _common_voice(self) -> Voice:
        voices = [member.voice for member in self._members]
        sizes = {voice.vocabulary_size for voice in voices}
        if len(sizes) > 1:
            named = ", ".join(f"{voice.teacher} has {voice.vocabulary_size}" for voice in voices)
            raise SignalError(
                f"the teachers of an ensemble must share one vocabulary, but {named} entries: leave out those "
                "that differ"
            )
        temperature = self._temperature if self._combine == "arithmetic" else None
        identity = [[voice.teacher for voice in voices], self._weights, self._combine, temperature]
        fingerprint = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
        return Voice(teacher=f"ensemble-{fingerprint[:32]}", vocabulary_size=sizes.pop())


def kept_members(cross_entropies: Sequence[float], drop_above: float) -> tuple[int, ...]:
    """Positions of the members whose held-out cross-entropy is at most `drop_above` times the best, in order.

    Raises SignalError when a cross-entropy is not a number that can be compared.
    """
    for position, value in enumerate(cross_entropies):
        if not math.isfinite(value):
            raise SignalError(
                f"member {position} of the ensemble has a held-out cross-entropy of {value}: leave it out of "
                "teacher.models"
            )
    limit = drop_above * min(cross_entropies)
    return tuple(position for position, value in enumerate(cross_entropies) if value <= limit)


def _dense(signal: Signal, member: Teacher, entries_K: torch.Tensor | None) -> LogitsBTV:
    if not isinstance(signal.logits, DenseLogits):
        raise SignalError(
            f"member {member.voice.teacher} sends {type(signal.logits).__name__} and an ensemble averages whole "
            "distributions: ask it for dense logits"
        )
    own = signal.entries_K
    if (own is None) != (entries_K is None) or (own is not None and not torch.equal(own, entries_K)):
        raise SignalError(
            f"member {member.voice.teacher} speaks of other entries of the vocabulary than the first one, and a mean "
            "needs the same: take members with one tokenizer and one size"
        )
    return signal.logits.logits_BTV
