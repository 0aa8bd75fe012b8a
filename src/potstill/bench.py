"""What all the trainings of one run share: the recipe, its folder, its data, and the models made so far."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from potstill.config import Recipe, StageSettings
from potstill.data.prepare import Prepared, prepare
from potstill.folder import RunFolder
from potstill.students.record import ModelRecord
from potstill.train.ranks import Alone, Ranks
from potstill.train.stop import StopFlag


@dataclass(slots=True)
class Bench:
    """One run at work. products: finished stages by name. records: of the models loaded so far, by their name in the
    recipe. endpoints: who was found to teach at a URL. closing: what a training leaves open. say: tells a person what
    happens now, on stderr and in the log. ranks: who shares the trainings."""

    recipe: Recipe
    folder: RunFolder
    stop: StopFlag
    say: Callable[[str], None]
    trust_remote_code: bool = False
    ranks: Ranks = field(default_factory=Alone)
    products: dict[str, Path] = field(default_factory=dict)
    records: dict[str, ModelRecord] = field(default_factory=dict)
    endpoints: dict[str, str] = field(default_factory=dict)
    read: dict[str, Prepared] = field(default_factory=dict)
    closing: ExitStack = field(default_factory=ExitStack)

    def seen_by(self, stage: StageSettings) -> Bench:
        """The same run as a stage with its own task or data sees it."""
        recipe = self.recipe.seen_by(stage)
        return self if recipe is self.recipe else replace(self, recipe=recipe, read={})

    def data(self, tokenizer: PreTrainedTokenizerBase) -> Prepared:
        """The recipe's data under this tokenizer; read once for each tokenizer and template."""
        identity = (
            f"{tokenizer.backend_tokenizer.to_str()}\x1f{tokenizer.chat_template}\x1f{tokenizer.model_max_length}"
        )
        key = hashlib.sha256(identity.encode()).hexdigest()
        if key not in self.read:
            self.stop.check()
            recipe = self.recipe
            self.read[key] = prepare(recipe.data, tokenizer, recipe.task, recipe.seed)
        return self.read[key]
