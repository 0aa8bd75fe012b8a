"""Exported graphs at work in their own runtimes: what a deployed student answers.

The runtimes are extras, imported when a format asks for them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from potstill.core.errors import InputError
from potstill.export.silence import silence

# Tensors [B, L] in the graph's order to logits.
Answer = Callable[[Sequence[Tensor]], Float[Tensor, "B ..."]]


@dataclass(frozen=True, slots=True)
class Runtime:
    """open: (folder, threads) -> Answer. extra: what installs it."""

    open: Callable[[Path, int], Answer]
    extra: str


def needed(module: str, extra: str) -> Any:
    """The package. Raises InputError with the extra that brings it."""
    try:
        with silence():
            return importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"{module} is not installed: pip install 'potstill[{extra}]'") from error


def _onnx(folder: Path, threads: int) -> Answer:
    """ONNX Runtime on the CPU."""
    runtime = needed("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    session = runtime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]

    def answer(inputs: Sequence[Tensor]) -> Tensor:
        (logits,) = session.run(None, {name: one.numpy() for name, one in zip(names, inputs, strict=True)})
        return torch.from_numpy(logits)

    return answer


def _openvino(folder: Path, threads: int) -> Answer:
    """OpenVINO on the CPU, one request at a time; fp32 wherever the graph is not quantised."""
    core = needed("openvino", "cpu").Core()
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(folder / "model.xml", "CPU", settings)

    def answer(inputs: Sequence[Tensor]) -> Tensor:
        return torch.from_numpy(compiled([one.numpy() for one in inputs])[0].copy())

    return answer


RUNTIMES: Mapping[str, Runtime] = {
    "onnxruntime": Runtime(_onnx, extra="onnx"),
    "openvino": Runtime(_openvino, extra="cpu"),
}
