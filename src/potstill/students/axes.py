"""What each axis of each weight counts: states, heads, neurons. Cutting and counting both read it from here.

Inside a block the table of paths says it. Outside (embeddings, norms, heads, poolers) it is found: an axis that grows
when the config asks for twice the width counts the width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from potstill.core.errors import ModelError
from potstill.students.blank import blank
from potstill.students.layouts import blocks_of, body_of, dimensions_of, layout_of, prefix_of, value_of
from potstill.students.pooled import MeanPooledClassifier, config_of

# joined: queries, keys and values one after the other, each of all heads, as GPT-2 has them.
Role = Literal["fixed", "width", "heads", "groups", "joined", "neurons"]
Axes = Mapping[str, tuple[Role, ...]]


@dataclass(frozen=True, slots=True)
class Attention:
    """Paths inside a block. query, key_value: linears from states into heads; out: the linear from heads to states.
    says_head_size: the config has a head size of its own, else it is width / heads."""

    query: tuple[str, ...]
    key_value: tuple[str, ...]
    out: str
    joined: str | None = None
    says_head_size: bool = False


_BERT = Attention(("attention.self.query",), ("attention.self.key", "attention.self.value"), "attention.output.dense")
_LLAMA = Attention(
    ("self_attn.q_proj",), ("self_attn.k_proj", "self_attn.v_proj"), "self_attn.o_proj", says_head_size=True
)
_ATTENTION: Mapping[str, Attention] = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "electra"), _BERT),
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "smollm3", "gemma3_text"), _LLAMA),
    "distilbert": Attention(("attention.q_lin",), ("attention.k_lin", "attention.v_lin"), "attention.out_lin"),
    "gpt2": Attention((), (), "attn.c_proj", joined="attn.c_attn"),
}


@dataclass(frozen=True, slots=True)
class Sizes:
    """Blocks, width of a state, query heads, key-value groups (as many as heads where each has its own), channels of
    a head, feed-forward neurons of a block."""

    depth: int
    width: int
    heads: int
    groups: int
    head_size: int
    neurons: int

    def of(self, role: Role) -> int:
        """How long an axis of this role is. Raises KeyError for a fixed one."""
        inner = self.heads * self.head_size
        return {
            "width": self.width,
            "heads": inner,
            "groups": self.groups * self.head_size,
            "joined": 3 * inner,
            "neurons": self.neurons,
        }[role]


def attention_of(module: nn.Module) -> Attention:
    """Raises ModelError when the architecture is not known."""
    layout_of(module)
    return _ATTENTION[config_of(module).model_type]


def sizes_of(module: nn.Module) -> Sizes:
    """Raises ModelError when the architecture is not known."""
    layout, config = layout_of(module), config_of(module).get_text_config()
    whole = dimensions_of(module)
    down = blocks_of(module)[0].get_submodule(layout.down).weight
    return Sizes(
        depth=whole.depth,
        width=whole.width,
        heads=whole.heads,
        groups=value_of(config, "num_key_value_heads") or whole.heads,
        head_size=getattr(config, "head_dim", None) or whole.width // whole.heads,
        neurons=down.shape[0 if layout.transposed else 1],
    )


def changes_for(module: nn.Module, sizes: Sizes) -> dict[str, Any]:
    """The config values that say these sizes, the depth aside."""
    changes = {
        "hidden_size": sizes.width,
        "num_attention_heads": sizes.heads,
        "intermediate_size": sizes.neurons,
    }
    if value_of(config_of(module).get_text_config(), "num_key_value_heads") is not None:
        changes["num_key_value_heads"] = sizes.groups
    if attention_of(module).says_head_size:
        changes["head_dim"] = sizes.head_size
    return changes


def axes_of(module: nn.Module) -> dict[str, tuple[Role, ...]]:
    """By name in the module's state, the role of each axis. Raises ModelError when the architecture is not known."""
    if isinstance(module, MeanPooledClassifier):
        inside = {f"encoder.{name}": roles for name, roles in axes_of(module.encoder).items()}
        return inside | {"head.weight": ("fixed", "width"), "head.bias": ("fixed",)}
    inside = _inside(module)
    start = f"{prefix_of(module)}{layout_of(module).blocks}."
    wider = _wider(module)
    found: dict[str, tuple[Role, ...]] = {}
    for name, tensor in module.state_dict().items():
        path = name.removeprefix(start).partition(".")[2] if name.startswith(start) else ""
        other = wider.get(name, tensor.shape)
        grows = tuple("width" if new != old else "fixed" for old, new in zip(tensor.shape, other, strict=True))
        found[name] = inside.get(path, grows)
    return found


def _inside(module: nn.Module) -> dict[str, tuple[Role, ...]]:
    """Roles of the linears of a block, by path of the weight or bias in the block."""
    layout, attention = layout_of(module), attention_of(module)
    pairs: dict[str, tuple[Role, Role]] = {path: ("neurons", "width") for path in layout.up}
    pairs[layout.down] = ("width", "neurons")
    pairs |= {path: ("heads", "width") for path in attention.query}
    pairs |= {path: ("groups", "width") for path in attention.key_value}
    pairs[attention.out] = ("width", "heads")
    if attention.joined is not None:
        pairs[attention.joined] = ("joined", "width")
    found: dict[str, tuple[Role, ...]] = {}
    for path, (out, into) in pairs.items():
        found[f"{path}.weight"] = (into, out) if layout.transposed else (out, into)
        found[f"{path}.bias"] = (out,)
    return found


def _wider(module: PreTrainedModel) -> dict[str, torch.Size]:
    sizes = sizes_of(module)
    changes: dict[str, Any] = {"hidden_size": 2 * sizes.width}
    if attention_of(module).says_head_size:
        changes["head_dim"] = sizes.head_size
    else:
        changes["num_attention_heads"] = 2 * sizes.heads
    return {name: tensor.shape for name, tensor in blank(module, changes, device="meta").state_dict().items()}


def block_of(module: nn.Module, name: str) -> int | None:
    """The block that a weight of this name is in, None for one outside."""
    prefix = "encoder." if isinstance(module, MeanPooledClassifier) else prefix_of(module)
    start = f"{prefix}{layout_of(module).blocks}."
    return int(name.removeprefix(start).partition(".")[0]) if name.startswith(start) else None


def state_norms(module: nn.Module) -> dict[str, nn.Module]:
    """The norms over states, by path: modules whose weights have the width as their only axis. Norms over the channels
    of a head are not among them."""
    axes = axes_of(module)
    found = {}
    for path, part in module.named_modules():
        own = [axes[f"{path}.{name}"] for name, _ in part.named_parameters(recurse=False)]
        if own and not list(part.children()) and all(roles == ("width",) for roles in own):
            found[path] = part
    return found


def body_norms(module: nn.Module) -> dict[str, nn.Module]:
    """`state_norms` without those of a head."""
    inside = {id(part) for part in body_of(module).modules()}
    return {path: part for path, part in state_norms(module).items() if id(part) in inside}


def says_head_sizes() -> list[str]:
    """The architectures whose configs have a head size of their own, so that heads can be cut alone."""
    return sorted(kind for kind, attention in _ATTENTION.items() if attention.says_head_size)


def refuse_width(module: nn.Module) -> None:
    """Raises ModelError, by name, for an architecture whose width cannot be cut without changing what it computes."""
    kind = config_of(module).model_type
    reasons = {
        "gemma3_text": "it multiplies its embeddings by the square root of its width",
        "electra": "whether it has a projection after its embeddings follows from its width",
    }
    if kind in reasons:
        fine = ", ".join(sorted(_ATTENTION.keys() - reasons.keys()))
        raise ModelError(
            f"width: a `{kind}` model's width cannot be cut: {reasons[kind]}. Cut neurons or blocks; the width of "
            f"{fine} can be cut"
        )
