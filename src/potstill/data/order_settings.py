"""In which order rows are learnt from, where not all of them in every pass. Numbers and names only, no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from potstill.core.settings import Settings
from potstill.data.curriculum.graph import circle

Share = Annotated[float, Field(ge=0, le=1)]


class DifficultySettings(Settings):
    """Each pass keeps fewer rows, mostly those the teacher knows and the student does not (DA-KD, He et al. 2025).

    passes: of the schedule, which is the length of the training; together they cost (passes + 1) / 2 passes over the
    data, and reading every row before each pass but the first. schedule: how the share of rows falls. tau: the
    share of a pass that is drawn from the easier rows. score_every: how many passes one reading of all rows by the
    student serves; above 1 it costs less, and the later passes go by the scores of an earlier student. truth: what
    both losses are taken on: the `label` (for language models the text), or the `teacher`'s first choice, for
    classifiers with rows that nobody labelled.
    """

    passes: Annotated[int, Field(ge=2)] = 10
    schedule: Literal["cosine", "linear"] = "cosine"
    tau: Annotated[float, Field(ge=0, lt=1)] = 0.1
    score_every: Annotated[int, Field(ge=1)] = 1
    truth: Literal["label", "teacher"] = "label"


class MasterySettings(Settings):
    """A skill opens when all that it builds on is mastered; what is mastered by then is only repeated.

    A skill is mastered while the student's score on its validation rows is `opens_at` of the teacher's, or of 1 without
    a teacher. slice_by: the column of data.train.columns.slices that names a row's skill. prerequisites: skill -> the
    skills it builds on; a skill that is not named builds on none. review: the share of a pass that repeats mastered
    skills. patience: after so many measurements without mastery a skill holds the next ones up no longer, which is
    said.
    """

    slice_by: str
    prerequisites: dict[str, tuple[str, ...]]
    opens_at: Share = 0.9
    review: Annotated[float, Field(ge=0, lt=1)] = 0.2
    patience: Annotated[int, Field(gt=0)] = 5

    @model_validator(mode="after")
    def no_circle(self) -> MasterySettings:
        """Skills that wait for each other would never open."""
        if path := circle(self.prerequisites):
            raise ValueError(f"prerequisites form a circle: {' -> '.join(path)}; none of these skills could ever open")
        return self


class ZoneSettings(Settings):
    """The skills within reach are practised: not those that are mastered, and not those that are too far.

    A skill's reach is the student's score on its validation rows as a share of the teacher's. slice_by: the column of
    data.train.columns.slices that names a row's skill. mastered_at: the reach from which a skill is only repeated.
    width: how far below the best of the others a skill may lie. review: the share of a pass that repeats mastered
    skills.
    """

    slice_by: str
    mastered_at: Share = 0.9
    width: Share = 0.15
    review: Annotated[float, Field(ge=0, lt=1)] = 0.2


class OrderSettings(Settings):
    """Which rows are learnt from and when; without it every pass has every row once. One of the three.

    difficulty: fewer and harder rows from pass to pass. mastery: a skill opens when those it builds on are mastered.
    zone: the skills that are neither mastered nor out of reach.
    """

    difficulty: DifficultySettings | None = None
    mastery: MasterySettings | None = None
    zone: ZoneSettings | None = None

    @property
    def curriculum(self) -> tuple[str, MasterySettings | ZoneSettings] | None:
        """The one that goes by skills, and its name."""
        named = (("mastery", self.mastery), ("zone", self.zone))
        return next(((name, one) for name, one in named if one is not None), None)

    @model_validator(mode="after")
    def one_of_them(self) -> OrderSettings:
        """Two orders of the same rows contradict each other."""
        given = [name for name in ("difficulty", "mastery", "zone") if getattr(self, name) is not None]
        if len(given) != 1:
            had = f"has {' and '.join(given)}" if given else "has none of difficulty, mastery and zone"
            raise ValueError(f"{had}: keep one, or remove order")
        return self
