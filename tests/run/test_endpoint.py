"""A whole run with a black box as teacher: learnt from, in the ledger, gone and back, and its key told nobody."""

import hashlib
import json

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import potstill
from potstill.core.errors import EndpointError, SignalError
from tests.run.tiny_recipe import write_recipe, write_rows
from tests.teachers.bigrams import SIZE, Bigrams, bytes_tokenizer
from tests.teachers.fake_endpoint import serving

KEY = "canary-09ae-of-the-teacher"


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """A tiny decoder that reads bytes, and rows for it."""
    folder = tmp_path_factory.mktemp("bytes")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=SIZE, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        intermediate_size=24, max_position_embeddings=64, eos_token_id=SIZE - 1, pad_token_id=SIZE - 2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "student")
    bytes_tokenizer().save_pretrained(folder / "student")
    write_rows(folder / "rows.jsonl", [{"text": f"row {index} of a few"} for index in range(16)])
    return folder


def recipe(student, url, **objective):
    return {
        "name": "black-box",
        "task": "causal-lm",
        "data": {"train": [{"dataset_name": str(student / "rows.jsonl"), "rows": "text"}], "max_length": 32},
        "teacher": {"endpoint": {"url": url, "key_env": "TEACHER_KEY", "attempts": 2, "licence": "CC0-1.0"}},
        "student": {"model_name_or_path": str(student / "student")},
        "objective": {"top_k": 5, **objective},
        "evaluate": {"bootstrap": 100, "cost": None},
        "train": {
            "max_steps": 6, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "logging_steps": 1, "bf16": False
        },
    }  # fmt: skip


def weights(folder):
    return hashlib.sha256((folder / "model" / "model.safetensors").read_bytes()).hexdigest()


def test_a_black_box_teaches_goes_away_and_comes_back(student, tmp_path, monkeypatch, quick, capfd):
    monkeypatch.setenv("TEACHER_KEY", KEY)
    away = []

    def spoil(reply, number):
        return (503, {"error": {"message": f"not now, {KEY}"}}) if away and number > away[0] else reply

    with serving(Bigrams("vllm", spoil=spoil)) as endpoint:
        file = write_recipe(tmp_path, recipe(student, endpoint.url))
        record = potstill.run(file, output_dir=tmp_path / "whole")
        away.append(len(endpoint.asked) + 18)
        with pytest.raises(EndpointError, match="nothing that was saved is lost"):
            potstill.run(file, output_dir=tmp_path / "cut")
        away.clear()
        potstill.resume(tmp_path / "cut")
        assert endpoint.headers["Authorization"] == f"Bearer {KEY}"
        name = f"black-1 at {endpoint.url}"
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    losses = [row["loss"] for row in record.metrics if "loss" in row]
    assert losses[-1] < losses[0]
    (teacher,) = [entry for entry in record.ledger["entries"] if entry["role"] == "teacher"]
    assert (teacher["source"], teacher["licence"]) == (name, "CC0-1.0")
    assert KEY not in "".join(capfd.readouterr())
    assert all(KEY.encode() not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_a_teacher_with_another_tokenizer_is_refused_before_training(student, tmp_path, monkeypatch, quick):
    monkeypatch.setenv("TEACHER_KEY", KEY)
    with serving(Bigrams("vllm", bytes_tokenizer(merged=True))) as endpoint:
        file = write_recipe(tmp_path, recipe(student, endpoint.url))
        with pytest.raises(SignalError, match="do not read text alike"):
            potstill.run(file, output_dir=tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()
    assert json.loads((tmp_path / "run" / "env.json").read_text())
