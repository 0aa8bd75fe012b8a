"""Masks: which weights are zero, and what keeps them so while an optimiser steps."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from potstill.core.errors import ModelError


@dataclass(frozen=True, slots=True)
class Masks:
    """kept: by parameter name, True where a weight stays; the mask has the parameter's shape. notes: what was asked
    for and could not be given, in words."""

    kept: Mapping[str, Tensor]
    notes: tuple[str, ...] = ()

    @property
    def zeros(self) -> int:
        """Weights that are masked out."""
        return sum(int((~mask).sum()) for mask in self.kept.values())

    @property
    def weights(self) -> int:
        """Weights that a mask is about."""
        return sum(mask.numel() for mask in self.kept.values())

    @property
    def sparsity(self) -> float:
        """Share of zeros among the weights that a mask is about, not among all weights of the model."""
        return self.zeros / self.weights if self.weights else 0.0

    def apply(self, module: nn.Module) -> None:
        """Set the masked weights of the module to zero, in place.

        Raises ModelError when a parameter is not there or has another shape.
        """
        for parameter, mask in self._pairs(module):
            with torch.no_grad():
                parameter.masked_fill_(~mask, 0.0)

    def hold(self, module: nn.Module, optimiser: Optimizer) -> ExitStack:
        """Keep them zero from now on, until the stack that is returned is closed.

        Gradients are masked as they arrive, so that the norm for clipping is that of the weights that learn. After each
        step the weights and every moment of the optimiser that has the weight's shape are masked: neither momentum nor
        weight decay revives a weight, and a weight that is released later starts without a past. Replacing masks by
        others: close the stack, then hold again.
        """
        self.apply(module)
        pairs = self._pairs(module)
        held = ExitStack()
        for parameter, mask in pairs:
            hook = parameter.register_hook(lambda gradient, mask=mask: gradient.masked_fill(~mask, 0.0))
            held.callback(hook.remove)
            if parameter.grad is not None:
                parameter.grad.masked_fill_(~mask, 0.0)
        _mask_state(pairs, optimiser)

        def after(stepped: Optimizer, _: tuple[Any, ...], __: dict[str, Any]) -> None:
            with torch.no_grad():
                for parameter, mask in pairs:
                    parameter.masked_fill_(~mask, 0.0)
            _mask_state(pairs, stepped)

        held.callback(optimiser.register_step_post_hook(after).remove)
        return held

    def _pairs(self, module: nn.Module) -> list[tuple[nn.Parameter, Tensor]]:
        known = dict(module.named_parameters())
        for name, mask in self.kept.items():
            if name not in known or known[name].shape != mask.shape:
                found = "no such weight" if name not in known else f"shape {tuple(known[name].shape)}"
                raise ModelError(
                    f"{name}: the mask has shape {tuple(mask.shape)} and {type(module).__name__} {found}: make the "
                    "masks from this model"
                )
        return [(known[name], mask.to(known[name].device)) for name, mask in self.kept.items()]


def _mask_state(pairs: list[tuple[nn.Parameter, Tensor]], optimiser: Optimizer) -> None:
    for parameter, mask in pairs:
        for value in optimiser.state.get(parameter, {}).values():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                value.masked_fill_(~mask, 0.0)
