"""The arms of the ablation are recipes, and differ from the first in what their name says."""

import pytest

from potstill.recipe_yaml import load_recipe
from tests.benchmarks.scripts import script

layers = script("layers")
ARMS = layers.ARMS["distilbert"]


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_is_a_valid_recipe_before_and_after_the_teacher_is_trained(arm, tmp_path):
    changes = ["controls=[]", *ARMS[arm]]
    first, later = (load_recipe("distilbert", [*start, *changes]) for start in ((), layers.later(tmp_path, changes)))
    assert later.stages == ()
    assert later.student.model_name_or_path == str(tmp_path)
    assert later.teacher is None or later.teacher.models[0].model_name_or_path == str(tmp_path)
    assert first.objective == later.objective


def test_an_arm_leaves_out_what_it_says():
    objective = {arm: load_recipe("distilbert", ["controls=[]", *changes]).objective for arm, changes in ARMS.items()}
    assert objective["all three"].layers.cosine == 1
    assert objective["without the cosine"].layers is None
    assert objective["without the labels"].hard_weight == 0
    assert objective["without the teacher's distribution"].soft_weight == 0
    assert objective["without the teacher's distribution"].layers.cosine == 1
    assert objective["labels alone"].soft_weight == 0
    assert objective["labels alone"].layers is None


def test_the_table_has_an_interval_where_there_are_seeds():
    found = {"teacher": {"a": [2.0]}, "all": {"a": [1.0, 3.0], "b": [0.5, 0.5]}}
    lines = layers.table(found)
    assert lines[0] == "| | a | b |"
    assert lines[2] == "| teacher | 2 | – |"
    assert lines[3] == "| all | 2 (-10.71 to 14.71) | 0.5 (0.5 to 0.5) |"
