"""From settings to a model in memory: located, inspected, then read in fp32 and evaluation mode."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)

from potstill.core.errors import ModelError
from potstill.core.task import Task
from potstill.students.fingerprint import recorded
from potstill.students.labels import checked_labels, has_head, with_labels
from potstill.students.locate import locate
from potstill.students.pooled import MeanPooledClassifier, has_pooler, pools_mean, saved_head
from potstill.students.quiet import quiet
from potstill.students.record import ModelRecord
from potstill.students.refuse import check_tokenizer_kind, check_vocabulary, inspect_folder
from potstill.students.settings import ModelSettings

_CLASSES: Mapping[str, tuple[Any, Any]] = {
    "classify": (AutoModelForSequenceClassification, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING),
    "masked-lm": (AutoModelForMaskedLM, MODEL_FOR_MASKED_LM_MAPPING),
    "causal-lm": (AutoModelForCausalLM, MODEL_FOR_CAUSAL_LM_MAPPING),
    "mean": (AutoModel, MODEL_MAPPING),
}
# Only what sits between a body and the classes may be absent from the file; it then starts fresh.
_MASKED_HEADS = (
    *("cls", "lm_head", "vocab_transform", "vocab_layer_norm", "vocab_projector"),
    *("generator_predictions", "generator_lm_head"),
)
_HEADS = ("classifier", "score", "pre_classifier", "pooler", "head")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready for use. fresh: weights that the folder did not hold (a new head). unused: weights of the folder
    that this task does not need."""

    module: nn.Module
    tokenizer: PreTrainedTokenizerBase
    record: ModelRecord
    fresh: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()


def load_model(
    settings: ModelSettings,
    *,
    task: Task,
    labels: Sequence[str] | None,
    folder_of: Mapping[str, Path] | None = None,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """Load what `settings` names for `task`. labels: the classes in order. folder_of: finished stages by name.

    Without `pooling`, a classifier is read as its folder says: the mean where a sentence-transformers folder averages
    its tokens and holds no stock head, else the first token. A missing head is fresh, from a fixed seed.
    An encoder without a masked-language-model head gets one, tied to its embeddings, for `head: fresh` alone.
    Raises ModelError: everything `inspect_folder` refuses, a vocabulary that does not fit, classes that differ from
    the saved head's, an architecture without this task, weights that are missing or not finite.
    """
    found = locate(settings, folder_of or {}, trust_remote_code=trust_remote_code)
    values = inspect_folder(found.folder, trust_remote_code=trust_remote_code)
    with quiet():
        config = _config(found.folder, trust_remote_code=trust_remote_code)
        reading = _reading(settings, task, found.folder, values)
        _check_task(config, reading, found.folder)
        tokenizer = _tokenizer(found.folder, trust_remote_code=trust_remote_code)
        tokens = max(tokenizer.get_vocab().values()) + 1
        check_vocabulary(tokens, config.get_text_config().vocab_size, str(found.folder))
        replace = False
        if task == "classify":
            keep_head = getattr(settings, "head", "copy") == "copy" and has_head(found.folder, values)
            names = checked_labels(labels, config if keep_head else None, str(found.folder))
            replace = len(names) != config.num_labels
            config = with_labels(config, names, tokenizer)
        headless = task == "masked-lm" and getattr(settings, "head", "copy") == "fresh"
        heads = _MASKED_HEADS if headless else () if reading in ("masked-lm", "causal-lm") else _HEADS
        module, fresh, unused = _module(found.folder, config, reading, heads, replace, trust_remote_code)
    if headless and not fresh:
        raise ModelError(f"{found.folder}: head: fresh, and it has a masked-language-model head: remove head")
    _check_finite(module, found.folder)
    record = recorded(
        module,
        tokenizer,
        source=found.source,
        display_name=found.display_name,
        revision=found.revision,
        licence=found.licence,
        folder=found.folder,
    )
    return LoadedModel(module, tokenizer, record, fresh, unused)


def load_tokenizer(
    settings: ModelSettings, *, folder_of: Mapping[str, Path] | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer alone of what `settings` names, after the same inspection: data is read before weights are."""
    found = locate(settings, folder_of or {}, trust_remote_code=trust_remote_code)
    inspect_folder(found.folder, trust_remote_code=trust_remote_code)
    with quiet():
        return _tokenizer(found.folder, trust_remote_code=trust_remote_code)


def vocabulary_rows(
    settings: ModelSettings, *, folder_of: Mapping[str, Path] | None = None, trust_remote_code: bool = False
) -> int:
    """Rows of the embedding table, as the config states them: no weight is read."""
    found = locate(settings, folder_of or {}, trust_remote_code=trust_remote_code)
    inspect_folder(found.folder, trust_remote_code=trust_remote_code)
    with quiet():
        return int(_config(found.folder, trust_remote_code=trust_remote_code).get_text_config().vocab_size)


def _reading(settings: ModelSettings, task: Task, folder: Path, values: Mapping[str, Any]) -> str:
    """Which row of _CLASSES reads the folder."""
    if task != "classify":
        if settings.pooling is not None:
            raise ModelError(f"pooling: {settings.pooling} is for classifiers and the task is {task}: remove pooling")
        return task
    stock = any(name.endswith("ForSequenceClassification") for name in values.get("architectures") or ())
    pooled = pools_mean(folder) and not stock
    if settings.pooling == "first" and pooled and saved_head(folder) is not None:
        raise ModelError(f"{folder}: its head reads the mean of the tokens and pooling is `first`: set pooling: mean")
    return "mean" if (settings.pooling or ("mean" if pooled else "first")) == "mean" else task


def _module(
    folder: Path, config: PreTrainedConfig, reading: str, heads: Sequence[str], replace: bool, trust_remote_code: bool
) -> tuple[nn.Module, tuple[str, ...], tuple[str, ...]]:
    reader, supported = _CLASSES[reading]
    native = type(config) in supported
    options: dict[str, Any] = {"ignore_mismatched_sizes": True} if replace else {}
    if reading == "mean" and native and has_pooler(supported[type(config)]):
        options["add_pooling_layer"] = False
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            module, info = reader.from_pretrained(
                str(folder),
                config=config,
                dtype=torch.float32,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
                **options,
            )
        except (RuntimeError, ValueError, OSError) as error:
            raise ModelError(f"{folder}: the weights do not fit the config ({error}): download it again") from error
        fresh = sorted({*info["missing_keys"], *(key[0] for key in info["mismatched_keys"])})
        _only_heads(fresh, folder, reading, heads)
        if reading == "mean":
            module = MeanPooledClassifier(module)
            head = saved_head(folder)
            if head is None or head["weight"].shape != module.head.weight.shape:
                fresh += ["head.bias", "head.weight"]
            else:
                module.head.load_state_dict(head)
    return module.eval(), tuple(fresh), tuple(sorted(info["unexpected_keys"]))


def _check_task(config: PreTrainedConfig, reading: str, folder: Path) -> None:
    remote = hasattr(config, "auto_map")  # trusted by the caller, or inspect_folder would have refused it
    if not remote and type(config) not in _CLASSES[reading][1]:
        raise ModelError(f"{folder}: a `{config.model_type}` model cannot do {reading}: use another model or task")


def _only_heads(fresh: Sequence[str], folder: Path, reading: str, allowed: Sequence[str]) -> None:
    lost = [name for name in fresh if not set(allowed) & set(name.split("."))]
    if lost:
        step = ", or fit a head in a first stage (student.head: fresh)" if reading == "masked-lm" else ""
        raise ModelError(
            f"{folder}: {len(lost)} weights that {reading} needs are missing ({', '.join(lost[:3])}...), and would be "
            f"random: use a model saved for this task{step}"
        )


def _tokenizer(folder: Path, *, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    try:
        found = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=trust_remote_code)
    except Exception as error:  # the tokenizers library raises bare Exception for damaged files
        raise ModelError(f"{folder}: the tokenizer cannot be read ({error}): download it again") from error
    for how in ("local_files_only", "is_local"):  # how it was read is no part of what it is, and would be saved
        found.init_kwargs.pop(how, None)
    backend = getattr(found, "backend_tokenizer", None)
    if backend is not None and (folder / "tokenizer.json").is_file():
        check_tokenizer_kind(folder / "tokenizer.json", json.loads(backend.to_str())["model"]["type"])
    return found


def _config(folder: Path, *, trust_remote_code: bool) -> PreTrainedConfig:
    try:
        return AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=trust_remote_code)
    except Exception as error:  # transformers' validators raise several families for values that contradict
        raise ModelError(f"{folder / 'config.json'}: not a usable config ({error}): download it again") from error


def _check_finite(module: nn.Module, folder: Path) -> None:
    for name, weight in module.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            raise ModelError(f"{folder}: `{name}` holds values that are not finite: the file is damaged; get it again")
