"""Quantisation-aware training: the weights learn on the grid they will be shipped on.

    twin = prepare_qat(module, scheme, batches)   # an ordinary module: any optimiser, loss and loop
    ...                                           # two thirds of the steps
    freeze_ranges(twin)
    ...                                           # the last third, on ranges that stand
    done = finish(twin)                           # integer codes, and the same weights in ordinary layers

Jacob et al. 2018 (arXiv:1712.05877) for the moving ranges and their freezing; Esser et al. 2020 (arXiv:1902.08153) for
learned steps. The scheme is that of the export, so nothing is rounded a second time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from potstill.compress.fake import InputGrid, WeightGrid
from potstill.compress.fake_layers import FakeEmbedding, FakeLinear
from potstill.compress.ptq import Codes, codes, plain, with_grids
from potstill.compress.scheme import QuantScheme
from potstill.core.batch import Batch
from potstill.core.errors import DataError, ModelError

StepsMode = Literal["learned", "straight-through"]


@dataclass(frozen=True, slots=True)
class Finished:
    """codes: what is exported, by layer. module: the same weights in ordinary layers, inputs not rounded."""

    codes: dict[str, Codes]
    module: nn.Module


def prepare_qat(
    module: nn.Module,
    scheme: QuantScheme,
    batches: Sequence[Batch | Tensor] = (),
    *,
    steps: StepsMode = "learned",
) -> nn.Module:
    """A copy of `module` that computes on the scheme's grids and can be trained.

    steps: `learned`, steps are parameters beside the weights, from where post-training quantisation puts them (zeros of
    affine grids stay); static activations therefore need the calibration set `batches`. `straight-through`: the range
    of a weight is its own extremes at every pass, that of static activations a moving average over training batches
    (0.99), which starts from the calibration set if there is one. Padding is never observed: the attention mask is
    taken from the model's arguments. Start from the best model in floats, at a tenth of its learning rate.

    Raises DataError when learned steps of activations have no calibration set; all that `quantise_model` refuses.
    """
    static = scheme.activations is not None and scheme.activations.static
    if steps == "learned" and static and not batches:
        raise DataError(
            "learned steps of static activations start from a range, and there is no calibration set: give 128 to 512 "
            "rows, or choose straight-through steps"
        )
    twin = with_grids(module, scheme, batches)
    for grid in _grids(twin):
        if steps == "learned":
            grid.learn()
        elif isinstance(grid, WeightGrid):
            grid.follows = True
        else:
            grid.moves = True
    return twin


def freeze_ranges(module: nn.Module) -> None:
    """From now on no step and no range moves, and the weights go on learning on a grid that stands.

    For the last third of training. Steps that were parameters are none any more: an optimiser that holds them finds no
    gradient and leaves them. Raises ModelError for a model without grids, or one whose static activations were never
    observed.
    """
    layers = [one for one in module.modules() if isinstance(one, (FakeLinear, FakeEmbedding))]
    if not layers:
        raise ModelError(f"{type(module).__name__} has no grids to freeze: make it with prepare_qat")
    for layer in layers:
        read = layer.input_grid if isinstance(layer, FakeLinear) else None
        if isinstance(read, InputGrid):
            if not read.ranged:
                raise ModelError(f"{read.where}: no batch has passed, so its range is not known: train before freezing")
            read.fix()
        layer.weight_grid.fix(layer.weight)


def finish(module: nn.Module) -> Finished:
    """What training made, ready to be exported: the codes are those of the last forward pass, bit for bit.

    Raises ModelError while ranges still move: freeze them first, so that what is exported is what was trained.
    """
    for grid in _grids(module):
        moving = grid.follows if isinstance(grid, WeightGrid) else grid.moves
        if moving or isinstance(grid.step, nn.Parameter):
            raise ModelError("ranges still move: call freeze_ranges, train the last third, and then finish")
    exported = codes(module)
    if not exported:
        raise ModelError(f"{type(module).__name__} has no grids: make it with prepare_qat")
    return Finished(exported, plain(module))


def _grids(module: nn.Module) -> list[WeightGrid | InputGrid]:
    return [one for one in module.modules() if isinstance(one, (WeightGrid, InputGrid))]
