"""The recipe: every room's settings composed into one frozen value, and checked as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from potstill import recipe_places as places
from potstill import recipe_rules as rules
from potstill.compress.settings import CompressSettings
from potstill.core.settings import Settings
from potstill.core.task import Task
from potstill.data.augment.settings import AugmentSettings
from potstill.data.order_settings import OrderSettings
from potstill.data.settings import DataSettings
from potstill.evaluate.settings import EvaluateSettings
from potstill.export.settings import ExportSettings
from potstill.objectives.settings import ObjectiveSettings
from potstill.recipe_augment import augment_data_rules, augment_rules
from potstill.recipe_compress import compress_rules
from potstill.recipe_order import order_rules
from potstill.recipe_rollout import rollout_rules
from potstill.recipe_rules import Contradiction
from potstill.recipe_tutors import choice_rules, hop_rules
from potstill.students.settings import StudentSettings
from potstill.teachers.settings import TeacherSettings
from potstill.train.settings import HopSettings, RolloutSettings, TrainSettings

Control = Literal["labels", "untrained", "tfidf"]
RECIPE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
STAGE_NAME = r"^[a-z][a-z0-9-]{0,39}$"
# Seeds of NumPy and of scikit-learn are 32-bit.
SEED_LIMIT = 2**32


def refuse(found: Sequence[Contradiction]) -> None:
    """Raise all contradictions as one validation error; the recipe loader takes them apart again (`found`)."""
    if found:
        raise PydanticCustomError(
            "contradictions", "{text}", {"text": "\n".join(map(str, found)), "found": tuple(found)}
        )


class StageSettings(Settings):
    """One training: a student, perhaps a teacher, an objective, a length. Its product is called `stage:NAME`.

    task, data: of this stage alone, where they are not the recipe's, such as a masked language model that is fitted on
    text before a classifier is taught. order: which rows are learnt from when, where not every row in every pass.
    augment: more rows from the rows there are. use: `labelled` keeps the rows that have a label, `all` takes the
    unlabelled ones too. rollout: learn from text that the student writes during the training, too. compress: fewer
    units and fewer bits. hop: the gain over an earlier stage from which this one pays.
    """

    name: Annotated[str, Field(pattern=STAGE_NAME, description="lower case letters, digits and -, at most 40")]
    student: StudentSettings
    teacher: TeacherSettings | None = None
    objective: ObjectiveSettings = ObjectiveSettings()
    train: TrainSettings = TrainSettings()
    order: OrderSettings | None = None
    augment: AugmentSettings | None = None
    rollout: RolloutSettings | None = None
    compress: CompressSettings | None = None
    hop: HopSettings | None = None
    task: Task | None = None
    data: DataSettings | None = None
    use: Literal["labelled", "all"] = "all"

    @model_validator(mode="after")
    def agrees_with_itself(self) -> StageSettings:
        """A soft loss without a teacher, a teacher nobody listens to, or no length is a mistake in the recipe."""
        refuse(rules.training_rules(self))
        return self


class Recipe(Settings):
    """A run. `stages` come first, in order; the block of student, teacher, objective and train is the last one.

    order: which rows the last stage learns from when, where not every row in every pass. augment: more rows for the
    last stage from the rows there are. compress: fewer units and fewer bits. controls: the same student
    without the teacher, in plain passes at equal steps (`labels`), the same student as
    initialised (`untrained`), and TF-IDF with logistic regression (`tfidf`): what the taught student must be held
    against.
    """

    version: Literal[1] = 1
    name: Annotated[
        str, Field(pattern=RECIPE_NAME, description="letters, digits and . _ -, at most 100, first a letter or digit")
    ]
    description: str = ""
    paper: str | None = None
    task: Task
    seed: Annotated[int, Field(ge=0, lt=SEED_LIMIT)] = 0
    output_dir: str | None = None
    data: DataSettings
    stages: tuple[StageSettings, ...] = ()
    student: StudentSettings
    teacher: TeacherSettings | None = None
    objective: ObjectiveSettings = ObjectiveSettings()
    train: TrainSettings = TrainSettings()
    order: OrderSettings | None = None
    augment: AugmentSettings | None = None
    rollout: RolloutSettings | None = None
    compress: CompressSettings | None = None
    hop: HopSettings | None = None
    evaluate: EvaluateSettings = EvaluateSettings()
    export: ExportSettings = ExportSettings()
    controls: tuple[Control, ...] = ()

    @property
    def final(self) -> StageSettings:
        """The last stage, under the name `student`."""
        return StageSettings(
            name="student",
            student=self.student,
            teacher=self.teacher,
            objective=self.objective,
            train=self.train,
            order=self.order,
            augment=self.augment,
            rollout=self.rollout,
            compress=self.compress,
            hop=self.hop,
        )

    def seen_by(self, stage: StageSettings) -> Recipe:
        """The recipe with the task and the data of a stage that has its own."""
        own = {"task": stage.task, "data": stage.data}
        changes = {name: value for name, value in own.items() if value is not None}
        return self.model_copy(update=changes) if changes else self

    def settled(self, bf16: Mapping[str, bool]) -> Recipe:
        """The recipe with every `bf16: auto` replaced by what a clock decided for that stage (the last is `student`):
        only then does it repeat its numbers elsewhere."""

        def decided(train: TrainSettings, name: str) -> TrainSettings:
            known = train.bf16 == "auto" and name in bf16
            return train.model_copy(update={"bf16": bf16[name]}) if known else train

        stages = tuple(one.model_copy(update={"train": decided(one.train, one.name)}) for one in self.stages)
        return self.model_copy(update={"stages": stages, "train": decided(self.train, "student")})

    @model_validator(mode="after")
    def agrees_as_a_whole(self) -> Recipe:
        """References, kinds of rows, labels, controls and metrics fit the task and each other."""
        names = [stage.name for stage in self.stages]
        stages = rules.stages_in_order([(stage.name, stage) for stage in self.stages], last=self)
        refuse(
            [
                *rules.training_rules(self),
                *rules.stage_name_rules(names),
                *(found for stage in stages for found in rules.reference_rules(stage)),
                *(found for stage in stages for found in self._stage_rules(stage)),
                *hop_rules(self.data, stages, names),
                *rules.data_rules(self.task, self.data),
                *rules.label_rules(self.task, self.data, [stage for stage in stages if not _apart(stage.training)]),
                *places.name_rules(self.name),
                *places.artefact_rules(self.export.name),
                *places.place_rules(self.output_dir),
                *rules.control_rules(self.task, self.data, self.controls, self),
                *augment_rules(self.task, stages),
            ]
        )
        return self

    def _stage_rules(self, stage: rules.Stage) -> Iterator[Contradiction]:
        """What a stage must agree on with its task and its data, which are the recipe's or its own."""
        training = stage.training
        task, data = training.task or self.task, training.data or self.data
        yield from rules.task_rules(task, stage)
        yield from rules.validation_rules(data, stage)
        yield from rules.route_rules(data, stage)
        yield from rules.state_rules(task, stage)
        yield from places.store_rules(task, stage)
        yield from order_rules(task, data, stage)
        yield from rollout_rules(task, data, stage)
        yield from compress_rules(stage)
        yield from choice_rules(task, stage)
        yield from augment_data_rules(task, data, stage)
        if _apart(training):
            yield from (one._replace(path=(*stage.path, *one.path)) for one in rules.data_rules(task, data))
            yield from rules.label_rules(task, data, [stage])


def _apart(training: rules.Training) -> bool:
    """Whether a stage has a task or data of its own."""
    return isinstance(training, StageSettings) and (training.task is not None or training.data is not None)
