"""A decoder's weights and sizes under the names and in the order that llama.cpp expects.

Names and keys: github.com/ggml-org/ggml, docs/gguf.md; the names of tensors come from the `gguf` package. A file holds
what a config says, so a config with anything that no key can hold is refused, not written without it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from potstill.core.errors import ModelError
from potstill.export.runtimes import needed

_SHOWN = 3
# Biases that a reader of the file would have to be told of, as its architecture usually has none.
_BIASES = {"llama": ("attention_bias", "mlp_bias"), "qwen3": ("attention_bias",)}


@dataclass(frozen=True, slots=True)
class Layout:
    """architecture: llama.cpp's name. paired: whether its rotary positions turn neighbouring rows of queries and keys
    (2i, 2i+1), where transformers turns row i with row i + d/2."""

    architecture: str
    paired: bool


# transformers' model_type -> how llama.cpp reads it.
LAYOUTS: Mapping[str, Layout] = {
    "llama": Layout("llama", paired=True),
    "qwen2": Layout("qwen2", paired=False),
    "qwen3": Layout("qwen3", paired=False),
}


def layout_of(module: nn.Module) -> Layout:
    """How this model is laid out. Raises ModelError for an architecture, or a setting of one, that is not written."""
    config = getattr(module, "config", None)
    kind = getattr(config, "model_type", type(module).__name__)
    if kind not in LAYOUTS or not hasattr(module, "generation_config"):
        raise ModelError(
            f"GGUF is written for causal language models of the architectures {', '.join(LAYOUTS)}, and this is a "
            f"`{kind}` ({type(module).__name__}). Next: leave the format out of export.formats."
        )
    if faults := list(_untold(config)):
        raise ModelError(
            f"GGUF has no place for {'; '.join(faults)} of this {kind} model, and without it the model would answer "
            "otherwise. Next: leave the format out of export.formats."
        )
    return LAYOUTS[kind]


def _untold(config: Any) -> Iterator[str]:
    """Settings that llama.cpp takes as given, where they are something else."""
    if (kind := config.rope_parameters.get("rope_type", "default")) != "default":
        yield f"rope_type {kind}"
    if (share := config.rope_parameters.get("partial_rotary_factor", 1.0)) != 1.0:
        yield f"partial_rotary_factor {share}"
    if config.hidden_act != "silu":
        yield f"hidden_act {config.hidden_act}"
    if biases := [name for name in _BIASES.get(config.model_type, ()) if getattr(config, name, False)]:
        yield " and ".join(biases)
    if "sliding_attention" in (getattr(config, "layer_types", None) or ()):
        yield "sliding attention"


def hyperparameters(module: nn.Module) -> dict[str, int | float]:
    """The sizes of a model, by the key that follows its architecture's name."""
    config: Any = module.config
    heads = config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return {
        "vocab_size": config.vocab_size,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": head_size,
        "attention.value_length": head_size,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.dimension_count": head_size,
        "rope.freq_base": float(config.rope_parameters["rope_theta"]),
    }


def tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Name and float32 values of every weight; a table that is tied to the output layer once, as the table.

    Raises ModelError for a weight that the architecture has no name for.
    """
    layout, config = layout_of(module), module.config
    gguf = needed("gguf", "gguf")
    kind = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == layout.architecture)
    names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)  # type: ignore[union-attr, arg-type]
    named = dict(module.named_parameters())  # a tied tensor comes once, under its first name
    translated = {name: names.get_name(name, try_suffixes=(".weight", ".bias")) for name in named}
    if strange := [name for name, found in translated.items() if found is None]:
        raise ModelError(
            f"{len(strange)} weights ({', '.join(strange[:_SHOWN])}) have no name in llama.cpp's "
            f"{layout.architecture}. Next: leave the format out of export.formats."
        )
    for name, weight in named.items():
        values = weight.detach().to("cpu", torch.float32)
        if layout.paired and ".q_proj." in name:
            values = paired(values, config.num_attention_heads)  # type: ignore[union-attr, arg-type]
        if layout.paired and ".k_proj." in name:
            values = paired(values, config.num_key_value_heads)  # type: ignore[union-attr, arg-type]
        yield translated[name], values


def paired(weight: Float[Tensor, "R ..."], heads: int) -> Float[Tensor, "R ..."]:
    """Rows of a projection to queries or keys, from halves to neighbours: of a head with d rows, row i goes to 2i and
    row i + d/2 to 2i + 1. Su et al. 2021, RoFormer, arXiv 2104.09864, equation 15, has them as neighbours."""
    halves = weight.unflatten(0, (heads, 2, -1))
    return halves.transpose(1, 2).reshape(weight.shape)
