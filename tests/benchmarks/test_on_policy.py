"""Every arm of both sizes is a valid recipe, and cost is counted as the page says."""

import json

import pytest

from potstill.recipe_yaml import load_recipe
from tests.benchmarks.scripts import script

on_policy = script("on_policy")


@pytest.mark.parametrize("size", on_policy.SIZES)
@pytest.mark.parametrize("arm", on_policy.ARMS)
def test_every_arm_is_a_valid_recipe(size, arm, tmp_path):
    size, arm = on_policy.SIZES[size], on_policy.ARMS[arm]
    values = on_policy.changes(arm, size, tmp_path, 24, 1e-4)
    if size.teacher is None:
        values["teacher"] = {"models": [{"model_name_or_path": str(tmp_path)}]}
    recipe = load_recipe(size.recipe, [f"{name}={json.dumps(value)}" for name, value in values.items()])
    assert recipe.objective.divergence == arm.objective["divergence"]
    assert (recipe.rollout is None) == (arm.rollout is None)
    assert recipe.data.max_length == size.prompt + size.new


def test_what_the_student_wrote_was_read_once_more():
    run = {"tokens": 1000, "steps": 10, "rollout": {"written": 4}}
    assert on_policy.budget(run, 0.25) == pytest.approx(1100)
    assert on_policy.budget({**run, "rollout": None}, 0.25) == 1000
