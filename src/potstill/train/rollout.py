"""On-policy batches: a batch source around another one, so that the loop does not know who wrote a text.

The student goes on from the prompts of a batch (nothing is differentiated through the sampling), and the batch then
has a weight on its own tokens alone. How often is a fixed share (GKD, Agarwal et al. 2023, arXiv:2306.13649, algorithm
1) or DistiLLM's scheduler with a replay buffer (`offpolicy`). Every random number follows from the seed and the number
of the batch, and the state is a JSON value: a training that goes on draws and writes what it would have.
"""

from __future__ import annotations

import base64
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from potstill.core.batch import Batch, next_token_targets
from potstill.core.progress import Progress
from potstill.core.protocols import BatchSource, Heeding
from potstill.train.offpolicy import Origin, Scheduler, after_evaluation, origin
from potstill.train.settings import RolloutSettings

# From prompts and a seed to what the student writes after each: at least one token, the end token included.
Write = Callable[[Sequence[Sequence[int]], int], Sequence[Sequence[int]]]
LOSS = "loss"


@dataclass(frozen=True, slots=True)
class WrittenRow:
    """A row of the student's. prompt: how many of the tokens were given to it."""

    id: str
    tokens: tuple[int, ...]
    prompt: int
    slices: Mapping[str, str] = field(default_factory=dict)


class Rollouts:
    """A BatchSource over another one, and an Observer, since the scheduler follows the validation loss.

    source: gives the batches whose prompts are continued; it moves on whatever its batch is used for, so that a pass
    over the data is as long as without rollouts, and its order is that of the prompts. write: see `Write`. batches: of
    the whole training. measure: the validation loss before the first step, which only `adaptive` asks for.
    """

    def __init__(
        self,
        source: BatchSource,
        write: Write,
        settings: RolloutSettings,
        *,
        seed: int,
        batches: int,
        measure: Callable[[], float] | None = None,
    ):
        self._source, self._write, self._settings = source, write, settings
        self._seed, self._batches, self._measure = seed, batches, measure
        adaptive = settings.adaptive
        self._drawn = 0
        self._scheduler = Scheduler(settings.lmbda or 0.0 if adaptive is None else adaptive.start)
        self._buffer = deque[tuple[WrittenRow, dict[str, Any]]](maxlen=adaptive.capacity if adaptive else 0)
        self._counts = Counter[str]()
        self._heard: float | None = None

    @property
    def counts(self) -> dict[str, int]:
        """Batches by origin (`data`, `written`, `replayed`), and `new_tokens`, those the student has written."""
        return {name: self._counts[name] for name in ("data", "written", "replayed", "new_tokens")}

    @property
    def scheduler(self) -> Scheduler:
        """The probability as it stands, and the loss it was last judged by."""
        return self._scheduler

    def notice(self, event: str, progress: Progress, values: Mapping[str, Any]) -> None:
        """Remember the newest validation loss. It is weighed when the next batch is drawn: a save after an evaluation
        describes the moment before it, and a training that goes on hears of the evaluation as it starts."""
        self._heard = progress.metrics.get(LOSS, self._heard)

    def heed(self, progress: Progress) -> None:
        """Hand an evaluation on to a source that goes by it: which prompts come next is the source's affair."""
        if isinstance(self._source, Heeding):
            self._source.heed(progress)

    def next(self) -> Batch:
        """A batch of the data, or one that the student wrote, now or before."""
        batch = self._source.next()
        random = np.random.PCG64(np.random.SeedSequence((self._seed, self._drawn)))
        uniform, seed = (int(word) for word in random.random_raw(2))
        kind = self._origin(uniform / 2.0**64)
        self._drawn += 1
        self._counts[kind] += 1
        if kind == "data":
            return batch
        if kind == "replayed":
            chosen = np.argsort(random.random_raw(len(self._buffer)), kind="stable")[: len(batch.ids)]
            return written_batch([self._buffer[int(index)][0] for index in chosen])
        rows = self._written(batch, seed >> 1)  # torch takes seeds of 63 bits
        if self._settings.adaptive is not None:
            self._buffer.extend((row, _packed(row)) for row in rows)
        return written_batch(rows)

    def _origin(self, drawn: float) -> Origin:
        adaptive = self._settings.adaptive
        if adaptive is None:
            return "written" if drawn < self._scheduler.probability else "data"
        if self._scheduler.reference is None:
            assert self._measure is not None, "whoever sets `adaptive` hands over a way to measure"
            self._scheduler = after_evaluation(self._scheduler, self._measure(), adaptive)
        if self._heard is not None:
            self._scheduler = after_evaluation(self._scheduler, self._heard, adaptive)
        left = max(0.0, 1.0 - self._drawn / self._batches)
        return origin(self._scheduler, drawn, left=left, full=len(self._buffer) == adaptive.capacity)

    def _written(self, batch: Batch, seed: int) -> list[WrittenRow]:
        given = prompts(batch, self._settings.prompt_tokens)
        new = self._write(given, seed)
        self._counts["new_tokens"] += sum(map(len, new))
        slices = batch.slices or ({},) * len(given)
        return [
            WrittenRow(name, (*prompt, *tokens), len(prompt), named)
            for name, prompt, tokens, named in zip(batch.ids, given, new, slices, strict=True)
        ]

    def state(self) -> dict[str, Any]:
        """Where the next batch comes from: the source's position, the number of the draw, scheduler, buffer, counts."""
        return {
            "source": dict(self._source.state()),
            "drawn": self._drawn,
            "probability": self._scheduler.probability,
            "reference": self._scheduler.reference,
            "buffer": [packed for _, packed in self._buffer],
            "counts": dict(self._counts),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where `state` was taken. Raises what the source raises for a state of other data."""
        self._source.restore(state["source"])
        self._drawn = state["drawn"]
        self._scheduler = Scheduler(state["probability"], state["reference"])
        self._buffer.clear()
        self._buffer.extend((_unpacked(packed), packed) for packed in state["buffer"])
        self._counts = Counter(state["counts"])


def prompts(batch: Batch, prompt_tokens: int | None) -> list[list[int]]:
    """What each row gives the student to go on from.

    prompt_tokens None: everything before its last run of learnt tokens, which is the answer, or the last turn of a
    conversation. Else the first so many tokens, and at most all but the last.
    """
    found = []
    for row in range(len(batch.ids)):
        length = int(batch.attention_BL[row].sum())
        if prompt_tokens is None:
            learnt = batch.weights["hard"][row] > 0
            # Position t weighs token t + 1, so the run's first position holds the last token of the prompt.
            starts = learnt & ~torch.cat([torch.zeros(1, dtype=torch.bool), learnt[:-1]])
            length = int(starts.nonzero()[-1]) + 1
        else:
            length = min(prompt_tokens, length - 1)
        found.append(batch.tokens_BL[row, :length].tolist())
    return found


def written_batch(rows: Sequence[WrittenRow]) -> Batch:
    """A Batch padded on the right. "soft" weighs the student's own tokens, "hard" nothing: they are nobody's labels."""
    length = max(len(row.tokens) for row in rows)
    tokens_BL = torch.zeros(len(rows), length, dtype=torch.long)
    attention_BL = torch.zeros(len(rows), length, dtype=torch.bool)
    own_BL = torch.zeros(len(rows), length, dtype=torch.bool)
    for index, row in enumerate(rows):
        tokens_BL[index, : len(row.tokens)] = torch.tensor(row.tokens)
        attention_BL[index, : len(row.tokens)] = True
        own_BL[index, row.prompt : len(row.tokens)] = True
    targets_BT, soft_BT = next_token_targets(tokens_BL, own_BL)
    return Batch(
        ids=tuple(row.id for row in rows),
        tokens_BL=tokens_BL,
        attention_BL=attention_BL,
        targets_BT=targets_BT,
        weights={"hard": torch.zeros_like(soft_BT), "soft": soft_BT},
        slices=tuple(row.slices for row in rows),
    )


def _packed(row: WrittenRow) -> dict[str, Any]:
    """As JSON, made once per row: the state is written down at every step. Base64 is a third of a list of numbers."""
    tokens = base64.b64encode(np.asarray(row.tokens, dtype="<i4").tobytes()).decode("ascii")
    return {"id": row.id, "tokens": tokens, "prompt": row.prompt, "slices": dict(row.slices)}


def _unpacked(packed: Mapping[str, Any]) -> WrittenRow:
    tokens = np.frombuffer(base64.b64decode(packed["tokens"]), dtype="<i4")
    return WrittenRow(packed["id"], tuple(tokens.tolist()), packed["prompt"], packed["slices"])
