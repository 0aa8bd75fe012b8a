"""Smaller models cut from larger ones: blocks, feed-forward neurons, positions.

Each function returns a new module of the same class, built from an edited config and rows of the old weights, so what
it returns is by construction what a reload of its saved folder returns. The module given is never changed.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from potstill.core.errors import ModelError
from potstill.students.blank import blank
from potstill.students.cut import Kept, cut_state
from potstill.students.layer_map import checked
from potstill.students.layouts import Layout, blocks_of, layout_of, prefix_of, value_of
from potstill.students.pooled import MeanPooledClassifier

# Config values with one entry per block: they must follow the blocks that stay.
_PER_BLOCK = ("layer_types", "no_rope_layers")


def rebuild(module: PreTrainedModel, changes: Mapping[str, Any], state: Mapping[str, Tensor]) -> PreTrainedModel:
    """A module of the same class from an edited config and a complete state. The global generator is untouched."""
    other = blank(module, changes, device="cpu")
    other = other.to(device=module.device, dtype=module.dtype)
    other.load_state_dict(dict(state), strict=True)
    other.tie_weights()
    other.set_attn_implementation(module.config._attn_implementation)
    if module.can_generate():
        other.generation_config = copy.deepcopy(module.generation_config)
    return other.train(module.training)


def keep_layers(module: nn.Module, layers: Sequence[int]) -> nn.Module:
    """The module with only these blocks, zero-based and increasing; the weights that stay are bitwise the same.

    Raises ModelError: a block out of range, repeated or out of order; an architecture that is not known; attention
    scaled by the index of the block, which would change.
    """
    if isinstance(module, MeanPooledClassifier):
        return module.with_encoder(keep_layers(module.encoder, layers))
    kept = checked(layers, len(blocks_of(module)))
    if getattr(module.config, "scale_attn_by_inverse_layer_idx", False):
        raise ModelError(
            f"{type(module).__name__}: attention is scaled by the index of the block "
            "(scale_attn_by_inverse_layer_idx), so blocks cannot move: choose another model"
        )
    changes: dict[str, Any] = {"num_hidden_layers": len(kept)}
    for name in _PER_BLOCK:
        values = getattr(module.config, name, None)
        if values is not None:
            changes[name] = [values[layer] for layer in kept]
    start = f"{prefix_of(module)}{layout_of(module).blocks}."
    place = {layer: index for index, layer in enumerate(kept)}
    state: dict[str, Tensor] = {}
    for name, tensor in module.state_dict().items():
        if not name.startswith(start):
            state[name] = tensor
            continue
        layer, rest = name.removeprefix(start).split(".", 1)
        if int(layer) in place:
            state[f"{start}{place[int(layer)]}.{rest}"] = tensor
    return rebuild(module, changes, state)


def neuron_scores(module: nn.Module) -> tuple[Float[Tensor, " F"], ...]:
    """Importance of each feed-forward neuron, per block: product of the norms of its weights in and out.

    For neuron j, ||W1[j, :]|| * ||W2[:, j]||; a gated layer has two matrices in, and both norms count. Scores of
    different blocks are not comparable, and are never compared: every block keeps the same number.
    """
    layout = layout_of(module)
    scores = []
    for block in blocks_of(module):
        score = _norms(block, layout.down, layout, out=False)
        for path in layout.up:
            score = score * _norms(block, path, layout, out=True)
        scores.append(score)
    return tuple(scores)


def keep_neurons(module: nn.Module, count: int, scores: Sequence[Float[Tensor, " F"]] | None = None) -> nn.Module:
    """The module with the `count` best neurons of every block, in their old order. scores: by default neuron_scores.

    Deleting a neuron equals holding it at zero. Raises ModelError when count is not below the present number.
    """
    if isinstance(module, MeanPooledClassifier):
        return module.with_encoder(keep_neurons(module.encoder, count, scores))
    scores = neuron_scores(module) if scores is None else scores
    present = len(scores[0])
    if not 1 <= count < present:
        raise ModelError(f"intermediate_size: {count} cannot be cut from {present}: use 1 to {present - 1}")
    kept = [best(score, count) for score in scores]
    return rebuild(module, {"intermediate_size": count}, cut_state(module, Kept(neurons=kept)))


def best(scores: Float[Tensor, " U"], count: int) -> tuple[int, ...]:
    """Places of the `count` highest scores, increasing; of equal ones the first. Raises ModelError: not a number."""
    if bool(scores.isnan().any()):
        raise ModelError("a score is not a number: look at the calibration rows, or at weights that are not finite")
    return tuple(scores.argsort(descending=True, stable=True)[:count].sort().values.tolist())


def cut_positions(module: nn.Module, count: int) -> nn.Module:
    """The module with a learnt position table for `count` tokens.

    Raises ModelError when positions are not a table (rotary models have none to cut) or fewer than asked for.
    """
    if isinstance(module, MeanPooledClassifier):
        return module.with_encoder(cut_positions(module.encoder, count))
    layout = layout_of(module)
    if layout.positions is None:
        raise ModelError(
            f"max_positions: a `{module.config.model_type}` model has no learnt position table to cut: "
            "remove max_positions, and set data.max_length instead"
        )
    offset = first_position(module)
    present = value_of(module.config, "max_position_embeddings") - offset
    if count > present:
        raise ModelError(f"max_positions: {count} is more than the model's {present}: use at most {present}")
    state = dict(module.state_dict())
    name = prefix_of(module) + layout.positions
    state[name] = state[name][: count + offset]
    return rebuild(module, {"max_position_embeddings": count + offset}, state)


def first_position(module: nn.Module) -> int:
    """Row of the position table that the first token uses: RoBERTa's begins after its padding index."""
    return module.config.pad_token_id + 1 if layout_of(module).padding_offset else 0


def _norms(block: nn.Module, path: str, layout: Layout, *, out: bool) -> Float[Tensor, " F"]:
    weight = block.get_submodule(path).weight.detach().float()
    rows_are_outputs = out != layout.transposed
    return weight.norm(dim=1 if rows_are_outputs else 0)
