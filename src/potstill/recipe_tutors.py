"""What a choice between teacher and tutor, and the hop of a chain, must agree on with the rest of their recipe."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from potstill.core.task import Task
from potstill.data.settings import DataSettings
from potstill.recipe_rules import Contradiction, Stage, nearest


def choice_rules(task: Task, stage: Stage) -> Iterable[Contradiction]:
    """The choice compares whole distributions, and the label can be chosen where there is one."""
    training = stage.training
    if training.teacher is None or training.teacher.choose is None:
        return
    objective = training.objective
    idle = {
        "top_k": objective.top_k is not None,
        "projection": objective.projection is not None,
        "fused": objective.fused,
        "layers": objective.layers is not None,
    }
    for name, given in idle.items():
        if given:
            reason = f"and teacher.choose, which compares whole answers, contradict each other: remove {name}"
            yield Contradiction((*stage.path, "objective", name), reason)
    if training.teacher.choose == "label" and task == "masked-lm":
        reason = "is `label`, and task masked-lm teaches tokens that are not hidden, which have none: take closer"
        yield Contradiction((*stage.path, "teacher", "choose"), reason)
    if training.rollout is not None and training.teacher.choose == "label":
        reason = "is `label`, and what the student writes in a rollout has none: take closer, or remove rollout"
        yield Contradiction((*stage.path, "teacher", "choose"), reason)


def hop_rules(data: DataSettings, stages: Sequence[Stage], names: Sequence[str]) -> Iterable[Contradiction]:
    """A hop is held against an earlier stage, on the same rows and by the same measure. names: of the stages, in order,
    without the last one."""
    known = dict(zip(names, stages, strict=False))
    for stage in stages:
        if stage.training.hop is None:
            continue
        here, over = (*stage.path, "hop"), stage.training.hop.over
        if data.validation is None:
            yield Contradiction(here, "is judged on data.validation, and the recipe has none")
        if over not in stage.earlier:
            there = f"earlier stages: {', '.join(stage.earlier)}" if stage.earlier else "there is no earlier stage"
            yield Contradiction((*here, "over"), f"`{over}` is no earlier stage; {there}", nearest(over, stage.earlier))
            continue
        other = known[over].training
        ours, theirs = stage.training.train.metric_for_best_model, other.train.metric_for_best_model
        if ours != theirs:
            reason = f"compares `{ours}` with the `{theirs}` of stage {over}: give both one train.metric_for_best_model"
            yield Contradiction(here, reason)
        for name, one in ((over, other), ("this stage", stage.training)):
            if not one.objective.answers:
                yield Contradiction(here, f"judges answers, and {name} learns layers alone: remove hop")
