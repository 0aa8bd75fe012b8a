"""`potstill evaluate RUN --cost` on tiny runs: who is timed, what is found, what is refused."""

import json
import shutil

import pytest

import potstill
from potstill.cli.main import main
from potstill.core.errors import DataError
from potstill.evaluate.cost import deployed_bytes, folder_bytes
from potstill.evaluate.footprint import Footprint
from potstill.recipe_yaml import dump_recipe, load_recipe
from potstill.still import cost_run
from potstill.target import cost, memory, subjects
from tests.run.tiny_recipe import language_model, make_materials, write_recipe

EVERYONE = [
    *("huggingface, PyTorch", "onnx, ONNX Runtime", "openvino, OpenVINO, latency", "openvino, OpenVINO, throughput"),
]


@pytest.fixture
def quick(monkeypatch):
    """Without the children that measure memory, each of which imports torch."""
    asked = []

    def memory_of(engine, folder, **given):
        asked.append((engine, folder.name, given["inputs"]))
        return Footprint(100, 150, "not measured here")

    monkeypatch.setattr(cost, "memory_of", memory_of)
    return asked


def test_every_export_in_every_program(exported, quick, capsys):
    assert main(["evaluate", str(exported), "--cost", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["findings"]
    assert list(dict.fromkeys(one["subject"] for one in found)) == EVERYONE
    values = {(one["subject"], one["name"]): one for one in found}
    for name in EVERYONE:
        assert values[name, "cost.latency_p50_ms"]["interval"][0] <= values[name, "cost.latency_p50_ms"]["value"]
        assert values[name, "cost.throughput_rows_s"]["value"] > 0
        assert values[name, "cost.energy_j"]["value"] > 0
        assert values[name, "cost.threads"]["evidence"]["held_by"]
    folder = exported / "model-onnx"
    assert values["onnx, ONNX Runtime", "cost.bytes"]["value"] == deployed_bytes(folder)
    assert deployed_bytes(folder) == folder_bytes(folder) - (folder / "README.md").stat().st_size
    assert ("ONNX Runtime", "model-onnx", 3) in quick
    assert json.loads((exported / "cost.json").read_text()) == found
    assert main(["evaluate", str(exported), "--cost"]) == 0
    assert "2 threads, all in turn in one run" in capsys.readouterr().out


def test_a_program_that_is_missing_is_said(exported, quick, monkeypatch, capsys):
    find = subjects.Engine.installed.fget
    monkeypatch.setattr(subjects.Engine, "installed", property(lambda one: one.extra != "cpu" and find(one)))
    names = {one.subject for one in cost_run(exported)}
    assert names == set(EVERYONE[:2])
    assert "openvino not timed: openvino is not installed (potstill[cpu])" in capsys.readouterr().err


def test_what_cannot_be_costed(exported, tmp_path, capsys):
    assert main(["evaluate", str(exported), "--cost", "--recipe", "classifier"]) == 2
    assert "leave out --recipe" in capsys.readouterr().err
    run = shutil.copytree(exported, tmp_path / "run")
    for folder in run.glob("model*"):
        shutil.rmtree(folder)
    assert main(["evaluate", str(run), "--cost"]) == 2
    assert "nothing is exported" in capsys.readouterr().err


def test_a_decoder_is_held_against_its_bound_and_its_prediction(tmp_path, quick):
    (tmp_path / "materials").mkdir()
    recipe = language_model(make_materials(tmp_path / "materials"))
    recipe["evaluate"]["cost"] = {"threads": 1, "rounds": 3, "batch_size": 2, "length": 8, "new_tokens": 4}
    recipe["controls"] = []
    potstill.run(write_recipe(tmp_path, recipe), output_dir=tmp_path / "run")
    found = {(one.subject, one.name): one for one in cost_run(tmp_path / "run")}
    for name in ("teacher, PyTorch", "huggingface, PyTorch"):
        efficiency = found[name, "cost.decode_efficiency"]
        assert 0 < efficiency.value <= 1
        assert efficiency.verdict == "pass"
        assert found[name, "cost.decode_prediction"].evidence["predicted_tokens_s"] > 0


def test_a_run_without_test_rows_is_refused(exported, tmp_path):
    run = shutil.copytree(exported, tmp_path / "run")
    recipe = load_recipe(run / "config.yaml")
    without = recipe.model_copy(update={"data": recipe.data.model_copy(update={"test": None})})
    (run / "config.yaml").write_text(dump_recipe(without))
    with pytest.raises(DataError, match=r"no data\.test"):
        cost_run(run)


@pytest.mark.slow
def test_memory_is_measured_in_a_child_for_every_program(exported):
    for engine, folder in (("PyTorch", "model"), ("ONNX Runtime", "model-onnx")):
        found = memory.memory_of(engine, exported / folder, task="classify", threads=1, length=8, inputs=3)
        assert 0 < found.growth < 500e6
