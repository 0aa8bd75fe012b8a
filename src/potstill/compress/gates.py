"""Gates: factors on what a neuron or a head hands on. At 1 they change nothing, at 0 the unit is gone, and the
derivative of the loss by a gate at 1 is the importance of its unit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from torch import Tensor, nn

from potstill.students.axes import attention_of, sizes_of
from potstill.students.layouts import blocks_of, layout_of


@dataclass(slots=True)
class Gates:
    """What the hooks made in one forward pass, by block: neurons [B, L, F], heads [B, 1, H]; all of them 1."""

    neurons: dict[int, Tensor] = field(default_factory=dict)
    heads: dict[int, Tensor] = field(default_factory=dict)


def neurons_out(block: nn.Module, module: nn.Module) -> nn.Module:
    """The linear that reads the feed-forward neurons of a block."""
    return block.get_submodule(layout_of(module).down)


def heads_out(block: nn.Module, module: nn.Module) -> nn.Module:
    """The linear that reads the heads of a block, one after the other."""
    return block.get_submodule(attention_of(module).out)


def scale_input(part: nn.Module, factor: Callable[[Tensor], Tensor]) -> Callable[[], None]:
    """Multiply what `part` reads by factor(what it reads), until the function that is returned is called."""
    handle = part.register_forward_pre_hook(lambda _, inputs: (inputs[0] * factor(inputs[0]), *inputs[1:]))
    return handle.remove


@contextmanager
def open_gates(module: nn.Module) -> Iterator[Gates]:
    """Every neuron of every token and every head of every row behind a gate of 1 that a gradient reaches.

    Each forward pass inside puts new gates in place of the last ones.
    """
    gates, sizes = Gates(), sizes_of(module)

    def neurons(layer: int) -> Callable[[Tensor], Tensor]:
        def factor(read_BLF: Tensor) -> Tensor:
            gates.neurons[layer] = read_BLF.new_ones(read_BLF.shape).requires_grad_()
            return gates.neurons[layer]

        return factor

    def heads(layer: int) -> Callable[[Tensor], Tensor]:
        def factor(read_BLC: Tensor) -> Tensor:
            gates.heads[layer] = read_BLC.new_ones(len(read_BLC), 1, sizes.heads).requires_grad_()
            return gates.heads[layer].repeat_interleave(sizes.head_size, dim=-1)

        return factor

    with ExitStack() as hooks:
        for layer, block in enumerate(blocks_of(module)):
            hooks.callback(scale_input(neurons_out(block, module), neurons(layer)))
            hooks.callback(scale_input(heads_out(block, module), heads(layer)))
        yield gates
