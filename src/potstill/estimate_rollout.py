"""What a student's own text costs, by arithmetic: it is read token by token, with a cache of keys and values.

Of N tokens after a prompt of P the student reads P + N - 1, as nobody reads the last one, and meets its output layer
N times. Rows that meet an end token cost less, and so do batches that a replay buffer gives back: it is all at most.
"""

from __future__ import annotations

from dataclasses import dataclass

from potstill.students.shape import ModelShape
from potstill.train.settings import RolloutSettings, TrainSettings

FP32 = 4


@dataclass(frozen=True, slots=True)
class Writing:
    """batches: that are the student's text, by expectation; None where the length of the training is unknown. certain:
    whether that share is the recipe's, and not that of a scheduler whose probability rises at every evaluation.
    tokens: that are written for one batch. longer: by how many tokens one is longer than a batch of the data; below 0
    where it is shorter. flops: of writing one batch. cache_bytes: keys and values of one batch at its end, in fp32."""

    batches: float | None
    certain: bool
    tokens: int
    longer: int
    flops: int
    cache_bytes: int

    @property
    def all_tokens(self) -> int | None:
        """Written in the whole training, at most."""
        return None if self.batches is None else round(self.batches * self.tokens)

    @property
    def all_flops(self) -> int | None:
        """Of all writing, at most; what teacher and student do with the text afterwards is not in it."""
        return None if self.batches is None else round(self.batches * self.flops)

    @property
    def all_longer(self) -> int | None:
        """Tokens that a training reads beyond one on the data alone; below 0 where its own rows are shorter."""
        return None if self.batches is None else round(self.batches * self.longer)


def writing(
    rollout: RolloutSettings, train: TrainSettings, student: ModelShape, max_length: int, steps: int | None
) -> Writing:
    """Of a training with a rollout. Prompts of rows that have their own are counted as long as a row can be."""
    prompt = rollout.prompt_tokens if rollout.prompt_tokens is not None else max_length - 1
    rows, new = train.per_device_train_batch_size, rollout.max_new_tokens
    read = prompt + new - 1
    kept = 2 * student.layers * student.kv_heads * student.head_dim
    return Writing(
        batches=None if steps is None else own_batches(rollout, train, steps),
        certain=rollout.adaptive is None,
        tokens=rows * new,
        longer=rows * (prompt + new - max_length),
        flops=2 * rows * (student.body_parameters * read + student.vocabulary * student.hidden * new),
        cache_bytes=FP32 * rows * kept * read,
    )


def own_batches(rollout: RolloutSettings, train: TrainSettings, steps: int) -> float:
    """Batches that are expected to be the student's: the share of them all; with a scheduler, as if the validation loss
    rose at every evaluation."""
    if (adaptive := rollout.adaptive) is None:
        return (rollout.lmbda or 0.0) * steps * train.gradient_accumulation_steps
    every = train.eval_steps or steps
    shares = (min(1.0, adaptive.start + adaptive.rise * (step // every)) for step in range(steps))
    return train.gradient_accumulation_steps * sum(shares)
