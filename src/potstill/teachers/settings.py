"""Whose signal is learnt, and how several teachers speak as one. No torch."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from potstill.core.settings import Settings
from potstill.students.settings import ModelSettings
from potstill.teachers.endpoint_settings import TopKSettings


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
    """One teacher, an ensemble, several of which each row names one, or an endpoint.

    endpoint: somebody else's server, which gives its likeliest tokens only; in the place of models.
    combine: `arithmetic` mean of probabilities (pairs with forward KL) or `geometric` mean (pairs with reverse KL).
    weights: one per model, normalised to sum to 1; uniform when absent. drop_above: a member whose held-out
    cross-entropy is more than this many times the best is left out (methods: ensemble teachers; 2.0 there).
    vocabulary: what happens where a teacher's differs from the student's: `equal` refuses; `padded` leaves rows that no
    token uses out of both softmaxes, where the tokenizers are equal and one table is longer; `aligned` compares where
    the decoded text agrees, over the tokens that both tokenizers know. route_by: a column of data.train.columns.slices
    whose value names the row's teacher; routes: value of that column -> position in models, from 0.
    cache: ask the teacher once for every training row and reuse its answers in every pass (classifiers). store: the
    same for language models, on the disk and for other runs too. bf16: run the teacher under bf16 autocast, its logits
    rounded to about 1e-2; "auto": where the processor multiplies bf16 natively.
    """

    models: tuple[ModelSettings, ...] = ()
    endpoint: TopKSettings | None = None
    combine: Literal["arithmetic", "geometric"] = "arithmetic"
    weights: tuple[Annotated[float, Field(gt=0)], ...] | None = None
    drop_above: Annotated[float, Field(ge=1)] | None = None
    vocabulary: Literal["equal", "padded", "aligned"] = "equal"
    route_by: Annotated[str, Field(min_length=1)] | None = None
    routes: dict[str, Annotated[int, Field(ge=0)]] | None = None
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
    def somebody_teaches(self) -> "TeacherSettings":
        """Settings of loaded models have no use for an endpoint."""
        if self.endpoint is None and not self.models:
            raise ValueError("models is empty and there is no endpoint: name at least one model, or an endpoint")
        if self.endpoint is not None:
            if self.models:
                raise ValueError("models and endpoint contradict each other: keep one of them")
            ours = ("combine", "weights", "drop_above", "cache", "store", "bf16", "vocabulary", "route_by", "routes")
            for name in ours:
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} has no use for an endpoint, which is one teacher on its own machine")
        return self

    @model_validator(mode="after")
    def every_route_leads_to_a_model(self) -> "TeacherSettings":
        """A route without a model would fail in the middle of a run, a model without a route would never be asked."""
        if (self.route_by is None) != (self.routes is None):
            raise ValueError("route_by and routes belong together: the column, and which model each value of it names")
        if self.routes is None:
            return self
        for name, given in (("weights", self.weights), ("drop_above", self.drop_above)):
            if given is not None:
                raise ValueError(f"{name} belongs to an ensemble and routes give each row one teacher: remove one")
        if self.combine != "arithmetic":
            raise ValueError("combine belongs to an ensemble and routes give each row one teacher: remove one")
        for value, position in self.routes.items():
            if position >= len(self.models):
                raise ValueError(f"routes.{value} is {position}, and models has positions 0 to {len(self.models) - 1}")
        if unused := sorted(set(range(len(self.models))) - set(self.routes.values())):
            raise ValueError(f"models.{unused[0]} has no route, so nobody would ask it: add a route, or remove it")
        return self

    @model_validator(mode="after")
    def other_vocabularies_are_heard_live(self) -> "TeacherSettings":
        """Recorded answers are for classifiers, whose rows have one position and whose entries are classes."""
        if self.vocabulary == "aligned" and self.drop_above is not None:
            raise ValueError("drop_above compares cross-entropies, which mean little across tokenizers: remove it")
        if self.vocabulary != "equal" and self.cache:
            raise ValueError(f"cache is for classifiers and vocabulary: {self.vocabulary} for language models")
        if self.vocabulary == "aligned" and self.store is not None:
            raise ValueError(
                "store keeps answers on the student's tokens and an aligned teacher reads others: remove it"
            )
        return self

    @model_validator(mode="after")
    def kept_in_one_place(self) -> "TeacherSettings":
        """What is cached would never reach the store."""
        if self.cache and self.store is not None:
            raise ValueError("cache and store both keep the teacher's answers: keep one of them")
        return self
