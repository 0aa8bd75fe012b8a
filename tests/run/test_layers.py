"""Whole runs that compare layers: TinyBERT's two stages, DistilBERT's triple loss, and one that was stopped."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, RobertaConfig, RobertaForMaskedLM

import potstill
from potstill.core.errors import SignalError
from potstill.train import loop, resume
from tests.run.tiny_recipe import classifier, labelled_rows, language_model, write_recipe, write_rows
from tests.students import tiny

SIZE = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
ROBERTA = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    *("max_position_embeddings", "type_vocab_size", "pad_token_id"),
)
LAYERS = {"attention": 1, "hidden": 1, "embedding": 1, "projection": {"learning_rate": 1e-2}}


def tinybert(materials):
    """Teacher, a stage on layers alone, then the answers."""
    recipe = classifier(materials)
    train = {name: value for name, value in recipe["train"].items() if name != "eval_steps"}
    recipe["stages"].append(
        {
            "name": "intermediate",
            "student": {"model_name_or_path": "stage:teacher", "size": SIZE},
            "teacher": {"models": [{"model_name_or_path": "stage:teacher"}]},
            "objective": {"soft_weight": 0, "layers": LAYERS},
            "train": {**train, "save_steps": 1, "max_steps": 6},
        }
    )
    recipe["student"] = {"model_name_or_path": "stage:intermediate"}
    return recipe


def distilbert(materials):
    """Three rows of masks a step, the triple loss, rare tokens first."""
    recipe = language_model(materials, task="masked-lm", suffix="")
    for name, seed in (("labelled", 0), ("validation", 1), ("test", 2)):
        write_rows(materials.rows(f"{name}-words"), [{"text": row["text"]} for row in labelled_rows(seed, 24)])
        place = recipe["data"]["train"][0] if name == "labelled" else recipe["data"][name]
        place["dataset_name"] = str(materials.rows(f"{name}-words"))
    recipe["data"]["mask_smoothing"] = 0.7
    recipe["student"] |= {"architecture": "distilbert", "freeze": ["positions"]}
    recipe["objective"] = {"soft_weight": 5, "hard_weight": 2, "temperature": 2, "layers": {"cosine": 1}}
    recipe["controls"] = ["labels", "untrained"]
    return recipe


def fine_tuned(materials, encoders):
    """A classifier from the teacher and the student of a masked-language-model run, as `distilbert-classifier`."""
    recipe = classifier(materials)
    start = {"pooling": "mean", "head": "probe", "freeze": ["embeddings"]}
    recipe["data"]["train"] = recipe["data"]["train"][:1]
    recipe["stages"][0]["student"] = {"model_name_or_path": str(encoders / "stages" / "teacher" / "model"), **start}
    recipe["teacher"]["models"][0]["pooling"] = "mean"
    recipe["student"] = {"model_name_or_path": str(encoders / "model"), **start}
    recipe["objective"] = {"temperature": 2, "soft_weight": 0.5, "hard_weight": 0.5}
    return recipe


def steps_of(run, stage):
    lines = (run / "stages" / stage / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["event"] == "step"]


def test_two_stages_of_tinybert(materials, tmp_path):
    run = tmp_path / "run"
    record = potstill.run(write_recipe(tmp_path, tinybert(materials)), output_dir=run)
    steps = steps_of(run, "intermediate")
    assert all(row[f"part.{name}"] > 0 for row in steps for name in ("attention", "hidden", "embedding"))
    assert not any("part.soft" in row for row in steps)
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert json.loads((run / "stages" / "intermediate" / "stage.json").read_text())["best_value"] is None
    assert math.isfinite(record.value("quality.accuracy"))
    made, taught = (
        load_file(run / "stages" / name / "model" / "model.safetensors") for name in ("intermediate", "student")
    )
    assert set(made) == set(taught)
    assert not any("projection" in name or name.startswith("objective") for name in taught), "the map stays behind"


def test_a_stopped_stage_goes_on_bit_for_bit(materials, tmp_path, monkeypatch):
    """Killed after a save in which the map has learnt."""
    recipe = tinybert(materials)
    potstill.run(write_recipe(tmp_path, recipe), output_dir=tmp_path / "whole")
    real, seen = resume.save, []

    def saved_and_gone(running):
        real(running)
        if running.plan.companion is not None and running.standing.step == 3:
            seen.append(load_file(running.plan.checkpoints / "step-3" / "objective.safetensors")["weight"])
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "save", saved_and_gone)
    with pytest.raises(KeyboardInterrupt):
        potstill.run(write_recipe(tmp_path, recipe), output_dir=tmp_path / "cut")
    assert seen[0].shape == (16, 8)
    monkeypatch.setattr(loop, "save", real)
    potstill.run(write_recipe(tmp_path, recipe), output_dir=tmp_path / "cut")
    for stage in ("intermediate", "student"):
        files = [
            (tmp_path / name / "stages" / stage / "model" / "model.safetensors").read_bytes()
            for name in ("whole", "cut")
        ]
        assert files[0] == files[1]


def test_the_triple_loss_of_distilbert(materials, tmp_path):
    run = tmp_path / "run"
    record = potstill.run(write_recipe(tmp_path, distilbert(materials)), output_dir=run)
    for row in steps_of(run, "student"):
        assert row["loss"] == pytest.approx(sum(row[f"part.{name}"] for name in ("soft", "hard", "cosine")), rel=1e-4)
    assert set(steps_of(run, "labels")[0]) & {"part.cosine", "part.soft"} == set()
    module = AutoModelForMaskedLM.from_pretrained(run / "model")
    assert type(module).__name__ == "DistilBertForMaskedLM"
    start, end = (load_file(run / "stages" / name / "model" / "model.safetensors") for name in ("untrained", "student"))
    table = "distilbert.embeddings.position_embeddings.weight"
    assert torch.equal(start[table], end[table]), "freeze: [positions]"
    assert not torch.equal(start["vocab_transform.weight"], end["vocab_transform.weight"])
    assert record.value("quality.perplexity", "labels") > 1


def test_a_distilled_encoder_is_fine_tuned_by_a_second_run(materials, tmp_path):
    """Nothing but two folders is handed on: blocks bit for bit, the masked-language-model head left behind."""
    recipe = distilbert(materials) | {"controls": []}
    folder = recipe["teacher"]["models"][0]["model_name_or_path"]
    plain = {"soft_weight": 0, "hard_weight": 1}
    recipe["stages"] = [
        {"name": "teacher", "student": {"model_name_or_path": folder}, "objective": plain, "train": recipe["train"]}
    ]
    recipe["teacher"]["models"][0]["model_name_or_path"] = recipe["student"]["model_name_or_path"] = "stage:teacher"
    first, second = tmp_path / "first" / "run", tmp_path / "second" / "run"
    potstill.run(write_recipe(tmp_path / "first", recipe), output_dir=first)
    record = potstill.run(write_recipe(tmp_path / "second", fine_tuned(materials, first)), output_dir=second)
    assert record.value("quality.accuracy", "teacher") > 0
    assert record.value("cost.parameters") < record.value("cost.parameters", "teacher")
    source = load_file(first / "model" / "model.safetensors")
    start, end = (
        load_file(second / "stages" / name / "model" / "model.safetensors") for name in ("untrained", "student")
    )
    assert all(torch.equal(start[name], source[f"distilbert.{name}"]) for name in start)
    assert not any(name.startswith("vocab_") for name in start)
    changed = {name for name in start if not torch.equal(start[name], end[name])}
    assert changed == {name for name in start if name.startswith("transformer.")}, "freeze: [embeddings]"
    assert {row["part.soft"] > 0 for row in steps_of(second, "student")} == {True}


def test_distilroberta_is_the_same_recipe_without_an_architecture(materials, tmp_path):
    """One token type, as RoBERTa has; its positions begin after the padding index."""
    shape = tiny.ENCODERS["bert"]().to_dict() | {"type_vocab_size": 1, "pad_token_id": 0, "num_hidden_layers": 3}
    teacher = RobertaForMaskedLM(RobertaConfig(**{key: shape[key] for key in ROBERTA}))
    teacher.save_pretrained(tmp_path / "roberta")
    tiny.wordpiece().save_pretrained(tmp_path / "roberta")
    recipe = distilbert(materials) | {"controls": ["untrained"]}
    recipe["teacher"]["models"][0]["model_name_or_path"] = str(tmp_path / "roberta")
    recipe["student"] = {
        "model_name_or_path": str(tmp_path / "roberta"),
        "layers": [0, 2],
        "freeze": ["positions"],
    }
    run = tmp_path / "run"
    potstill.run(write_recipe(tmp_path, recipe), output_dir=run)
    assert type(AutoModelForMaskedLM.from_pretrained(run / "model")).__name__ == "RobertaForMaskedLM"
    source, start, end = (
        load_file(folder / "model.safetensors")
        for folder in (tmp_path / "roberta", *(run / "stages" / name / "model" for name in ("untrained", "student")))
    )
    last = "roberta.encoder.layer.{}.output.dense.weight"
    assert torch.equal(start[last.format(1)], source[last.format(2)]), (
        "block 1 of the student is block 2 of the teacher"
    )
    assert not torch.equal(end[last.format(1)], start[last.format(1)])
    table = "roberta.embeddings.position_embeddings.weight"
    assert torch.equal(end[table], source[table]), "freeze: [positions]"
    assert end["roberta.embeddings.token_type_embeddings.weight"].shape[0] == 1
    assert all(row["part.cosine"] > 0 for row in steps_of(run, "student"))


def test_smoothing_hides_other_tokens_in_training_and_the_same_where_it_is_measured(materials, tmp_path):
    plain, smooth = distilbert(materials), distilbert(materials)
    del plain["data"]["mask_smoothing"]
    found = []
    for name, recipe in (("plain", plain), ("smooth", smooth)):
        recipe |= {"controls": ["untrained"]}
        record = potstill.run(write_recipe(tmp_path / name, recipe), output_dir=tmp_path / name / "run")
        found.append((steps_of(tmp_path / name / "run", "student"), record.value("quality.nll", "untrained")))
    assert found[0][0][0]["loss"] != found[1][0][0]["loss"]
    assert found[0][1] == found[1][1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layers": {"attention": 1, "map": [1, 5]}}, "state 5 is out of range"),
        ({"layers": {"attention": 1, "map": [1]}}, "map names 1 teacher states and the student has 2 blocks"),
        ({"layers": {"hidden": 1}}, "8 entries and the teacher's 16: set objective.layers.projection"),
        ({"layers": {"cosine": 1}}, "set cosine to 0"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_first_step(materials, tmp_path, changes, words):
    recipe = tinybert(materials)
    recipe["stages"][1]["objective"] |= changes
    with pytest.raises(SignalError, match=words):
        potstill.run(write_recipe(tmp_path, recipe), output_dir=tmp_path / "run")


def test_other_heads_are_refused_with_both_numbers(materials, tmp_path):
    recipe = tinybert(materials)
    recipe["stages"][1]["student"]["size"] = SIZE | {"num_attention_heads": 4}
    with pytest.raises(SignalError, match="the student has 4 and the teacher 2: give the student 2 heads"):
        potstill.run(write_recipe(tmp_path, recipe), output_dir=tmp_path / "run")
