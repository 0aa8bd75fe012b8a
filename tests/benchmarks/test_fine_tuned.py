"""The arms of the fine-tuning benchmark are recipes, begin where their name says, and are compared seed by seed."""

import pytest

from potstill.core.outcome import Finding
from potstill.core.record import RunRecord
from potstill.recipe_yaml import load_recipe
from tests.benchmarks.scripts import script

fine_tuned, layers = script("fine_tuned"), script("layers")


@pytest.fixture
def runs(monkeypatch):
    """What would be run: recipe, overrides, folder."""
    seen = {}

    def run(name, overrides, output_dir):
        seen[output_dir.name] = load_recipe(name, overrides)
        values = {"teacher": 0.8, "student": 0.6, "labels": 0.5}
        return RunRecord(
            str(output_dir), {}, findings=[Finding("quality.accuracy", x, who) for who, x in values.items()]
        )

    monkeypatch.setattr(fine_tuned.potstill, "run", run)
    return seen


def test_every_start_is_the_student_of_an_arm_of_the_ablation(tmp_path):
    assert {*fine_tuned.OTHERS.values(), "all three"} <= set(layers.ARMS["distilbert"])
    place = tmp_path / "distilbert-seed-2-copied-start-no-step"
    assert fine_tuned.made_by(tmp_path, 2, "copied start, no step") == place


def test_a_seed_fine_tunes_all_starts_at_one_length(runs, tmp_path):
    found = fine_tuned.run_seed(1, tmp_path / "from", tmp_path / "t", ["train.max_steps=7"], tmp_path / "to")
    first, *others = runs.values()
    assert first.stages[0].train.max_steps == first.train.max_steps == 7
    assert first.stages[0].student.model_name_or_path == str(tmp_path / "t")
    assert first.student.model_name_or_path == str(tmp_path / "from" / "distilbert-seed-1-all-three" / "model")
    assert len(others) == len(fine_tuned.OTHERS)
    for recipe, arm in zip(others, fine_tuned.OTHERS.values(), strict=True):
        assert recipe.student.model_name_or_path == str(fine_tuned.made_by(tmp_path / "from", 1, arm) / "model")
        assert (recipe.teacher, recipe.stages, recipe.seed) == (None, (), 1)
        assert recipe.train == first.train
    assert found[fine_tuned.PLAIN] == {"quality.accuracy": 0.5}
    assert found[fine_tuned.TAUGHT] == {"quality.accuracy": 0.6}


def test_claims_are_shares_and_differences_seed_by_seed():
    found = {
        "teacher": {"quality.accuracy": [0.8, 0.5]},
        fine_tuned.PLAIN: {"quality.accuracy": [0.4, 0.25], "cost.parameters": [7.0, 7.0]},
        "copied blocks": {"quality.accuracy": [0.3, 0.15]},
    }
    lines = fine_tuned.claims(found)
    assert lines[0] == "- distilled, share of the teacher's accuracy: 0.5"
    assert lines[2].startswith("- distilled minus copied blocks, accuracy: 0.1 (")
    rows = fine_tuned.table(found)
    assert rows[0] == "| | quality.accuracy | cost.parameters |"
    assert rows[3].endswith("0.4, 0.25) | 7 |")
