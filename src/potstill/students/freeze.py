"""Parts of a student that do not learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn

from potstill.core.errors import ModelError
from potstill.students.layouts import body_of, layout_of
from potstill.students.pooled import config_of

Part = Literal["embeddings", "positions", "body", "head"]


def freeze(module: nn.Module, parts: Sequence[Part]) -> tuple[str, ...]:
    """Stop the gradient of the named parts and return the names of their weights.

    embeddings: the tables (and their norm, where it belongs to them). positions: the learnt position table alone. body:
    all else of the base model. head: all outside of it. A table tied to the output layer is one weight: freezing either
    freezes both. Raises ModelError when nothing would be left to learn, or when there is no position table.
    """
    positions = _positions(module) if "positions" in parts else None
    frozen = []
    for name, weight in module.named_parameters():
        if weight is positions or part_of(module, weight) in parts:
            weight.requires_grad_(False)
            frozen.append(name)
    if not any(weight.requires_grad for weight in module.parameters()):
        raise ModelError(f"freeze: {', '.join(parts)} leaves nothing to learn: freeze fewer parts")
    return tuple(frozen)


def _positions(module: nn.Module) -> nn.Parameter:
    path = layout_of(module).positions
    if path is None:
        raise ModelError(
            f"freeze: positions: a `{config_of(module).model_type}` model has no learnt position table: remove it"
        )
    return body_of(module).get_parameter(path)


def names_of(module: nn.Module, part: Part) -> tuple[str, ...]:
    """The names of the weights of one part."""
    return tuple(name for name, weight in module.named_parameters() if part_of(module, weight) == part)


def part_of(module: nn.Module, weight: nn.Parameter) -> Part:
    """Which part of the model a weight belongs to; a position table is one of the embeddings."""
    body = body_of(module)
    if any(weight is one for path in layout_of(module).embeddings for one in body.get_submodule(path).parameters()):
        return "embeddings"
    return "body" if any(weight is one for one in body.parameters()) else "head"
