"""The arms are recipes of equal length, and differ from the first in what their name says."""

import pytest

from potstill.recipe_yaml import load_recipe
from tests.benchmarks.scripts import script

bench = script("tinybert")


@pytest.mark.parametrize("arm", bench.ARMS)
def test_every_arm_is_a_valid_recipe_of_as_many_steps(arm, tmp_path):
    found = load_recipe("tinybert", [*bench.PLAIN, *bench.changes(arm, (20, 30), tmp_path)])
    taught = [stage.train.max_steps for stage in found.stages if stage.name == "intermediate"]
    assert sum(taught) + found.train.max_steps == 50
    assert (found.augment is None) == (arm == "no varied rows")
    layers = [stage.objective.layers for stage in (*found.stages, found.final)]
    assert any(layers) == (arm != "no losses on layers")
    assert (found.final.objective.layers is not None) == (arm == "one stage")
    shape = next((stage.student.size for stage in found.stages if stage.student.size), found.student.size)
    assert shape == load_recipe("tinybert").stages[2].student.size
