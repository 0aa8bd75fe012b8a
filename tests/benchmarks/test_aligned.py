"""The recipe of the benchmark is valid and asks for what its page says; the runs themselves take minutes each."""

import sys

import pytest

from potstill.recipe_yaml import load_recipe
from tests.benchmarks.scripts import script


@pytest.fixture
def aligned():
    return script("aligned")


def test_the_recipe(aligned):
    recipe = load_recipe(aligned.RECIPE, ["teacher.models.0.model_name_or_path=/models/gemma.gguf"])
    assert recipe.teacher.vocabulary == "aligned"
    assert recipe.controls == ("labels",)
    assert recipe.train.max_steps * recipe.train.per_device_train_batch_size == 160


def test_one_seed_is_refused_before_anything_is_loaded(aligned, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["aligned.py", "--seeds", "0"])
    with pytest.raises(SystemExit):
        aligned.main()
    assert "at least two" in capsys.readouterr().err
