"""Whose signal is learnt, and how several teachers speak as one. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator

from potstill.core.names import why_not_below
from potstill.core.settings import Settings
from potstill.redaction import redact
from potstill.students.settings import ModelSettings
from potstill.teachers.addresses import refuse_bad_url
from potstill.teachers.endpoint_settings import TopKSettings
from potstill.teachers.forms import Form

# Settings that only a teacher elsewhere has.
ELSEWHERE = (
    "url_weights",
    "key_env",
    "key_file",
    "ca",
    "form",
    "prefetch",
    "timeout_s",
    "refuse_after",
    "give_up_after_s",
)
KEY_VARIABLES = r"^POTSTILL_[A-Z0-9_]{1,80}$"


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
    whose value names the row's teacher; routes: value of that column -> position in models, from 0 (urls come last).
    choose: two models, a teacher and its tutor, and who of them teaches each example: `closer`, the one that is right
    and nearer to the student, or the label alone where neither is right; or one of `teacher`, `tutor`, `label` for all.
    cache: ask the teacher once for every training row and reuse its answers in every pass (classifiers). store: the
    same for language models, on the disk and for other runs too; a teacher elsewhere sends `store.form`, and is not
    asked where every row is there. bf16: run the teacher under bf16 autocast, its logits
    rounded to about 1e-2; "auto": where the processor multiplies bf16 natively.

    urls: services of one teacher that is elsewhere (`potstill serve`), `https://`, `http://`, `tls://`, `tcp://` or
    `unix://`; it is one more member of an ensemble, with the last weight. url_weights: the share of questions each
    takes; alike when absent. key_env: the environment variable with their key (POTSTILL_KEY). key_file: a file with
    it instead, below the working directory. ca: certificates to trust in place of the system's. form: what travels;
    when absent, what the objective needs. prefetch: batches asked about ahead of the step. timeout_s: for one answer.
    refuse_after: wrong answers that end the run. give_up_after_s: how long a run waits, saved, while no teacher
    answers; for ever when absent.
    """

    models: tuple[ModelSettings, ...] = ()
    endpoint: TopKSettings | None = None
    urls: tuple[str, ...] = ()
    url_weights: tuple[Annotated[float, Field(gt=0)], ...] | None = None
    key_env: Annotated[str, Field(pattern=KEY_VARIABLES, description="POTSTILL_ and capital letters")] | None = None
    key_file: str | None = None
    ca: str | None = None
    form: Form | None = None
    prefetch: Annotated[int, Field(ge=0, le=64)] = 2
    timeout_s: Annotated[float, Field(gt=0)] = 120.0
    refuse_after: Annotated[int, Field(ge=0)] = 20
    give_up_after_s: Annotated[float, Field(gt=0)] | None = None
    combine: Literal["arithmetic", "geometric"] = "arithmetic"
    weights: tuple[Annotated[float, Field(gt=0)], ...] | None = None
    drop_above: Annotated[float, Field(ge=1)] | None = None
    vocabulary: Literal["equal", "padded", "aligned"] = "equal"
    route_by: Annotated[str, Field(min_length=1)] | None = None
    routes: dict[str, Annotated[int, Field(ge=0)]] | None = None
    choose: Literal["closer", "teacher", "tutor", "label"] | None = None
    cache: bool = False
    store: StoreSettings | None = None
    bf16: Literal["auto"] | bool = False

    @model_validator(mode="after")
    def one_weight_per_model(self) -> TeacherSettings:
        """A missing weight would silently silence a teacher."""
        members = len(self.models) + bool(self.urls)
        if self.weights is not None and len(self.weights) != members:
            raise ValueError(
                f"{len(self.weights)} weights for {len(self.models)} models"
                f"{' and a teacher elsewhere' if self.urls else ''}: give one weight per model"
            )
        if self.url_weights is not None and len(self.url_weights) != len(self.urls):
            raise ValueError(f"{len(self.url_weights)} url_weights for {len(self.urls)} urls: give one for each")
        return self

    @model_validator(mode="after")
    def somebody_teaches(self) -> TeacherSettings:
        """Settings of loaded models, or of a service, have no use for an endpoint."""
        if self.endpoint is None and not self.models and not self.urls:
            raise ValueError("no teacher is named: give models, urls of one that is served elsewhere, or an endpoint")
        if self.endpoint is not None:
            for name, given in (("models", self.models), ("urls", self.urls)):
                if given:
                    raise ValueError(f"{name} and endpoint contradict each other: keep one of them")
            ours = ("combine", "weights", "drop_above", "cache", "store", "bf16", "vocabulary", "route_by", "routes")
            for name in (*ours, "choose"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} has no use for an endpoint, which is one teacher on its own machine")
        return self

    @model_validator(mode="after")
    def every_route_leads_to_a_model(self) -> TeacherSettings:
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
        last = len(self.models) + bool(self.urls) - 1
        for value, position in self.routes.items():
            if position > last:
                raise ValueError(f"routes.{value} is {position}, and the teachers have positions 0 to {last}")
        if unused := sorted(set(range(last + 1)) - set(self.routes.values())):
            whose = f"models.{unused[0]}" if unused[0] < len(self.models) else "the teacher elsewhere"
            raise ValueError(f"{whose} has no route, so nobody would ask it: add a route, or remove it")
        return self

    @model_validator(mode="after")
    def a_teacher_and_its_tutor(self) -> TeacherSettings:
        """A choice is between two models of this process that speak of the same entries."""
        if self.choose is None:
            return self
        if len(self.models) != 2 or self.urls:
            raise ValueError(
                f"choose is between two models of this process, the teacher and then its tutor, and there are "
                f"{len(self.models)}{' and a teacher elsewhere' if self.urls else ''}: name these two"
            )
        for name in ("combine", "weights", "drop_above", "routes", "vocabulary", "store"):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(
                    f"choose takes one of two whole answers and {name} makes something else of them: remove {name}"
                )
        return self

    @model_validator(mode="after")
    def other_vocabularies_are_heard_live(self) -> TeacherSettings:
        """Recorded answers are for classifiers, whose rows have one position and whose entries are classes."""
        if self.vocabulary == "aligned" and self.drop_above is not None:
            raise ValueError("drop_above compares cross-entropies, which mean little across tokenizers: remove it")
        if self.vocabulary != "equal" and self.cache:
            raise ValueError(f"cache is for classifiers and vocabulary: {self.vocabulary} for language models")
        if self.vocabulary == "aligned" and self.store is not None:
            raise ValueError(
                "store keeps answers on the student's tokens and an aligned teacher reads others: remove it"
            )
        sparse = "top-k" in (self.form, self.store.form if self.store else None)
        if self.vocabulary == "padded" and sparse:
            raise ValueError(
                "vocabulary: padded takes rows out of the whole distribution and form: top-k has its largest entries "
                "only: take last states or logits"
            )
        return self

    @model_validator(mode="after")
    def elsewhere_is_elsewhere(self) -> TeacherSettings:
        """Addresses are addresses, and what is set for them has a use. A recipe may come from anybody: it may not
        choose which of this machine's files and variables is sent to an address of its choice."""
        if wrong := next(_wrong_elsewhere(self), None):
            raise ValueError(wrong)
        return self

    @model_validator(mode="after")
    def kept_in_one_place(self) -> TeacherSettings:
        """What is cached would never reach the store."""
        if self.cache and self.store is not None:
            raise ValueError("cache and store both keep the teacher's answers: keep one of them")
        return self


def _wrong_elsewhere(teacher: TeacherSettings) -> Iterator[str]:
    """What is wrong with the settings of a teacher elsewhere, the first fault first."""
    for url in teacher.urls:
        if (wrong := refuse_bad_url(url)) is not None:
            yield f"urls: {redact(url)[:80]!r} {wrong}"
    if len(set(teacher.urls)) != len(teacher.urls):
        yield "urls names an address twice: leave one out, or use url_weights"
    if teacher.key_env is not None and teacher.key_file is not None:
        yield "key_env and key_file contradict each other: keep one of them"
    if teacher.key_file is not None and (reason := why_not_below(teacher.key_file)):
        wrong = f"key_file: {teacher.key_file[:60]!r} {reason}"
        yield f"{wrong}; it must lie below the working directory: for any other place use key_env"
    idle = [name for name in ELSEWHERE if getattr(teacher, name) != TeacherSettings.model_fields[name].default]
    if idle and not teacher.urls:
        yield f"{', '.join(idle)} has no use without urls: remove it, or name the urls"
    if teacher.urls and teacher.drop_above is not None:
        yield "drop_above is for models of this process: leave it out, or leave out urls"
    if teacher.urls and teacher.store is not None and teacher.form not in (None, teacher.store.form):
        yield (
            f"form is {teacher.form} and store.form {teacher.store.form}, and what travels is what is kept: leave out "
            "form"
        )
    if teacher.urls and teacher.vocabulary == "aligned":
        yield "vocabulary: aligned is for models of this process: take a teacher with the student's tokenizer"
