"""A recipe's cost: worked out by hand once, and for the shipped recipes."""

import pytest

from potstill.config import Recipe
from potstill.core.errors import InputError
from potstill.estimate import decode_ceiling, estimate
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


@pytest.mark.parametrize("name", ["classifier", "curriculum", "da-kd", "half-decoder"])
def test_the_shipped_recipes(name):
    stages = estimate(load_recipe(name))
    assert stages[-1].name == "student"
    assert all(stage.memory_bytes > 0 and stage.disk_bytes > 0 for stage in stages)
    assert bool(stages[-1].wire) == (name == "half-decoder")


def test_decoding():
    assert find_packaged("smollm2-135m-instruct")
    shape = shape_of(ModelSettings(model_name_or_path=SMOL), {})
    assert decode_ceiling(shape, 15e9) == pytest.approx(15e9 / (4 * 134.5e6), rel=0.01)
    with pytest.raises(InputError, match="above 0"):
        decode_ceiling(shape, 0)


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
