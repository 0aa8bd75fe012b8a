"""The .gguf file: what it says of the model and of its tokenizer, and the weights, each in the type that was asked for.

The blocks of Q8_0 and Q4_0 come from the `gguf` package, those of Q4_K from llama.cpp's own quantiser. A row that a
type's blocks do not divide falls back to a wider type, and so it is told which types a file has.
"""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from potstill.core.errors import ModelError
from potstill.export.gguf.layout import hyperparameters, layout_of, tensors
from potstill.export.gguf.vocabulary import Vocabulary, vocabulary_of
from potstill.export.runtimes import needed
from potstill.students.load import LoadedModel

FILE = "model.gguf"


@dataclass(frozen=True, slots=True)
class Scheme:
    """A format. matrices: the type of weights with two axes; table: of those whose rows are tokens; vectors stay F32.
    file_type: llama.cpp's name for the mixture. llama: whether its own quantiser makes it, and mixes types itself."""

    name: str
    matrices: str
    table: str
    file_type: str
    llama: bool = False

    @property
    def rounded(self) -> bool:
        """Whether the weights are the trained ones up to the rounding of half precision."""
        return self.matrices == "F16"


SCHEMES = (
    Scheme("gguf", "F16", "F16", "MOSTLY_F16"),
    Scheme("gguf-q8_0", "Q8_0", "Q8_0", "MOSTLY_Q8_0"),
    # The table is the output layer too where they are tied, and four bits cost most there; so llama.cpp does it.
    Scheme("gguf-q4_0", "Q4_0", "Q8_0", "MOSTLY_Q4_0"),
    Scheme("gguf-q4_1", "Q4_1", "Q8_0", "MOSTLY_Q4_1"),
    Scheme("gguf-q4_k_m", "Q4_K", "Q6_K", "MOSTLY_Q4_K_M", llama=True),
)
_TABLES = ("token_embd.weight", "output.weight")


def write_gguf(loaded: LoadedModel, folder: Path, scheme: Scheme, *, name: str, licence: str) -> None:
    """model.gguf in `folder`. name, licence: as its header states them.

    Raises ModelError for an architecture or a tokenizer that is not written, InputError without the packages.
    """
    if not scheme.llama:
        _write(loaded, folder / FILE, scheme, name=name, licence=licence)
        return
    whole = folder / "whole.gguf"
    _write(loaded, whole, Scheme("whole", "F32", "F32", "ALL_F32"), name=name, licence=licence)
    _requantise(whole, folder / FILE, scheme)
    whole.unlink()


def types_of(path: Path) -> dict[str, int]:
    """How many weights with two axes a file holds in each type."""
    reader = needed("gguf", "gguf").GGUFReader(path)
    return dict(Counter(one.tensor_type.name for one in reader.tensors if len(one.shape) > 1))


def _write(loaded: LoadedModel, path: Path, scheme: Scheme, *, name: str, licence: str) -> None:
    gguf = needed("gguf", "gguf")
    layout = layout_of(loaded.module)
    sizes = hyperparameters(loaded.module)
    vocabulary = vocabulary_of(loaded.tokenizer, int(sizes["vocab_size"]))
    writer = gguf.GGUFWriter(path, layout.architecture)
    writer.add_name(name)
    writer.add_license(licence.lower())
    writer.add_file_type(gguf.LlamaFileType[scheme.file_type])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_sizes(writer, layout.architecture, sizes)
    _add_vocabulary(writer, vocabulary)
    _add_weights(gguf, writer, loaded.module, scheme)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_sizes(writer: Any, architecture: str, sizes: Mapping[str, int | float]) -> None:
    for key, value in sizes.items():
        add = writer.add_float32 if isinstance(value, float) else writer.add_uint32
        add(f"{architecture}.{key}", value)


def _add_vocabulary(writer: Any, vocabulary: Vocabulary) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    for key, number in vocabulary.ids.items():
        writer.add_uint32(f"tokenizer.ggml.{key}", number)
    writer.add_add_bos_token(vocabulary.adds_bos)
    writer.add_add_eos_token(vocabulary.adds_eos)
    writer.add_add_space_prefix(False)
    if vocabulary.chat_template is not None:
        writer.add_chat_template(vocabulary.chat_template)


def _add_weights(gguf: Any, writer: Any, module: nn.Module, scheme: Scheme) -> None:
    for name, weight in tensors(module):
        asked = "F32" if weight.dim() == 1 else scheme.table if name in _TABLES else scheme.matrices
        kind = gguf.GGMLQuantizationType[asked]
        if weight.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
            kind = gguf.GGMLQuantizationType.F16
        if kind == gguf.GGMLQuantizationType.F16 and float(weight.abs().max()) > torch.finfo(torch.float16).max:
            raise ModelError(
                f"{name} holds {float(weight.abs().max()):.4g}, which fp16 cannot. Next: choose gguf-q4_k_m, or leave "
                "the format out of export.formats."
            )
        writer.add_tensor(name, gguf.quantize(weight.numpy(), kind), raw_dtype=kind)


def _requantise(source: Path, target: Path, scheme: Scheme) -> None:
    """By llama.cpp, which mixes types by the place of a weight in the model."""
    llama = needed("llama_cpp", "llama")
    terms = llama.llama_model_quantize_default_params()
    terms.ftype = getattr(llama, f"LLAMA_FTYPE_{scheme.file_type}")
    with contextlib.redirect_stderr(io.StringIO()):  # a line of progress for every weight
        failed = llama.llama_model_quantize(str(source).encode(), str(target).encode(), terms)
    if failed:
        raise ModelError(
            f"llama.cpp could not quantise the model to {scheme.name} (code {failed}). Next: choose gguf-q8_0 or "
            "gguf-q4_0."
        )
