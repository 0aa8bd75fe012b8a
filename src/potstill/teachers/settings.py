"""Whose signal is learnt, and how several teachers speak as one. No torch."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from potstill.core.settings import Settings
from potstill.students.settings import ModelSettings
from potstill.teachers.endpoint_settings import TopKSettings


class TeacherSettings(Settings):
    """One teacher, an ensemble, or an endpoint.

    endpoint: somebody else's server, which gives its likeliest tokens only; in the place of models.
    combine: `arithmetic` mean of probabilities (pairs with forward KL) or `geometric` mean (pairs with reverse KL).
    weights: one per model, normalised to sum to 1; uniform when absent. drop_above: a member whose held-out
    cross-entropy is more than this many times the best is left out (methods: ensemble teachers; 2.0 there).
    cache: ask the teacher once for every training row and reuse its answers in every pass (classifiers).
    bf16: run the teacher under bf16 autocast, its logits rounded to about 1e-2; "auto": where the processor multiplies
    bf16 natively.
    """

    models: tuple[ModelSettings, ...] = ()
    endpoint: TopKSettings | None = None
    combine: Literal["arithmetic", "geometric"] = "arithmetic"
    weights: tuple[Annotated[float, Field(gt=0)], ...] | None = None
    drop_above: Annotated[float, Field(ge=1)] | None = None
    cache: bool = False
    bf16: Literal["auto"] | bool = False

    @model_validator(mode="after")
    def one_weight_per_model(self) -> "TeacherSettings":
        """A missing weight would silently silence a teacher."""
        if self.weights is not None and len(self.weights) != len(self.models):
            raise ValueError(f"{len(self.weights)} weights for {len(self.models)} models: give one weight per model")
        return self

    @model_validator(mode="after")
    def somebody_teaches(self) -> "TeacherSettings":
        """Settings of loaded models have no use for an endpoint."""
        if self.endpoint is None and not self.models:
            raise ValueError("models is empty and there is no endpoint: name at least one model, or an endpoint")
        if self.endpoint is not None:
            if self.models:
                raise ValueError("models and endpoint contradict each other: keep one of them")
            for name in ("combine", "weights", "drop_above", "cache", "bf16"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} has no use for an endpoint, which is one teacher on its own machine")
        return self
