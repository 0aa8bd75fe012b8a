"""A sequence classifier that reads the mean of its encoder's token states.

A sentence encoder never trained its first token to stand for the text, so the stock head starts from noise there. The
saved folder is a sentence-transformers folder (Transformer, mean Pooling, Dense without activation), whose output is
the logits: it loads without this package.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, __version__
from transformers.modeling_outputs import SequenceClassifierOutput

# The names that every release of sentence-transformers since 2.0 reads; newer ones map them to their present place.
_MODULES = (
    ("", "sentence_transformers.models.Transformer"),
    ("1_Pooling", "sentence_transformers.models.Pooling"),
    ("2_Dense", "sentence_transformers.models.Dense"),
)
_IDENTITY = "torch.nn.modules.linear.Identity"


class MeanPooledClassifier(nn.Module):
    """encoder -> mean over real tokens -> linear. The classes are named in the encoder's config (`id2label`)."""

    def __init__(self, encoder: PreTrainedModel):
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.config.hidden_size, encoder.config.num_labels)
        self._takes_types = "token_type_ids" in inspect.signature(type(encoder).forward).parameters

    @property
    def config(self) -> PreTrainedConfig:
        """The encoder's config."""
        return self.encoder.config

    def forward(
        self,
        input_ids: Int[Tensor, "B L"],
        attention_mask: Int[Tensor, "B L"] | Bool[Tensor, "B L"],
        token_type_ids: Int[Tensor, "B L"] | None = None,
    ) -> SequenceClassifierOutput:
        """Logits [B, C] of token ids [B, L]; padding (mask 0) weighs nothing in the mean."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if self._takes_types and token_type_ids is not None:
            inputs["token_type_ids"] = token_type_ids
        states_BLD = self.encoder(**inputs)[0]
        return SequenceClassifierOutput(logits=self.head(mean_pooled(states_BLD, attention_mask)))

    def with_encoder(self, encoder: PreTrainedModel, channels: Sequence[int] | None = None) -> MeanPooledClassifier:
        """The same head, copied, on another encoder of the same width, or of only these channels of its states."""
        other = MeanPooledClassifier(encoder)
        weights = self.head.state_dict()
        if channels is not None:
            weights["weight"] = weights["weight"][:, list(channels)]
        other.head.load_state_dict(weights)
        return other.to(self.head.weight.dtype).train(self.training)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the encoder and the three small files beside it; the tokenizer is the caller's."""
        folder = Path(folder)
        self.encoder.save_pretrained(folder)
        width, classes = self.head.in_features, self.head.out_features
        listing = [
            {"idx": index, "name": str(index), "path": path, "type": kind}
            for index, (path, kind) in enumerate(_MODULES)
        ]
        _write(folder / "modules.json", listing)
        _write(
            folder / "sentence_bert_config.json", {"max_seq_length": positions_of(self.config), "do_lower_case": False}
        )
        versions = {"sentence_transformers": "2.0.0", "transformers": __version__, "pytorch": torch.__version__}
        _write(folder / "config_sentence_transformers.json", {"__version__": versions})
        pooling = {"word_embedding_dimension": width, "pooling_mode_cls_token": False}
        pooling |= {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": False}
        _write(folder / "1_Pooling" / "config.json", pooling)
        dense = {"in_features": width, "out_features": classes, "bias": True, "activation_function": _IDENTITY}
        _write(folder / "2_Dense" / "config.json", dense)
        weights = {f"linear.{name}": tensor.detach().contiguous() for name, tensor in self.head.state_dict().items()}
        save_file(weights, folder / "2_Dense" / "model.safetensors", metadata={"format": "pt"})


def mean_pooled(
    states_BLD: Float[Tensor, "B L D"], attention_BL: Int[Tensor, "B L"] | Bool[Tensor, "B L"]
) -> Float[Tensor, "B D"]:
    """Mean of the states of real tokens. A row without any is the zero vector, not a NaN."""
    mask_BL1 = attention_BL.unsqueeze(-1).to(states_BLD.dtype)
    return (states_BLD * mask_BL1).sum(1) / mask_BL1.sum(1).clamp(min=1e-9)


def config_of(module: nn.Module) -> PreTrainedConfig:
    """The transformers config of a model of ours or theirs."""
    return module.config


def has_pooler(kind: type[PreTrainedModel]) -> bool:
    """Whether this class makes a first-token pooler unless told not to; the mean has no use for it."""
    return "add_pooling_layer" in inspect.signature(kind).parameters


def pools_mean(folder: Path) -> bool:
    """Whether a folder says, in the sentence-transformers way, that its tokens are averaged."""
    pooling = _read(folder / "1_Pooling" / "config.json")
    if pooling is None or not (folder / "modules.json").is_file():
        return False
    chosen = {name for name, on in pooling.items() if name.startswith("pooling_mode_") and on is True}
    return pooling.get("pooling_mode") == "mean" or chosen == {"pooling_mode_mean_tokens"}


def saved_head(folder: Path) -> dict[str, Tensor] | None:
    """Weight [C, D] and bias [C] of a folder's linear head, or None if it has none or one with an activation."""
    dense = _read(folder / "2_Dense" / "config.json")
    if dense is None or dense.get("activation_function") != _IDENTITY or not dense.get("bias", True):
        return None
    weights = load_file(folder / "2_Dense" / "model.safetensors")
    return {"weight": weights["linear.weight"], "bias": weights["linear.bias"]}


def positions_of(config: PreTrainedConfig) -> int | None:
    """Tokens the model can read, None where its config sets no end; RoBERTa's table begins after its padding index."""
    config = config.get_text_config()
    end = getattr(config, "max_position_embeddings", None)
    if end is None or end <= 0:  # XLNet writes -1
        return None
    offset = (config.pad_token_id or 0) + 1 if config.model_type in ("roberta", "xlm-roberta", "camembert") else 0
    return int(end) - offset


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
