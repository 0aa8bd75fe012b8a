"""The forms in which a teacher's signal travels and is stored: a literal table, which `plan` prices. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Form = Literal[
    "hidden-fp32", "hidden-fp16", "hidden-bf16", "hidden-int8",
    "top-k",
    "logits", "logits-fp16", "logits-bf16",
    "layers-fp32", "layers-fp16", "layers-bf16",
]  # fmt: skip
Precision = Literal["fp32", "fp16", "bf16"]


@dataclass(frozen=True, slots=True)
class FormRow:
    """says: last states after the final norm (`hidden`), the k largest log-probabilities and the tail (`top-k`), whole
    logits (`logits`), or no logits at all (`layers`). layers: the precision of layer states and attention maps that an
    objective wants beside. bits: of one number of the main part; None where it is as the model speaks."""

    says: Literal["hidden", "top-k", "logits", "layers"]
    layers: Precision | None
    bits: int | None


FORMS: Mapping[Form, FormRow] = {
    "hidden-fp32": FormRow("hidden", "fp32", 32),
    "hidden-fp16": FormRow("hidden", "fp16", 16),
    "hidden-bf16": FormRow("hidden", "bf16", 16),
    "hidden-int8": FormRow("hidden", "bf16", 8),
    "top-k": FormRow("top-k", "bf16", 16),
    "logits": FormRow("logits", None, None),
    "logits-fp16": FormRow("logits", "fp16", 16),
    "logits-bf16": FormRow("logits", "bf16", 16),
    "layers-fp32": FormRow("layers", "fp32", 32),
    "layers-fp16": FormRow("layers", "fp16", 16),
    "layers-bf16": FormRow("layers", "bf16", 16),
}
