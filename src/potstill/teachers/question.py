"""A question to a teacher elsewhere: the tokens of a batch, where it is asked, and in which form.

Only tokens travel to the teacher, no padding; of the answer only the positions that are weighed (teachers/codec.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from potstill.core.batch import Batch
from potstill.core.errors import SignalError
from potstill.core.task import Task
from potstill.teachers.forms import FORMS, Form
from potstill.teachers.head import KeptHead
from potstill.teachers.identity import Identity
from potstill.teachers.limits import Limits, Refused
from potstill.teachers.packing import Packing
from potstill.teachers.wire import Frame

KIND = "question"
MOST_LAYERS, LONGEST_ID = 64, 8192
_DTYPES = {"tokens": torch.int32, "lengths": torch.int32, "asked": torch.bool, "types": torch.int8}


@dataclass(frozen=True, slots=True)
class Facts:
    """What a service says of itself. model: a name for people. positions: what the model reads at most; None where it
    sets no bound. forms: those it can send.
    origin: source, revision and licence of the model, for the ledger of whoever learns from it."""

    model: str
    task: Task
    identity: Identity
    head: KeptHead | None
    positions: int | None
    forms: tuple[Form, ...]
    origin: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        """For `describe`, without the head itself."""
        return {
            "model": self.model,
            "task": self.task,
            "teacher": self.identity.voice.teacher,
            "identity": self.identity.as_meta(),
            "head": self.head.sha256 if self.head else None,
            "width": self.head.width if self.head else None,
            "positions": self.positions,
            "forms": list(self.forms),
            "origin": dict(self.origin),
        }


@dataclass(frozen=True, slots=True)
class Question:
    """What a service understood. The batch's `soft` weights are 1 where an answer is wanted. lengths: of its rows.
    one_position: a classifier answers once for a row."""

    batch: Batch
    packing: Packing
    lengths: tuple[int, ...]
    one_position: bool

    @property
    def tokens(self) -> int:
        """Tokens to read, padding not counted."""
        return sum(self.lengths)


def ask(batch: Batch, packing: Packing) -> Frame:
    """The question about a batch.

    Raises SignalError for rows that are not padded on the right: their padding could not be left out.
    """
    attention = batch.attention_BL.cpu()
    lengths, asked = attention.sum(1), (batch.weights["soft"] != 0).cpu()
    if not torch.equal(attention, torch.arange(attention.shape[1])[None] < lengths[:, None]):
        raise SignalError("rows with gaps or with padding on the left cannot be asked about: pad them on the right")
    one_position = asked.shape[1] == 1 and attention.shape[1] != 1
    tensors = {
        "tokens": batch.tokens_BL.cpu()[attention].to(torch.int32),
        "lengths": lengths.to(torch.int32),
        "asked": asked[:, 0] if one_position else asked[attention],
    }
    if batch.token_types_BL is not None:
        tensors["types"] = batch.token_types_BL.cpu()[attention].to(torch.int8)
    values = {
        "teacher": packing.identity.voice.teacher,
        "form": packing.form,
        "top_k": packing.top_k,
        "temperature": packing.temperature,
        "hidden": list(packing.hidden_layers),
        "attentions": list(packing.attention_layers),
        "ids": list(batch.ids),
    }
    return Frame(KIND, values, tensors)


def read(frame: Frame, facts: Facts, limits: Limits) -> Question:
    """What a frame asks.

    Raises Refused: 422 for what makes no sense, 413 for what is too much, 409 for a question to another teacher.
    """
    if frame.kind != KIND:
        raise Refused(422, "the frame is no question")
    if frame.meta.get("teacher") != (ours := facts.identity.voice.teacher):
        raise Refused(409, f"the question is meant for another teacher; this one is {ours}")
    packing = _packing(frame.meta, facts, limits)
    one_position = facts.task == "classify"
    lengths = _lengths(frame.tensors, facts, limits, one_position)
    ids = frame.meta.get("ids")
    if not isinstance(ids, list) or len(ids) != len(lengths):
        raise Refused(422, "there is not one id for each row")
    if not all(isinstance(one, str) and len(one) <= LONGEST_ID for one in ids):
        raise Refused(422, f"ids are texts of at most {LONGEST_ID} characters")
    batch = _batch(tuple(ids), lengths, frame.tensors, one_position)
    _refuse_large(batch, packing, facts, limits)
    return Question(batch, packing, tuple(lengths.tolist()), one_position)


def _packing(meta: Mapping[str, Any], facts: Facts, limits: Limits) -> Packing:
    form, k, temperature = meta.get("form"), meta.get("top_k"), meta.get("temperature")
    if form not in facts.forms:
        raise Refused(422, f"the form is not offered; this teacher sends: {', '.join(facts.forms)}")
    if k is not None and (type(k) is not int or not 1 <= k <= limits.max_top_k):
        raise Refused(422, f"top_k must be a whole number from 1 to {limits.max_top_k}")
    if type(temperature) not in (int, float) or not 0.01 <= cast("float", temperature) <= 1000:
        raise Refused(422, "temperature must be a number from 0.01 to 1000")
    layers = []
    for name in ("hidden", "attentions"):
        found = meta.get(name)
        if not isinstance(found, list) or len(found) > MOST_LAYERS or any(type(one) is not int for one in found):
            raise Refused(422, f"`{name}` must be a list of at most {MOST_LAYERS} whole numbers")
        layers.append(tuple(found))
    try:
        return Packing(
            cast("Form", form),
            facts.identity,
            facts.head if FORMS[cast("Form", form)].says == "hidden" else None,
            k,
            float(cast("float", temperature)),
            *layers,
        )
    except SignalError as error:
        raise Refused(422, str(error)) from error


def _lengths(tensors: Mapping[str, Tensor], facts: Facts, limits: Limits, one_position: bool) -> Tensor:
    """Lengths of the rows, when all tensors are as they must be."""
    if not {"tokens", "lengths", "asked"} <= tensors.keys() <= _DTYPES.keys():
        raise Refused(422, "a question has the tensors tokens, lengths, asked, and types where the model reads them")
    if any(tensor.dtype != _DTYPES[name] or tensor.dim() != 1 for name, tensor in tensors.items()):
        raise Refused(422, "a question's tensors are flat: int32 tokens and lengths, bool asked, int8 types")
    tokens, lengths, types = tensors["tokens"], tensors["lengths"], tensors.get("types")
    if len(lengths) > limits.max_rows or len(tokens) > limits.max_tokens:
        most = f"at most {limits.max_rows} and {limits.max_tokens} are taken: ask in smaller batches"
        raise Refused(413, f"{len(lengths)} rows of {len(tokens)} tokens; {most}")
    if not len(lengths) or int(lengths.min()) < 1 or int(lengths.long().sum()) != len(tokens):
        raise Refused(422, "the lengths do not add up to the tokens, or a row has none")
    longest = min(limits.max_positions, facts.positions or limits.max_positions)
    if int(lengths.max()) > longest:
        raise Refused(413, f"a row of {int(lengths.max())} tokens; this teacher reads at most {longest}")
    entries = facts.identity.vocabulary_size if not one_position else 2**31
    if int(tokens.min()) < 0 or int(tokens.max()) >= entries:
        raise Refused(422, f"token ids must lie in 0 to {entries - 1}")
    if len(tensors["asked"]) != len(lengths if one_position else tokens):
        raise Refused(422, "`asked` has one entry per row for a classifier, and one per token for a language model")
    if types is not None and (len(types) != len(tokens) or int(types.min()) < 0 or int(types.max()) > 1):
        raise Refused(422, "types are 0 or 1, one for each token")
    return lengths


def _batch(ids: tuple[str, ...], lengths: Tensor, tensors: Mapping[str, Tensor], one_position: bool) -> Batch:
    longest = int(lengths.max())
    attention = torch.arange(longest)[None] < lengths[:, None]

    def padded(flat: Tensor, kind: torch.dtype) -> Tensor:
        found = torch.zeros(attention.shape, dtype=kind)
        found[attention] = flat.to(kind)
        return found

    asked = tensors["asked"]
    weights = asked.float()[:, None] if one_position else padded(asked, torch.float32)
    return Batch(
        ids=ids,
        tokens_BL=padded(tensors["tokens"], torch.long),
        attention_BL=attention,
        targets_BT=torch.zeros(weights.shape, dtype=torch.long),
        weights={"soft": weights, "hard": torch.zeros_like(weights)},
        token_types_BL=padded(tensors["types"], torch.long) if "types" in tensors else None,
    )


def _refuse_large(batch: Batch, packing: Packing, facts: Facts, limits: Limits) -> None:
    """An answer that would be too large is refused before it is computed: whole logits of a large vocabulary."""
    asked, row = FORMS[packing.form], facts.identity.vocabulary_size
    bits = asked.bits or 32
    if asked.says == "hidden" and facts.head is not None:
        row = facts.head.width
    elif asked.says == "top-k":
        row, bits = packing.top_k or 1, 48
    elif asked.says == "layers":
        row = 0
    size = int(batch.weights["soft"].sum()) * row * bits // 8
    if size > limits.max_reply_bytes:
        raise Refused(
            413,
            f"the answer would have {size:,} bytes and at most {limits.max_reply_bytes:,} are sent: ask for last "
            "states or top-k in place of whole logits, or in smaller batches",
        )
