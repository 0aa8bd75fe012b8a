"""What varied rows must agree on with the rest of a recipe."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from potstill.core.task import Task
from potstill.data.settings import DataSettings
from potstill.recipe_rules import Contradiction, Stage, nearest


def augment_rules(task: Task, stages: Sequence[Stage]) -> Iterable[Contradiction]:
    """`stage:NAME` proposes words when it is an earlier stage with task masked-lm."""
    tasks = {getattr(stage.training, "name", ""): stage.training.task or task for stage in stages}
    for stage in stages:
        settings = stage.training.augment
        if settings is None:
            continue
        here = (*stage.path, "augment", "model_name_or_path")
        kind, _, name = settings.model_name_or_path.partition(":")
        if kind == "stage" and name not in stage.earlier:
            known = f"earlier stages: {', '.join(stage.earlier)}" if stage.earlier else "there is no earlier stage"
            close = nearest(name, stage.earlier)
            reason = f"`{settings.model_name_or_path}` is not the product of an earlier stage; {known}"
            yield Contradiction(here, reason, close and f"stage:{close}")
        elif kind == "stage" and tasks[name] != "masked-lm":
            reason = f"needs a masked language model, and stage {name} has task {tasks[name]}: give a stage that has"
            yield Contradiction(here, f"{reason} task masked-lm")


def augment_data_rules(task: Task, data: DataSettings, stage: Stage) -> Iterable[Contradiction]:
    """Varied rows are texts, and there is somebody to say what they have become."""
    training, settings = stage.training, stage.training.augment
    if settings is None:
        return
    here, hard = (*stage.path, "augment"), training.objective.hard_weight
    if data.pack:
        yield Contradiction(here, "varies rows, and data.pack joins them: set data.pack to false")
    kinds = {source.rows for source in data.train} - {"labelled", "text"}
    if kinds:
        yield Contradiction(here, f"varies texts, and rows: {', '.join(sorted(kinds))} are more than one: remove it")
    if settings.labels == "keep" and hard == 0:
        reason = "`keep` has no use while objective.hard_weight is 0: raise it, or leave labels out"
        yield Contradiction((*here, "labels"), reason)
    if settings.labels == "teacher" and training.teacher is None:
        reason = "`teacher` leaves varied rows to a teacher, and there is none: name one, or set it to keep"
        yield Contradiction((*here, "labels"), reason)
    elif settings.labels == "teacher" and getattr(training, "use", "all") == "labelled":
        reason = "`teacher` leaves varied rows without a label, and use is labelled: set use to all, or labels to keep"
        yield Contradiction((*here, "labels"), reason)
    elif settings.labels == "teacher" and task != "classify" and hard > 0:
        reason = f"`teacher`, and in task {task} a varied text is its own label: set it to keep, or hard_weight to 0"
        yield Contradiction((*here, "labels"), reason)
