"""A plan carried out in two ways that give the same logits: units behind closed gates, or physically gone.

What is exact: neurons, heads, key-value groups and blocks add to the states, so a unit at zero is a unit that is not
there. Channels of the states do not: every norm divides by a mean over all of them, and one that is set to zero still
counts in it. `gated` therefore lets the norms see the channels that stay alone; with that the two are the same again,
but both differ from the model in which those channels are merely set to zero.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from potstill.compress.gates import heads_out, neurons_out, scale_input
from potstill.compress.plan import PrunePlan, check_fits
from potstill.students.axes import axes_of, changes_for, sizes_of, state_norms
from potstill.students.cut import Kept, cut_state
from potstill.students.layouts import blocks_of
from potstill.students.pooled import MeanPooledClassifier
from potstill.students.surgery import keep_layers, rebuild


def apply(module: nn.Module, plan: PrunePlan) -> nn.Module:
    """The smaller model: the same class with a smaller config, which transformers loads without code of ours.

    Weights that stay are bitwise the same; the module given is not changed.
    Raises ModelError: a plan for another model, blocks that cannot move.
    """
    check_fits(plan, module)
    if plan.after.depth < plan.before.depth:
        module = keep_layers(module, plan.blocks)
    kept = plan.kept()
    if isinstance(module, MeanPooledClassifier):
        return module.with_encoder(_cut(module.encoder, plan, kept), kept.width)
    return _cut(module, plan, kept)


def _cut(module: PreTrainedModel, plan: PrunePlan, kept: Kept) -> nn.Module:
    return rebuild(module, changes_for(module, plan.after), cut_state(module, kept))


def gated(module: nn.Module, plan: PrunePlan) -> nn.Module:
    """A copy of the whole model in which what the plan drops does nothing. For comparison and for training; it is not
    smaller, and its gates are hooks, which no saved folder holds.

    Raises ModelError: a plan for another model.
    """
    check_fits(plan, module)
    other = copy.deepcopy(module)
    kept = plan.kept()
    layer_of = {block: layer for layer, block in enumerate(plan.blocks)}
    for index, block in enumerate(blocks_of(other)):
        if index not in layer_of:
            block.register_forward_hook(_passes_on, with_kwargs=True)
            continue
        layer = plan.layers[layer_of[index]]
        if kept.neurons is not None:
            _close(neurons_out(block, other), layer.neurons, plan.before.neurons, 1)
        if kept.heads is not None:
            _close(heads_out(block, other), layer.heads, plan.before.heads, plan.before.head_size)
    if kept.width is not None:
        _close_channels(other, kept.width)
    return other


def _close(part: nn.Module, stay: Sequence[int], count: int, size: int) -> None:
    gate = torch.zeros(count).index_fill_(0, torch.tensor(stay), 1.0).repeat_interleave(size)
    scale_input(part, lambda read: gate.to(read))


def _passes_on(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> Any:
    """A block that is gone hands on the states that it was given."""
    states = inputs[0] if inputs else named["hidden_states"]
    return states if isinstance(output, Tensor) else (states, *output[1:])


def _close_channels(module: nn.Module, stay: Sequence[int]) -> None:
    """No weight writes into a channel that is gone, none reads from it, and no norm counts it."""
    axes, width = axes_of(module), sizes_of(module).width
    gone = torch.tensor(sorted(set(range(width)) - set(stay)))
    for norm in state_norms(module).values():
        _norm_over(norm, torch.tensor(stay))
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            for axis, role in enumerate(axes[name]):
                if role == "width":
                    parameter.index_fill_(axis, gone.to(parameter.device), 0.0)


def _norm_over(norm: nn.Module, stay: Int[Tensor, " K"]) -> None:
    """The norm of the channels that stay, and 0 in the others."""
    narrow = copy.deepcopy(norm)
    for name, weight in list(narrow.named_parameters()):
        setattr(narrow, name, nn.Parameter(weight.detach()[stay]))
    if isinstance(narrow, nn.LayerNorm):
        narrow.normalized_shape = (len(stay),)

    def over(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        places = stay.to(output.device)
        return torch.zeros_like(output).index_copy(-1, places, narrow(inputs[0].index_select(-1, places)))

    norm.register_forward_hook(over)
