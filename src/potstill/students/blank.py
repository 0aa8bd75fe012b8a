"""A module of the same class from an edited config, before it has its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedModel

from potstill.students.layouts import edited
from potstill.students.pooled import has_pooler


def blank(module: PreTrainedModel, changes: Mapping[str, Any], *, device: str | torch.device) -> PreTrainedModel:
    """Weights are fresh, or none at all on the device "meta". It has a first-token pooler where `module` has one.

    The global generator is untouched.
    """
    options: dict[str, Any] = {}
    if has_pooler(type(module)):
        options["add_pooling_layer"] = any(name.startswith("pooler.") for name in module.state_dict())
    with torch.random.fork_rng(devices=[]), torch.device(device):
        return type(module)(edited(module.config, changes), **options)
