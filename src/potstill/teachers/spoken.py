"""The main part of a signal, in any form, as tensors of one line per position that was asked about; and back."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from potstill.core.errors import SignalError
from potstill.core.shapes import MaskBL
from potstill.core.signal import DenseLogits, HeadedStates, SparseLogprobs
from potstill.divergences.sparse import top_k
from potstill.teachers.forms import FORMS
from potstill.teachers.int8 import dequantise, quantise
from potstill.teachers.packing import Packing

Said = DenseLogits | SparseLogprobs | HeadedStates | None

DTYPES: Mapping[str, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# Whole logits are made of states in pieces of this many positions where top entries are wanted.
PIECE = 128


def to_tensors(said: Said, asked_BT: MaskBL, packing: Packing) -> dict[str, Tensor]:
    """What is sent of last states, logits or top entries. Raises SignalError when the form cannot be made of them."""
    form, says = packing.form, FORMS[packing.form].says
    if says == "hidden":
        if not isinstance(said, HeadedStates):
            raise SignalError(
                f"form {form} needs last states and the teacher sends {type(said).__name__}: ask for them"
            )
        states_ND = said.states_BTD[asked_BT]
        if form != "hidden-int8":
            return {"states": states_ND.to(DTYPES[form.removeprefix("hidden-")])}
        codes, scales = quantise(states_ND, _channels(packing).to(states_ND.device))
        return {"states": codes, "scales": scales}
    if says == "logits":
        logits_NV = _whole(said, asked_BT, packing)
        return {"logits": logits_NV if form == "logits" else logits_NV.to(DTYPES[form.removeprefix("logits-")])}
    return _top(said, asked_BT, packing)


def _whole(said: Said, asked_BT: MaskBL, packing: Packing) -> Float[Tensor, "N V"]:
    if isinstance(said, DenseLogits):
        return said.logits_BTV[asked_BT]
    if isinstance(said, HeadedStates):
        return said.head.logits(said.states_BTD[asked_BT])
    raise SignalError(
        f"form {packing.form} needs whole logits and the teacher sends {type(said).__name__}: ask for them"
    )


def _top(said: Said, asked_BT: MaskBL, packing: Packing) -> dict[str, Tensor]:
    """fp16 and not bf16: log-probabilities fit its range, and it has three bits more in the same two bytes."""
    k, temperature = packing.top_k or 0, packing.temperature
    if isinstance(said, SparseLogprobs):
        if (said.temperature, said.logprobs_BTK.shape[-1]) != (temperature, k):
            raise SignalError(
                f"the teacher's {said.logprobs_BTK.shape[-1]} entries at temperature {said.temperature} are not the "
                f"{k} at {temperature} that were agreed on: ask for those"
            )
        indices, logprobs, tail = said.indices_BTK[asked_BT], said.logprobs_BTK[asked_BT], said.log_tail_BT[asked_BT]
    else:
        rows = said.states_BTD[asked_BT] if isinstance(said, HeadedStates) else _whole(said, asked_BT, packing)
        pieces = [
            top_k(said.head.logits(part) if isinstance(said, HeadedStates) else part, k=k, temperature=temperature)
            for part in rows.unsqueeze(0).split(PIECE, dim=1)
        ]
        indices = torch.cat([one.indices_BTK for one in pieces], 1)[0]
        logprobs = torch.cat([one.logprobs_BTK for one in pieces], 1)[0]
        tail = torch.cat([one.log_tail_BT for one in pieces], 1)[0]
    narrow = packing.identity.vocabulary_size <= 1 << 16
    return {
        "indices": indices.to(torch.uint16 if narrow else torch.int32),
        "logprobs": logprobs.half(),
        "tail": tail.half(),
    }


def from_tensors(tensors: Mapping[str, Tensor], asked_BT: MaskBL, packing: Packing) -> Said:
    """The main part of a signal, once `check_frame` has passed its tensors."""
    says = FORMS[packing.form].says
    if says == "hidden":
        head = packing.head
        assert head is not None, "a Packing of last states has a head"
        if packing.form == "hidden-int8":
            channels_D = _channels(packing).to(tensors["states"].device)
            states = dequantise(tensors["states"], tensors["scales"], channels_D)
        else:
            states = tensors["states"]
            states = states if states.dtype == head.head.weight_VD.dtype else states.float()
        return HeadedStates(spread(states, asked_BT), head.head)
    if says == "logits":
        return DenseLogits(spread(tensors["logits"], asked_BT))
    if says == "top-k":
        return SparseLogprobs(
            indices_BTK=spread(tensors["indices"].long(), asked_BT),
            logprobs_BTK=spread(tensors["logprobs"].float(), asked_BT),
            log_tail_BT=spread(tensors["tail"].float(), asked_BT),
            temperature=packing.temperature,
        )
    return None


def spread(values_N: Tensor, chosen: Tensor) -> Tensor:
    """[N, ...] back to [B, T, ...], zeros elsewhere."""
    whole = values_N.new_zeros((*chosen.shape, *values_N.shape[1:]))
    whole[chosen] = values_N
    return whole


def _channels(packing: Packing) -> Float[Tensor, " D"]:
    assert packing.head is not None, "a Packing of last states has a head"
    assert packing.head.channels_D is not None, "a Packing of int8 has its scales"
    return packing.head.channels_D
