"""A run whose student leaves for other runtimes, and a finished run that gives one more format."""

import json
import shutil

import pytest

import potstill
from potstill.cli.main import main
from potstill.core.errors import InputError
from potstill.export import formats as table
from tests.run.tiny_recipe import alone, write_recipe


def test_a_run_writes_every_format_that_its_recipe_names(materials, tmp_path):
    recipe = alone(materials) | {"export": {"formats": ["huggingface", "openvino-int8"], "least_agreement": 0.5}}
    record = potstill.run(write_recipe(tmp_path, recipe), output_dir=tmp_path / "run")
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
    assert (tmp_path / "run" / "model-openvino-int8" / "model.xml").is_file()
    checks = {finding.name: finding for finding in record.findings if finding.name.startswith("export.")}
    assert checks["export.logit_difference"].value == 0
    rows = len((materials.rows("validation")).read_text().splitlines())
    assert checks["export.openvino-int8.top1_agreement"].evidence["answers"] == rows
    assert "openvino" in (tmp_path / "run" / "report.html").read_text()


def test_a_finished_run_gives_one_more(finished, tmp_path, capsys):
    copied = shutil.copytree(finished[0], tmp_path / "copied")
    before = (copied / "config.yaml").read_bytes()
    assert main(["export", str(copied), "--format", "onnx"]) == 0
    assert capsys.readouterr().out == f"{copied / 'model'}\n{copied / 'model-onnx'}\n"
    names = {finding["name"] for finding in json.loads((copied / "export.json").read_text())}
    assert {"export.logit_difference", "export.onnx.logit_difference"} <= names
    assert (copied / "config.yaml").read_bytes() == before
    assert main(["export", str(copied), "--format", "onyx"]) == 2
    assert "onyx: no such export format; there are huggingface, onnx" in capsys.readouterr().err


def test_a_runtime_that_is_not_installed_is_said_before_anything_is_trained(materials, tmp_path, monkeypatch):
    monkeypatch.setattr(table.importlib.util, "find_spec", lambda name: None if name == "openvino" else True)
    recipe = alone(materials) | {"export": {"formats": ["openvino"]}}
    with pytest.raises(InputError, match=r"openvino needs openvino.*potstill\[cpu\]"):
        potstill.run(write_recipe(tmp_path, recipe), output_dir=tmp_path / "run")
    assert not (tmp_path / "run" / "stages").exists()
