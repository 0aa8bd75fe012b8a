"""What a teacher can say, what a student answers with, and what an objective wants of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from potstill.core.shapes import AttentionsBHLL, IndicesBTK, LogitsBTV, LogprobsBTK, PerTokenBT, StatesBLD


@dataclass(frozen=True, slots=True)
class Voice:
    """Who speaks: the teacher's fingerprint (hash of weights and tokenizer) and its vocabulary size (or classes)."""

    teacher: str
    vocabulary_size: int


@dataclass(frozen=True, slots=True)
class DenseLogits:
    """Raw logits over the whole vocabulary, before any temperature."""

    logits_BTV: LogitsBTV


@dataclass(frozen=True, slots=True)
class SparseLogprobs:
    """The k largest log-probabilities at `temperature`, and the log of the mass that was not kept (nats).

    A sparse signal exists at one temperature only: the softened distribution of a cut tail cannot be rebuilt.
    """

    indices_BTK: IndicesBTK
    logprobs_BTK: LogprobsBTK
    log_tail_BT: PerTokenBT
    temperature: float = 1.0


@dataclass(frozen=True, slots=True)
class OutputHead:
    """What turns last states into logits: z = scale * (W h + b), then softcap * tanh(z / softcap) where there is one.

    weight_VD: [V, D]. scale, softcap: as the model's own config has them.
    """

    weight_VD: Float[Tensor, "V D"]
    bias_V: Float[Tensor, " V"] | None = None
    scale: float = 1.0
    softcap: float | None = None


@dataclass(frozen=True, slots=True)
class HiddenStates:
    """States by layer: 0 is the embedding output, i the output of block i; -1 the last state after the final norm."""

    layers: Mapping[int, StatesBLD]


@dataclass(frozen=True, slots=True)
class Attentions:
    """Attention maps by zero-based block."""

    layers: Mapping[int, AttentionsBHLL]


@dataclass(frozen=True, slots=True)
class Signal:
    """A teacher's comment on a batch."""

    voice: Voice
    logits: DenseLogits | SparseLogprobs | None = None
    hidden: HiddenStates | None = None
    attentions: Attentions | None = None


@dataclass(frozen=True, slots=True)
class Outputs:
    """The student's side of the same kinds."""

    logits_BTV: LogitsBTV
    hidden: HiddenStates | None = None
    attentions: Attentions | None = None


@dataclass(frozen=True, slots=True)
class Want:
    """What an objective needs. teacher: False when labels alone are learnt (then no teacher is loaded)."""

    teacher: bool = True
    logits: bool = True
    hidden_layers: tuple[int, ...] = field(default=())
    attention_layers: tuple[int, ...] = field(default=())
    top_k: int | None = None
