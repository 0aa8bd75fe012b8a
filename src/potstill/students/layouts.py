"""Where each architecture keeps its parts: a literal table, because no name is shared by all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from potstill.core.errors import ModelError
from potstill.students.pooled import MeanPooledClassifier, config_of


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths in one architecture.

    From the base model: blocks (the list of layers), embeddings (modules), positions (the learnt position table).
    Inside a block: attention (the module that returns output and weights), up (into the feed-forward neurons) and down
    (out of them); neurons: the config's name for their number. From the classifier: head, its last linear. transposed:
    linears keep [in, out]. padding_offset: the first token uses the row after that of the padding index. query, key:
    the linears whose products are the attention scores, None where positions enter between (rotary models) or one
    linear makes both.
    """

    blocks: str
    attention: str
    up: tuple[str, ...]
    down: str
    embeddings: tuple[str, ...]
    head: str
    query: str | None = None
    key: str | None = None
    positions: str | None = None
    neurons: str = "intermediate_size"
    transposed: bool = False
    padding_offset: bool = False


def _bert(head: str, padding_offset: bool = False) -> Layout:
    return Layout(
        blocks="encoder.layer",
        attention="attention.self",
        query="attention.self.query",
        key="attention.self.key",
        up=("intermediate.dense",),
        down="output.dense",
        embeddings=("embeddings",),
        head=head,
        positions="embeddings.position_embeddings.weight",
        padding_offset=padding_offset,
    )


_LLAMA = Layout(
    blocks="layers",
    attention="self_attn",
    up=("mlp.gate_proj", "mlp.up_proj"),
    down="mlp.down_proj",
    embeddings=("embed_tokens",),
    head="score",
)

LAYOUTS: Mapping[str, Layout] = {
    "bert": _bert("classifier"),
    "roberta": _bert("classifier.out_proj", padding_offset=True),
    "xlm-roberta": _bert("classifier.out_proj", padding_offset=True),
    "electra": _bert("classifier.out_proj"),
    "distilbert": Layout(
        blocks="transformer.layer",
        attention="attention",
        query="attention.q_lin",
        key="attention.k_lin",
        up=("ffn.lin1",),
        down="ffn.lin2",
        neurons="hidden_dim",
        embeddings=("embeddings",),
        head="classifier",
        positions="embeddings.position_embeddings.weight",
    ),
    "gpt2": Layout(
        blocks="h",
        attention="attn",
        up=("mlp.c_fc",),
        down="mlp.c_proj",
        neurons="n_inner",
        embeddings=("wte", "wpe"),
        head="score",
        positions="wpe.weight",
        transposed=True,
    ),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "smollm3": _LLAMA,
    "gemma3_text": _LLAMA,
}


@dataclass(frozen=True, slots=True)
class Dimensions:
    """Blocks, width of a state, attention heads."""

    depth: int
    width: int
    heads: int


def dimensions_of(module: nn.Module) -> Dimensions:
    """Raises ModelError when the architecture is not in the table."""
    config = config_of(module).get_text_config()
    return Dimensions(len(blocks_of(module)), value_of(config, "hidden_size"), value_of(config, "num_attention_heads"))


def layout_of(module: nn.Module) -> Layout:
    """The layout of a module. Raises ModelError when its architecture is not in the table."""
    kind = config_of(module).model_type
    if kind not in LAYOUTS:
        raise ModelError(
            f"{type(module).__name__}: the parts of a `{kind}` model are not known, so it cannot be cut or tapped; "
            f"known are {', '.join(sorted(LAYOUTS))}: use one of them, or add a row to students/layouts.py"
        )
    return LAYOUTS[kind]


def body_of(module: nn.Module) -> PreTrainedModel:
    """The base model: embeddings and blocks, without a head."""
    return module.encoder if isinstance(module, MeanPooledClassifier) else module.base_model


def blocks_of(module: nn.Module) -> nn.ModuleList:
    """The list of layers, first to last."""
    return body_of(module).get_submodule(layout_of(module).blocks)


def head_of(module: nn.Module) -> nn.Linear:
    """The last linear of a classifier. Raises ModelError when the module is no classifier."""
    if isinstance(module, MeanPooledClassifier):
        return module.head
    path = layout_of(module).head
    try:
        head = module.get_submodule(path)
    except AttributeError:
        head = None
    if not isinstance(head, nn.Linear):
        raise ModelError(f"{type(module).__name__} has no classifier head at `{path}`: load it for the task classify")
    return head


def prefix_of(module: PreTrainedModel) -> str:
    """What the names of the base model's weights begin with in the whole model's state."""
    return "" if module.base_model is module else f"{module.base_model_prefix}."


def edited(config: PreTrainedConfig, changes: Mapping[str, Any]) -> PreTrainedConfig:
    """A config with some values changed, built as a reload builds it; common names are mapped to the config's own."""
    own = {_own_name(config, name): value for name, value in changes.items()}
    return type(config).from_dict({**config.to_dict(), **own})


def value_of(config: PreTrainedConfig, name: str) -> Any:
    """A config value by its common name, None when the architecture has no such value."""
    return getattr(config, _own_name(config, name), None)


def _own_name(config: PreTrainedConfig, name: str) -> str:
    if name == "intermediate_size" and config.model_type in LAYOUTS:
        return LAYOUTS[config.model_type].neurons  # left out of the maps of names that GPT-2 and DistilBERT have
    return config.attribute_map.get(name, name)
