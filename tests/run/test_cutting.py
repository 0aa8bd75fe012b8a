"""`potstill compress`: a finished model loses units, by a plan that is printed and saved."""

import json

import pytest
from transformers import AutoModelForSequenceClassification

from potstill.cli.main import main
from potstill.compress.plan_text import load_plan
from tests.run.tiny_recipe import classifier, write_recipe


def test_a_run_loses_neurons(finished, tmp_path, capsys):
    root, _ = finished
    words = ["compress", str(root), "--remove", "neurons=0.5", "--rows", "16"]
    assert main([*words, "--plan", str(tmp_path / "plan.json"), "--output-dir", str(tmp_path / "small")]) == 0
    assert "| Neurons of a block | 24 | 12 | 50.0% |" in capsys.readouterr().out
    plan = load_plan(tmp_path / "plan.json")
    small, info = AutoModelForSequenceClassification.from_pretrained(tmp_path / "small", output_loading_info=True)
    assert small.config.intermediate_size == 12
    assert not any(info.values())
    assert sum(one.numel() for one in small.parameters()) == plan.parameters_after


def test_a_folder_with_the_rows_of_a_recipe_and_nothing_written(finished, materials, tmp_path, capsys):
    root, _ = finished
    recipe = write_recipe(tmp_path, classifier(materials))
    before = sorted(root.rglob("*"))
    words = ["compress", str(root / "model"), "--recipe", str(recipe), "--keep", "neurons=7", "--rows", "8", "--json"]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["plan"]["after"]["neurons"] == 7
    assert told["model"] is None
    assert sorted(root.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--remove", "neurons"], "--remove neurons: give UNIT=NUMBER, such as neurons=0.5"),
        ([], "keep and remove are both empty"),
        (["--keep", "neurones=7"], "Input should be 'neurons'"),
        (["--keep", "neurons=99", "--rows", "8"], "neurons: 99 of 24 cannot be kept: use 1 to 24"),
        (["--keep", "heads=1", "--rows", "8"], "heads alone can be cut in"),
        (["--keep", "neurons=4", "--output-dir", "."], "is there already"),
        (["--keep", "neurons=4", "--recipe", "classifier"], "is a run and has its own rows"),
    ],
)
def test_refusals(finished, capsys, words, message):
    assert main(["compress", str(finished[0]), *words]) == 2
    assert message in capsys.readouterr().err


def test_rows_are_needed(finished, capsys):
    assert main(["compress", str(finished[0] / "model"), "--keep", "neurons=4"]) == 2
    assert "name a recipe with --recipe" in capsys.readouterr().err
