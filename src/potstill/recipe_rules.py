"""What the settings of a recipe must agree on across rooms. Each rule returns contradictions, so that all are reported.

A rule inside one room's settings lives in that room; a rule here reads two or more of them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from potstill.compress.settings import CompressSettings
from potstill.core.names import why_no_name
from potstill.core.task import Task
from potstill.data.augment.settings import AugmentSettings
from potstill.data.order_settings import OrderSettings
from potstill.data.settings import DataSettings, SourceSettings
from potstill.objectives.settings import ObjectiveSettings
from potstill.students.settings import ModelSettings, StudentSettings
from potstill.teachers.forms import FORMS
from potstill.teachers.settings import TeacherSettings
from potstill.train.settings import HopSettings, RolloutSettings, TrainSettings

Path = tuple[str | int, ...]

ROWS: dict[Task, tuple[str, ...]] = {
    "classify": ("labelled",),
    "masked-lm": ("text",),
    "causal-lm": ("text", "completion", "messages"),
}
METRICS: dict[Task, tuple[str, ...]] = {
    "classify": ("loss", "accuracy", "f1"),
    "masked-lm": ("loss", "perplexity"),
    "causal-lm": ("loss", "perplexity"),
}


class Contradiction(NamedTuple):
    """Where in the recipe, what contradicts what and what to do, and the nearest name where a name was wrong."""

    path: Path
    reason: str
    suggestion: str | None = None

    def __str__(self) -> str:
        hint = f" Did you mean `{self.suggestion}`?" if self.suggestion else ""
        return f"{'.'.join(map(str, self.path))}: {self.reason}{hint}"


@runtime_checkable
class Training(Protocol):
    """What a stage and the recipe's own last stage have in common."""

    @property
    def student(self) -> StudentSettings:
        """Who learns."""
        ...

    @property
    def teacher(self) -> TeacherSettings | None:
        """From whom."""
        ...

    @property
    def objective(self) -> ObjectiveSettings:
        """By what measure."""
        ...

    @property
    def train(self) -> TrainSettings:
        """For how long."""
        ...

    @property
    def order(self) -> OrderSettings | None:
        """Which rows when; None: all of them in every pass."""
        ...

    @property
    def augment(self) -> AugmentSettings | None:
        """With which varied rows beside those there are."""
        ...

    @property
    def task(self) -> Task | None:
        """Of what; None: the recipe's."""

    @property
    def data(self) -> DataSettings | None:
        """On what; None: the recipe's."""

    @property
    def rollout(self) -> RolloutSettings | None:
        """How often from its own text."""

    @property
    def compress(self) -> CompressSettings | None:
        """How much smaller meanwhile."""

    @property
    def hop(self) -> HopSettings | None:
        """Over which stage it must be a gain."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like a mistyped one, or None if none is near."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)), None)


def training_rules(training: Training) -> list[Contradiction]:
    """What one stage must agree on with itself."""
    return [
        *_teacher_is_used(training),
        *_objective_is_used(training),
        *_layers_are_reached(training),
        *_length_is_known(training),
    ]


def _teacher_is_used(training: Training) -> Iterable[Contradiction]:
    soft = training.objective.soft_weight
    if soft > 0 and training.teacher is None:
        reason = f"soft_weight is {soft:g} but there is no teacher; name one, or set soft_weight to 0"
        yield Contradiction(("objective", "soft_weight"), reason)
    layers = training.objective.layers is not None
    if layers and training.teacher is None:
        yield Contradiction(("objective", "layers"), "there is no teacher to compare with; name one, or remove layers")
    if soft == 0 and training.teacher is not None and not layers:
        reason = "there is a teacher but objective.soft_weight is 0; raise it, or set the teacher to null"
        yield Contradiction(("teacher",), reason)
    yield from _endpoint_is_heard(training)
    if training.teacher is not None and training.teacher.drop_above is not None and len(training.teacher.models) < 2:
        yield Contradiction(("teacher", "drop_above"), "needs two or more models: one teacher cannot be left out")


def _endpoint_is_heard(training: Training) -> Iterable[Contradiction]:
    """An endpoint gives its likeliest tokens as they are: a cut tail cannot be softened afterwards."""
    if training.teacher is None or training.teacher.endpoint is None or training.objective.soft_weight == 0:
        return
    if training.objective.top_k is None:
        reason = "is missing: teacher.endpoint gives its likeliest tokens only; set how many, such as 20"
        yield Contradiction(("objective", "top_k"), reason)
    if training.objective.temperature != 1:
        reason = (
            f"is {training.objective.temperature:g}, and teacher.endpoint gives log-probabilities at 1; set it to 1"
        )
        yield Contradiction(("objective", "temperature"), reason)
    if training.student.vocabulary_size is not None:
        reason = "changes the tokenizer, and teacher.endpoint speaks of its own tokens; remove it"
        yield Contradiction(("student", "vocabulary_size"), reason)


def _objective_is_used(training: Training) -> Iterable[Contradiction]:
    objective = training.objective
    if objective.top_k is None and objective.missing_mass != "tail":
        yield Contradiction(("objective", "missing_mass"), "has no use without top_k: a whole signal misses nothing")
    if objective.soft_weight == 0:
        given = {
            "temperature": objective.temperature != 1.0,
            "top_k": objective.top_k is not None,
            "projection": objective.projection is not None,
            "fused": objective.fused,
        }
        for name, unused in given.items():
            if unused:
                reason = f"has no use while soft_weight is 0; remove {name}, or raise soft_weight"
                yield Contradiction(("objective", name), reason)
    if set(training.student.freeze) >= {"embeddings", "body", "head"}:
        yield Contradiction(("student", "freeze"), "freezes the whole student: nothing would learn; free a part of it")


def _layers_are_reached(training: Training) -> Iterable[Contradiction]:
    """Layers are those of one model in this process that reads the student's own tokens. Where only they are taught,
    the student's answers say nothing of how far it is."""
    objective, teacher, train = training.objective, training.teacher, training.train
    if objective.layers is None:
        return
    if teacher is not None:
        elsewhere = {
            "endpoint": teacher.endpoint is not None,
            "urls": bool(teacher.urls),
            "cache": teacher.cache,
            "store": teacher.store is not None,
            "vocabulary": teacher.vocabulary != "equal",
        }
        for name, given in elsewhere.items():
            if given:
                reason = f"and objective.layers contradict each other: layers are read from a model here; remove {name}"
                yield Contradiction(("teacher", name), reason)
        if len(teacher.models) > 1:
            reason = f"needs the layers of one teacher, and there are {len(teacher.models)}"
            yield Contradiction(("objective", "layers"), reason)
    judged = {
        "early_stop_patience": train.early_stop_patience is not None,
        "eval_steps": train.eval_steps is not None,
        "metric_for_best_model": train.metric_for_best_model != "loss",
    }
    for name, given in judged.items():
        if given and not objective.answers:
            reason = "judges the student's answers, and objective.layers alone does not teach them; remove it"
            yield Contradiction(("train", name), reason)


def _length_is_known(training: Training) -> Iterable[Contradiction]:
    train = training.train
    if training.order is not None and training.order.difficulty is not None:
        if train.num_train_epochs is not None:
            reason = "contradicts order.difficulty.passes, which is the length of the training: remove it"
            yield Contradiction(("train", "num_train_epochs"), reason)
    elif train.max_steps is None and train.num_train_epochs is None:
        yield Contradiction(("train",), "has no length; set max_steps or num_train_epochs")


class Stage(NamedTuple):
    """A training, its place in the recipe, and the names of the stages it may load."""

    path: Path
    training: Training
    earlier: tuple[str, ...]


def stages_in_order(named: Sequence[tuple[str, Training]], last: Training) -> list[Stage]:
    """All trainings of a recipe; the last one is the recipe's own and may load every named stage."""
    names = [name for name, _ in named]
    ordered = [Stage(("stages", i), training, tuple(names[:i])) for i, (_, training) in enumerate(named)]
    return [*ordered, Stage((), last, tuple(names))]


def stage_name_rules(names: Sequence[str]) -> Iterable[Contradiction]:
    """Stage names are unique, and none is that of the last stage."""
    for i, name in enumerate(names):
        if reason := why_no_name(name):
            yield Contradiction(("stages", i, "name"), f"{name[:60]!r} {reason}")
        if name == "student":
            yield Contradiction(("stages", i, "name"), "`student` is the last stage's name; choose another")
        if name in names[:i]:
            reason = f"`{name}` is already the name of stages.{names.index(name)}; names must differ"
            yield Contradiction(("stages", i, "name"), reason)


def reference_rules(stage: Stage) -> Iterable[Contradiction]:
    """`stage:NAME` is the product of an earlier stage."""
    models: list[tuple[Path, ModelSettings]] = [(("student",), stage.training.student)]
    if stage.training.teacher is not None:
        models += [(("teacher", "models", i), model) for i, model in enumerate(stage.training.teacher.models)]
    for path, model in models:
        kind, _, name = model.model_name_or_path.partition(":")
        here = (*stage.path, *path)
        if kind == "stage" and name not in stage.earlier:
            known = f"earlier stages: {', '.join(stage.earlier)}" if stage.earlier else "there is no earlier stage"
            close = nearest(name, stage.earlier)
            reason = f"`{model.model_name_or_path}` is not the product of an earlier stage; {known}"
            yield Contradiction((*here, "model_name_or_path"), reason, close and f"stage:{close}")
        if kind in ("stage", "packaged") and model.revision is not None:
            yield Contradiction((*here, "revision"), f"has no use for `{model.model_name_or_path}`; remove it")


def task_rules(task: Task, stage: Stage) -> Iterable[Contradiction]:
    """Settings that only a classifier has, and the metrics a task knows."""
    student, teacher, train = stage.training.student, stage.training.teacher, stage.training.train
    if task != "causal-lm" and teacher is not None and teacher.endpoint is not None:
        reason = f"gives next-token probabilities, for task causal-lm; this task is {task}"
        yield Contradiction((*stage.path, "teacher", "endpoint"), reason)
    if task != "classify":
        found: list[tuple[Path, str]] = []
        if student.pooling is not None:
            found.append((("student", "pooling"), "pooling"))
        if student.head == "fresh" and task == "causal-lm":
            found.append((("student", "head"), "head: fresh"))
        if student.head == "probe":
            found.append((("student", "head"), "head: probe"))
        if train.head_learning_rate is not None:
            found.append((("train", "head_learning_rate"), "head_learning_rate"))
        for i, model in enumerate(teacher.models if teacher else ()):
            if model.pooling is not None:
                found.append((("teacher", "models", i, "pooling"), "pooling"))
        for path, what in found:
            yield Contradiction((*stage.path, *path), f"{what} is only for task classify; this task is {task}")
    if teacher is not None and teacher.vocabulary != "equal":
        fits = ("causal-lm",) if teacher.vocabulary == "aligned" else ("causal-lm", "masked-lm")
        if task not in fits:
            reason = f"`{teacher.vocabulary}` is only for task {' or '.join(fits)}; this task is {task}"
            yield Contradiction((*stage.path, "teacher", "vocabulary"), reason)
    metric, known = train.metric_for_best_model, METRICS[task]
    here = (*stage.path, "train", "metric_for_best_model")
    if metric not in known:
        reason = f"`{metric}` is not measured for task {task}; one of: {', '.join(known)}"
        yield Contradiction(here, reason, nearest(metric, known))


def data_rules(task: Task, data: DataSettings) -> Iterable[Contradiction]:
    """Rows are of a kind that the task learns from."""
    for path, source in _sources(data):
        if source.rows not in ROWS[task]:
            reason = f"task {task} does not learn from rows: {source.rows}; one of: {', '.join(ROWS[task])}"
            yield Contradiction((*path, "rows"), reason)
    if data.pack and task == "classify":
        yield Contradiction(
            ("data", "pack"), "packing joins rows, and task classify has one label per row; set it to false"
        )
    if data.mask_smoothing is not None and task != "masked-lm":
        yield Contradiction(("data", "mask_smoothing"), f"is only for task masked-lm; this task is {task}")
    if data.labels is not None and task != "classify":
        yield Contradiction(("data", "labels"), f"names the classes of task classify; this task is {task}")


def _sources(data: DataSettings) -> Iterable[tuple[Path, SourceSettings]]:
    yield from ((("data", "train", i), source) for i, source in enumerate(data.train))
    for name, held_out in (("validation", data.validation), ("test", data.test)):
        if held_out is not None:
            yield ("data", name), held_out


def state_rules(task: Task, stage: Stage) -> Iterable[Contradiction]:
    """Objectives on last states compare those of one language model with those of another, at the same positions."""
    teacher, objective = stage.training.teacher, stage.training.objective
    layers = objective.layers
    if layers is not None and layers.attention > 0 and task == "causal-lm":
        reason = "compares attention scores of encoders; this task is causal-lm; set it to 0"
        yield Contradiction((*stage.path, "objective", "layers", "attention"), reason)
    asked = {"projection": objective.projection is not None, "fused": objective.fused}
    for name in (name for name, used in asked.items() if used):
        here = (*stage.path, "objective", name)
        if task != "causal-lm":
            yield Contradiction(here, f"is only for task causal-lm; this task is {task}")
        members = 0 if teacher is None else len(teacher.models) + bool(teacher.urls)
        if members > 1:
            yield Contradiction(here, f"needs the states of one teacher, and there are {members}")
        for place, form in (("form", teacher.form), ("store", teacher.store and teacher.store.form)) if teacher else ():
            if form is not None and FORMS[form].says != "hidden":
                reason = f"needs last states, and teacher.{place} is `{form}`: take a form `hidden-...`, or remove it"
                yield Contradiction(here, reason)
    if objective.projection is not None and teacher is not None and teacher.vocabulary == "aligned":
        reason = "needs one tokenizer, and teacher.vocabulary is aligned: remove projection, or take another teacher"
        yield Contradiction((*stage.path, "objective", "projection"), reason)


def route_rules(data: DataSettings, stage: Stage) -> Iterable[Contradiction]:
    """The column that names a teacher survives until the batch: a packed row comes from many rows."""
    teacher = stage.training.teacher
    if teacher is not None and teacher.route_by is not None and data.pack:
        reason = "needs rows of one example each, and data.pack joins them: set data.pack to false"
        yield Contradiction((*stage.path, "teacher", "route_by"), reason)


def validation_rules(data: DataSettings, stage: Stage) -> Iterable[Contradiction]:
    """What is judged during training is judged on data.validation."""
    if data.validation is not None:
        return
    train, teacher = stage.training.train, stage.training.teacher
    judged = {
        "early_stop_patience": train.early_stop_patience is not None,
        "eval_steps": train.eval_steps is not None,
        "metric_for_best_model": train.metric_for_best_model != "loss",
    }
    for name, given in judged.items():
        if given:
            yield Contradiction((*stage.path, "train", name), "needs data.validation, and the recipe has none")
    if teacher is not None and teacher.drop_above is not None:
        reason = "needs data.validation, on which the teachers are compared, and the recipe has none"
        yield Contradiction((*stage.path, "teacher", "drop_above"), reason)


def label_rules(task: Task, data: DataSettings, stages: Sequence[Stage]) -> Iterable[Contradiction]:
    """Whoever learns from labels has some: `use: labelled`, the hard part of a loss, and a linear probe."""
    missing = "needs labels, and no source of data.train has use_labels: true and a label column"
    for stage in stages:
        labelled_only = getattr(stage.training, "use", "all") == "labelled"
        if labelled_only and task != "classify":
            reason = f"`labelled` is only for task classify; in task {task} every row is its own label"
            yield Contradiction((*stage.path, "use"), reason)
        if task != "classify" or _has_labels(data):
            continue
        if labelled_only:
            yield Contradiction((*stage.path, "use"), missing)
        if stage.training.objective.hard_weight > 0:
            yield Contradiction((*stage.path, "objective", "hard_weight"), missing)
        if stage.training.student.head == "probe":
            yield Contradiction((*stage.path, "student", "head"), f"`probe` {missing}")


def _has_labels(data: DataSettings) -> bool:
    return any(source.use_labels and source.columns.label is not None for source in data.train)


def control_rules(task: Task, data: DataSettings, controls: Sequence[str], last: Training) -> Iterable[Contradiction]:
    """A control differs from what it controls, is given once, exists for the task, and has what it learns from."""
    for i, name in enumerate(controls):
        if name in controls[:i]:
            yield Contradiction(("controls", i), f"`{name}` is given twice")
        elif name == "tfidf" and task != "classify":
            yield Contradiction(("controls", i), f"`tfidf` is only for task classify; this task is {task}")
        elif name == "labels" and last.teacher is None:
            reason = "`labels` is the student without its teacher, and this recipe has none; remove the control"
            yield Contradiction(("controls", i), reason)
        elif name != "untrained" and task == "classify" and not _has_labels(data):
            reason = f"`{name}` needs labels, and no source of data.train has use_labels: true and a label column"
            yield Contradiction(("controls", i), reason)
