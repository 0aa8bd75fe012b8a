"""Between a whole module and one whose parameters are spread over the ranks (FSDP2).

A spread parameter is a DTensor: each rank holds a slice of its first axis. Names are those that one process gives.
"""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn

from potstill.core.batch import Batch
from potstill.core.signal import Outputs, Want

Answer = Callable[[nn.Module, Batch, Want], Outputs]


class Spread(nn.Module):
    """The outermost module of a spread student: what it gathers stays whole from the forward pass to the end of the
    backward pass, so that an objective may use the output head outside of any forward."""

    def __init__(self, module: nn.Module, answer: Answer):
        super().__init__()
        self.module = module
        self._answer = answer

    def forward(self, batch: Batch, want: Want) -> Outputs:
        """What the student answers."""
        return self._answer(self.module, batch, want)


def spread(module: nn.Module, answer: Answer, ranks: int) -> tuple[nn.Module, Spread]:
    """A copy of the module with the leader's weights, a slice on each rank, and its forward. The module stays whole.

    Gradients are summed over the ranks, not averaged: losses are divided by the totals of the whole step already.
    """
    # Imported here: they take most of a second, and one process does without them.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    # Nobody writes into what a student answered, so views of it are as good as tensors of their own.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    copied = copy.deepcopy(module)
    for tensor in (*copied.parameters(), *copied.buffers()):
        dist.broadcast(tensor.detach(), 0)
    mesh = init_device_mesh(next(copied.parameters()).device.type, (ranks,))
    forward = Spread(copied, answer)
    for part in (*_blocks(copied), forward):
        one = fully_shard(part, mesh=mesh)
        one.set_gradient_divide_factor(1.0)
        one.set_force_sum_reduction_for_comms(True)  # gloo knows no scaled sum
    return copied, forward


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The members of the outermost lists of modules: gathered one at a time, whatever the architecture calls them."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from _blocks(child)


def settle(forward: object) -> None:
    """Give back what the last forward pass gathered, so that the module's parameters are the spread ones."""
    if isinstance(forward, Spread):
        forward.reshard()


def refreshed(module: nn.Module, forward: object, into: nn.Module) -> nn.Module:
    """`into` with the weights of a module that was spread from it; where nothing is spread the two are one."""
    if module is into:
        return into
    settle(forward)
    spread_out = module.state_dict()
    with torch.no_grad():
        for name, tensor in into.state_dict().items():
            tensor.copy_(whole(spread_out[name]))
    return into


def is_spread(tensor: Tensor) -> bool:
    """Whether the tensor is one slice of several. Before anything was spread, torch's module for it is not loaded."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, on every rank."""
    return tensor.full_tensor() if is_spread(tensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """What of a tensor lies on this rank."""
    return tensor.to_local() if is_spread(tensor) else tensor


def spread_like(tensor: Tensor, other: Tensor | None) -> Tensor:
    """This rank's slice of a whole tensor if `other` of the same shape is spread, else the tensor itself."""
    if other is None or not is_spread(other) or tensor.shape != other.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    slice_ = distribute_tensor(tensor, other.device_mesh, other.placements, src_data_rank=None)
    return torch.empty_like(slice_).copy_(slice_)
