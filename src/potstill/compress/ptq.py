"""Post-training quantisation: a copy of a model whose layers compute on grids, its integer codes, and its size."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int8
from torch import Tensor, nn

from potstill.compress.fake import InputGrid, Padding, TokenGrid, WeightGrid
from potstill.compress.fake_layers import FakeEmbedding, FakeLinear
from potstill.compress.grids import Grid, Steps, kept_bits, quantise, stored_bits
from potstill.compress.histogram import Histogram
from potstill.compress.ranges import check_calibration, chosen_range, without_padding
from potstill.compress.scheme import QuantScheme
from potstill.compress.sites import Sites, observed_bodies, sites
from potstill.core.batch import Batch
from potstill.core.errors import InputError, ModelError
from potstill.core.signal import Want
from potstill.students.taps import outputs

Ranges = dict[str, tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Codes:
    """A quantised layer as it is exported. codes: of the weight, [out, in] or [rows, width]; steps on `grid`.

    inputs: step and zero of what the layer reads, where they are static; input_grid: their grid, None for float inputs.
    """

    codes: Int8[Tensor, "rows width"]
    steps: Steps
    grid: Grid
    inputs: Steps | None = None
    input_grid: Grid | None = None


def quantise_model(module: nn.Module, scheme: QuantScheme, batches: Sequence[Batch | Tensor] = ()) -> nn.Module:
    """A copy of `module`, in evaluation mode, that computes what integers of this scheme compute.

    Its weights are already those of the codes. batches: the calibration set, which static activations need and nothing
    else uses; a Tensor is handed to the model as its one argument. The given model is not changed.

    Raises DataError for a calibration set that is empty or of one class; InputError for one that nothing would use;
    NumbersError for weights or activations that are not finite; all that `sites` refuses.
    """
    if scheme.activations is not None and scheme.activations.static:
        check_calibration(batches)
    quantised = with_grids(module, scheme, batches).eval()
    with torch.no_grad():
        for layer in _layers(quantised).values():
            layer.weight.copy_(layer.weight_grid(layer.weight))
    return quantised


def with_grids(module: nn.Module, scheme: QuantScheme, batches: Sequence[Batch | Tensor] = ()) -> nn.Module:
    """A copy with grids in place and its weights as they were. Without batches, static inputs have no range yet."""
    static = scheme.activations is not None and scheme.activations.static
    if batches and not static:
        raise InputError("calibration rows, and no activation whose range they would give: choose a static method")
    if _layers(module):
        raise ModelError("the model has grids already: quantise the one in floats that it was made from")
    found = sites(module, scheme)
    twin = copy.deepcopy(module)
    ranges = calibrated(twin, scheme, found, batches) if batches else {}
    padding = Padding()
    if static:
        for body in observed_bodies(twin):
            body.register_forward_pre_hook(padding, with_kwargs=True)
    grids: dict[int, WeightGrid] = {}
    for name in (*found.linears, *found.embeddings):
        layer = twin.get_submodule(name)
        held = grids.setdefault(id(layer.weight), WeightGrid(layer.weight, scheme.weight_grid))
        if isinstance(layer, nn.Embedding):
            _put(twin, name, FakeEmbedding(layer, held))
            continue
        assert isinstance(layer, nn.Linear)
        _put(twin, name, FakeLinear(layer, held, _input_grid(layer, scheme, ranges.get(name), padding, name)))
    return twin


def calibrated(module: nn.Module, scheme: QuantScheme, found: Sites, batches: Sequence[Batch | Tensor]) -> Ranges:
    """The range of each linear's inputs over the calibration set, the model in floats and evaluation mode."""
    check_calibration(batches)
    assert scheme.activations is not None
    training = module.training
    with _observed(module, found) as histograms, torch.no_grad():
        module.eval()
        for batch in batches:
            if isinstance(batch, Batch):
                outputs(module, batch, Want(logits=True))
            else:
                module(batch)
    module.train(training)
    method, grid, percentile = scheme.activations.method, scheme.activations.grid, scheme.activations.percentile
    assert method != "dynamic"
    return {name: chosen_range(one.checked(name), method, grid, percentile) for name, one in histograms.items()}


def codes(module: nn.Module) -> dict[str, Codes]:
    """The integers of every quantised layer by name: exactly those the model computes with."""
    found = {}
    for name, layer in _layers(module).items():
        weight, grid = layer.weight.detach().float(), layer.weight_grid.grid
        steps = layer.weight_grid.steps(weight)
        read = layer.input_grid if isinstance(layer, FakeLinear) else None
        found[name] = Codes(
            codes=quantise(weight, steps, grid),
            steps=Steps(steps.step.clone(), steps.zero.clone()),
            grid=grid,
            inputs=read.steps() if isinstance(read, InputGrid) else None,
            input_grid=None if read is None else read.grid,
        )
    return found


def size_bytes(module: nn.Module) -> int:
    """Bytes on the disk: codes as they are packed, their steps and zeros, and everything else in its own dtype.

    A tied weight counts once.
    """
    layers = _layers(module)
    bits = {id(one.weight): stored_bits(one.weight.shape, one.weight_grid.grid) for one in layers.values()}
    inputs = [one.input_grid.grid for one in layers.values() if isinstance(getattr(one, "input_grid", None), InputGrid)]
    own = {
        id(part) for one in layers.values() for grid in _grids(one) for part in grid.state_dict(keep_vars=True).values()
    }
    rest = {
        id(one): one for one in module.state_dict(keep_vars=True).values() if id(one) not in own and id(one) not in bits
    }
    floats = sum(one.numel() * one.element_size() for one in rest.values())
    total = sum(bits.values()) + sum(one.step_bits + (0 if one.symmetric else kept_bits(one)) for one in inputs)
    return floats + -(-total // 8)


def plain(module: nn.Module) -> nn.Module:
    """A copy of ordinary layers whose float weights lie on the grid; inputs are no longer rounded.

    For tools that quantise again, hand them `codes` too: a range fitted anew to rounded weights may differ.
    """
    twin = copy.deepcopy(module)
    for body in observed_bodies(twin):
        for key in [key for key, hook in body._forward_pre_hooks.items() if isinstance(hook, Padding)]:
            del body._forward_pre_hooks[key], body._forward_pre_hooks_with_kwargs[key]
    with torch.no_grad():
        for name, layer in _layers(twin).items():
            layer.weight.copy_(layer.weight_grid(layer.weight))
            _put(twin, name, layer.ordinary())
    return twin


@contextlib.contextmanager
def _observed(module: nn.Module, found: Sites) -> Iterator[dict[str, Histogram]]:
    padding, histograms = Padding(), {name: Histogram() for name in found.linears}

    def counter(name: str) -> object:
        def count(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            histograms[name].add(without_padding(args[0].float(), padding.mask, name), name)

        return count

    hooks = [body.register_forward_pre_hook(padding, with_kwargs=True) for body in observed_bodies(module)]
    hooks += [module.get_submodule(name).register_forward_pre_hook(counter(name)) for name in found.linears]
    try:
        yield histograms
    finally:
        for hook in hooks:
            hook.remove()


def _input_grid(
    layer: nn.Linear, scheme: QuantScheme, found: tuple[float, float] | None, padding: Padding, name: str
) -> InputGrid | TokenGrid | None:
    if scheme.activations is None:
        return None
    if not scheme.activations.static:
        return TokenGrid(scheme.activations.grid)
    read = InputGrid(layer.in_features, scheme.activations.grid, found, padding, name)
    return read.to(layer.weight.device)


def _layers(module: nn.Module) -> dict[str, FakeLinear | FakeEmbedding]:
    return {name: one for name, one in module.named_modules() if isinstance(one, (FakeLinear, FakeEmbedding))}


def _grids(layer: FakeLinear | FakeEmbedding) -> list[nn.Module]:
    read = layer.input_grid if isinstance(layer, FakeLinear) else None
    return [layer.weight_grid, *([] if read is None else [read])]


def _put(module: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(module.get_submodule(parent), last, layer)
