"""What a model answers on a held-out set, in the smallest form that every metric can be computed from.

A classifier keeps one row of scores per example. A language model keeps sums per sequence only: its logits over
[tokens, vocabulary] are read in chunks of positions and dropped, so memory does not grow with the test set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from potstill.core.batch import Batch
from potstill.core.errors import DataError, ModelError, NumbersError, SignalError
from potstill.core.protocols import Forward
from potstill.core.signal import Want
from potstill.divergences.kl import forward_kl

_LOGITS_ONLY = Want(teacher=False)
_SMALLEST_PROBABILITY = 1e-12


@dataclass(frozen=True, slots=True)
class Predictions:
    """A classifier's scores, in the row order of the data set.

    logits_NC: raw scores of C classes. labels_N: the true class; where known_N is False nobody knows it, and the row
    counts for agreement only.
    """

    ids: tuple[str, ...]
    logits_NC: Float[Tensor, "N C"]
    labels_N: Int[Tensor, " N"]
    known_N: Bool[Tensor, " N"]

    @property
    def classes(self) -> int:
        """C."""
        return self.logits_NC.shape[1]

    @property
    def logprobs_NC(self) -> Float[Tensor, "N C"]:
        """Natural logarithms of the probabilities at temperature 1, float64."""
        return self.logits_NC.double().log_softmax(-1)

    @property
    def probabilities_NC(self) -> Float[np.ndarray, "N C"]:
        """Softmax at temperature 1, float64."""
        return self.logits_NC.double().softmax(-1).numpy()

    @property
    def labelled(self) -> Predictions:
        """The rows whose class is known. Raises DataError when there is none."""
        if not bool(self.known_N.any()):
            raise DataError(
                f"None of the {len(self.ids)} test rows has a label, so accuracy cannot be measured. "
                "Next: name the label column in data.test.columns.label, or choose a test set that has one."
            )
        kept = tuple(id_ for id_, known in zip(self.ids, self.known_N.tolist(), strict=True) if known)
        return Predictions(kept, self.logits_NC[self.known_N], self.labels_N[self.known_N], self.known_N[self.known_N])


def from_probabilities(
    probabilities_NC: Float[np.ndarray, "N C"], labels: Iterable[int | None], ids: Iterable[str]
) -> Predictions:
    """Predictions of a model that has no logits (TF-IDF). A class the model holds impossible gets 1e-12, so that the
    log-likelihood of a row it was wrong about stays finite."""
    known = list(labels)
    return Predictions(
        ids=tuple(ids),
        logits_NC=torch.from_numpy(np.log(np.maximum(probabilities_NC, _SMALLEST_PROBABILITY))),
        labels_N=torch.tensor([label or 0 for label in known], dtype=torch.long),
        known_N=torch.tensor([label is not None for label in known], dtype=torch.bool),
    )


@torch.inference_mode()
def predict(forward: Forward, batches: Iterable[Batch]) -> Predictions:
    """Scores of a classifier on every row of `batches`, back in data-set order whatever order the batches came in.

    The model behind `forward` must be in evaluation mode. Raises DataError for an empty test set or a row seen twice,
    ModelError when the model answers for more than one position, NumbersError for logits that are not finite.
    """
    ids: list[str] = []
    rows: list[int] = []
    logits, labels, known = [], [], []
    for batch in batches:
        scores_BTV = forward(batch, _LOGITS_ONLY).logits_BTV
        _refuse_positions(scores_BTV.shape[1])
        _refuse_not_finite(scores_BTV, batch.ids)
        ids += batch.ids
        rows += batch.rows
        logits.append(scores_BTV[:, 0].float().cpu())
        labels.append(batch.targets_BT[:, 0].cpu())
        known.append(batch.weights["hard"][:, 0].cpu() > 0)
    if not ids:
        raise _empty()
    order = torch.tensor(_original_order(rows, len(ids)))
    return Predictions(
        ids=tuple(ids[position] for position in order.tolist()),
        logits_NC=torch.cat(logits)[order],
        labels_N=torch.cat(labels)[order],
        known_N=torch.cat(known)[order],
    )


@dataclass(frozen=True, slots=True)
class TokenSums:
    """Sums of a language model per sequence (S sequences), float64; the teacher's three are None without a teacher, and
    the last of them where its first choice alone is known.

    tokens: known targets. nll: negative log-likelihood of these in nats. correct: targets ranked first.
    compared: positions where teacher and student were held against each other. agreed: the same first choice.
    kl: KL(teacher || student) in nats, summed.
    """

    tokens_S: Float[np.ndarray, " S"]
    nll_S: Float[np.ndarray, " S"]
    correct_S: Float[np.ndarray, " S"]
    compared_S: Float[np.ndarray, " S"] | None = None
    agreed_S: Float[np.ndarray, " S"] | None = None
    kl_S: Float[np.ndarray, " S"] | None = None


@torch.inference_mode()
def predict_tokens(
    forward: Forward,
    batches: Iterable[Batch],
    *,
    teacher: Forward | None = None,
    choices: Callable[[Batch], Int[Tensor, "B T"]] | None = None,
    entries: int | None = None,
    chunk_bytes: int = 64 << 20,
) -> TokenSums:
    """Sums over the known targets of a language model (causal or masked), and over the asked positions with a teacher.

    Targets are where the "hard" weight is above 0; teacher and student are compared where "soft" is. A weight decides
    whether a position counts, never how much: a measurement does not inherit the emphasis of training. chunk_bytes
    bounds each float32 copy of a slice of logits. choices: the first choices of a teacher that tells no more, in the
    place of `teacher`; its KL is then unknown. entries: teacher and student are compared over so many first entries
    (one tokenizer, tables of two lengths); the rest is padding. Raises DataError for an empty test set or one without
    a target, SignalError when the vocabularies differ, NumbersError for logits that are not finite.
    """
    own, shared = [], []
    for batch in batches:
        student_BTV = forward(batch, _LOGITS_ONLY).logits_BTV
        _refuse_not_finite(student_BTV, batch.ids)
        own.append(_target_sums(student_BTV, batch, chunk_bytes))
        if teacher is not None:
            teacher_BTV = teacher(batch, _LOGITS_ONLY).logits_BTV
            if entries is not None:
                teacher_BTV, student_BTV = teacher_BTV[..., :entries], student_BTV[..., :entries]
            _refuse_vocabulary(teacher_BTV.shape[-1], student_BTV.shape[-1])
            _refuse_not_finite(teacher_BTV, batch.ids)
            shared.append(_comparison_sums(teacher_BTV, student_BTV, batch, chunk_bytes))
        elif choices is not None:
            shared.append(_choice_sums(choices(batch), student_BTV[..., :entries], batch, chunk_bytes))
    if not own:
        raise _empty()
    tokens, nll, correct = torch.cat(own).T.numpy()
    if tokens.sum() == 0:
        raise DataError(
            f"None of the {len(tokens)} test sequences has a target token, so no likelihood can be measured. "
            "Next: check data.test.rows and the columns of the test set; prompts alone are not measured."
        )
    if not shared:
        return TokenSums(tokens, nll, correct)
    return TokenSums(tokens, nll, correct, *torch.cat(shared).T.numpy())


def _target_sums(logits_BTV: Float[Tensor, "B T V"], batch: Batch, chunk_bytes: int) -> Float[Tensor, "B 3"]:
    """Tokens, nats and hits of each row."""
    sums = torch.zeros(len(batch.ids), 3, dtype=torch.float64)
    for row, position in _chunks(batch.weights["hard"], logits_BTV.shape[-1], chunk_bytes):
        logprobs_NV = logits_BTV[row, position].float().log_softmax(-1)
        target_N = batch.targets_BT[row, position]
        nll_N = -logprobs_NV.gather(-1, target_N[:, None])[:, 0]
        hit_N = logprobs_NV.argmax(-1) == target_N
        sums.index_add_(0, row.cpu(), torch.stack([torch.ones_like(nll_N), nll_N, hit_N.float()], -1).double().cpu())
    return sums


def _comparison_sums(
    teacher_BTV: Float[Tensor, "B T V"], student_BTV: Float[Tensor, "B T V"], batch: Batch, chunk_bytes: int
) -> Float[Tensor, "B 3"]:
    """Positions compared, agreements and KL(teacher || student) of each row."""
    sums = torch.zeros(len(batch.ids), 3, dtype=torch.float64)
    asked_BT = batch.weights.get("soft", batch.weights["hard"])
    for row, position in _chunks(asked_BT, student_BTV.shape[-1], chunk_bytes):
        teacher_NV = teacher_BTV[row, position].float().log_softmax(-1)
        student_NV = student_BTV[row, position].float().log_softmax(-1)
        kl_N = forward_kl(teacher_NV, student_NV)
        same_N = teacher_NV.argmax(-1) == student_NV.argmax(-1)
        sums.index_add_(0, row.cpu(), torch.stack([torch.ones_like(kl_N), same_N.float(), kl_N], -1).double().cpu())
    return sums


def _choice_sums(
    teacher_BT: Int[Tensor, "B T"], student_BTV: Float[Tensor, "B T V"], batch: Batch, chunk_bytes: int
) -> Float[Tensor, "B 2"]:
    """Positions compared and agreements of each row."""
    sums = torch.zeros(len(batch.ids), 2, dtype=torch.float64)
    asked_BT = batch.weights.get("soft", batch.weights["hard"])
    for row, position in _chunks(asked_BT, student_BTV.shape[-1], chunk_bytes):
        same_N = (student_BTV[row, position].argmax(-1) == teacher_BT[row, position]).double()
        sums.index_add_(0, row.cpu(), torch.stack([torch.ones_like(same_N), same_N], -1).cpu())
    return sums


def _chunks(weights_BT: Float[Tensor, "B T"], vocabulary: int, chunk_bytes: int) -> list[tuple[Tensor, Tensor]]:
    """Row and position of everything that counts, in pieces whose float32 logits stay below chunk_bytes."""
    where_N2 = torch.nonzero(weights_BT > 0)
    size = max(1, chunk_bytes // (4 * vocabulary))
    return [(piece[:, 0], piece[:, 1]) for piece in where_N2.split(size) if len(piece)]


def _original_order(rows: list[int], count: int) -> list[int]:
    """Indices that put the collected rows back into data-set order."""
    if len(rows) != count:
        raise DataError(
            f"{count} rows were read but {len(rows)} of them carry their position in the data set. "
            "Next: collate the test set unpacked, with `rows` on every batch."
        )
    order = sorted(range(count), key=rows.__getitem__)
    for first, second in pairwise(order):
        if rows[first] == rows[second]:
            raise DataError(
                f"Row {rows[first]} of the test set came twice, so it would count double. "
                "Next: evaluate with a source that reads every row once."
            )
    return order


def _refuse_positions(positions: int) -> None:
    if positions != 1:
        raise ModelError(
            f"The model answers for {positions} positions a row, a classifier for 1. "
            "Next: set task to causal-lm or masked-lm, or load the model with a classification head."
        )


def _refuse_vocabulary(teacher: int, student: int) -> None:
    if teacher != student:
        raise SignalError(
            f"The teacher scores {teacher} tokens and the student {student}, which cannot be compared. "
            "Next: measure agreement against a teacher with the student's vocabulary."
        )


def _refuse_not_finite(logits_BTV: Tensor, ids: tuple[str, ...]) -> None:
    finite_B = torch.isfinite(logits_BTV.flatten(1)).all(-1)
    if not bool(finite_B.all()):
        broken = [id_ for id_, fine in zip(ids, finite_B.tolist(), strict=True) if not fine]
        raise NumbersError(
            f"The logits of {len(broken)} of {len(ids)} rows are not finite (ids {', '.join(broken[:3])}). "
            "Next: look at these rows, evaluate in float32, or evaluate an earlier checkpoint."
        )


def _empty() -> DataError:
    return DataError(
        "The test set is empty, so there is nothing to measure. "
        "Next: check data.test, its split and limit, and the rows that were dropped or quarantined."
    )
