"""A module's state with only the positions that stay on each axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor, nn

from potstill.students.axes import Role, Sizes, axes_of, block_of, sizes_of


@dataclass(frozen=True, slots=True)
class Kept:
    """Positions that stay on each axis of each block, increasing; width: on the axis of states, in all of the model.
    None: all of them. heads, groups: heads, not their channels."""

    width: Sequence[int] | None = None
    heads: Sequence[Sequence[int]] | None = None
    groups: Sequence[Sequence[int]] | None = None
    neurons: Sequence[Sequence[int]] | None = None


def positions(kept: Kept, role: Role, layer: int | None, sizes: Sizes) -> Int[Tensor, " K"] | None:
    """The positions that stay on an axis of this role, None for all. layer: the block that the weight is in."""
    if role == "width":
        return None if kept.width is None else torch.tensor(kept.width, dtype=torch.long)
    if role == "fixed" or layer is None:
        return None
    per_block = {"heads": kept.heads, "joined": kept.heads, "groups": kept.groups, "neurons": kept.neurons}[role]
    if per_block is None:
        return None
    units = torch.tensor(per_block[layer], dtype=torch.long)
    if role == "neurons":
        return units
    channels = (units[:, None] * sizes.head_size + torch.arange(sizes.head_size)).flatten()
    if role == "joined":
        return torch.cat([channels + part * sizes.of("heads") for part in range(3)])
    return channels


def cut_state(module: nn.Module, kept: Kept) -> dict[str, Tensor]:
    """The module's state with only the positions that stay; a tensor that loses nothing is the module's own."""
    axes, sizes = axes_of(module), sizes_of(module)
    state: dict[str, Tensor] = {}
    for name, tensor in module.state_dict().items():
        layer = block_of(module, name)
        for axis, role in enumerate(axes[name]):
            places = positions(kept, role, layer, sizes)
            if places is not None:
                tensor = tensor.index_select(axis, places.to(tensor.device))
        state[name] = tensor
    return state
