"""The programs that run what a run exported, each with the same number of threads. Adding one is adding a row."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from potstill.core.task import Task
from potstill.evaluate.bandwidth import read_bytes
from potstill.evaluate.timing import greedy_decode
from potstill.export.graph import Answering
from potstill.export.runtimes import Answer, needed, onnx_answer, openvino_answer
from potstill.export.silence import silence
from potstill.students.load import load_model
from potstill.students.settings import ModelSettings

# (folder, task, threads): what answers rows of tokens.
Open = Callable[[Path, Task, int], Answer]


@dataclass(frozen=True, slots=True)
class Decoder:
    """A language model that writes. run: prompt [1, P] and a number of tokens -> a call that writes so many, greedily.
    weight_bytes: read for each of them."""

    run: Callable[[Tensor, int], Callable[[], object]]
    weight_bytes: int


@dataclass(frozen=True, slots=True)
class Engine:
    """One program. reads: how the names of the formats begin that it loads. module: what must be installed, extra: what
    installs it. threads: how their number is held. open, write: None for what it is not asked to do."""

    reads: str
    module: str
    extra: str
    threads: str
    open: Open | None = None
    write: Callable[[Path, int], Decoder] | None = None

    @property
    def installed(self) -> bool:
        """Whether its package is there."""
        return importlib.util.find_spec(self.module) is not None


def _torch(folder: Path, task: Task, threads: int) -> Answer:
    answering = Answering(_module(folder, task))

    def answer(inputs: Sequence[Tensor]) -> Tensor:
        return cast(Tensor, answering(*inputs))

    return answer


def _torch_writer(folder: Path, threads: int) -> Decoder:
    module: Any = _module(folder, "causal-lm")
    generate = partial(module.generate, pad_token_id=0)
    return Decoder(lambda prompt_BL, number: greedy_decode(generate, prompt_BL, number), read_bytes(module))


def _module(folder: Path, task: Task) -> torch.nn.Module:
    return load_model(ModelSettings(model_name_or_path=str(folder)), task=task, labels=None).module.eval()


def _onnx(folder: Path, task: Task, threads: int) -> Answer:
    return onnx_answer(folder, threads)


def _openvino(hint: str, folder: Path, task: Task, threads: int) -> Answer:
    return openvino_answer(folder, threads, hint=hint)


def _llama_writer(folder: Path, threads: int) -> Decoder:
    """llama.cpp through its Python package; the folder's one GGUF file."""
    (file,) = folder.glob("*.gguf")
    with silence():
        model = needed("llama_cpp", "llama").Llama(
            str(file), n_ctx=256, n_threads=threads, n_threads_batch=threads, verbose=False
        )

    def run(prompt_BL: Tensor, number: int) -> Callable[[], object]:
        prompt = prompt_BL[0].tolist()

        def write() -> None:
            model.reset()
            model.eval(prompt)
            for _ in range(number - 1):
                model.eval([model.sample(temp=0.0)])
            model.sample(temp=0.0)

        return write

    return Decoder(run, _gguf_bytes(file))


def _gguf_bytes(file: Path) -> int:
    """Bytes of the weights that a token meets: all, but for a table of pieces that is not the head too."""
    tensors = {one.name: int(one.n_bytes) for one in needed("gguf", "gguf").GGUFReader(file).tensors}
    return sum(tensors.values()) - (tensors["token_embd.weight"] if "output.weight" in tensors else 0)


_OPENVINO = "INFERENCE_NUM_THREADS"
ENGINES: Mapping[str, Engine] = {
    "PyTorch": Engine("huggingface", "torch", "", "torch.set_num_threads", _torch, _torch_writer),
    "ONNX Runtime": Engine("onnx", "onnxruntime", "onnx", "intra_op_num_threads, inter_op_num_threads = 1", _onnx),
    "OpenVINO, latency": Engine("openvino", "openvino", "cpu", _OPENVINO, partial(_openvino, "LATENCY")),
    "OpenVINO, throughput": Engine("openvino", "openvino", "cpu", _OPENVINO, partial(_openvino, "THROUGHPUT")),
    "llama.cpp": Engine("gguf", "llama_cpp", "llama", "n_threads, n_threads_batch", write=_llama_writer),
}
