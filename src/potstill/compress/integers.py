"""The integers of a model's weights as two files: what an export must say, whatever ranges it would find itself."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from potstill.compress.fake import InputGrid, Padding, TokenGrid, WeightGrid
from potstill.compress.fake_layers import FakeEmbedding, FakeLinear
from potstill.compress.grids import Grid, Steps
from potstill.compress.ptq import Codes
from potstill.core.errors import ModelError
from potstill.durable import replace_file, writing

TENSORS, GRIDS = "integers.safetensors", "integers.json"


def save_integers(folder: Path, codes: Mapping[str, Codes]) -> None:
    """Write `integers.safetensors` (LAYER.codes, .step, .zero, and of static inputs .input_step, .input_zero) and
    `integers.json` (the grids of each layer)."""
    tensors: dict[str, Tensor] = {}
    grids = {}
    for name, one in codes.items():
        tensors |= {f"{name}.codes": one.codes, f"{name}.step": one.steps.step, f"{name}.zero": one.steps.zero}
        if one.inputs is not None:
            tensors |= {f"{name}.input_step": one.inputs.step, f"{name}.input_zero": one.inputs.zero}
        read = None if one.input_grid is None else asdict(one.input_grid)
        grids[name] = {"weight": asdict(one.grid), "input": read}
    own = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    with writing(folder / TENSORS):
        save_file(own, folder / TENSORS, metadata={"format": "pt"})
        replace_file(folder / GRIDS, (json.dumps(grids, indent=1) + "\n").encode())


def load_integers(folder: Path) -> dict[str, Codes]:
    """What `save_integers` wrote. Raises ModelError where nothing lies."""
    try:
        grids, tensors = json.loads((folder / GRIDS).read_bytes()), load_file(folder / TENSORS)
    except OSError as error:
        raise ModelError(
            f"{folder} holds no {TENSORS} and {GRIDS}: name the folder of a stage with compress.quantise"
        ) from error
    found = {}
    for name, own in grids.items():
        inputs = None
        if f"{name}.input_step" in tensors:
            inputs = Steps(tensors[f"{name}.input_step"], tensors[f"{name}.input_zero"])
        found[name] = Codes(
            codes=tensors[f"{name}.codes"],
            steps=Steps(tensors[f"{name}.step"], tensors[f"{name}.zero"]),
            grid=Grid(**own["weight"]),
            inputs=inputs,
            input_grid=None if own["input"] is None else Grid(**own["input"]),
        )
    return found


def computing(module: nn.Module, codes: Mapping[str, Codes]) -> nn.Module:
    """A copy of a model of plain layers, in evaluation mode, that computes what these integers compute: their steps,
    their rounding of inputs. Raises ModelError where they are those of another model."""
    twin, grids = copy.deepcopy(module).eval(), dict[int, WeightGrid]()
    for name, one in codes.items():
        layer = _layer(twin, name, one)
        held = grids.setdefault(id(layer.weight), WeightGrid(layer.weight, one.grid))
        held.step.copy_(one.steps.step)
        held.zero.copy_(one.steps.zero)
        if isinstance(layer, nn.Embedding):
            twin.set_submodule(name, FakeEmbedding(layer, held))
        else:
            twin.set_submodule(name, FakeLinear(layer, held, _input_grid(layer.in_features, name, one)))
    return twin


def _layer(module: nn.Module, name: str, one: Codes) -> nn.Linear | nn.Embedding:
    layer = dict(module.named_modules()).get(name)
    if not isinstance(layer, (nn.Linear, nn.Embedding)) or layer.weight.shape != one.codes.shape:
        has = "no such layer" if layer is None else f"{type(layer).__name__}"
        raise ModelError(
            f"{name}: the integers have shape {list(one.codes.shape)} and the model has {has} of another: take those "
            "that lie beside this model"
        )
    return layer


def _input_grid(width: int, name: str, one: Codes) -> InputGrid | TokenGrid | None:
    if one.input_grid is None:
        return None
    if one.inputs is None:
        return TokenGrid(one.input_grid)
    read = InputGrid(width, one.input_grid, (0.0, 1.0), Padding(), name)
    read.step.copy_(one.inputs.step)
    read.zero.copy_(one.inputs.zero)
    return read
