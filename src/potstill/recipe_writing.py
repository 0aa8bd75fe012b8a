"""A writing job: which prompts a teacher is given, who it is, and how it writes. What `potstill write` reads."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from potstill import recipe_places as places
from potstill.config import SEED_LIMIT, refuse
from potstill.core.settings import Settings
from potstill.data.settings import SourceSettings
from potstill.recipe_rules import Contradiction
from potstill.students.settings import ModelSettings
from potstill.teachers.endpoint_settings import EndpointSettings, PriceSettings, SamplingSettings


class WritingJob(Settings):
    """Prompts to teacher text.

    prompts: rows `text` (the text is the prompt), `completion` (the prompt; its completion is kept as `reference`
    and never shown to the teacher) or `messages` (up to the last turn of the user). endpoint: who writes; or model: one
    that is loaded here, and answers `batch` questions at a time. price: what tokens cost, told beside them. output: a
    `.jsonl` or `.parquet` file below the working directory. budget: tokens, prompts included, that are not to be
    exceeded. rejects_in_a_row: so many answers rejected one after the other end the writing. on_bad_row: what becomes
    of prompts that cannot be read.
    """

    version: Literal[1] = 1
    prompts: SourceSettings
    endpoint: EndpointSettings | None = None
    model: ModelSettings | None = None
    batch: Annotated[int, Field(ge=1, le=256)] = 8
    price: PriceSettings | None = None
    sampling: SamplingSettings = SamplingSettings()
    output: str | None = None
    seed: Annotated[int, Field(ge=0, lt=SEED_LIMIT)] = 0
    budget: Annotated[int, Field(gt=0)] | None = None
    rejects_in_a_row: Annotated[int, Field(gt=0)] = 50
    on_bad_row: Literal["stop", "quarantine"] = "stop"

    @model_validator(mode="after")
    def can_be_written(self) -> WritingJob:
        """The output lies where a job of a stranger may write, prompts are read, and one answer fits the budget."""
        found = [*places.place_rules(self.output, name="output", option="--output")]
        if (self.endpoint is None) == (self.model is None):
            found.append(Contradiction(("endpoint",), "either endpoint or model writes: set one of them"))
        if self.model is not None and self.model.pooling is not None:
            found.append(Contradiction(("model", "pooling"), "is of a classifier, and this model writes: remove it"))
        if self.endpoint is not None and "batch" in self.model_fields_set:
            reason = "is of a model that is loaded here; an endpoint is asked endpoint.concurrency questions at a time"
            found.append(Contradiction(("batch",), reason))
        if self.prompts.rows == "labelled":
            found.append(Contradiction(("prompts", "rows"), "labelled rows are no prompts; set text or completion"))
        if self.prompts.rows == "messages" and self.sampling.route == "completion":
            reason = "route completion asks plain text, and the prompts are conversations; set chat"
            found.append(Contradiction(("sampling", "route"), reason))
        if self.budget is not None and self.budget < self.sampling.max_tokens:
            reason = f"is less than one answer of sampling.max_tokens ({self.sampling.max_tokens}); raise it"
            found.append(Contradiction(("budget",), reason))
        refuse(found)
        return self
