"""What a teacher can say, what a student answers with, and what an objective wants of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
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

    def logits(self, states_ND: Float[Tensor, "*N D"]) -> Float[Tensor, "*N V"]:
        """The whole product, in the dtype of the states: for a few positions, or a small head."""
        weight_VD = self.weight_VD.to(states_ND.dtype)
        logits = states_ND @ weight_VD.T
        if self.bias_V is not None:
            logits = logits + self.bias_V.to(states_ND.dtype)
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def detached(self) -> OutputHead:
        """The same values without a graph."""
        bias = None if self.bias_V is None else self.bias_V.detach()
        return OutputHead(self.weight_VD.detach(), bias, self.scale, self.softcap)

    def over(self, entries_K: Int[Tensor, " K"]) -> OutputHead:
        """The same head for some entries of the vocabulary, in this order."""
        bias = None if self.bias_V is None else self.bias_V[entries_K]
        return OutputHead(self.weight_VD[entries_K], bias, self.scale, self.softcap)


@dataclass(frozen=True, slots=True)
class HeadedStates:
    """Last states, after the final norm, and the head that makes logits of them: the product is never held whole."""

    states_BTD: Float[Tensor, "B T D"]
    head: OutputHead

    def detached(self) -> HeadedStates:
        """The same values without a graph, as a teacher hands them out."""
        return HeadedStates(self.states_BTD.detach(), self.head.detached())


@dataclass(frozen=True, slots=True)
class HiddenStates:
    """States by layer: 0 is the embedding output, i the output of block i; -1 the last state after the final norm."""

    layers: Mapping[int, StatesBLD]


@dataclass(frozen=True, slots=True)
class Attentions:
    """Attention maps by zero-based block."""

    layers: Mapping[int, AttentionsBHLL]


@dataclass(frozen=True, slots=True)
class Scores:
    """What attention is the softmax of, by zero-based block: q k / sqrt(d) of pairs of positions, nothing masked."""

    layers: Mapping[int, AttentionsBHLL]


@dataclass(frozen=True, slots=True)
class Signal:
    """A teacher's comment on a batch.

    entries_K: which entries of the student's vocabulary the logits are over, in this order; None: all of them. Both
    sides are then normalised over these alone; the voice still names the size of the student's whole vocabulary.
    tutor: what a second, smaller teacher says of the same rows, where the recipe has one to choose from.
    """

    voice: Voice
    logits: DenseLogits | SparseLogprobs | HeadedStates | None = None
    hidden: HiddenStates | None = None
    attentions: Attentions | None = None
    entries_K: Int[Tensor, " K"] | None = None
    scores: Scores | None = None
    tutor: DenseLogits | None = None


@dataclass(frozen=True, slots=True)
class Outputs:
    """The student's side of the same kinds. Where `headed` was wanted there are no whole logits."""

    logits_BTV: LogitsBTV | None
    hidden: HiddenStates | None = None
    attentions: Attentions | None = None
    headed: HeadedStates | None = None
    scores: Scores | None = None


@dataclass(frozen=True, slots=True)
class Want:
    """What an objective needs.

    teacher: False when labels alone are learnt (then no teacher is loaded). headed: last states and their head in place
    of logits, from both sides. top_k: this many log-probabilities and the tail are enough, at `temperature`.
    score_layers: blocks whose attention scores are wanted. student: what the student is asked for, where that differs
    from what the teacher is.
    """

    teacher: bool = True
    logits: bool = True
    headed: bool = False
    hidden_layers: tuple[int, ...] = field(default=())
    attention_layers: tuple[int, ...] = field(default=())
    top_k: int | None = None
    temperature: float = 1.0
    score_layers: tuple[int, ...] = field(default=())
    student: Want | None = None

    @property
    def inside(self) -> bool:
        """Whether anything between the embeddings and the last state is wanted."""
        return bool(self.hidden_layers or self.attention_layers or self.score_layers)

    @property
    def of_student(self) -> Want:
        """The student's side."""
        return self if self.student is None else self.student
