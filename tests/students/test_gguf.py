import importlib.util
import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from potstill.core.errors import FolderError, ModelError
from potstill.students.gguf import cache_folder, converted
from potstill.students.load import load_model
from potstill.students.packaged import find_packaged
from potstill.students.settings import ModelSettings
from tests.students.tiny import tiny


def test_the_cache_has_a_name(monkeypatch, tmp_path):
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("POTSTILL_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "potstill"


def test_another_file_is_refused(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"PK\x03\x04")
    with pytest.raises(ModelError, match="not a GGUF file"):
        converted(path)


def test_the_reader_must_be_installed(tmp_path, monkeypatch):
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + bytes(20))
    for package in ("gguf", "accelerate"):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, absent=package: None if name == absent else True)
        with pytest.raises(ModelError, match=rf'needs the package {package}: run `pip install "potstill\[gguf\]"'):
            converted(path)


def test_a_damaged_file_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + bytes(200))
    with pytest.raises(ModelError, match=r"model\.gguf"):
        converted(path)
    assert list((tmp_path / "cache" / "gguf").iterdir()) == []


def _failing(monkeypatch, error):
    """The reader fails like this once it has the tokenizer."""

    def fails(*_, **__):
        raise error

    monkeypatch.setattr("potstill.students.gguf.AutoTokenizer.from_pretrained", lambda *_, **__: None)
    monkeypatch.setattr("potstill.students.gguf.AutoModelForCausalLM.from_pretrained", fails)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("DefaultCPUAllocator: can't allocate memory"), torch.OutOfMemoryError("full"), RecursionError()],
)
def test_what_is_not_the_files_fault_is_not_blamed_on_it(tmp_path, monkeypatch, error):
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + bytes(200))
    _failing(monkeypatch, error)
    with pytest.raises(type(error)):
        converted(path)
    assert list((tmp_path / "cache" / "gguf").iterdir()) == []


def test_weights_that_do_not_fit_are_the_files_fault(tmp_path, monkeypatch):
    """What transformers raises, raised by transformers: a model is loaded whose table has another size."""
    folder = tmp_path / "model"
    tiny("llama", "causal-lm").save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 7}))
    with pytest.raises(RuntimeError) as raised:
        AutoModelForCausalLM.from_pretrained(folder)
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + bytes(200))
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path / "cache"))
    for error in (raised.value, NotImplementedError("an architecture that is not known")):
        _failing(monkeypatch, error)
        with pytest.raises(ModelError, match="could not be converted"):
            converted(path)


def test_a_cache_that_cannot_be_made(tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("")
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + bytes(200))
    with pytest.raises(FolderError, match="name another output folder"):
        converted(path)


def test_a_finished_conversion_is_used_again(tmp_path, monkeypatch):
    import hashlib

    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path))
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    folder = tmp_path / "gguf" / hashlib.sha256(b"GGUF").hexdigest()
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert converted(path) == folder


@pytest.mark.slow
def test_the_packaged_decoder_is_converted_whole(tmp_path, monkeypatch):
    """SmolLM2-135M-Instruct (Q4_1): its template, its end token, its size, and an answer it is known to give."""
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path))
    found = load_model(
        ModelSettings(model_name_or_path="packaged:smollm2-135m-instruct"), task="causal-lm", labels=None
    )
    assert "dequantised" in found.record.display_name
    assert found.record.licence == "Apache-2.0"
    assert found.record.parameters == 134_515_008
    assert found.tokenizer.eos_token == "<|im_end|>"
    assert found.module.generation_config.eos_token_id == found.tokenizer.eos_token_id == 2
    assert found.tokenizer.model_max_length == 8192
    assert "quantization_config" not in json.loads((found.record.folder / "config.json").read_text())
    question = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
    inputs = found.tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.no_grad():
        reply = found.module.generate(**inputs, max_new_tokens=12, do_sample=False)
    text = found.tokenizer.decode(reply[0, inputs["input_ids"].shape[1] :])
    assert text == "The capital of France is Paris.<|im_end|>"
    assert converted(find_packaged("smollm2-135m-instruct")[1]) == found.record.folder
