"""A BERT rebuilt as a DistilBERT: the same blocks without token types and pooler."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    BertForMaskedLM,
    BertModel,
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertModel,
    PreTrainedConfig,
    PreTrainedModel,
)

from potstill.core.errors import ModelError
from potstill.students.pooled import MeanPooledClassifier, config_of

# DistilBERT's norms have this constant in their code; its config cannot say another.
_NORM_EPSILON = 1e-12
_CLASSES: Mapping[type[PreTrainedModel], type[PreTrainedModel]] = {
    BertModel: DistilBertModel,
    BertForMaskedLM: DistilBertForMaskedLM,
}
_NAMES = (
    (r"^bert\.", "distilbert."),
    (r"encoder\.layer\.", "transformer.layer."),
    (r"attention\.self\.query", "attention.q_lin"),
    (r"attention\.self\.key", "attention.k_lin"),
    (r"attention\.self\.value", "attention.v_lin"),
    (r"attention\.output\.dense", "attention.out_lin"),
    (r"attention\.output\.LayerNorm", "sa_layer_norm"),
    (r"intermediate\.dense", "ffn.lin1"),
    (r"(layer\.\d+\.)output\.dense", r"\1ffn.lin2"),
    (r"(layer\.\d+\.)output\.LayerNorm", r"\1output_layer_norm"),
    (r"^cls\.predictions\.transform\.dense", "vocab_transform"),
    (r"^cls\.predictions\.transform\.LayerNorm", "vocab_layer_norm"),
    (r"^cls\.predictions\.decoder", "vocab_projector"),
    (r"^cls\.predictions\.bias", "vocab_projector.bias"),
)


def as_distilbert(module: nn.Module) -> nn.Module:
    """The module as a DistilBERT that gives the same answers to single texts; every block is bitwise the old one.

    The row of token type 0, which BERT adds at each position, is added to the position table, so that nothing is lost
    of it. We depart here from DistilBERT's published code, which drops it. Type 1, the second text of a pair, is lost.
    Raises ModelError: not a BERT, a head that DistilBERT computes otherwise, another epsilon of the norms.
    """
    if isinstance(module, MeanPooledClassifier):
        return module.with_encoder(as_distilbert(module.encoder))
    kind = _CLASSES.get(type(module))
    config = config_of(module)
    if kind is None:
        raise ModelError(
            f"architecture: distilbert: a {type(module).__name__} cannot be rebuilt as one: take a BERT for task "
            "masked-lm, or a classifier with pooling: mean"
        )
    if config.layer_norm_eps != _NORM_EPSILON:
        raise ModelError(
            f"architecture: distilbert: the norms of this BERT have epsilon {config.layer_norm_eps:g} and DistilBERT's "
            f"{_NORM_EPSILON:g}: remove architecture"
        )
    with torch.random.fork_rng(devices=[]):
        other = kind(_config(config)).to(device=module.device, dtype=module.dtype)
    other.load_state_dict(_state(module), strict=True)
    other.tie_weights()
    other.set_attn_implementation(config._attn_implementation)
    return other.train(module.training)


def distilbert_name(name: str) -> str:
    """What DistilBERT calls a weight of BERT."""
    for old, new in _NAMES:
        name = re.sub(old, new, name)
    return name


def _state(module: nn.Module) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    types: Tensor | None = None
    for name, tensor in module.state_dict().items():
        if "token_type_embeddings" in name:
            types = tensor
        elif ".pooler." not in f".{name}" and not name.endswith(("position_ids", "token_type_ids")):
            state[distilbert_name(name)] = tensor
    positions = next(name for name in state if name.endswith("position_embeddings.weight"))
    assert types is not None, "a BERT has token types"
    state[positions] = state[positions] + types[0]
    return state


def _config(config: PreTrainedConfig) -> DistilBertConfig:
    values: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_position_embeddings,
        "n_layers": config.num_hidden_layers,
        "n_heads": config.num_attention_heads,
        "dim": config.hidden_size,
        "hidden_dim": config.intermediate_size,
        "dropout": config.hidden_dropout_prob,
        "attention_dropout": config.attention_probs_dropout_prob,
        "activation": config.hidden_act,
        "initializer_range": config.initializer_range,
        "pad_token_id": config.pad_token_id,
        "tie_word_embeddings": config.tie_word_embeddings,
        "id2label": config.id2label,
        "label2id": config.label2id,
    }
    return DistilBertConfig(**values)
