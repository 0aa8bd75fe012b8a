"""On-policy batches as a run needs them: the student of this moment writes, and one rank's text is everybody's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import nn
from transformers import PreTrainedTokenizerBase

from potstill.bench import Bench
from potstill.config import StageSettings
from potstill.core.errors import DataError
from potstill.core.protocols import BatchSource, Forward, Observer
from potstill.data.encoded import Encoded
from potstill.students.load import LoadedModel
from potstill.students.sample import Sampling, continued, ends_of
from potstill.students.taps import outputs
from potstill.train.determinism import random_state, restore_random_state
from potstill.train.rollout import Rollouts
from potstill.train.settings import RolloutSettings
from potstill.train.shards import refreshed

ORIGINS = "rollout.json"


@dataclass(frozen=True, slots=True)
class Learner:
    """Who writes. module, answer: what is trained and its forward, where `made.module` may stay behind at the first
    weights (several ranks). score: of a forward on the validation rows, None without any."""

    made: LoadedModel
    module: nn.Module
    answer: Forward
    score: Callable[[Forward], Mapping[str, float]] | None

    def whole(self) -> nn.Module:
        """The student as it stands, in this process."""
        return refreshed(self.module, self.answer, self.made.module)

    def loss(self, module: nn.Module) -> float:
        """Of the whole student on the validation rows; its mode and the random numbers are as they were."""
        assert self.score is not None, "a recipe with an adaptive rollout has validation rows"
        before, training = random_state(), module.training
        module.eval()
        try:
            return float(self.score(partial(outputs, module))["loss"])
        finally:
            module.train(training)
            restore_random_state(before)


def rolled_out(
    bench: Bench, stage: StageSettings, source: BatchSource, rows: Sequence[Encoded], learner: Learner, *, batches: int
) -> BatchSource:
    """The source itself, or `Rollouts` around it where the stage asks for them. batches: of the whole training. Raises
    DataError for a row without a prompt."""
    settings = stage.rollout
    if settings is None:
        return source
    refuse_empty_prompts(rows, settings)
    made = learner.made
    sampling = Sampling(
        temperature=settings.temperature,
        max_new_tokens=settings.max_new_tokens,
        entries=len(made.tokenizer),
        ends=ends(made.module, made.tokenizer),
    )

    def write(prompts: Sequence[Sequence[int]], seed: int) -> list[list[int]]:
        # One rank writes: another processor may round otherwise and draw other tokens, and all must learn the same.
        module = learner.whole()
        return bench.ranks.lead(lambda: continued(module, prompts, sampling, seed=seed, poll=bench.stop.check))

    def measure() -> float:
        module = learner.whole()
        return bench.ranks.lead(lambda: learner.loss(module))

    return Rollouts(source, write, settings, seed=bench.recipe.seed, batches=batches, measure=measure)


def ends(module: nn.Module, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Where a row is over: where the model says so, and where the rows of the data end."""
    own = () if tokenizer.eos_token_id is None else (int(tokenizer.eos_token_id),)
    return tuple(sorted(ends_of(module, tokenizer).union(own)))


def refuse_empty_prompts(rows: Sequence[Encoded], settings: RolloutSettings) -> None:
    """A student that is given nothing would write about nothing that a row asks."""
    if settings.prompt_tokens is not None:
        return
    for one in rows:
        if one.learnt[0]:
            raise DataError(
                f"training row {one.row} ({'+'.join(one.ids)}) has an empty prompt, so the student has nothing to go "
                "on from: remove the row, or learn from rows: text with rollout.prompt_tokens"
            )


def listening(source: BatchSource) -> list[Observer]:
    """The source itself where it follows the training, on every rank."""
    return [source] if isinstance(source, Rollouts) else []


def record_origins(bench: Bench, stage: StageSettings, source: BatchSource) -> None:
    """Write down what a finished training learnt from: batches by origin, tokens written, the last probability."""
    if isinstance(source, Rollouts):
        found = {**source.counts, "probability": source.scheduler.probability}
        bench.ranks.lead(lambda: bench.folder.write_json(f"stages/{stage.name}/{ORIGINS}", found))
