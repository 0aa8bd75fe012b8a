"""A student made from a loaded model: itself, some of its blocks, or a fresh narrower model of its architecture."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from potstill.core.errors import ModelError
from potstill.core.task import Task
from potstill.students.distilbert import as_distilbert, distilbert_name
from potstill.students.fingerprint import recorded
from potstill.students.labels import with_labels
from potstill.students.layer_map import every
from potstill.students.layouts import blocks_of, body_of, edited, head_of, layout_of, value_of
from potstill.students.load import LoadedModel
from potstill.students.narrow import seen_narrowly
from potstill.students.pooled import MeanPooledClassifier, config_of, has_pooler
from potstill.students.settings import SizeSettings, StudentSettings
from potstill.students.surgery import cut_positions, keep_layers, keep_neurons
from potstill.students.vocabulary import trim_vocabulary


def make_student(
    settings: StudentSettings,
    source: LoadedModel,
    *,
    task: Task,
    labels: Sequence[str] | None,
    texts: Sequence[str] | None,
    seed: int,
) -> LoadedModel:
    """The student that `settings` describe, made from `source`, which is not changed.

    texts: what the vocabulary is trimmed to, needed with `vocabulary_size` only. seed: of every fresh weight. The head
    of `head: probe` is fresh until a probe is fitted; with `size` everything is fresh.
    Raises ModelError: a layer map, size, vocabulary or position count that does not fit the source.
    """
    module, notes = _body(settings, source, seed)
    kept = source.fresh
    if settings.architecture == "distilbert":
        module, kept = as_distilbert(module), tuple(distilbert_name(name) for name in kept)
        notes.append("as a DistilBERT")
    tokenizer = copy.deepcopy(source.tokenizer)
    if settings.vocabulary_size is not None:
        if not texts:
            raise ModelError("vocabulary_size needs training text to count pieces in: give data with rows")
        module, tokenizer = trim_vocabulary(module, tokenizer, texts, settings.vocabulary_size)
        notes.append(f"{settings.vocabulary_size:,} pieces")
    if settings.intermediate_size is not None:
        module = keep_neurons(module, settings.intermediate_size)
        notes.append(f"{settings.intermediate_size} neurons per block")
    if settings.max_positions is not None:
        module = cut_positions(module, settings.max_positions)
        tokenizer.model_max_length = settings.max_positions
        notes.append(f"{settings.max_positions} positions")
    fresh = tuple(name for name, _ in module.named_parameters()) if settings.size is not None else kept
    if settings.size is not None and settings.size.embeddings == "svd":
        notes.append("tables by SVD")
    if task == "classify":
        module, head = _with_classes(module, source, settings, labels, seed)
        fresh = tuple(sorted({*fresh, *head}))
    record = recorded(
        module,
        tokenizer,
        source=source.record.source,
        display_name=f"{source.record.display_name}, {', '.join(notes)}" if notes else source.record.display_name,
        revision=source.record.revision,
        licence=source.record.licence,
        folder=None,
    )
    return LoadedModel(module, tokenizer, record, fresh)


def _body(settings: StudentSettings, source: LoadedModel, seed: int) -> tuple[nn.Module, list[str]]:
    """The module with its final depth and width, and what a reader should know of it."""
    if settings.size is not None:
        size = settings.size
        return _fresh(size, source.module, seed), [f"fresh {size.num_hidden_layers} x {size.hidden_size}"]
    layers = settings.layers
    if settings.every is not None:
        layers = every(settings.every, len(blocks_of(source.module)))
    if layers is None:
        return copy.deepcopy(source.module), []
    return keep_layers(source.module, layers), [f"blocks {'+'.join(map(str, layers))}"]


def _fresh(size: SizeSettings, module: nn.Module, seed: int) -> nn.Module:
    """A new module of the same class and vocabulary, initialised as its library does."""
    layout_of(module)
    pooled = isinstance(module, MeanPooledClassifier)
    model: PreTrainedModel = module.encoder if pooled else module
    config = edited(model.config, _sizes(size, model))
    options: dict[str, Any] = {"add_pooling_layer": False} if pooled and has_pooler(type(model)) else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        other = type(model)(config, **options)
        if size.embeddings == "svd":
            seen_narrowly(model, other)
        if pooled:
            return MeanPooledClassifier(other).eval()
    if other.can_generate():
        other.generation_config = copy.deepcopy(model.generation_config)
    return other.eval()


def _sizes(size: SizeSettings, model: PreTrainedModel) -> dict[str, Any]:
    """Config changes; values that followed from the old sizes follow from the new ones."""
    config = model.config
    changes = size.model_dump(exclude_none=True, exclude={"embeddings"})
    head_dim = size.hidden_size // size.num_attention_heads
    if value_of(config, "num_key_value_heads") is None:
        if size.num_key_value_heads is not None:
            raise ModelError(f"size.num_key_value_heads: a `{config.model_type}` model has none: remove it")
    else:
        changes.setdefault("num_key_value_heads", size.num_attention_heads)
    if getattr(config, "head_dim", None) is not None:
        changes["head_dim"] = head_dim
    if getattr(config, "query_pre_attn_scalar", None) is not None:
        changes["query_pre_attn_scalar"] = head_dim
    for name in ("layer_types", "no_rope_layers"):
        if getattr(config, name, None) is not None:
            changes[name] = None
    return changes


def _with_classes(
    module: nn.Module, source: LoadedModel, settings: StudentSettings, labels: Sequence[str] | None, seed: int
) -> tuple[nn.Module, tuple[str, ...]]:
    """The module with a head for `labels`, and the names of head weights that are fresh."""
    config, last = config_of(module), head_of(module)
    names = tuple(labels) if labels is not None else tuple(config.id2label[i] for i in range(config.num_labels))
    linears = _head_linears(module)
    weights = tuple(f"{path}.{name}" for path, part in linears.items() for name, _ in part.named_parameters())
    fresh = settings.head != "copy" or settings.size is not None or bool(set(weights) & set(source.fresh))
    if not fresh and last.out_features != len(names):
        raise ModelError(
            f"head: copy: the source has {last.out_features} classes and the data has {len(names)}: set head: fresh"
        )
    with_labels(config, names, source.tokenizer)
    if not fresh:
        return module, ()
    generator = torch.Generator().manual_seed(seed)
    for path, part in linears.items():
        width = len(names) if part is last else part.out_features
        module.set_submodule(path, _fresh_linear(part, width, config.initializer_range, generator))
    if hasattr(module, "num_labels"):
        module.num_labels = len(names)
    return module, weights


def _head_linears(module: nn.Module) -> dict[str, nn.Linear]:
    """Linears of a classifier outside of its base model, by path."""
    inside = {id(part) for part in body_of(module).modules()}
    return {
        path: part for path, part in module.named_modules() if isinstance(part, nn.Linear) and id(part) not in inside
    }


def _fresh_linear(like: nn.Linear, width: int, deviation: float, generator: torch.Generator) -> nn.Linear:
    """A linear with `width` outputs, initialised as transformers initialises: normal weights, zero bias."""
    other = nn.Linear(like.in_features, width, bias=like.bias is not None)
    with torch.no_grad():
        other.weight.normal_(0.0, deviation, generator=generator)
        if other.bias is not None:
            other.bias.zero_()
    return other.to(device=like.weight.device, dtype=like.weight.dtype)
