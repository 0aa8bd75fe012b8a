"""Whole runs whose teacher and student differ in shape: refused with both values, or bridged when the recipe asks."""

import dataclasses
import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, Gemma3ForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import potstill
from potstill import assemble
from potstill.cli.main import main
from potstill.students.layouts import edited
from potstill.train import loop, resume
from tests.run.tiny_recipe import language_model, prose_rows, set_value, write_recipe, write_rows
from tests.students import tiny
from tests.students.tiny import edit_json

SENTENCES = [
    "the cat sat on the mat and the dog ran after the cat",
    "a café in the old town opens when the sun goes down",
    "nobody knows how many words a small model has to read",
    "the teacher reads the text in pieces of another kind",
]


def refused(capsys, *parts):
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert said.count("potstill: ") == 1
    for part in parts:
        assert str(part) in said
    assert "checkpoint" not in said


def run(folder, recipe):
    return main(["run", str(write_recipe(folder, recipe)), "--output-dir", str(folder / "run")])


@pytest.fixture
def longer(materials, tmp_path):
    """The tiny decoder with 68 rows for its 60 tokens."""
    folder = shutil.copytree(materials.decoder, tmp_path / "longer")
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(68, mean_resizing=False)
    with torch.no_grad():
        model.get_input_embeddings().weight[60:] = 0.3 * torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("longer_is", ["teacher", "student"])
def test_padded_tables_are_refused_with_both_numbers_and_the_next_step(
    materials, longer, tmp_path, capsys, monkeypatch, longer_is
):
    recipe = language_model(materials)
    other = recipe["teacher"]["models"][0] if longer_is == "teacher" else recipe["student"]
    other["model_name_or_path"] = str(longer)
    monkeypatch.setattr(assemble, "load_model", lambda *_, **__: pytest.fail("a weight was read"))
    assert run(tmp_path, recipe) == 2
    numbers = (68, 60) if longer_is == "student" else (60, 68)
    refused(capsys, f"has {numbers[0]} vocabulary rows", f"has {numbers[1]}", "teacher.vocabulary: padded")


@pytest.mark.parametrize("longer_is", ["teacher", "student"])
def test_padded_tables_are_taught_when_asked(materials, longer, tmp_path, longer_is):
    recipe = language_model(materials)
    other = recipe["teacher"]["models"][0] if longer_is == "teacher" else recipe["student"]
    other["model_name_or_path"] = str(longer)
    recipe["teacher"]["vocabulary"] = "padded"
    record = potstill.run(write_recipe(tmp_path, recipe), output_dir=tmp_path / "run")
    mass = record.finding("signal.padding_mass", "teacher")
    assert (0 < mass.value < 1) if longer_is == "teacher" else mass.value == 0
    assert mass.evidence["vocabulary"] == "padded"
    assert record.value("agreement.kl") > 0
    made = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    assert made.config.vocab_size == (60 if longer_is == "teacher" else 68), "the student's own table is untouched"


def test_a_token_in_the_padding_is_refused(materials, longer, tmp_path, capsys):
    """Both have a tokenizer of 64 tokens; the student's table has 60 rows for them: no model of its own."""
    recipe = language_model(materials)
    recipe["teacher"] = {"models": [{"model_name_or_path": str(longer)}], "vocabulary": "padded"}
    other = shutil.copytree(longer, tmp_path / "other")
    values = json.loads((other / "tokenizer.json").read_text())
    values["model"]["vocab"] |= {f"w{index}": index for index in range(60, 64)}
    for folder in (other, longer):
        (folder / "tokenizer.json").write_text(json.dumps(values))
    edit_json(other / "config.json", vocab_size=60)
    recipe["student"]["model_name_or_path"] = str(other)
    assert run(tmp_path, recipe) == 2
    refused(capsys, "60", "68", "64 tokens reach beyond 60")


@pytest.mark.parametrize("vocabulary", ["padded", "aligned"])
def test_a_bridge_that_nothing_needs_is_refused(materials, tmp_path, capsys, vocabulary):
    recipe = language_model(materials)
    recipe["teacher"]["vocabulary"] = vocabulary
    assert run(tmp_path, recipe) == 2
    refused(capsys, f"teacher.vocabulary is {vocabulary}", "60 rows each", "set it to equal")


def small_decoder(folder, tokenizer, seed):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=64,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def byte_level():
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(SENTENCES, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet))
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="</s>")


def sentence_piece():
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    lone = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=340, special_tokens=["<unk>", *lone])
    backend.train_from_iterator(SENTENCES[::-1] * 2, trainer)
    rules = json.loads(backend.to_str())
    rules["added_tokens"] = [one for one in rules["added_tokens"] if one["content"] == "<unk>"]
    backend = Tokenizer.from_str(json.dumps(rules))
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token="<eos>", unk_token="<unk>")


@pytest.fixture(scope="module")
def two_tongues(tmp_path_factory):
    root = tmp_path_factory.mktemp("tongues")
    rows = [{"text": one} for one in SENTENCES]
    for name, some in {"train": rows, "validation": rows[:1], "test": rows[1:2]}.items():
        # Validation and test are other rows, or they would be taken out of train.
        write_rows(root / f"{name}.jsonl", [{"text": f"{name} {row['text']}"} for row in some])
    small_decoder(root / "student", byte_level(), 0)
    small_decoder(root / "teacher", sentence_piece(), 1)
    return root


def across(root, **teacher):
    def source(name):
        return {"dataset_name": str(root / f"{name}.jsonl"), "rows": "text"}

    return {
        "name": "across",
        "task": "causal-lm",
        "data": {
            "train": [source("train")],
            "validation": source("validation"),
            "test": source("test"),
            "max_length": 64,
        },
        "teacher": {"models": [{"model_name_or_path": str(root / "teacher")}], **teacher},
        "student": {"model_name_or_path": str(root / "student")},
        "train": {"max_steps": 3, "eval_steps": 3, "logging_steps": 1, "bf16": False, "per_device_train_batch_size": 2},
        "evaluate": {"bootstrap": 100, "cost": None},
    }


def test_another_tokenizer_is_refused_with_both_fingerprints(two_tongues, tmp_path, capsys):
    assert run(tmp_path, across(two_tongues)) == 2
    refused(capsys, "different tokenizers", "with 301 tokens", "teacher.vocabulary: aligned")


@pytest.mark.parametrize("pack", [False, True])
def test_another_tokenizer_is_aligned_when_asked(two_tongues, tmp_path, capsys, pack):
    recipe = across(two_tongues, vocabulary="aligned")
    recipe["data"] |= {"pack": True, "max_length": 16} if pack else {}
    record = potstill.run(write_recipe(tmp_path, recipe), output_dir=tmp_path / "run")
    coverage = record.finding("signal.coverage", "teacher")
    assert 0.1 < coverage.value < 1
    assert coverage.evidence["compared"] / coverage.evidence["positions"] == coverage.value
    assert 0 < record.value("signal.shared_mass", "teacher") <= 1
    steps = [row for row in record.metrics if row["event"] == "step"]
    assert all(row["part.soft"] > 0 and row["grad_norm"] > 0 for row in steps)
    said = capsys.readouterr().err
    assert "compared at" in said
    assert "their agreement is not measured" in said
    assert record.finding("agreement.kl") is None


def test_a_tokenizer_that_cannot_be_aligned_is_refused(materials, two_tongues, tmp_path, capsys):
    recipe = across(two_tongues, vocabulary="aligned")
    recipe["teacher"]["models"][0]["model_name_or_path"] = str(materials.decoder)
    assert run(tmp_path, recipe) == 2
    refused(capsys, "cannot be aligned")


@pytest.fixture
def routed(materials, tmp_path):
    """Two teachers, and rows that name one of them in the column `kind`."""
    other = shutil.copytree(materials.decoder, tmp_path / "other")
    model = AutoModelForCausalLM.from_pretrained(other)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(0.5)
    model.save_pretrained(other)
    rows = [{**row, "kind": "ab"[index % 2]} for index, row in enumerate(prose_rows(0, 24))]
    recipe = language_model(materials)
    source = {"dataset_name": str(write_rows(tmp_path / "rows.jsonl", rows)), "rows": "text"}
    recipe["data"]["train"] = [source | {"columns": {"slices": ["kind"]}}]
    recipe["teacher"] = {
        "models": [{"model_name_or_path": str(materials.decoder)}, {"model_name_or_path": str(other)}],
        "route_by": "kind",
        "routes": {"a": 0, "b": 1},
    }
    return recipe


def test_rows_are_routed_to_their_teacher(routed, tmp_path):
    record = potstill.run(write_recipe(tmp_path, routed), output_dir=tmp_path / "run")
    assert record.value("quality.perplexity") > 1
    set_value(routed, "teacher.routes", {"a": 1, "b": 0})
    swapped = potstill.run(write_recipe(tmp_path, routed), output_dir=tmp_path / "swapped")
    losses = [[row["part.soft"] for row in one.metrics if row["event"] == "step"] for one in (record, swapped)]
    assert losses[0] != losses[1]


def test_a_row_with_an_unknown_route_is_refused_before_the_training(routed, tmp_path, capsys):
    set_value(routed, "teacher.routes", {"a": 0, "c": 1})
    assert run(tmp_path, routed) == 2
    refused(capsys, "training row", "its `kind` is `b`", "`a`, `c`")


def test_a_column_that_was_not_kept_is_refused(routed, tmp_path, capsys):
    routed["data"]["train"][0].pop("columns")
    assert run(tmp_path, routed) == 2
    refused(capsys, "has no column `kind`", "data.train.columns.slices")


def test_a_run_goes_on_with_the_same_routes_only(routed):
    from potstill.assemble import route_names
    from potstill.config import StageSettings
    from potstill.data.encoded import encoded_row

    values = {name: routed[name] for name in ("student", "teacher", "train")} | {"name": "x"}
    stage = StageSettings(**values)
    rows = [dataclasses.replace(encoded_row(("1",), [1]), slices={"kind": kind}) for kind in "aab"]
    assert route_names(stage, rows) != route_names(stage, rows[1:])
    assert route_names(stage.model_copy(update={"teacher": None}), rows) is None


@pytest.fixture
def wider(tmp_path, materials):
    """A teacher of the student's tokenizer, another width and another architecture."""
    folder = shutil.copytree(materials.decoder, tmp_path / "wider")
    for name in ("config.json", "model.safetensors", "generation_config.json"):
        (folder / name).unlink()
    model = tiny.tiny("gemma3_text", "causal-lm")
    model.save_pretrained(folder)
    torch.manual_seed(3)
    Gemma3ForCausalLM(edited(model.config, {"hidden_size": 24})).save_pretrained(folder)
    return folder


def projecting(materials, wider):
    recipe = language_model(materials)
    recipe["teacher"]["models"][0]["model_name_or_path"] = str(wider)
    recipe["objective"] = {"soft_weight": 0.5, "hard_weight": 0.5, "projection": {}}
    recipe["train"] |= {"save_steps": 1, "max_steps": 4}
    recipe["controls"] = ["labels"]
    return recipe


def test_another_width_is_taught_through_projections(materials, wider, tmp_path):
    record = potstill.run(write_recipe(tmp_path, projecting(materials, wider)), output_dir=tmp_path / "run")
    steps = [row for row in record.metrics if row["event"] == "step" and row["arm"] == "student"]
    parts = ("projector", "projected", "teacher_space", "hard")
    assert all(math.isfinite(row[f"part.{name}"]) for row in steps for name in parts)
    assert all(row["part.teacher_space"] > 0 for row in steps)
    names = set(load_file(tmp_path / "run" / "model" / "model.safetensors"))
    assert names == set(load_file(materials.decoder / "model.safetensors")) - {
        name
        for name in load_file(materials.decoder / "model.safetensors")
        if ".layers.2." in name or ".layers.3." in name
    }, "nothing but the student is exported"
    assert record.value("quality.perplexity", "labels") > 1


def test_a_stopped_projection_goes_on_bit_for_bit(materials, wider, tmp_path, monkeypatch):
    """Killed after its second save, when the projections have learnt already."""
    recipe = projecting(materials, wider)
    whole = potstill.run(write_recipe(tmp_path, recipe), output_dir=tmp_path / "whole")
    real = resume.save

    def saved_and_gone(running):
        real(running)
        if running.standing.step == 2:
            assert (running.plan.checkpoints / "step-2" / "objective.safetensors").is_file()
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "save", saved_and_gone)
    with pytest.raises(KeyboardInterrupt):
        potstill.run(write_recipe(tmp_path, recipe), output_dir=tmp_path / "cut")
    monkeypatch.setattr(loop, "save", real)
    again = potstill.run(write_recipe(tmp_path, recipe), output_dir=tmp_path / "cut")
    lines = [[{k: v for k, v in row.items() if k != "seconds"} for row in one.metrics] for one in (whole, again)]
    assert lines[0] == lines[1]
    files = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert files[0] == files[1]
