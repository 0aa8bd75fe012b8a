"""Bytes of one step in every form a signal can have: arithmetic on shapes, before a teacher or a tensor is there.

The formula is KDFlow's (arXiv 2603.01875): positions * vocabulary * bytes for logits, positions * width *
bytes for last states; the frame around it is counted too, from the layout that the wire itself uses. GB are 10^9 bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from potstill.teachers.forms import FORMS, Form
from potstill.teachers.framing import WIDTHS, Listed, whole_bytes

# Of fp32, what `hidden-int8` loses is measured at this width and below (docs/results/wire.md).
INT8_MEASURED_TO = 640
_FLOATS = {8: "F64", 4: "F32", 2: "BF16"}


@dataclass(frozen=True, slots=True)
class StepShape:
    """One step of one teacher. asked: positions of each row with a weight, length when all have one. top_k: entries of
    the form `top-k`. spoken_bytes: of one logit as the teacher speaks it."""

    batch: int
    length: int
    vocabulary: int
    width: int
    top_k: int = 64
    spoken_bytes: int = 2
    asked: int | None = None

    @property
    def positions(self) -> int:
        """Positions that are asked about, over all rows."""
        return self.batch * (self.length if self.asked is None else self.asked)


@dataclass(frozen=True, slots=True)
class Price:
    """payload: bytes of the numbers alone. frame: with header and filling, as a socket counts them."""

    form: Form
    payload: int
    frame: int


Reason = tuple[Form, str]


def prices(shape: StepShape) -> list[Price]:
    """Every form of the main part, dearest first."""
    found = [Price(form, _payload(form, shape), _frame(form, shape)) for form in FORMS if FORMS[form].says != "layers"]
    return sorted(found, key=lambda price: -price.payload)


def price(form: Form, shape: StepShape) -> Price:
    """One form."""
    return Price(form, _payload(form, shape), _frame(form, shape))


def chosen(shape: StepShape, *, wants: Literal["all", "top-k"] = "all", open_weights: bool = True) -> Reason:
    """The form to take, and why. wants: what the objective learns from. open_weights: can the head be had?"""
    if not open_weights:
        return "top-k", "a teacher behind an API gives nothing else"
    if wants == "top-k" and price("top-k", shape).payload <= price("hidden-int8", shape).payload:
        return "top-k", f"the objective learns from the {shape.top_k} largest entries only, so nothing is lost"
    if shape.vocabulary <= shape.width:
        return "logits", f"{shape.vocabulary:,} logits are fewer than {shape.width:,} states"
    if shape.width <= INT8_MEASURED_TO:
        return "hidden-int8", "the smallest form that keeps the whole distribution, about as exact as bf16 logits"
    return (
        "hidden-bf16",
        f"exact to 1e-4 nats; int8 would halve it, but is measured up to width {INT8_MEASURED_TO} only",
    )


def sized(count: float) -> str:
    """Bytes for a person: three digits, powers of ten."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            digits = 2 if count < 9.995 * size else 1 if count < 99.95 * size else 0
            return f"{count / size:.{digits}f} {unit}"
    return f"{count:.0f} bytes"


def _tensors(form: Form, shape: StepShape) -> Listed:
    asked, says, bits = shape.positions, FORMS[form].says, FORMS[form].bits
    if says == "logits":
        return [("logits", _FLOATS[bits // 8 if bits else shape.spoken_bytes], (asked, shape.vocabulary))]
    if form == "hidden-int8":
        return [("states", "I8", (asked, shape.width)), ("scales", "F16", (asked,))]
    if says == "hidden":
        return [("states", _FLOATS[(bits or 32) // 8], (asked, shape.width))]
    index, k = "U16" if shape.vocabulary <= 1 << 16 else "I32", min(shape.top_k, shape.vocabulary)
    return [("indices", index, (asked, k)), ("logprobs", "F16", (asked, k)), ("tail", "F16", (asked,))]


def _payload(form: Form, shape: StepShape) -> int:
    return sum(math.prod(size) * WIDTHS[dtype] for _, dtype, size in _tensors(form, shape))


def _frame(form: Form, shape: StepShape) -> int:
    """The frame with stand-ins as long as what they stand for: hashes, counts, the name of a norm."""
    says, listed = FORMS[form].says, _tensors(form, shape)
    asked = shape.length if shape.asked is None else shape.asked
    meta = {
        "teacher": {
            "weights": "0" * 64, "tokenizer": "0" * 64, "vocabulary_size": shape.vocabulary,
            "norm": "LlamaRMSNorm(eps=1e-05)", "scale": 1.0, "softcap": None,
        },
        "form": form,
        "temperature": 1.0,
        "support": shape.top_k if says == "top-k" else shape.vocabulary,
        "head": "0" * 64 if says == "hidden" else None,
        "hidden": [],
        "attentions": [],
        "rows": ["0" * 32] * shape.batch,
        "asked": [asked] * shape.batch,
        "read": [shape.length] * shape.batch,
    }  # fmt: skip
    return whole_bytes("signal", meta, listed)
