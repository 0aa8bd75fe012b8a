"""What a recipe will cost, by arithmetic on its settings and on the sizes of its models; nothing is loaded.

FLOPs are the usual count: 2 for each weight a token meets forwards, 4 more backwards, the head over the vocabulary
included, attention maps left out (6 N_body + 2 V (3 D_student + D_teacher) with the teacher's body besides).
Memory is what must lie there at once: weights, gradients and AdamW's two moments of the student in fp32, weights of the
teachers, keys and values of a batch that the student writes; activations come on top. What the data alone can tell (how
many rows, how long) is an upper bound or unknown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from potstill.config import Recipe, StageSettings
from potstill.core.errors import InputError
from potstill.data.difficulty.schedule import batches, readings
from potstill.data.settings import DataSettings
from potstill.estimate_compress import leaving_shape, trained_shape
from potstill.estimate_rollout import Writing, writing
from potstill.students.settings import ModelSettings
from potstill.students.shape import ModelShape, shape_of, student_shape
from potstill.traffic import Price, Reason, StepShape, chosen, price, prices

FP32, TRAINED = 4, 16
# The share of the bandwidth that greedy decoding in eager PyTorch reached, fp32 and batch 1: SmolLM2-135M, whole, with
# half of its blocks and with four, 0.37, 0.37 and 0.36 on one thread, 0.28, 0.27 and 0.29 on two. It belongs to the
# machine and the program, hardly to the model.
EFFICIENCY = 0.33


@dataclass(frozen=True, slots=True)
class StageEstimate:
    """One training. None is what only the data can tell. student_flops, teacher_flops: of one step. asked_steps: steps
    in which the teacher is asked; fewer than all where its answers are kept. scoring_flops: of all readings that only
    tell how hard the rows are. augment_flops: of the model that proposes words, counted for each stage that asks.
    writing: what the student writes itself.

    wire: bytes of one step of one teacher in each form, for language models; form: the one that is kept, or would be
    chosen, and why. store_bytes: of the signals that are kept, at most.
    """

    name: str
    student: ModelShape
    teachers: tuple[ModelShape, ...]
    steps: int | None
    asked_steps: int | None
    step_tokens: int
    student_parameters: int
    student_flops: int
    teacher_flops: int
    scoring_flops: int | None
    writing: Writing | None
    augment_flops: int | None
    memory_bytes: int
    disk_bytes: int
    wire: tuple[Price, ...]
    form: Reason | None
    store_bytes: int | None

    @property
    def tokens(self) -> int | None:
        """Tokens of the whole training, padding included."""
        return None if self.steps is None else self.steps * self.step_tokens + self._longer

    @property
    def flops(self) -> int | None:
        """Of the whole training, teacher, scoring, varying and writing included."""
        beside = (self.scoring_flops, self.augment_flops)
        if self.steps is None or self.asked_steps is None or None in beside:
            return None
        plain = self.steps * self.student_flops + self.asked_steps * self.teacher_flops
        a_token = (self.student_flops + self.teacher_flops) / self.step_tokens
        written = self.writing.all_flops or 0 if self.writing else 0
        return plain + sum(one for one in beside if one is not None) + written + round(self._longer * a_token)

    @property
    def _longer(self) -> int:
        return self.writing.all_longer or 0 if self.writing else 0


def estimate(recipe: Recipe) -> list[StageEstimate]:
    """Every training of a recipe, in order. Raises ModelError when a model is not on this machine."""
    found: list[StageEstimate] = []
    shapes: dict[str, ModelShape] = {}
    for stage in (*recipe.stages, recipe.final):
        one = _stage(recipe, stage, shapes)
        shapes[stage.name] = leaving_shape(one.student, stage.compress)
        found.append(one)
    return found


def _stage(recipe: Recipe, stage: StageSettings, shapes: Mapping[str, ModelShape]) -> StageEstimate:
    recipe = recipe.seen_by(stage)
    student = trained_shape(student_shape(stage.student, shapes), stage.compress)
    teachers = tuple(shape_of(one, shapes) for one in (stage.teacher.models if stage.teacher else ()))
    train, length = stage.train, recipe.data.max_length
    rows = train.per_device_train_batch_size * train.gradient_accumulation_steps
    tokens, head = rows * length, recipe.task != "classify"
    weights = student.parameters(head=head)
    steps, wire, form, store = _steps(recipe, stage, rows), (), None, None
    own = writing(stage.rollout, train, student, length, steps) if stage.rollout else None
    if teachers and head:
        wire, form, store = _signals(stage, teachers[0], rows, length, steps, _rows(recipe.data))
    return StageEstimate(
        name=stage.name,
        student=student,
        teachers=teachers,
        steps=steps,
        asked_steps=_asked(recipe, stage, steps, rows),
        step_tokens=tokens,
        student_parameters=weights,
        student_flops=6 * tokens * _met(student, head),
        teacher_flops=sum(2 * tokens * _met(one, head) for one in teachers),
        scoring_flops=_scoring(recipe, stage, student, teachers),
        augment_flops=_augmenting(recipe, stage, shapes),
        writing=own,
        memory_bytes=TRAINED * weights
        + sum(FP32 * one.parameters(head=head) for one in teachers)
        + (own.cache_bytes if own else 0),
        # A save holds weights and both moments; the product and the export hold weights.
        disk_bytes=(3 * FP32 * (train.save_total_limit + 1) + 2 * FP32) * weights + (store or 0),
        wire=wire,
        form=form,
        store_bytes=store,
    )


def _met(shape: ModelShape, head: bool) -> int:
    """Weights that a token is multiplied with."""
    return shape.body_parameters + (shape.vocabulary * shape.hidden if head else 0)


def _signals(
    stage: StageSettings, teacher: ModelShape, rows: int, length: int, steps: int | None, known: int | None
) -> tuple[tuple[Price, ...], Reason, int | None]:
    wanted = stage.objective.top_k
    shape = StepShape(rows, length, teacher.vocabulary, teacher.hidden, top_k=wanted or 64)
    form = chosen(shape, wants="top-k" if wanted else "all")
    kept = stage.teacher.store if stage.teacher else None
    if kept is None:
        return tuple(prices(shape)), form, None
    asked = [count for count in (known, None if steps is None else steps * rows) if count is not None]
    one = price(kept.form, StepShape(1, length, teacher.vocabulary, teacher.hidden, top_k=wanted or 64, spoken_bytes=4))
    store = None if not asked else min(asked) * one.frame * len(stage.teacher.models if stage.teacher else ())
    return tuple(prices(shape)), (kept.form, "the recipe keeps it (teacher.store)"), store


def _steps(recipe: Recipe, stage: StageSettings, rows: int) -> int | None:
    train = stage.train
    if train.max_steps is not None:
        return train.max_steps
    known = _rows(recipe.data)
    if known is not None and stage.augment is not None:
        known *= 1 + stage.augment.copies
    if known is not None and stage.order is not None and stage.order.difficulty is not None:
        found, size = stage.order.difficulty, train.per_device_train_batch_size
        return max(1, batches(found.schedule, found.passes, known, size) // train.gradient_accumulation_steps)
    if known is None or train.num_train_epochs is None:
        return None
    return max(1, math.ceil(train.num_train_epochs * math.ceil(known / rows)))


def _scoring(recipe: Recipe, stage: StageSettings, student: ModelShape, teachers: Sequence[ModelShape]) -> int | None:
    """Forward passes of the student over all rows, before passes of a schedule of difficulty; and one of the teachers,
    unless their answers are recorded anyway."""
    if stage.order is None or (found := stage.order.difficulty) is None:
        return 0
    if (known := _rows(recipe.data)) is None:
        return None
    head, tokens = recipe.task != "classify", known * recipe.data.max_length
    kept = stage.teacher is not None and stage.teacher.cache
    asked = 0 if kept else sum(_met(one, head) for one in teachers)
    return 2 * tokens * (readings(found.passes, found.score_every) * _met(student, head) + asked)


def _augmenting(recipe: Recipe, stage: StageSettings, shapes: Mapping[str, ModelShape]) -> int | None:
    """Forward passes of the model that proposes words: `passes` over all rows, or one for each token at most."""
    if stage.augment is None:
        return 0
    if (known := _rows(recipe.data)) is None:
        return None
    shape = shape_of(ModelSettings(model_name_or_path=stage.augment.model_name_or_path), shapes)
    length = recipe.data.max_length
    return 2 * known * length * (stage.augment.passes or length) * _met(shape, False)


def _asked(recipe: Recipe, stage: StageSettings, steps: int | None, rows: int) -> int | None:
    kept = stage.teacher is not None and (stage.teacher.cache or stage.teacher.store is not None)
    known = _rows(recipe.data)
    if steps is None or not kept or known is None:
        return steps
    known *= 1 + (stage.augment.copies if stage.augment else 0)
    return min(steps, math.ceil(known / rows))


def _rows(data: DataSettings) -> int | None:
    """Rows of a pass, at most; unknown where a source has no limit. Packing makes fewer of them."""
    limits = [source.limit for source in data.train]
    return None if None in limits else sum(limit for limit in limits if limit is not None)


def decode_ceiling(shape: ModelShape, bytes_per_second: float, bytes_per_weight: float = FP32) -> float:
    """Tokens a second of greedy decoding at batch 1 that cannot be exceeded: every weight a token meets is read once.

    Raises InputError for a bandwidth that is not above 0.
    """
    if not bytes_per_second > 0:
        raise InputError(f"a bandwidth of {bytes_per_second} bytes a second: give what the target reads, above 0")
    return bytes_per_second / (bytes_per_weight * _met(shape, True))


def decode_prediction(
    shape: ModelShape, bytes_per_second: float, efficiency: float = EFFICIENCY, bytes_per_weight: float = FP32
) -> float:
    """Tokens a second that are to be expected where the ceiling is reached to this share.

    Raises InputError for an efficiency that is not above 0 and at most 1, or a bandwidth that is not above 0.
    """
    if not 0 < efficiency <= 1:
        raise InputError(f"an efficiency of {efficiency}: give the share of the bandwidth that is reached, 0 to 1")
    return efficiency * decode_ceiling(shape, bytes_per_second, bytes_per_weight)


def as_json(stages: Sequence[StageEstimate]) -> list[dict[str, object]]:
    """For machines: every number in plain units (bytes, FLOPs, tokens)."""
    return [
        {
            "stage": one.name,
            "steps": one.steps,
            "tokens_at_most": one.tokens,
            "student_parameters": one.student_parameters,
            "flops_per_step": one.student_flops + one.teacher_flops,
            "scoring_flops": one.scoring_flops,
            "writing_flops_at_most": one.writing.all_flops if one.writing else 0,
            "written_tokens_at_most": one.writing.all_tokens if one.writing else 0,
            "writing_cache_bytes": one.writing.cache_bytes if one.writing else 0,
            "augment_flops": one.augment_flops,
            "flops": one.flops,
            "memory_bytes": one.memory_bytes,
            "disk_bytes_at_most": one.disk_bytes,
            "store_bytes_at_most": one.store_bytes,
            "wire": [{"form": row.form, "bytes": row.payload, "frame_bytes": row.frame} for row in one.wire],
            "form": one.form[0] if one.form else None,
            "why": one.form[1] if one.form else None,
        }
        for one in stages
    ]
