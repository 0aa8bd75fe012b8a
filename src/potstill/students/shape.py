"""The sizes of a model by its config.json or the header of its .gguf file: no weights, no torch.

What a plan needs to know of a model that nobody has loaded yet. Norms and biases are left out of the count of
parameters; they are under 1 % of every architecture in students/layouts.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from potstill.core.errors import ModelError
from potstill.students.gguf_header import gguf_header
from potstill.students.packaged import find_packaged
from potstill.students.settings import ModelSettings, StudentSettings

# Architectures disagree on names; the first that a config has counts.
_NAMES: Mapping[str, tuple[str, ...]] = {
    "layers": ("num_hidden_layers", "n_layer", "n_layers"),
    "hidden": ("hidden_size", "n_embd", "dim", "d_model"),
    "heads": ("num_attention_heads", "n_head", "n_heads"),
    "vocabulary": ("vocab_size",),
}


@dataclass(frozen=True, slots=True)
class ModelShape:
    """gated: three matrices in the feed-forward part, not two. tied: one table for embedding and head. positions: rows
    of a learnt position table."""

    layers: int
    hidden: int
    vocabulary: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    gated: bool
    tied: bool
    positions: int = 0

    @property
    def body_parameters(self) -> int:
        """Weights that every token is multiplied with, the head apart."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        feed_forward = (3 if self.gated else 2) * self.hidden * self.intermediate
        return self.layers * (attention + feed_forward)

    def parameters(self, *, head: bool = True) -> int:
        """All weights. head: with an output layer over the vocabulary (language models)."""
        tables = (self.vocabulary * (1 if self.tied or not head else 2) + self.positions) * self.hidden
        return self.body_parameters + tables


def shape_of(settings: ModelSettings, stages: Mapping[str, ModelShape]) -> ModelShape:
    """The shape of what the settings name. stages: of the products of earlier stages.

    Raises ModelError when it is not on this machine or its sizes cannot be read.
    """
    name = settings.model_name_or_path
    kind, _, rest = name.partition(":")
    if kind == "stage":
        return stages[rest]
    path = find_packaged(rest)[1] if kind == "packaged" else Path(name).expanduser()
    if path.suffix == ".gguf":
        return _of_gguf(path)
    config = path / "config.json" if path.is_dir() else _cached(name, settings.revision)
    try:
        values = json.loads(config.read_bytes())
        return of_config(values)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(
            f"{config}: the model's sizes cannot be read ({error}): give a complete model folder"
        ) from error


def student_shape(settings: StudentSettings, stages: Mapping[str, ModelShape]) -> ModelShape:
    """The student's shape after what the settings cut off."""
    shape = shape_of(settings, stages)
    if size := settings.size:
        shape = replace(
            shape,
            layers=size.num_hidden_layers,
            hidden=size.hidden_size,
            heads=size.num_attention_heads,
            kv_heads=size.num_key_value_heads or size.num_attention_heads,
            head_dim=size.hidden_size // size.num_attention_heads,
            intermediate=size.intermediate_size,
        )
    if settings.layers is not None:
        shape = replace(shape, layers=len(settings.layers))
    if settings.every is not None:
        shape = replace(shape, layers=math.ceil(shape.layers / settings.every))
    return replace(
        shape,
        vocabulary=settings.vocabulary_size or shape.vocabulary,
        intermediate=settings.intermediate_size or shape.intermediate,
        positions=min(shape.positions, settings.max_positions or shape.positions),
    )


def of_config(values: Mapping[str, Any]) -> ModelShape:
    """From the JSON of a config. Raises KeyError, TypeError for one that lacks a size."""
    values = values.get("text_config") or values
    sizes = {ours: values[next((name for name in names if name in values), names[0])] for ours, names in _NAMES.items()}
    gated = "rms_norm_eps" in values
    heads, hidden = sizes["heads"], sizes["hidden"]
    inner = values.get("intermediate_size") or values.get("n_inner") or values.get("hidden_dim") or 4 * hidden
    return ModelShape(
        **sizes,
        kv_heads=values.get("num_key_value_heads") or heads,
        head_dim=values.get("head_dim") or hidden // heads,
        intermediate=inner,
        gated=gated,
        tied=bool(values.get("tie_word_embeddings", not gated or "gemma" in values.get("model_type", ""))),
        positions=0 if gated else int(values.get("max_position_embeddings") or values.get("n_positions") or 0),
    )


def _of_gguf(path: Path) -> ModelShape:
    header = gguf_header(path)
    kind = header.values.get("general.architecture")

    def number(name: str) -> int:
        value = header.values.get(f"{kind}.{name}")
        if not isinstance(value, int) or value <= 0:
            raise ModelError(f"{path}: its header does not say `{kind}.{name}`: use the model's own folder")
        return value

    heads, hidden = number("attention.head_count"), number("embedding_length")
    given = header.values.get(f"{kind}.attention.key_length")
    return ModelShape(
        layers=number("block_count"),
        hidden=hidden,
        vocabulary=header.lengths["tokenizer.ggml.tokens"],
        heads=heads,
        kv_heads=number("attention.head_count_kv"),
        head_dim=given if isinstance(given, int) else hidden // heads,
        intermediate=number("feed_forward_length"),
        gated="blk.0.ffn_gate.weight" in header.tensors,
        tied="output.weight" not in header.tensors,
    )


def _cached(name: str, revision: str | None) -> Path:
    """The config of a hub model that was fetched before; a plan fetches nothing."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json", revision=revision)
    except HFValidationError:
        found = None
    if not isinstance(found, str):
        raise ModelError(f"{name}: neither a folder here nor in the local cache, and a plan fetches nothing: fetch it")
    return Path(found)
