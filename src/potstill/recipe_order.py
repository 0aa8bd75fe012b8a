"""What the order of a stage must agree on with its teacher, its data and its evaluations."""

from __future__ import annotations

from collections.abc import Iterable

from potstill.core.task import Task
from potstill.data.settings import DataSettings
from potstill.recipe_rules import Contradiction, Stage


def order_rules(task: Task, data: DataSettings, stage: Stage) -> Iterable[Contradiction]:
    """An order has what it goes by."""
    if stage.training.order is not None:
        yield from _teacher_rules(stage)
        yield from _difficulty_rules(task, stage)
        yield from _skill_rules(task, data, stage)


def _teacher_rules(stage: Stage) -> Iterable[Contradiction]:
    """Teachers that can be asked between two passes, about the tokens the student learns."""
    teacher, here = stage.training.teacher, (*stage.path, "order")
    if teacher is None:
        return
    if teacher.endpoint is not None:
        yield Contradiction(
            here, "needs the whole distribution of the teacher, and teacher.endpoint gives a part of it"
        )
    if teacher.vocabulary != "equal":
        reason = f"compares losses on the same tokens, and teacher.vocabulary is {teacher.vocabulary}: remove order"
        yield Contradiction(here, reason)
    if teacher.urls and teacher.prefetch and not teacher.cache:
        reason = "decides late which rows come, and teacher.prefetch asks early about them: set prefetch to 0"
        yield Contradiction((*stage.path, "teacher", "prefetch"), reason)


def _difficulty_rules(task: Task, stage: Stage) -> Iterable[Contradiction]:
    training = stage.training
    settings = training.order.difficulty if training.order else None
    here = (*stage.path, "order", "difficulty")
    if settings is None:
        return
    if training.teacher is None:
        yield Contradiction(here, "is the student's loss over the teacher's, and there is no teacher; name one")
    elif training.teacher.store is not None:
        reason = "needs whole logits, and teacher.store keeps what the objective needs: remove the store"
        yield Contradiction(here, reason)
    if task == "masked-lm":
        yield Contradiction(here, "needs a truth that stays, and task masked-lm hides other tokens in every pass")
    if task != "classify" and settings.truth == "teacher":
        reason = f"`teacher` is only for task classify; in task {task} the text is the truth"
        yield Contradiction((*here, "truth"), reason)


def _skill_rules(task: Task, data: DataSettings, stage: Stage) -> Iterable[Contradiction]:
    training = stage.training
    if training.order is None or training.order.curriculum is None:
        return
    name, settings = training.order.curriculum
    here = (*stage.path, "order", name)
    if task == "masked-lm":
        yield Contradiction(here, "counts right answers, and task masked-lm has none")
    if data.pack:
        yield Contradiction(here, "needs rows of one skill each, and data.pack joins them: set data.pack to false")
    if data.validation is None:
        yield Contradiction(here, "measures skills on data.validation, and the recipe has none")
    if training.train.eval_steps is None:
        reason = "is missing: a curriculum moves on when it is measured; say how often"
        yield Contradiction((*stage.path, "train", "eval_steps"), reason)
    named = [(("data", "train", i), source) for i, source in enumerate(data.train)]
    named += [(("data", "validation"), data.validation)] if data.validation is not None else []
    for path, source in named:
        packaged = source.dataset_name.startswith("packaged:")  # those name their slices themselves
        if not packaged and settings.slice_by not in source.columns.slices:
            reason = f"leaves out `{settings.slice_by}`, by which {'.'.join(map(str, here))} goes; add it"
            yield Contradiction((*path, "columns", "slices"), reason)
