"""Whole runs: everything is written, a finished run is not done again, and its recipe repeats it bit for bit."""

import hashlib
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import potstill
from potstill import still
from potstill.cli.main import main
from potstill.core.errors import RunError, Stopped
from potstill.export import huggingface
from potstill.students.load import load_model
from potstill.students.settings import ModelSettings
from tests.run.tiny_recipe import CLASSES, alone, classifier, language_model, set_value, write_recipe

FILES = {
    "config.yaml",
    "env.json",
    "ledger.json",
    "metrics.jsonl",
    "log.txt",
    "findings.json",
    "gate.json",
    "report.html",
}


def weights(run):
    return hashlib.sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest()


def losses(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [curve_point(row) for row in rows]


def curve_point(row):
    return row["arm"], row["step"], row.get("loss"), row.get("validation.loss")


def quality(record):
    return {(f.name, f.subject): f.value for f in record.findings if not f.name.startswith("cost.")}


def test_a_run_leaves_everything_that_is_promised(finished):
    run, record = finished
    assert {entry.name for entry in run.iterdir()} >= FILES | {"model", "stages"}
    assert {finding.subject for finding in record.findings} == {"teacher", "student", "labels", "untrained"}
    assert [one.name for one in record.findings if one.verdict != "pass"] == ["licence.undeclared"]
    assert json.loads((run / "stages" / "labels" / "stage.json").read_text())["steps"] == 8


def test_the_student_is_a_folder_that_transformers_loads(finished):
    """And it is the trained student: the weights of its stage, and its answers to a text."""
    run, _ = finished
    module = AutoModelForSequenceClassification.from_pretrained(run / "model").eval()
    assert module.config.num_hidden_layers == 1
    assert module.config.id2label == {0: "cat", 1: "dog", 2: "house"}
    trained = load_model(
        ModelSettings(model_name_or_path=str(run / "stages/student/model")), task="classify", labels=None
    )
    inputs = AutoTokenizer.from_pretrained(run / "model")("the cat sat on the mat", return_tensors="pt")
    assert torch.equal(module(**inputs).logits, trained.module(**inputs).logits)
    untrained = load_file(run / "stages" / "untrained" / "model" / "model.safetensors")
    assert any(not torch.equal(value, untrained[name]) for name, value in module.state_dict().items())


def test_the_curve_and_the_ledger_hold_every_arm_and_origin(finished, materials):
    run, record = finished
    assert {row["arm"] for row in record.metrics} == {"teacher", "student", "labels"}
    entries = json.loads((run / "ledger.json").read_text())["entries"]
    assert {entry["role"] for entry in entries} == {
        "stage teacher", "stage student", "stage labels", "stage untrained", "data"
    }  # fmt: skip
    assert {entry["base"] for entry in entries if entry["role"] != "data"} == {str(materials.encoder)}
    sources = {entry["source"] for entry in entries if entry["role"] == "data"}
    assert sources == {str(materials.rows(name)) for name in ("labelled", "unlabelled", "validation", "test")}
    assert all(entry["revision"] and entry["licence"] for entry in entries)
    log = (run / "log.txt").read_text()
    assert "asking the teacher" in log
    assert "measuring teacher, student" in log


def test_a_teacher_from_outside_is_in_the_ledger_with_its_licence(materials, tmp_path):
    folder = shutil.copytree(materials.decoder, tmp_path / "large")
    (folder / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    recipe = language_model(materials)
    recipe["teacher"]["models"] = [{"model_name_or_path": str(folder)}]
    record = potstill.run(write_recipe(tmp_path, recipe), output_dir=tmp_path / "run")
    (teacher,) = [entry for entry in record.ledger["entries"] if entry["role"] == "teacher"]
    assert (teacher["source"], teacher["licence"]) == (str(folder), "cc-by-4.0")
    assert teacher["revision"]


def test_a_finished_run_is_only_read(finished):
    run, record = finished
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")}
    again = potstill.resume(run)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")} == before
    assert quality(again) == quality(record)
    assert losses(run) == [curve_point(row) for row in record.metrics]


def test_overrides_change_the_run(materials, tmp_path):
    recipe = write_recipe(tmp_path, alone(materials))
    potstill.run(recipe, overrides=["train.max_steps=3", "seed=5"], output_dir=tmp_path / "run")
    assert json.loads((tmp_path / "run" / "stages" / "student" / "stage.json").read_text())["steps"] == 3
    assert potstill.load_recipe(tmp_path / "run" / "config.yaml").seed == 5


def test_the_folder_that_a_recipe_names_lies_below_the_working_directory(materials, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = alone(materials) | {"output_dir": "runs/mine"}
    assert main(["run", str(write_recipe(tmp_path, recipe))]) == 0
    assert (tmp_path / "runs" / "mine" / "model" / "config.json").is_file()


@pytest.fixture
def copied(finished, tmp_path):
    """The finished run, to be changed."""
    return shutil.copytree(finished[0], tmp_path / "copied")


def test_a_stage_by_hand_on_a_finished_run(finished, copied, capsys):
    """evaluate, export and report give again what the run gave."""
    results = {name: (copied / name).read_bytes() for name in ("findings.json", "export.json", "metrics.jsonl")}
    shutil.rmtree(copied / "model")
    (copied / "report.html").unlink()
    assert main(["export", str(copied)]) == 0
    assert capsys.readouterr().out == f"{copied / 'model'}\n"
    assert weights(copied) == weights(finished[0])
    (copied / "report.html").unlink()
    assert main(["report", str(copied)]) == 0
    assert (copied / "report.html").stat().st_size > 10_000
    (copied / "findings.json").write_text("[]")
    assert main(["evaluate", str(copied), "--json"]) == 0
    assert {finding["subject"] for finding in json.loads(capsys.readouterr().out.partition("\n")[2])["findings"]}
    assert {name: (copied / name).read_bytes() for name in results} == results


def test_measuring_again_keeps_the_old_findings_until_there_are_new_ones(copied, monkeypatch):
    before = (copied / "findings.json").read_bytes()

    def stopped(bench):
        raise Stopped(15, "stopped")

    monkeypatch.setattr(still, "measure", stopped)
    with pytest.raises(Stopped):
        still.evaluate_run(copied)
    assert (copied / "findings.json").read_bytes() == before


def test_a_model_folder_is_measured_alone(finished, tmp_path, capsys):
    run, record = finished
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    words = ["evaluate", str(run / "model"), "--recipe", str(run / "config.yaml"), "--json"]
    assert main([*words[:4], "evaluate.cost={rounds: 3, threads: 1, batch_size: 4, length: 16}", "--json"]) == 0
    found = {(one["subject"], one["name"]): one["value"] for one in json.loads(capsys.readouterr().out)["findings"]}
    assert {subject for subject, _ in found} == {"student"}
    for name in ("quality.accuracy", "quality.nll", "calibration.ece", "cost.parameters"):
        assert found["student", name] == record.value(name)
    assert found["student", "cost.latency_p50_ms"] > 0
    assert found["student", "cost.peak_memory_bytes"] > 0
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before, "nothing is written"
    assert main(["evaluate", str(run), *words[2:]]) == 2
    assert "leave out --recipe" in json.loads(capsys.readouterr().out)["error"]


def test_an_export_that_differs_is_an_error_and_not_published(copied, monkeypatch, capsys):
    recipe = potstill.load_recipe(copied / "config.yaml")
    strict = recipe.model_copy(update={"export": recipe.export.model_copy(update={"tolerance": 0.0})})
    (copied / "config.yaml").write_text(potstill.dump_recipe(strict))
    save = huggingface.save_model

    def spoiled(loaded, folder):
        save(loaded, folder)
        other = copied / "stages" / "untrained" / "model" / "model.safetensors"
        shutil.copy(other, folder / "model.safetensors")

    monkeypatch.setattr(huggingface, "save_model", spoiled)
    before = weights(copied)
    assert main(["export", str(copied)]) == 1
    said = capsys.readouterr().err
    assert "export.logit_difference" in said
    assert "potstill export" in said
    assert weights(copied) == before, "the earlier export stands"
    with pytest.raises(RunError, match="not published"):
        potstill.resume(copied)


def test_the_resolved_recipe_gives_the_same_numbers_elsewhere(finished, tmp_path):
    run, record = finished
    again = potstill.run(run / "config.yaml", output_dir=tmp_path / "again")
    assert quality(again) == quality(record)
    assert weights(tmp_path / "again") == weights(run)
    assert losses(tmp_path / "again") == losses(run)


@pytest.mark.parametrize(("task", "suffix", "rows"), [
    ("causal-lm", "-prose", "text"), ("causal-lm", "-messages", "messages"), ("masked-lm", "", "text"),
])  # fmt: skip
def test_language_models_run_from_end_to_end(materials, tmp_path, task, suffix, rows):
    recipe = write_recipe(tmp_path, language_model(materials, task, suffix, rows))
    record = potstill.run(recipe, output_dir=tmp_path / "run")
    assert 1 < record.value("quality.perplexity") < 1000
    assert record.value("agreement.kl") >= 0


CUT = {"whole": {}, "tail": {"top_k": 8}, "renormalised": {"top_k": 8, "missing_mass": "renormalise"}}


@pytest.mark.parametrize("cut", CUT.values(), ids=CUT)
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jensen_shannon", "skew_kl", "skew_reverse_kl",
                                        "bidirectional", "total_variation", "adaptive_kl"])  # fmt: skip
def test_every_divergence_teaches(materials, tmp_path, divergence, cut):
    recipe = language_model(materials)
    recipe["objective"] = {"divergence": divergence, **cut}
    recipe["train"] = {"max_steps": 2, "logging_steps": 1, "learning_rate": 1e-3, "bf16": False}
    recipe["data"].update(test=None, validation=None)
    record = potstill.run(write_recipe(tmp_path, recipe), output_dir=tmp_path / "run")
    rows = [row for row in record.metrics if row["event"] == "step"]
    assert [row["step"] for row in rows] == [1, 2]
    assert all(row["part.soft"] > 0 and row["grad_norm"] > 0 for row in rows)
    assert record.findings[0].name.startswith("export."), "without test rows nothing is measured"


ENSEMBLES = {
    "arithmetic": {"combine": "arithmetic"},
    "geometric": {"combine": "geometric", "weights": [1, 3]},
    "one is left out": {"drop_above": 1.01},
    "recorded": {"cache": True, "combine": "arithmetic"},
}


@pytest.mark.parametrize("settings", ENSEMBLES.values(), ids=ENSEMBLES)
def test_two_teachers_speak_as_one(materials, tmp_path, capsys, settings):
    recipe = classifier(materials)
    models = [{"model_name_or_path": "stage:teacher"}, {"model_name_or_path": "stage:other"}]
    other = json.loads(json.dumps(recipe["stages"][0])) | {"name": "other"}
    set_value(other, "train", {"max_steps": 1, "learning_rate": 0.5, "bf16": False})
    recipe.update(stages=[*recipe["stages"], other], teacher={"models": models, **settings}, controls=[])
    record = potstill.run(write_recipe(tmp_path, recipe), output_dir=tmp_path / "run")
    assert 0 <= record.value("quality.accuracy") <= 1
    assert {finding.subject for finding in record.findings} == {"student"}, "no single teacher to compare with"
    assert ("is left out" in capsys.readouterr().err) == ("drop_above" in settings)


def test_pairs_of_texts_and_every_control(materials, tmp_path):
    recipe = classifier(materials)
    for name in ("validation", "test"):
        set_value(recipe, f"data.{name}", {"dataset_name": str(materials.rows(f"{name}-pairs"))})
    recipe["data"]["train"] = [{"dataset_name": str(materials.rows("labelled-pairs"))}]
    for source in (*recipe["data"]["train"], recipe["data"]["validation"], recipe["data"]["test"]):
        source["columns"] = {"pair": "other"}
    recipe["controls"] = ["labels", "untrained", "tfidf"]
    record = potstill.run(write_recipe(tmp_path, recipe), output_dir=tmp_path / "run")
    assert record.value("quality.accuracy", "tfidf") > 0.9, "the second text is the label"
    assert 0 <= record.value("quality.accuracy") <= 1


def test_packed_rows(materials, tmp_path):
    recipe = language_model(materials)
    recipe["data"]["pack"] = True
    record = potstill.run(write_recipe(tmp_path, recipe), output_dir=tmp_path / "run")
    assert record.value("quality.perplexity") > 1
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model").config.num_hidden_layers == 2


def test_a_mean_pooled_student_is_a_sentence_transformers_folder(materials, tmp_path):
    """Read as that library reads it: mean of the tokens of the encoder, then the dense layer."""
    recipe = alone(materials)
    recipe["student"] = {"model_name_or_path": str(materials.encoder), "pooling": "mean", "head": "fresh"}
    potstill.run(write_recipe(tmp_path, recipe), output_dir=tmp_path / "run")
    folder = tmp_path / "run" / "model"
    trained = load_model(ModelSettings(model_name_or_path=str(tmp_path / "run/stages/student/model")),
                         task="classify", labels=CLASSES)  # fmt: skip
    again = load_model(ModelSettings(model_name_or_path=str(folder)), task="classify", labels=CLASSES)
    inputs = dict(again.tokenizer("the cat sat", return_tensors="pt"))
    inputs.pop("token_type_ids", None)
    assert torch.equal(again.module(**inputs).logits, trained.module(**inputs).logits)
    modules = json.loads((folder / "modules.json").read_text())
    assert [module["type"].rsplit(".", 1)[-1] for module in modules] == ["Transformer", "Pooling", "Dense"]
    library = pytest.importorskip("sentence_transformers").SentenceTransformer(str(folder), device="cpu")
    answer = torch.from_numpy(library.encode("the cat sat"))
    torch.testing.assert_close(answer, trained.module(**inputs).logits[0].detach(), rtol=1e-5, atol=1e-6)


def test_what_a_clock_decided_stands_in_the_resolved_recipe(materials, tmp_path):
    """`bf16: auto` is timed once; the recipe written back repeats the run, the given one goes on with it."""
    recipe = classifier(materials)
    recipe["train"]["bf16"] = "auto"
    recipe["stages"][0]["train"]["bf16"] = "auto"
    given, run = write_recipe(tmp_path, recipe), tmp_path / "run"
    record = potstill.run(given, output_dir=run)
    resolved = potstill.load_recipe(run / "config.yaml")
    assert [resolved.train.bf16, resolved.stages[0].train.bf16] == [
        json.loads((run / "stages" / name / "stage.json").read_text())["bf16"] for name in ("student", "teacher")
    ]
    again = potstill.run(run / "config.yaml", output_dir=tmp_path / "again")
    assert quality(again) == quality(record)
    assert quality(potstill.run(given, output_dir=run)) == quality(record)


def test_decoding_is_held_against_the_memory_bound(materials, tmp_path):
    recipe = language_model(materials)
    recipe["evaluate"]["cost"] = {"threads": 1, "rounds": 3, "batch_size": 2, "length": 8, "new_tokens": 4}
    record = potstill.run(write_recipe(tmp_path, recipe), output_dir=tmp_path / "run")
    for subject in ("teacher", "student"):
        found = record.finding("cost.decode_efficiency", subject)
        assert 0 < found.value <= 1
        assert found.evidence["tokens_s"] >= record.value("cost.decode_tokens_s", subject)
    shares = [
        record.finding("cost.decode_efficiency", name).evidence["bytes_per_token"] for name in ("teacher", "student")
    ]
    assert shares[0] > shares[1]
