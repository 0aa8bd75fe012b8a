"""From a signal to a frame and back: the same bytes on a wire and in a store.

Only what an objective can read is sent: last states, top entries and logits at the positions with a weight, layer
states at the tokens that are no padding, attention maps among them. Everything is laid row behind row along the first
axis, so a frame of many rows can be cut into frames of one (`rows_of`), and those be read as if they had come together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from potstill.core.batch import Batch
from potstill.core.errors import SignalError
from potstill.core.signal import DenseLogits, HeadedStates, Signal
from potstill.teachers import spoken, tapped
from potstill.teachers.check import KIND, check_frame
from potstill.teachers.forms import FORMS
from potstill.teachers.packing import Packing, row_keys
from potstill.teachers.wire import Frame


def pack(signal: Signal, batch: Batch, packing: Packing) -> Frame:
    """The frame of a batch's signal.

    Raises SignalError when the signal is another teacher's, lacks what the form says, or holds NaN or infinities where
    it would be sent (`unsound` tells beforehand).
    """
    if signal.voice != packing.identity.voice:
        raise SignalError(
            f"teacher {signal.voice.teacher} spoke and {packing.identity.voice.teacher} was announced: name the "
            "teacher that speaks"
        )
    if wrong := unsound(signal, batch):
        raise SignalError(f"the teacher's {wrong}: nothing was sent; look at the teacher")
    asked_BT, read_BL = batch.weights["soft"] != 0, batch.attention_BL
    says = FORMS[packing.form].says
    tensors = spoken.to_tensors(signal.logits, asked_BT, packing) if says != "layers" else {}
    tensors |= tapped.to_tensors(signal, read_BL, packing)
    if any(tensor.is_floating_point() and _overflown(name, tensor) for name, tensor in tensors.items()):
        raise SignalError(
            f"what the teacher says is beyond the range of form {packing.form}: nothing was sent; take a form in bf16 "
            "or fp32"
        )
    meta = {
        **packing.as_meta(),
        "rows": list(row_keys(batch)),
        "asked": asked_BT.sum(1).tolist(),
        "read": read_BL.sum(1).tolist(),
    }
    return Frame(KIND, meta, {name: tensor.cpu() for name, tensor in tensors.items()})


def unpack(frames: Frame | Sequence[Frame], batch: Batch, packing: Packing) -> Signal:
    """The signal of `batch` from its frame, or from frames whose rows, in order, are those of the batch.

    Positions that nobody asked about hold zeros, which no objective reads. Last states come in fp32, or in the dtype of
    the head where that is the form's. Raises SignalError when a frame says anything else than `packing`, answers other
    rows, or holds numbers that no teacher can have meant.
    """
    parts = [frames] if isinstance(frames, Frame) else list(frames)
    for part in parts:
        check_frame(part, packing)
    _answers(parts, batch)
    tensors = {name: _joined([part.tensors[name] for part in parts], batch) for name in parts[0].tensors}
    asked_BT, read_BL = batch.weights["soft"] != 0, batch.attention_BL
    return Signal(
        voice=packing.identity.voice,
        logits=spoken.from_tensors(tensors, asked_BT, packing),
        hidden=tapped.hidden_of(tensors, read_BL, packing) if packing.hidden_layers else None,
        attentions=tapped.attentions_of(tensors, read_BL, packing) if packing.attention_layers else None,
    )


def rows_of(frame: Frame) -> list[Frame]:
    """The same signal, one frame a row. Tensors are views."""
    meta = frame.meta
    found, starts = [], dict.fromkeys(frame.tensors, 0)
    for key, asked, read in zip(meta["rows"], meta["asked"], meta["read"], strict=True):
        tensors = {}
        for name, tensor in frame.tensors.items():
            count = _share(name, tensor, meta, asked, read)
            tensors[name] = tensor[starts[name] : starts[name] + count]
            starts[name] += count
        found.append(Frame(frame.kind, {**meta, "rows": [key], "asked": [asked], "read": [read]}, tensors))
    return found


def unsound(signal: Signal, batch: Batch) -> str | None:
    """What is not finite in what would be sent, in words; None when all is well."""
    asked_BT, read_BL, said = batch.weights["soft"] != 0, batch.attention_BL, signal.logits
    found: list[tuple[str, Tensor]] = []
    if isinstance(said, DenseLogits):
        found.append(("logits are not finite", said.logits_BTV[asked_BT]))
    elif isinstance(said, HeadedStates):
        found.append(("last states are not finite", said.states_BTD[asked_BT]))
    elif said is not None:
        found.append(("log-probabilities are not numbers", said.logprobs_BTK[asked_BT].exp()))
    for layer, states in (signal.hidden.layers if signal.hidden else {}).items():
        found.append((f"states of layer {layer} are not finite", states[read_BL]))
    for layer, maps in (signal.attentions.layers if signal.attentions else {}).items():
        found.append((f"attentions of block {layer} are not finite", maps.movedim(1, 3)[read_BL]))
    return next((name for name, tensor in found if not bool(torch.isfinite(tensor).all())), None)


def _overflown(name: str, tensor: Tensor) -> bool:
    """Did rounding make an infinity? That of a log-probability is a mass of zero."""
    return name not in ("logprobs", "tail") and not bool(torch.isfinite(tensor).all())


def _answers(parts: Sequence[Frame], batch: Batch) -> None:
    """Do these frames answer exactly these rows?"""
    keys = [key for part in parts for key in part.meta["rows"]]
    if keys != list(row_keys(batch)):
        wrong = sum(one != other for one, other in zip(keys, row_keys(batch), strict=False))
        raise SignalError(
            f"the answer is for {len(keys)} rows and {len(batch.ids)} were asked about; {wrong} of those present are "
            "others: it belongs to another batch, data set or tokenizer; ask again"
        )
    asked = [count for part in parts for count in part.meta["asked"]]
    read = [count for part in parts for count in part.meta["read"]]
    if asked != (batch.weights["soft"] != 0).sum(1).tolist() or read != batch.attention_BL.sum(1).tolist():
        raise SignalError("the answer has another number of positions than was asked about: it was cut; ask again")


def _joined(tensors: Sequence[Tensor], batch: Batch) -> Tensor:
    return (tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))).to(batch.tokens_BL.device)


def _share(name: str, tensor: Tensor, meta: Mapping[str, Any], asked: int, read: int) -> int:
    """How much of a tensor's first axis belongs to a row."""
    if name.startswith("hidden."):
        return read
    if name.startswith("attention."):
        squares = sum(length * length for length in meta["read"])
        return len(tensor) // max(squares, 1) * read * read
    return asked
