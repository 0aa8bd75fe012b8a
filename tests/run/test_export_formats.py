"""A run whose student leaves for other runtimes, and a finished run that gives one more format."""

import json
import shutil

import pytest

import potstill
from potstill import still
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
    assert "onyx: no such export format; there are huggingface, huggingface-bf16, onnx" in capsys.readouterr().err


def test_an_export_is_measured_beside_the_student(finished, tmp_path, capsys):
    """The same rows and metrics: the folder that is the student says what the student says, to the last digit."""
    copied = shutil.copytree(finished[0], tmp_path / "copied")
    named = ["--format", "huggingface", "--format", "onnx-int8"]
    assert main(["evaluate", str(copied), "--format", "onnx-int8"]) == 2
    assert f"potstill export {copied} --format onnx-int8" in capsys.readouterr().err
    (copied / "config.yaml").write_text(
        (copied / "config.yaml").read_text().replace("least_agreement: 0.9", "least_agreement: 0.1")
    )
    assert main(["export", str(copied), *named]) == 0
    others = {name: (copied / name).read_bytes() for name in ("findings.json", "export.json")}
    capsys.readouterr()
    assert main(["evaluate", str(copied), *named, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["findings"]
    by_name = {
        subject: measures(told, subject) for subject in ("student", "student as huggingface", "student as onnx-int8")
    }
    assert by_name["student as huggingface"] == by_name["student"]
    assert by_name["student as onnx-int8"].keys() == by_name["student"].keys()
    assert by_name["student as onnx-int8"] != by_name["student"]
    assert {name: (copied / name).read_bytes() for name in others} == others
    runtimes = {one["subject"]: one["evidence"]["runtime"] for one in told if "runtime" in one["evidence"]}
    assert runtimes == {"student as huggingface": "transformers", "student as onnx-int8": "onnxruntime"}
    card = (copied / "model-onnx-int8" / "README.md").read_text()
    assert "| student as onnx-int8 |" in card
    assert "export.onnx-int8.top1\\_agreement" in card
    assert "Student as onnx-int8" in (copied / "report.html").read_text()
    assert main(["export", str(copied), "--format", "onnx-int8"]) == 0
    kept = {
        finding["subject"] for found in json.loads((copied / "deployed.json").read_text()).values() for finding in found
    }
    assert kept == set(), "of another folder than the one that lies there now"


def measures(found, subject):
    """Quality and calibration of a subject; what needs a teacher is measured of the student alone."""
    of = ("quality.", "calibration.", "class.")
    ours = {one["name"]: one["value"] for one in found if one["subject"] == subject and one["name"].startswith(of)}
    return {name: value for name, value in ours.items() if name != "quality.retention"}


def test_a_recipe_and_a_format_do_not_go_together(finished):
    with pytest.raises(InputError, match="leave out one of them"):
        still.evaluate_run(finished[0] / "model", recipe=potstill.load_recipe("classifier"), formats=("onnx",))
    with pytest.raises(InputError, match="onyx: no such export format"):
        still.evaluate_run(finished[0], formats=("onyx",))


def test_a_runtime_that_is_not_installed_is_said_before_anything_is_trained(materials, tmp_path, monkeypatch):
    monkeypatch.setattr(table.importlib.util, "find_spec", lambda name: None if name == "openvino" else True)
    recipe = alone(materials) | {"export": {"formats": ["openvino"]}}
    with pytest.raises(InputError, match=r"openvino needs openvino.*potstill\[cpu\]"):
        potstill.run(write_recipe(tmp_path, recipe), output_dir=tmp_path / "run")
    assert not (tmp_path / "run" / "stages").exists()
