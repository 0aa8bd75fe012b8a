"""Whose signal is learnt, and how several teachers speak as one. No torch."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from potstill.core.settings import Settings
from potstill.students.settings import ModelSettings


class StoreSettings(Settings):
    """Signals kept on the disk: the teacher is asked once for each row, and any number of runs learn from what it said.

    form: last states after the final norm in fp32, fp16, bf16 or int8 with scales, the `top-k` log-probabilities of
    `objective.top_k` with the mass of the rest, or whole logits as spoken or rounded; every pass, the first one too,
    reads the signal as it is kept. path: a folder below the working directory that several runs may share; inside the
    run folder when absent.
    """

    form: Literal[
        "hidden-fp32", "hidden-fp16", "hidden-bf16", "hidden-int8", "top-k", "logits", "logits-fp16", "logits-bf16"
    ] = "hidden-bf16"  # fmt: skip
    path: Annotated[str, Field(min_length=1)] | None = None


class TeacherSettings(Settings):
    """One teacher, or an ensemble.

    combine: `arithmetic` mean of probabilities (pairs with forward KL) or `geometric` mean (pairs with reverse KL).
    weights: one per model, normalised to sum to 1; uniform when absent. drop_above: a member whose held-out
    cross-entropy is more than this many times the best is left out (methods: ensemble teachers; 2.0 there).
    cache: ask the teacher once for every training row and reuse its answers in every pass (classifiers). store: the
    same for language models, on the disk and for other runs too. bf16: run the teacher under bf16 autocast, its logits
    rounded to about 1e-2; "auto": where the processor multiplies bf16 natively.
    """

    models: tuple[ModelSettings, ...] = Field(min_length=1)
    combine: Literal["arithmetic", "geometric"] = "arithmetic"
    weights: tuple[Annotated[float, Field(gt=0)], ...] | None = None
    drop_above: Annotated[float, Field(ge=1)] | None = None
    cache: bool = False
    store: StoreSettings | None = None
    bf16: Literal["auto"] | bool = False

    @model_validator(mode="after")
    def one_weight_per_model(self) -> "TeacherSettings":
        """A missing weight would silently silence a teacher."""
        if self.weights is not None and len(self.weights) != len(self.models):
            raise ValueError(f"{len(self.weights)} weights for {len(self.models)} models: give one weight per model")
        return self

    @model_validator(mode="after")
    def kept_in_one_place(self) -> "TeacherSettings":
        """What is cached would never reach the store."""
        if self.cache and self.store is not None:
            raise ValueError("cache and store both keep the teacher's answers: keep one of them")
        return self
