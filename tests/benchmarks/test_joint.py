"""The arms of benchmarks/joint.py: as many steps each, the same number of neurons, and their own way there."""

import pytest

from potstill.recipe_yaml import load_recipe
from tests.benchmarks.scripts import script

bench = script("joint")
RECIPE = load_recipe("jpqd")


def taught(arm):
    made = bench.arm_of(RECIPE, arm, 300)
    return [one for one in (*made.stages, made.final) if one.name != "teacher"]


@pytest.mark.parametrize("arm", bench.ARMS)
def test_every_arm_takes_as_many_steps_and_chooses_no_checkpoint(arm):
    stages = taught(arm)
    assert sum(one.train.max_steps for one in stages) == RECIPE.train.max_steps
    assert {one.train.eval_steps for one in stages} == {None}
    assert {one.teacher.models[0].model_name_or_path for one in stages} == {"stage:teacher"}


def test_arms_differ_in_how_they_are_made_smaller():
    (joint,), sequence, (distilled,) = (taught(arm) for arm in bench.ARMS)
    assert joint.compress == RECIPE.compress
    assert [bool(one.compress.prune) for one in sequence] == [True, False]
    assert sequence[0].compress.prune.keep == distilled.compress.prune.keep == {"neurons": 300}
    assert sequence[1].compress.quantise == RECIPE.compress.quantise
    assert sequence[1].train.learning_rate == pytest.approx(0.1 * sequence[0].train.learning_rate)
    assert distilled.compress.quantise is None
