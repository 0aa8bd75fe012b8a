"""Between living objects and the tensors of a checkpoint, by parameter name.

Loading copies into the memory that torch allocated: tensors mapped from a file lie at other alignments, and matrix
kernels may then add in another order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from potstill.core.errors import CheckpointError
from potstill.train.shards import is_spread, spread_like

WEIGHTS = "model"
OPTIMISER = "optimizer"
COMPANION = "objective"


def unique_tensors(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The module's state with each memory once, and alias -> name for the rest (tied weights). What is spread over
    ranks stays so."""
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[tuple[object, ...], str] = {}
    storages: set[int] = set()
    for name, kept in module.state_dict(keep_vars=True).items():
        tensor, spread = kept.detach(), is_spread(kept)
        # A slice of a spread tensor can be empty on one rank and not on another; the object is shared everywhere.
        key = (id(kept),) if spread else (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and key in first:
            aliases[name] = first[key]
            continue
        first[key] = name
        if spread:
            tensors[name] = tensor
            continue
        storage = tensor.untyped_storage().data_ptr()
        # safetensors refuses views into one storage even where they do not overlap.
        tensors[name] = tensor.contiguous() if storage not in storages else tensor.contiguous().clone()
        storages.add(storage)
    return tensors, aliases


def stored(folder: Path, name: str, like: Callable[[str], Tensor | None]) -> dict[str, Tensor]:
    """What a checkpoint holds under this name, by one process or by many. A tensor is spread where `like` has a spread
    one of the same shape for it. Raises CheckpointError when there is nothing of that name."""
    if (folder / name).is_dir():
        from potstill.train.slices import read_slices

        return read_slices(folder / name, like)
    path = folder / f"{name}.safetensors"
    if not path.is_file():
        raise CheckpointError(f"{folder} holds no {path.name}: it was made without these parameters; start a new run")
    return {own: spread_like(tensor, like(own)) for own, tensor in load_file(path).items()}


def load_weights(folder: Path, module: nn.Module, name: str = WEIGHTS) -> None:
    """Copy a checkpoint's weights into a module of the same shape. Raises CheckpointError when they do not fit, or when
    the checkpoint has none of that name."""
    own = module.state_dict()
    tensors = stored(folder, name, own.get)
    for alias, first in unique_tensors(module)[1].items():
        if first in tensors:
            tensors.setdefault(alias, tensors[first])
    try:
        module.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"{folder} does not fit this model: {error}") from error


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Every state tensor of every parameter as `PARAMETER|STATE`; parameters that were never updated have none."""
    return {
        f"{name}|{key}": value
        for group in optimiser.param_groups
        for name, parameter in zip(group["param_names"], group["params"], strict=True)
        for key, value in optimiser.state.get(parameter, {}).items()
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, folder: Path) -> None:
    """From a checkpoint's `optimizer`. Raises CheckpointError on a parameter that the optimiser does not know."""
    parameters = {
        name: parameter
        for group in optimiser.param_groups
        for name, parameter in zip(group["param_names"], group["params"], strict=True)
    }
    saved = stored(folder, OPTIMISER, lambda full_name: parameters.get(full_name.rpartition("|")[0]))
    optimiser.state.clear()
    for full_name, tensor in saved.items():
        name, _, key = full_name.rpartition("|")
        if name not in parameters:
            raise CheckpointError(f"the checkpoint has optimiser state for {name}, which is not trained now")
        parameter = parameters[name]
        optimiser.state[parameter][key] = torch.empty_like(tensor, device=parameter.device).copy_(tensor)


def changing_buffers(module: nn.Module) -> dict[str, Tensor]:
    """Copies of the buffers that a forward pass may change (running statistics), so that a step can be taken back."""
    return {
        f"{prefix}.{name}": buffer.clone()
        for prefix, owner in module.named_modules()
        if getattr(owner, "track_running_stats", False)
        for name, buffer in owner.named_buffers(recurse=False)
    }


def restore_buffers(module: nn.Module, buffers: Mapping[str, Tensor]) -> None:
    """Put them back."""
    for name, value in buffers.items():
        module.get_buffer(name.lstrip(".")).copy_(value)
