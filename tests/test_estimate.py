"""A recipe's cost: worked out by hand once, and for the shipped recipes."""

import pytest

from potstill.config import Recipe
from potstill.core.errors import InputError
from potstill.estimate import decode_ceiling, decode_prediction, estimate
from potstill.recipe_yaml import load_recipe
from potstill.students.packaged import find_packaged
from potstill.students.settings import ModelSettings
from potstill.students.shape import shape_of

SMOL = "packaged:smollm2-135m-instruct"


def recipe(**more):
    values = {
        "name": "tiny",
        "task": "causal-lm",
        "data": {"train": [{"dataset_name": "prose.jsonl", "rows": "text", "limit": 100}], "max_length": 64},
        "teacher": {"models": [{"model_name_or_path": SMOL}]},
        "student": {"model_name_or_path": SMOL, "every": 2},
        "train": {"num_train_epochs": 2, "per_device_train_batch_size": 8},
    }
    return Recipe.model_validate({**values, **more})


def test_by_hand():
    """SmolLM2: 3,538,944 weights a block, a table of 49,152 x 576."""
    (one,) = estimate(recipe())
    body, table = 30 * 3_538_944, 49_152 * 576
    assert one.steps == 2 * 13
    assert one.step_tokens == 8 * 64
    assert one.student_parameters == body // 2 + table
    assert one.student_flops == 6 * 512 * (body // 2 + table)
    assert one.teacher_flops == 2 * 512 * (body + table)
    assert one.memory_bytes == 16 * (body // 2 + table) + 4 * (body + table)
    assert one.flops == 26 * (one.student_flops + one.teacher_flops)
    assert one.form[0] == "hidden-int8"
    assert {row.form: row.payload for row in one.wire}["hidden-int8"] == 512 * 578


def test_a_kept_teacher_is_asked_in_the_first_pass_only():
    kept = {"models": [{"model_name_or_path": SMOL}], "store": {"form": "hidden-bf16"}}
    (one,) = estimate(recipe(teacher=kept))
    assert one.flops == 26 * one.student_flops + 13 * one.teacher_flops
    assert one.form == ("hidden-bf16", "the recipe keeps it (teacher.store)")
    assert one.store_bytes == pytest.approx(100 * 64 * 1152, rel=0.02)


def test_what_only_the_data_tells_is_unknown():
    data = {"train": [{"dataset_name": "prose.jsonl", "rows": "text"}]}
    (one,) = estimate(recipe(data=data))
    assert (one.steps, one.tokens, one.flops) == (None, None, None)
    (one,) = estimate(recipe(data=data, train={"max_steps": 5}))
    assert one.steps == 5


@pytest.mark.parametrize(
    "name", ["classifier", "composed", "curriculum", "da-kd", "distillm", "gkd", "half-decoder", "headline"]
)
def test_the_shipped_recipes(name):
    stages = estimate(load_recipe(name))
    assert stages[-1].name == "student"
    assert all(stage.memory_bytes > 0 and stage.disk_bytes > 0 for stage in stages)
    assert bool(stages[-1].wire) == (name in ("distillm", "gkd", "half-decoder"))
    assert bool(stages[-1].writing) == (name in ("distillm", "gkd"))


def test_decoding():
    assert find_packaged("smollm2-135m-instruct")
    shape = shape_of(ModelSettings(model_name_or_path=SMOL), {})
    assert decode_ceiling(shape, 15e9) == pytest.approx(15e9 / (4 * 134.5e6), rel=0.01)
    with pytest.raises(InputError, match="above 0"):
        decode_ceiling(shape, 0)
    assert decode_prediction(shape, 15e9, 0.5) == 0.5 * decode_ceiling(shape, 15e9)
    assert decode_prediction(shape, 15e9, 0.5, 1) == 4 * decode_prediction(shape, 15e9, 0.5)
    with pytest.raises(InputError, match="share of the bandwidth"):
        decode_prediction(shape, 15e9, 1.5)


WRITES = {"prompt_tokens": 16, "max_new_tokens": 64}


def test_the_students_own_text_by_hand():
    """SmolLM2's 15 blocks have 3 heads of 64 for keys and values. A batch of 8 rows: after 16 tokens 64 more, of which
    the last is read by nobody, so that 79 are; half of 26 batches; rows of 80 where the data's have 64."""
    (plain,), (one,) = estimate(recipe()), estimate(recipe(rollout={"lmbda": 0.5, **WRITES}))
    body, table = 15 * 3_538_944, 49_152 * 576
    assert one.writing.all_tokens == 13 * 8 * 64
    assert one.writing.flops == 8 * (2 * body * (16 + 63) + 2 * table * 64)
    assert one.writing.cache_bytes == 8 * 79 * 15 * 2 * 3 * 64 * 4
    assert one.memory_bytes == plain.memory_bytes + one.writing.cache_bytes
    assert one.tokens == plain.tokens + 13 * 8 * 16
    longer = 13 * 8 * 16 * (6 * (body + table) + 2 * (2 * body + table))
    assert one.flops == plain.flops + 13 * one.writing.flops + longer
    (never,) = estimate(recipe(rollout={"lmbda": 0, **WRITES}))
    assert (never.flops, never.writing.all_tokens) == (plain.flops, 0)


def test_a_scheduler_is_counted_as_if_every_evaluation_let_it_rise():
    """26 steps of 2 batches: 10 at 0.25, 10 at 0.5, 6 at 0.75; never above 1."""
    source = {"dataset_name": "prose.jsonl", "rows": "text", "limit": 100}
    data = {"train": [source], "validation": source, "max_length": 64}
    train = {"max_steps": 26, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "eval_steps": 10}
    for rise, batches in ((0.25, 2 * (10 * 0.25 + 10 * 0.5 + 6 * 0.75)), (1.0, 2 * (10 * 0.25 + 16))):
        rollout = {"adaptive": {"start": 0.25, "rise": rise}, **WRITES}
        (one,) = estimate(recipe(rollout=rollout, train=train, data=data))
        assert not one.writing.certain
        assert one.writing.batches == pytest.approx(batches)


def test_prompts_of_their_own_are_as_long_as_a_row_can_be():
    data = {"train": [{"dataset_name": "rows.jsonl", "rows": "completion"}], "max_length": 64}
    (one,) = estimate(recipe(rollout={"lmbda": 1, "max_new_tokens": 32}, data=data))
    assert one.writing.longer == 8 * (63 + 32 - 64)
    assert (one.flops, one.writing.all_flops, one.writing.all_tokens) == (None, None, None)


def test_prompts_chosen_by_difficulty_cost_both():
    """33 steps by the order, all of them written, and rows as long as the data's."""
    order, train = {"difficulty": {"passes": 4}}, {"per_device_train_batch_size": 8}
    (one,) = estimate(recipe(order=order, train=train, rollout={"lmbda": 1, "prompt_tokens": 16, "max_new_tokens": 48}))
    (chosen,) = estimate(recipe(order=order, train=train))
    assert one.scoring_flops == chosen.scoring_flops > 0
    assert one.flops == chosen.flops + 33 * one.writing.flops


def test_difficulty_costs_fewer_steps_and_its_scoring():
    """100 rows in 4 passes of 100, 85, 50 and 15 of them: 13 + 11 + 7 + 2 batches of 8; three readings by the student
    and one by the teacher."""
    order = {"difficulty": {"passes": 4}}
    (one,) = estimate(recipe(order=order, train={"per_device_train_batch_size": 8}))
    body, table = 30 * 3_538_944, 49_152 * 576
    assert one.steps == 33
    assert one.scoring_flops == 2 * 100 * 64 * (3 * (body // 2 + table) + body + table)
    assert one.flops == 33 * (one.student_flops + one.teacher_flops) + one.scoring_flops
    (seldom,) = estimate(
        recipe(order={"difficulty": {"passes": 4, "score_every": 2}}, train={"per_device_train_batch_size": 8})
    )
    assert one.scoring_flops - seldom.scoring_flops == 2 * 100 * 64 * (body // 2 + table)
    (plain,) = estimate(recipe(train={"num_train_epochs": 4, "per_device_train_batch_size": 8}))
    assert plain.scoring_flops == 0
    assert plain.steps == 52
