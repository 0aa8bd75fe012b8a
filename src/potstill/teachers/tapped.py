"""Layer states and attention maps without their padding, as one dense tensor a layer; and back."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from potstill.core.errors import SignalError
from potstill.core.shapes import MaskBL
from potstill.core.signal import Attentions, HiddenStates, Signal
from potstill.teachers.forms import FORMS
from potstill.teachers.packing import Packing
from potstill.teachers.spoken import DTYPES, spread


def to_tensors(signal: Signal, read_BL: MaskBL, packing: Packing) -> dict[str, Tensor]:
    """States of the tokens that are read, and maps among them, [H, L, L] of each row flattened one behind the other."""
    precision = FORMS[packing.form].layers
    found: dict[str, Tensor] = {}
    for layer in packing.hidden_layers:
        if signal.hidden is None or layer not in signal.hidden.layers:
            raise SignalError(f"layer {layer} is to be sent and the teacher left it out: ask for it")
        found[f"hidden.{layer}"] = signal.hidden.layers[layer][read_BL]
    for block in packing.attention_layers:
        if signal.attentions is None or block not in signal.attentions.layers:
            raise SignalError(
                f"the attentions of block {block} are to be sent and the teacher left them out: ask for them"
            )
        maps, lengths = signal.attentions.layers[block], read_BL.sum(1).tolist()
        found[f"attention.{block}"] = torch.cat(
            [one[:, :length, :length].flatten() for one, length in zip(maps, lengths, strict=True)]
        )
    return {name: tensor if precision is None else tensor.to(DTYPES[precision]) for name, tensor in found.items()}


def hidden_of(tensors: Mapping[str, Tensor], read_BL: MaskBL, packing: Packing) -> HiddenStates:
    """[B, L, D] of each layer, zeros at padding."""
    return HiddenStates({layer: spread(tensors[f"hidden.{layer}"], read_BL) for layer in packing.hidden_layers})


def attentions_of(tensors: Mapping[str, Tensor], read_BL: MaskBL, packing: Packing) -> Attentions:
    """[B, H, L, L] of each block, zeros wherever a token is padding."""
    lengths, found = read_BL.sum(1).tolist(), {}
    squares = [length * length for length in lengths]
    for block in packing.attention_layers:
        flat = tensors[f"attention.{block}"]
        heads = len(flat) // max(sum(squares), 1)
        whole = flat.new_zeros((len(lengths), heads, read_BL.shape[1], read_BL.shape[1]))
        for row, part in enumerate(flat.split([heads * square for square in squares])):
            whole[row, :, : lengths[row], : lengths[row]] = part.reshape(heads, lengths[row], lengths[row])
        found[block] = whole
    return Attentions(found)
