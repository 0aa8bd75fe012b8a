"""Is this frame the answer that was agreed on, and can a teacher have meant its numbers? Before any of them is used."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from potstill.core.errors import SignalError
from potstill.teachers.forms import FORMS
from potstill.teachers.identity import Identity
from potstill.teachers.packing import Packing
from potstill.teachers.spoken import DTYPES
from potstill.teachers.wire import Frame

KIND = "signal"
_ROWS = {"rows", "asked", "read"}
_KEY = re.compile(r"[0-9a-f]{32}")
_AGAIN = "refuse this teacher, or ask again"
# fp16 keeps a log-probability to 1 part in 2048, so the mass of a distribution to well within this.
MASS_TOLERANCE = 0.01


def check_frame(frame: Frame, packing: Packing) -> None:
    """Raises SignalError when the frame is by another teacher, in another form, or its tensors do not fit the rows it
    announces or hold NaN, infinities, entries outside the vocabulary, unsorted or doubled top entries."""
    if frame.kind != KIND:
        raise SignalError(f"a signal was expected and a `{frame.kind}` came: {_AGAIN}")
    _check_terms(frame.meta, packing)
    rows, asked, read = (frame.meta[name] for name in ("rows", "asked", "read"))
    if not all(isinstance(key, str) and _KEY.fullmatch(key) for key in _list(rows)):
        raise SignalError(f"the answer does not say which rows it is for: {_AGAIN}")
    for counts in (asked, read):
        if len(_list(counts)) != len(rows) or not all(type(one) is int and 0 <= one < 1 << 31 for one in counts):
            raise SignalError(f"the answer does not say how many positions each of its rows has: {_AGAIN}")
    expected = _expected(packing, sum(asked), sum(read), sum(length * length for length in read))
    if frame.tensors.keys() != expected.keys():
        raise SignalError(f"the answer holds {sorted(frame.tensors)} and {sorted(expected)} were agreed on: {_AGAIN}")
    for name, (dtype, shape) in expected.items():
        _check_tensor(name, frame.tensors[name], dtype, shape)
    if FORMS[packing.form].says == "top-k":
        _check_entries(frame.tensors, packing.identity.vocabulary_size)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [None]


def _check_terms(meta: Mapping[str, Any], packing: Packing) -> None:
    terms = packing.as_meta()
    if meta.keys() != terms.keys() | _ROWS:
        raise SignalError(f"the answer says {sorted(meta)} of itself, not {sorted(terms.keys() | _ROWS)}: {_AGAIN}")
    packing.identity.refuse_another(Identity.from_meta(meta["teacher"]), "the answer")
    for name, value in terms.items():
        if name != "teacher" and (meta[name] != value or type(meta[name]) is not type(value)):
            raise SignalError(f"the answer has {name} {str(meta[name])[:80]} and {value} was agreed on: {_AGAIN}")


def _expected(
    packing: Packing, asked: int, read: int, squares: int
) -> dict[str, tuple[torch.dtype | None, tuple[int | None, ...]]]:
    """dtype and shape of each tensor; None where any will do."""
    row, size = FORMS[packing.form], packing.identity.vocabulary_size
    found: dict[str, tuple[torch.dtype | None, tuple[int | None, ...]]] = {}
    if row.says == "hidden":
        assert packing.head is not None, "a Packing of last states has a head"
        width = packing.head.width
        if packing.form == "hidden-int8":
            found |= {"states": (torch.int8, (asked, width)), "scales": (torch.float16, (asked,))}
        else:
            found["states"] = (DTYPES[packing.form.removeprefix("hidden-")], (asked, width))
    elif row.says == "logits":
        found["logits"] = (DTYPES.get(packing.form.removeprefix("logits-")), (asked, size))
    elif row.says == "top-k":
        indices = torch.uint16 if size <= 1 << 16 else torch.int32
        found |= {
            "indices": (indices, (asked, packing.top_k)),
            "logprobs": (torch.float16, (asked, packing.top_k)),
            "tail": (torch.float16, (asked,)),
        }
    layers = None if row.layers is None else DTYPES[row.layers]
    found |= {f"hidden.{layer}": (layers, (read, None)) for layer in packing.hidden_layers}
    # Any number of heads, as long as it is whole; none at all would leave nothing to divide by.
    found |= {f"attention.{block}": (layers, (-squares,)) for block in packing.attention_layers}
    return found


def _check_tensor(name: str, tensor: Tensor, dtype: torch.dtype | None, shape: tuple[int | None, ...]) -> None:
    fits = tensor.dim() == len(shape)
    for found, wanted in zip(tensor.shape, shape, strict=False):
        multiple = wanted is not None and wanted < 0
        fits &= wanted is None or (found % -wanted == 0 if multiple else found == wanted)
    fits &= tensor.is_floating_point() if dtype is None else tensor.dtype == dtype
    if not fits:
        raise SignalError(
            f"the answer's `{name}` is {tensor.dtype} {list(tensor.shape)}, and {dtype or 'any float'} {list(shape)} "
            f"was agreed on: {_AGAIN}"
        )
    if not tensor.is_floating_point():
        return
    mass = name in ("logprobs", "tail")
    wrong = torch.isnan(tensor) | (tensor > 0) if mass else ~torch.isfinite(tensor)
    if bool(wrong.any()) or (name == "scales" and bool((tensor <= 0).any())):
        kind = "NaN or above 0" if mass else "not finite, or a scale that is not above 0"
        raise SignalError(f"the answer's `{name}` holds numbers that are {kind}: {_AGAIN}")


def _check_entries(tensors: Mapping[str, Tensor], size: int) -> None:
    """Entries of the vocabulary, each once, most likely first, and a mass of one with the tail."""
    indices, logprobs = tensors["indices"].long(), tensors["logprobs"].float()
    if not indices.numel():
        return
    if int(indices.min()) < 0 or int(indices.max()) >= size:
        raise SignalError(f"the answer names entries beyond the teacher's {size}: {_AGAIN}")
    if bool((logprobs[:, 1:] > logprobs[:, :-1]).any()):
        raise SignalError(f"the answer's top entries do not come most likely first: {_AGAIN}")
    ordered = indices.sort(dim=1).values
    if bool((ordered[:, 1:] == ordered[:, :-1]).any()):
        raise SignalError(f"the answer names an entry twice at one position: {_AGAIN}")
    mass = logprobs.exp().sum(1) + tensors["tail"].float().exp()
    if bool(((mass - 1).abs() > MASS_TOLERANCE).any()):
        raise SignalError(f"the answer's top entries and tail have a mass of {float(mass[0]):.3f}, not 1: {_AGAIN}")
