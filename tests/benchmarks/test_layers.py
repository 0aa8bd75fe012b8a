"""The arms of the ablation are recipes, and differ from the first in what their name says."""

import pytest

from potstill.core.record import RunRecord
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


def test_differences_are_taken_seed_by_seed():
    """Means 1.5 and 1: differences 0.5 and 0.5, however far apart the seeds are."""
    found = {"teacher": {"a": [0.5, 2.5]}, "all": {"a": [1.0, 3.0]}, "less": {"a": [1.5, 3.5]}, "once": {"a": [1.0]}}
    lines = layers.differences(found, "all")
    assert lines[2:] == ["| teacher | -0.5 (-0.5 to -0.5) |", "| less | 0.5 (0.5 to 0.5) |"]
    assert layers.differences({"all": {"a": [1.0]}, "less": {"a": [2.0]}}, "all") == []


def test_one_teacher_for_all_seeds(tmp_path, monkeypatch):
    """The first run trains the stages; no later one does, on any seed."""
    seen = []

    def run(name, overrides, output_dir):
        seen.append(overrides)
        recipe = load_recipe(name, overrides)
        return RunRecord(str(output_dir), recipe.model_dump(mode="json"))

    monkeypatch.setattr(layers.potstill, "run", run)
    _, made = layers.run_arms("distilbert", 0, ["controls=[]"], ["stages.0.train.max_steps=9"], tmp_path)
    layers.run_arms("distilbert", 1, ["controls=[]"], ["stages.0.train.max_steps=9"], tmp_path, made)
    assert made == tmp_path / "distilbert-seed-0-all-three" / "stages" / "teacher" / "model"
    assert ["stages=[]" in overrides for overrides in seen] == [False] + [True] * (2 * len(ARMS) - 1)
    assert sum("stages.0.train.max_steps=9" in overrides for overrides in seen) == 1
