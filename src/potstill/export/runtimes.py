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


def onnx_answer(folder: Path, threads: int) -> Answer:
    """ONNX Runtime on the CPU."""
    runtime = needed("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = runtime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]

    def answer(inputs: Sequence[Tensor]) -> Tensor:
        (logits,) = session.run(None, {name: one.numpy() for name, one in zip(names, inputs, strict=True)})
        return torch.from_numpy(logits)

    return answer


def openvino_answer(folder: Path, threads: int, *, hint: str = "LATENCY") -> Answer:
    """OpenVINO on the CPU; fp32 wherever the graph is not quantised.

    hint: LATENCY has all threads work at one request. THROUGHPUT has several requests under way, among which the rows
    of a call are shared out.
    """
    openvino = needed("openvino", "cpu")
    settings = {"PERFORMANCE_HINT": hint, "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(folder / "model.xml", "CPU", settings)
    if hint == "LATENCY":
        return lambda inputs: torch.from_numpy(compiled([one.numpy() for one in inputs])[0].copy())
    queue = openvino.AsyncInferQueue(compiled)
    parts: dict[int, Tensor] = {}
    queue.set_callback(lambda request, place: parts.update({place: torch.from_numpy(_copied(request))}))

    def answer(inputs: Sequence[Tensor]) -> Tensor:
        parts.clear()
        for place, rows in enumerate(
            zip(*(one.tensor_split(min(len(queue), len(one))) for one in inputs), strict=True)
        ):
            queue.start_async([one.numpy() for one in rows], place)
        queue.wait_all()
        return torch.cat([parts[place] for place in sorted(parts)])

    return answer


def _copied(request: Any) -> Any:
    return request.get_output_tensor(0).data.copy()


RUNTIMES: Mapping[str, Runtime] = {
    "onnxruntime": Runtime(onnx_answer, extra="onnx"),
    "openvino": Runtime(openvino_answer, extra="cpu"),
}
