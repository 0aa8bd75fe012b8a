"""A tutor stands between teacher and student, and is refused where it is larger than its teacher. No torch."""

from __future__ import annotations

from collections.abc import Sequence

from potstill.config import Recipe, StageSettings
from potstill.core.errors import ModelError
from potstill.estimate_compress import leaving_shape
from potstill.students.settings import ModelSettings
from potstill.students.shape import ModelShape, shape_of, student_shape


def refuse_larger_tutors(recipe: Recipe) -> None:
    """Before anything is trained: a tutor whose sizes, as its config states them, are above its teacher's.

    Raises ModelError. What only loaded models can tell is compared when they are loaded.
    """
    shapes: dict[str, ModelShape] = {}
    head = recipe.task != "classify"
    for stage in (*recipe.stages, recipe.final):
        try:
            shapes[stage.name] = leaving_shape(student_shape(stage.student, shapes), stage.compress)
            teachers = [shape_of(one, shapes) for one in teachers_of(stage)]
        except (ModelError, KeyError):  # not on this machine, or made from such a one
            continue
        sizes = [one.parameters(head=head) for one in teachers]
        compare_sizes(recipe, stage, shapes[stage.name].parameters(head=head), sizes)


def teachers_of(stage: StageSettings) -> Sequence[ModelSettings]:
    """The models that teach a stage, in order."""
    return () if stage.teacher is None else stage.teacher.models


def compare_sizes(recipe: Recipe, stage: StageSettings, own: int, teachers: Sequence[int]) -> None:
    """own: parameters of the stage's student; teachers: of its teachers, in order. Raises ModelError with both, where
    the student is a tutor, since a stage learns from it, or where a choice is between a teacher and a larger tutor."""
    names = [one.model_name_or_path for one in teachers_of(stage)]
    places = {one.name: f"stages.{number}." for number, one in enumerate(recipe.stages)}
    path = places.get(stage.name, "")
    between = "a tutor stands between teacher and student"
    if stage.teacher is not None and stage.teacher.choose is not None and teachers[1] > teachers[0]:
        raise ModelError(
            f"{path}teacher.models.1: the tutor {names[1]} has {teachers[1]:,} parameters and its teacher {names[0]} "
            f"has {teachers[0]:,}: {between}; name the larger model first, or take a smaller tutor"
        )
    if teachers and own > max(teachers) and f"stage:{stage.name}" in _teaching(recipe):
        raise ModelError(
            f"{path}student: the tutor `{stage.name}` has {own:,} parameters and its teacher {', '.join(names)} has "
            f"{max(teachers):,}: {between}; give it fewer layers or a smaller size, or let it be the teacher"
        )


def _teaching(recipe: Recipe) -> set[str]:
    """Everything that teaches in some stage, by its name in the recipe."""
    return {one.model_name_or_path for stage in (*recipe.stages, recipe.final) for one in teachers_of(stage)}
