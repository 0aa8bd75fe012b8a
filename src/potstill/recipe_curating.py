"""A curation: which rows are taken in, what is asked of them, where the rest goes. What `potstill curate` reads."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from potstill import recipe_places as places
from potstill.config import SEED_LIMIT, refuse
from potstill.core.settings import Settings
from potstill.data.curate.settings import (
    BalanceSettings,
    DecontaminateSettings,
    DuplicateSettings,
    LanguageSettings,
    MixtureSettings,
    RulesSettings,
)
from potstill.data.settings import SourceSettings
from potstill.data.verify.settings import VerifySettings
from potstill.recipe_rules import Contradiction
from potstill.students.settings import ModelSettings


class QualitySettings(ModelSettings):
    """How likely the text is to a language model, the teacher for instance.

    max_perplexity: of a row's completion, its prompt given. max_length: tokens that are read of a row. batch: rows at a
    time.
    """

    max_perplexity: Annotated[float, Field(gt=1)] | None = None
    max_length: Annotated[int, Field(ge=16)] = 1024
    batch: Annotated[int, Field(ge=1)] = 8


class Curation(Settings):
    """Rows to fewer and better rows, in stages, in the order in which they stand here; null leaves one out.

    sources: rows `completion`, `messages` or `text`, such as `potstill write` publishes. output: a `.jsonl` or
    `.parquet` file below the working directory. seed: decides which rows of a part are drawn for a mixture. on_bad_row:
    what becomes of rows that cannot be read.
    """

    version: Literal[1] = 1
    sources: Annotated[tuple[SourceSettings, ...], Field(min_length=1)]
    output: str | None = None
    seed: Annotated[int, Field(ge=0, lt=SEED_LIMIT)] = 0
    rules: RulesSettings | None = RulesSettings()
    language: LanguageSettings | None = None
    verify: VerifySettings | None = None
    duplicates: DuplicateSettings | None = DuplicateSettings()
    decontaminate: DecontaminateSettings | None = None
    quality: QualitySettings | None = None
    balance: BalanceSettings | None = None
    mixture: MixtureSettings | None = None
    on_bad_row: Literal["stop", "quarantine"] = "stop"

    @model_validator(mode="after")
    def can_be_done(self) -> Curation:
        """What a stage needs is there: prompts to be balanced, a likelihood to choose by, a slice to mix by."""
        found = [*places.place_rules(self.output, name="output", option="--output")]
        for index, source in enumerate(self.sources):
            if source.rows == "labelled":
                reason = "labelled rows hold no text that is learnt; set completion, messages or text"
                found.append(Contradiction(("sources", index, "rows"), reason))
            if source.rows == "text" and (self.verify or self.balance):
                reason = "is `text`, which has no prompt; verify and balance need completion or messages"
                found.append(Contradiction(("sources", index, "rows"), reason))
            if self.mixture is not None and self.mixture.by not in ("source", *source.columns.slices):
                reason = f"is neither `source` nor among columns.slices of sources.{index}; name it there"
                found.append(Contradiction(("mixture", "by"), reason))
        if self.balance is not None and self.balance.by == "likelihood" and self.quality is None:
            reason = "likelihood needs quality, which names the model that says how likely an answer is"
            found.append(Contradiction(("balance", "by"), reason))
        if self.quality is not None and self.quality.pooling is not None:
            reason = "is of a classifier, and quality reads text: remove it"
            found.append(Contradiction(("quality", "pooling"), reason))
        if self.mixture is not None and self.mixture.weights and self.mixture.temperature != 1:
            reason = "and weights both say what shares there are: keep one of them"
            found.append(Contradiction(("mixture", "temperature"), reason))
        refuse(found)
        return self
