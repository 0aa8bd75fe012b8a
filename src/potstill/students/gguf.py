"""A .gguf file as a Hugging Face folder: converted once, kept in a cache under the hash of the file."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedModel, PreTrainedTokenizerBase

from potstill.core.errors import ModelError
from potstill.durable import writing
from potstill.students.assembled import cache_folder
from potstill.students.quiet import quiet

# How transformers begins when weights do not fit (utils/loading_report.py).
_MISFITS = ("Error(s) in loading state_dict", "We encountered some issues during", "You set `ignore_mismatched_sizes`")


def converted(path: Path) -> Path:
    """The Hugging Face folder (fp32 safetensors, tokenizer, chat template) of a .gguf file; made at the first call.

    Raises ModelError: not a GGUF file, the reader is not installed, an architecture that is not known, or a chat
    template or end token that did not survive. FolderError, DiskError: the cache cannot hold it.
    """
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ModelError(f"{path}: not a GGUF file (it does not begin with GGUF): download it again")
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    target = cache_folder() / "gguf" / digest
    if (target / "config.json").is_file():
        return target
    for package in ("gguf", "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise ModelError(f'{path}: reading GGUF needs the package {package}: run `pip install "potstill[gguf]"`')
    with writing(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{digest[:8]}-", dir=target.parent))
    try:
        with quiet():
            model, tokenizer = _convert(path)
        with quiet(), writing(aside):
            model.save_pretrained(aside)
            tokenizer.save_pretrained(aside)
            (aside / "README.md").write_text(_card(path), encoding="utf-8")
            _settle(aside, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target


def _settle(aside: Path, target: Path) -> None:
    """Rename into place. Another process may have been first; its folder came from the same bytes."""
    try:
        aside.rename(target)
    except OSError:
        if not (target / "config.json").is_file():
            raise


def _convert(path: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
        # An installed kernel package would otherwise hand over packed weights, which cannot learn.
        model = AutoModelForCausalLM.from_pretrained(
            str(path.parent),
            gguf_file=path.name,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
        )
    except (ValueError, KeyError, RuntimeError, NotImplementedError, OSError) as error:
        if isinstance(error, RuntimeError) and not _of_the_file(error):
            raise
        raise ModelError(f"{path}: the file could not be converted ({error}): use another file or model") from error
    if getattr(model.config, "quantization_config", None) is not None:
        del model.config.quantization_config
    tokenizer.model_max_length = model.config.max_position_embeddings
    _survived(path, model, tokenizer)
    return model, tokenizer


def _of_the_file(error: RuntimeError) -> bool:
    """Whether the weights are not those of their config. transformers says so with a bare RuntimeError; torch says with
    one, too, that the memory is full, which no other file would mend."""
    return isinstance(error, NotImplementedError) or str(error).startswith(_MISFITS)


def _survived(path: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """The chat template and the end token of the file are those of the tokenizer, and generation stops there."""
    template = _field(path, "tokenizer.chat_template")
    if template is not None and tokenizer.chat_template != template:
        raise ModelError(f"{path}: the chat template was lost in conversion: upgrade transformers, or use its folder")
    end = _field(path, "tokenizer.ggml.eos_token_id")
    stops = model.generation_config.eos_token_id
    stops = stops if isinstance(stops, list) else [stops]
    if end is not None and (tokenizer.eos_token_id != end or end not in stops):
        raise ModelError(
            f"{path}: the end token is {end} in the file, {tokenizer.eos_token_id} in the tokenizer and {stops} in "
            "generation: upgrade transformers, or use the model's own folder"
        )


def _card(path: Path) -> str:
    """Front matter that keeps the licence the file states."""
    licence = _field(path, "general.license")
    stated = f"license: {licence}\n" if licence else ""
    return f"---\n{stated}---\n\nDequantised from {path.name}.\n"


def _field(path: Path, name: str) -> object:
    from gguf import GGUFReader

    field = GGUFReader(str(path)).get_field(name)
    return None if field is None else field.contents()
