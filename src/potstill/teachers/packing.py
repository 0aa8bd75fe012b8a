"""What teacher and student agree on before the first signal, and what each row that was asked about is."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch

from potstill.core.batch import Batch
from potstill.core.errors import SignalError
from potstill.core.signal import Want
from potstill.teachers.forms import FORMS, Form
from potstill.teachers.head import KeptHead
from potstill.teachers.identity import Identity


@dataclass(frozen=True, slots=True)
class Packing:
    """What both sides agree on before the first signal, and every frame repeats.

    head: needed where last states are sent. top_k, temperature: of the form `top-k`, which exists at one temperature.
    hidden_layers, attention_layers: as in `Want`.
    """

    form: Form
    identity: Identity
    head: KeptHead | None = None
    top_k: int | None = None
    temperature: float = 1.0
    hidden_layers: tuple[int, ...] = ()
    attention_layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        says, size = FORMS[self.form].says, self.identity.vocabulary_size
        if says == "top-k" and not (self.top_k and 1 <= self.top_k <= size):
            raise SignalError(f"form top-k needs a k from 1 to {size}, not {self.top_k}: set top_k")
        if says == "hidden" and self.head is None:
            raise SignalError(f"form {self.form} needs the teacher's head on this side: fetch it first")
        if self.form == "hidden-int8" and self.head is not None and self.head.channels_D is None:
            raise SignalError(
                "form hidden-int8 needs channel scales, and this head came without: calibrate the teacher"
            )
        if says == "layers" and not (self.hidden_layers or self.attention_layers):
            raise SignalError(f"form {self.form} without any layer carries nothing: name layers, or take another form")

    @property
    def want(self) -> Want:
        """What the teacher is to be asked for."""
        says = FORMS[self.form].says
        return Want(
            logits=says in ("logits", "top-k"),
            headed=says == "hidden",
            hidden_layers=self.hidden_layers,
            attention_layers=self.attention_layers,
            top_k=self.top_k if says == "top-k" else None,
            temperature=self.temperature,
        )

    def as_meta(self) -> dict[str, Any]:
        """The terms as JSON, as each frame carries them. support: entries that the signal speaks of."""
        says = FORMS[self.form].says
        return {
            "teacher": self.identity.as_meta(),
            "form": self.form,
            "temperature": self.temperature,
            "support": self.top_k if says == "top-k" else self.identity.vocabulary_size,
            "head": self.head.sha256 if says == "hidden" and self.head is not None else None,
            "hidden": list(self.hidden_layers),
            "attentions": list(self.attention_layers),
        }


def row_keys(batch: Batch) -> tuple[str, ...]:
    """What each row of a batch is, in 32 hexadecimal digits: its example, its tokens and the positions asked about.

    Padding, batch-mates and the position in a data set do not matter; another tokenizer, length or mask does.
    """
    asked_BT = (batch.weights["soft"] != 0).cpu()
    keys = []
    for row, identity in enumerate(batch.ids):
        read = batch.attention_BL[row].cpu()
        parts = [batch.tokens_BL[row].cpu()[read]]
        if batch.token_types_BL is not None:
            parts.append(batch.token_types_BL[row].cpu()[read])
        digest = hashlib.sha256(f"{identity}|{len(parts)}|{asked_BT.shape[1] == 1}|".encode())
        for part in (*parts, torch.nonzero(asked_BT[row]).flatten()):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part.to(torch.int32).numpy().data)
        keys.append(digest.hexdigest()[:32])
    return tuple(keys)
