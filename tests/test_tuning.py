"""A search on tiny real runs: every combination once, the budget, the front, and a second call that trains nothing."""

import json

import pytest

from potstill import tuning
from potstill.cli.main import main
from potstill.core.errors import InputError
from potstill.tuning import Search, best, choices_of, tune
from tests.run.tiny_recipe import alone, make_materials, write_recipe


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    root = tmp_path_factory.mktemp("tune")
    (root / "materials").mkdir()
    values = alone(make_materials(root / "materials"))
    values["evaluate"]["cost"] = {"threads": 1, "rounds": 3, "length": 8}
    return write_recipe(root, values)


@pytest.mark.slow
def test_a_search_over_width_and_bits(recipe, tmp_path, capsys, monkeypatch):
    words = ["tune", str(recipe), "student.intermediate_size=[2,8]", "--format", "onnx", "--format", "onnx-int8"]
    words += ["--megabytes", "0.6", "--trials", "6", "--output-dir", str(tmp_path / "out"), "--json"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    settings = {(one["settings"]["student.intermediate_size"], one["format"]) for one in found["trials"]}
    assert settings == {("2", "onnx"), ("2", "onnx-int8"), ("8", "onnx"), ("8", "onnx-int8")}
    assert all(one["fits"] == (one["megabytes"] <= 0.6) for one in found["trials"])
    assert all(one["fits"] for one in found["front"])
    for one in found["trials"]:
        assert 0 <= one["quality"] <= 1
        assert (tmp_path / "out" / one["folder"].rsplit("/", 1)[1] / "findings.json").is_file()
    assert json.loads((tmp_path / "out" / "tune.json").read_text()) == found
    assert (tmp_path / "out" / "front.svg").read_text().startswith("<svg xmlns")

    monkeypatch.setattr(tuning, "tried", lambda *_: pytest.fail("trained again"))
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["trials"] == found["trials"]
    assert main([*words[:2], "student.intermediate_size=[2,4]", *words[3:]]) == 2
    assert "another search" in capsys.readouterr().out


def trial(cost, quality, fits=True):
    return tuning.Tried({"k": str(cost)}, "onnx", quality, cost, 1.0, fits, f"f{cost}")


def test_the_front_is_of_those_within_the_budget():
    search = Search("r", {}, ("onnx",), 3.0, "megabytes")
    everyone = [trial(2, 0.7), trial(1, 0.6), trial(2.5, 0.65), trial(9, 0.9, fits=False)]
    assert [one.megabytes for one in best(search, everyone)] == [1, 2]


def test_a_killed_trial_is_tried_again(recipe, tmp_path, monkeypatch):
    search = Search(str(recipe), {"student.intermediate_size": ("2", "8")}, ("huggingface",), 9.0, "megabytes")
    asked = []

    def stub(search, chosen, form, output, say):
        asked.append(chosen["student.intermediate_size"])
        if len(asked) == 1:
            raise KeyboardInterrupt
        return tuning.Tried(dict(chosen), form, 0.5, 1.0, 1.0, True, f"trial-{len(asked)}")

    monkeypatch.setattr(tuning, "tried", stub)
    with pytest.raises(KeyboardInterrupt):
        tune(search, trials=2, output_dir=tmp_path, say=print)
    tune(search, trials=2, output_dir=tmp_path, say=print)
    assert sorted(asked[1:]) == ["2", "8"]  # the one that was killed is among them


@pytest.mark.parametrize("word", ["student.layers", "student.vocabulary_size=5", "a=[1]", "a=[1,", "=[1,2]"])
def test_what_is_no_choice(word):
    with pytest.raises(InputError, match="names no choice"):
        choices_of([word])


def test_one_budget_is_asked_for(recipe, capsys):
    assert main(["tune", str(recipe), "student.intermediate_size=[2,4]"]) == 2
    assert "give one budget" in capsys.readouterr().err
