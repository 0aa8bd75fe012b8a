"""A .gguf file answering: in llama.cpp, and dequantised in transformers, which shares no code with it."""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from potstill.core.errors import ModelError
from potstill.export.gguf.write import FILE
from potstill.export.parity import of_module
from potstill.export.runtimes import Answer, needed
from potstill.export.silence import silence
from potstill.students.quiet import quiet

# Tokens that a first context takes; a longer row makes a larger one.
_CONTEXT = 512
_F32 = 0  # of ggml's types


def has_llama() -> bool:
    """Whether llama.cpp's package is installed."""
    return importlib.util.find_spec("llama_cpp") is not None


def open_gguf(folder: Path, threads: int) -> Answer:
    """In llama.cpp where it is installed, else dequantised in transformers."""
    return in_llama(folder, threads) if has_llama() else dequantised(folder)


def llama_model(path: Path, threads: int, tokens: int) -> Any:
    """llama.cpp on the CPU with room for so many tokens, its cache in fp32, so that the weights alone are measured.
    Raises ModelError when llama.cpp does not load the file."""
    llama = needed("llama_cpp", "llama")
    room = {"n_ctx": tokens, "n_batch": tokens, "n_ubatch": tokens, "type_k": _F32, "type_v": _F32}
    try:
        with silence():
            return llama.Llama(
                str(path), **room, n_threads=threads, n_threads_batch=threads, logits_all=True, verbose=False
            )
    except ValueError as error:
        raise ModelError(f"{path}: llama.cpp does not load it ({error}). Next: upgrade llama-cpp-python.") from error


def in_llama(folder: Path, threads: int) -> Answer:
    """Logits of every position, row by row; those of padding are 0."""
    found = llama_model(folder / FILE, threads, _CONTEXT)

    def answer(inputs: Sequence[Tensor]) -> Tensor:
        nonlocal found
        tokens_BL, mask_BL = inputs[0], inputs[1].bool()
        if tokens_BL.shape[1] > found.n_ctx():
            found.close()
            found = llama_model(folder / FILE, threads, 1 << (tokens_BL.shape[1] - 1).bit_length())
        logits_BLV = torch.zeros(*tokens_BL.shape, found.n_vocab())
        for row, (tokens_L, mask_L) in enumerate(zip(tokens_BL, mask_BL, strict=True)):
            found.reset()
            found.eval(tokens_L[mask_L].tolist())
            logits_BLV[row, mask_L] = torch.from_numpy(found.scores[: found.n_tokens].copy())
        return logits_BLV

    return answer


def dequantised(folder: Path) -> Answer:
    """The file's own config and weights, in fp32 PyTorch."""
    from transformers import AutoModelForCausalLM, GgufConfig

    needed("gguf", "gguf")
    plain = GgufConfig(dequantize=True)
    with quiet(), contextlib.redirect_stderr(io.StringIO()):  # its bar heeds no verbosity
        module = AutoModelForCausalLM.from_pretrained(
            str(folder), gguf_file=FILE, dtype=torch.float32, quantization_config=plain, local_files_only=True
        )
    return of_module(module)
