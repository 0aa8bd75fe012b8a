"""Layer by layer: what a teacher holds on the way to its answer, beside any loss on the answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from potstill.core.batch import Batch
from potstill.core.errors import ModelError, SignalError
from potstill.core.outcome import Loss
from potstill.core.shapes import AttentionsBHLL, Scalar, WeightsBT
from potstill.core.signal import Outputs, Signal, Want
from potstill.divergences.logmass import widened
from potstill.divergences.reduce import weighted_mean
from potstill.objectives.logits import Hinton
from potstill.objectives.settings import LayerSettings, ObjectiveSettings
from potstill.students.layer_map import explicit, uniform
from potstill.students.layouts import Dimensions

LAST = -1
# The deviation of BERT's fresh weights (Devlin et al. 2019, its published config), which TinyBERT's code gives its map.
FRESH_DEVIATION = 0.02


@dataclass(frozen=True, slots=True)
class Pairs:
    """What is compared with what: states (student, teacher) after the embedding, and blocks whose scores are."""

    states: tuple[tuple[int, int], ...]
    blocks: tuple[tuple[int, int], ...]


def paired(settings: LayerSettings, student: Dimensions, teacher: Dimensions) -> Pairs:
    """The map of the recipe on these two models; the block before state i is i - 1, so TinyBERT4 reads the attention of
    BERT's blocks 2, 5, 8 and 11.

    Raises SignalError: a map that does not fit, heads that cannot be paired, widths that cannot be compared.
    """
    states = _mapped(settings, student, teacher) if settings.attention or settings.hidden else ()
    if settings.attention and student.heads != teacher.heads:
        raise SignalError(
            f"objective.layers.attention compares head with head, and the student has {student.heads} and the teacher "
            f"{teacher.heads}: give the student {teacher.heads} heads, or set attention to 0"
        )
    if student.width != teacher.width:
        widths = f"the student's states have {student.width} entries and the teacher's {teacher.width}"
        if settings.cosine:
            raise SignalError(
                f"objective.layers.cosine compares directions in one space, and {widths}: set cosine to 0, and "
                "hidden with a projection above it"
            )
        if (settings.hidden or settings.embedding) and settings.projection is None:
            raise SignalError(f"objective.layers.hidden and embedding: {widths}: set objective.layers.projection")
    blocks = tuple((ours - 1, theirs - 1) for ours, theirs in states)
    return Pairs(states if settings.hidden else (), blocks if settings.attention else ())


def _mapped(settings: LayerSettings, student: Dimensions, teacher: Dimensions) -> tuple[tuple[int, int], ...]:
    """States (student, teacher) after each block of the student."""
    try:
        if settings.map == "uniform":
            return uniform(student.depth, teacher.depth)[1:]
        return explicit(settings.map, student.depth, teacher.depth)[1:]
    except ModelError as error:
        raise SignalError(f"objective.layers: {error}") from error


def shared_projection(student: Dimensions, teacher: Dimensions, seed: int) -> nn.Linear:
    """One linear map from the student's states to the teacher's, for all layers and the embedding, as TinyBERT's code
    has it (the paper writes one for the embedding and one for the rest). It begins as the identity where the widths are
    equal, else as BERT's fresh weights do."""
    made = nn.Linear(student.width, teacher.width)
    with torch.no_grad():
        if student.width == teacher.width:
            nn.init.eye_(made.weight)
        else:
            made.weight.normal_(0.0, FRESH_DEVIATION, generator=torch.Generator().manual_seed(seed))
        made.bias.zero_()
    return made


class LayerByLayer:
    """The loss on the answers (`Hinton`, any divergence), if any, and four terms inside, each times its weight:

        L_attn  sum over mapped blocks of the mean of (A_s - A_t)^2, A = q k / sqrt(d) before any mask and softmax, over
                heads and over the pairs of real tokens of a row
        L_hid   sum over mapped states of the mean of (H_s W + b - H_t)^2 over real tokens and width
        L_embd  the same of the states before the first block, with the same W
        L_cos   the mean of 1 - cos(h_s, h_t) of the last states over real tokens

    Jiao et al. 2020 (TinyBERT, arXiv:1909.10351), equations 7 to 9; Sanh et al. 2019 (DistilBERT, arXiv:1910.01108),
    section 2. We depart from TinyBERT's published code in one point: it sets masked scores to 0 and divides by all
    pairs, padding included, so that its loss depends on how rows are batched; here padding is in neither sum.
    """

    def __init__(self, settings: ObjectiveSettings, pairs: Pairs, projection: nn.Linear | None = None):
        assert settings.layers is not None, "made for settings with layers"
        self.projection = projection
        self._layers, self._pairs = settings.layers, pairs
        self._answers = Hinton(settings) if settings.answers else None

    def want(self) -> Want:
        """Each side's own layers; logits where answers are taught too."""
        asked = self._answers.want() if self._answers is not None else Want(logits=False)
        sides = [self._side(asked, side) for side in (0, 1)]
        return dataclasses.replace(sides[1], student=sides[0])

    def _side(self, asked: Want, side: int) -> Want:
        states = [pair[side] for pair in self._pairs.states]
        if self._layers.embedding:
            states.insert(0, 0)
        if self._layers.cosine:
            states.append(LAST)
        scores = tuple(pair[side] for pair in self._pairs.blocks)
        return dataclasses.replace(asked, teacher=True, hidden_layers=tuple(states), score_layers=scores)

    def counts(self, batch: Batch) -> dict[str, float]:
        """The weights of the answers; real tokens ("tokens") and pairs of them in one row ("pairs")."""
        read_BL = read(batch)
        own = self._answers.counts(batch) if self._answers is not None else {}
        return {**own, "tokens": float(read_BL.sum()), "pairs": float((read_BL.sum(1) ** 2).sum())}

    def loss(
        self, batch: Batch, signal: Signal | None, outputs: Outputs, totals: Mapping[str, float] | None = None
    ) -> Loss:
        """As `core.protocols.Objective`; parts are what each contributes. Raises SignalError where a side left out a
        layer, or where two that are compared differ in shape."""
        counts = self.counts(batch)
        totals = counts if totals is None else totals
        if signal is None:
            raise SignalError("objective.layers has no teacher to compare with: name one, or remove it")
        terms = self._terms(batch, signal, outputs, totals)
        found = {name: getattr(self._layers, name) * value for name, value in terms.items()}
        parts = {name: float(value.detach()) for name, value in found.items()}
        total = torch.stack(list(found.values())).sum()
        if self._answers is not None:
            answers = self._answers.loss(batch, signal, outputs, totals)
            total, parts = total + answers.total, {**answers.parts, **parts}
        return Loss(total=total, parts=parts, counts=counts)

    def _terms(self, batch: Batch, signal: Signal, outputs: Outputs, totals: Mapping[str, float]) -> dict[str, Scalar]:
        read_BL = read(batch)
        weights_N = read_BL[read_BL != 0]

        def rows(pair: tuple[int, int]) -> tuple[Tensor, Tensor]:
            student_BLS, teacher_BLD = _states(signal, outputs, pair)
            return widened(student_BLS[read_BL != 0]), widened(teacher_BLD[read_BL != 0])

        def squares(pair: tuple[int, int]) -> Scalar:
            student_ND, teacher_ND = rows(pair)
            seen_ND = student_ND if self.projection is None else self.projection(student_ND)
            values_N = (seen_ND - teacher_ND.detach()).square().mean(-1)
            return weighted_mean(values_N, weights_N, total=totals["tokens"])

        terms: dict[str, Scalar] = {}
        if self._layers.attention:
            parts = [
                scores_apart(*_scores(signal, outputs, pair), read_BL, totals["pairs"]) for pair in self._pairs.blocks
            ]
            terms["attention"] = torch.stack(parts).sum()
        if self._layers.hidden:
            terms["hidden"] = torch.stack([squares(pair) for pair in self._pairs.states]).sum()
        if self._layers.embedding:
            terms["embedding"] = squares((0, 0))
        if self._layers.cosine:
            student_ND, teacher_ND = rows((LAST, LAST))
            values_N = 1.0 - F.cosine_similarity(student_ND, teacher_ND.detach(), dim=-1)
            terms["cosine"] = weighted_mean(values_N, weights_N, total=totals["tokens"])
        return terms


def read(batch: Batch) -> WeightsBT:
    """1 for each real token of a row that the teacher is asked about, special tokens included; [B, L]."""
    asked_B1 = (batch.weights["soft"] != 0).any(dim=1, keepdim=True)
    return (batch.attention_BL & asked_B1).to(torch.float32)


def scores_apart(
    student_BHLL: AttentionsBHLL, teacher_BHLL: AttentionsBHLL, read_BL: WeightsBT, total: float
) -> Scalar:
    """Mean of squared differences over heads and over the pairs of real tokens, `total` of them in the whole step."""
    pairs_BLL = read_BL.unsqueeze(2) * read_BL.unsqueeze(1)
    apart_BHLL = (widened(student_BHLL) - widened(teacher_BHLL).detach()).masked_fill(pairs_BLL.unsqueeze(1) == 0, 0.0)
    return weighted_mean(apart_BHLL.square().mean(1), pairs_BLL, total=total)


def _states(
    signal: Signal, outputs: Outputs, pair: tuple[int, int]
) -> tuple[Float[Tensor, "B L S"], Float[Tensor, "B L D"]]:
    ours = outputs.hidden.layers.get(pair[0]) if outputs.hidden else None
    theirs = signal.hidden.layers.get(pair[1]) if signal.hidden else None
    return _both(ours, theirs, pair, "hidden states", signal, axes=2)


def _scores(signal: Signal, outputs: Outputs, pair: tuple[int, int]) -> tuple[AttentionsBHLL, AttentionsBHLL]:
    ours = outputs.scores.layers.get(pair[0]) if outputs.scores else None
    theirs = signal.scores.layers.get(pair[1]) if signal.scores else None
    return _both(ours, theirs, pair, "attention scores", signal, axes=4)


def _both(
    ours: Tensor | None, theirs: Tensor | None, pair: tuple[int, int], what: str, signal: Signal, *, axes: int
) -> tuple[Tensor, Tensor]:
    """Both tensors, once they are known to be there and to agree in their first axes."""
    if ours is None or theirs is None:
        side, layer = ("the student", pair[0]) if ours is None else (f"teacher {signal.voice.teacher}", pair[1])
        raise SignalError(
            f"{side} sent no {what} of layer {layer}: take a teacher in this process (teacher.models) with nothing "
            "recorded, or remove objective.layers"
        )
    if ours.shape[:axes] != theirs.shape[:axes]:
        raise SignalError(
            f"the student's {what} of layer {pair[0]} are {list(ours.shape)} and those of layer {pair[1]} of teacher "
            f"{signal.voice.teacher} {list(theirs.shape)}: both must read the same batch, with as many heads"
        )
    return ours, theirs
