"""The shape of a student that is made smaller, by arithmetic on the settings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from potstill.compress.settings import CompressSettings
from potstill.students.shape import ModelShape


def trained_shape(shape: ModelShape, settings: CompressSettings | None) -> ModelShape:
    """What is trained: the student after compress.prune. Shares are floor(share n); what a config cannot say is
    rounded up when the weights are there, so this is the least."""
    prune = settings.prune if settings else None
    if prune is None:
        return shape
    present = {"neurons": shape.intermediate, "heads": shape.heads, "groups": shape.kv_heads}
    present |= {"width": shape.hidden, "blocks": shape.layers}
    left = {unit: max(1, present[unit] - math.floor(share * present[unit])) for unit, share in prune.remove.items()}
    return _with(shape, {**left, **prune.keep})


def leaving_shape(shape: ModelShape, settings: CompressSettings | None) -> ModelShape:
    """What leaves: less than is trained where compress.movement says how many units stay; what its scores decide is
    not known before."""
    trained = trained_shape(shape, settings)
    movement = settings.movement if settings else None
    return trained if movement is None else _with(trained, movement.keep)


def _with(shape: ModelShape, kept: Mapping[str, int]) -> ModelShape:
    groups = kept.get("groups", shape.kv_heads)
    heads = kept.get("heads", groups * (shape.heads // shape.kv_heads))
    return replace(
        shape,
        layers=kept.get("blocks", shape.layers),
        hidden=kept.get("width", shape.hidden),
        heads=heads,
        kv_heads=heads if shape.kv_heads == shape.heads else groups,
        intermediate=kept.get("neurons", shape.intermediate),
    )
