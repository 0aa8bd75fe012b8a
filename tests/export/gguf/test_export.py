"""A student as a .gguf file: what is in it, and that it answers as the student does wherever it is read."""

import importlib.util
import json
from collections import Counter
from functools import partial

import gguf
import numpy as np
import pytest
import torch

from potstill.core.batch import Batch, next_token_targets
from potstill.core.errors import InputError, ModelError
from potstill.deployed import forward_of
from potstill.evaluate.predictions import predict_tokens
from potstill.export.card import CardFacts
from potstill.export.formats import FORMATS, refuse_not_installed
from potstill.export.gguf import compare, reading
from potstill.export.gguf.write import types_of
from potstill.export.graph import input_names
from potstill.export.parity import of_module
from potstill.export.rows import NO_ROWS
from potstill.export.settings import ExportSettings
from tests.export.gguf.tiny import TEMPLATE, decoder

LLAMA = pytest.mark.skipif(importlib.util.find_spec("llama_cpp") is None, reason="needs the extra llama")


@pytest.fixture
def alone(monkeypatch):
    """A machine without llama.cpp: its turn comes in the tests that need it."""
    for module in (compare, reading):
        monkeypatch.setattr(module, "has_llama", lambda: False)


def export(name, loaded, target, **settings):
    facts = CardFacts(name="tiny", task="causal-lm", licence="Apache-2.0")
    terms = {"task": "causal-lm", "facts": facts, "settings": ExportSettings(**settings), "rows": NO_ROWS}
    return FORMATS[name].export(loaded, target, **terms)


def found(exported):
    return {finding.name.removeprefix("export."): finding for finding in exported.findings}


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(("kind", "pre"), [("llama", "gpt-2"), ("qwen2", "qwen2"), ("qwen3", "qwen2")])
def test_in_half_precision_transformers_reads_the_trained_model(kind, pre, tmp_path):
    exported = export("gguf", decoder(tmp_path / "trained", kind, pre), tmp_path / "out", fp16_tolerance=0.02)
    assert exported.published, exported.findings
    checks = found(exported)
    assert 0 < checks["gguf.transformers.logit_difference"].value < 0.02
    assert checks["gguf.transformers.top1_agreement"].value > 0.98
    assert checks["gguf.special_tokens"].value == checks["gguf.chat_template"].value == 1
    assert checks["gguf.llama.compared"].verdict == "warn"


@pytest.mark.usefixtures("alone")
def test_a_cut_student_with_a_table_of_its_own(tmp_path):
    """Fewer heads than its width has, one KV group, no tying: what surgery leaves."""
    cut = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
    loaded = decoder(tmp_path / "trained", "llama", **cut, tie_word_embeddings=False, intermediate_size=32)
    assert export("gguf", loaded, tmp_path / "out", fp16_tolerance=0.02).published


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(
    ("name", "types", "least"), [("gguf-q8_0", {"Q8_0": 15}, 0.9), ("gguf-q4_0", {"Q8_0": 1, "Q4_0": 14}, 0.4)]
)
def test_quantised_it_answers_nearly_as_trained(name, types, least, tmp_path):
    loaded = decoder(tmp_path / "trained")
    exported = export(name, loaded, tmp_path / "out", least_agreement=least)
    assert exported.published, exported.findings
    assert types_of(exported.folder / "model.gguf") == types
    assert found(exported)[f"{name}.transformers.top1_agreement"].evidence["types"] == types
    assert f"{name}.transformers.logit_difference" not in found(exported)
    assert not export(name, loaded, tmp_path / "other", least_agreement=1.0).published


@pytest.mark.usefixtures("alone")
def test_rows_that_blocks_do_not_divide_stay_in_half_precision(tmp_path):
    exported = export("gguf-q8_0", decoder(tmp_path / "trained", intermediate_size=40), tmp_path / "out")
    assert types_of(exported.folder / "model.gguf") == {"Q8_0": 13, "F16": 2}, "of 40 inputs, the down projections"


@pytest.mark.usefixtures("alone")
def test_the_file_says_all_that_runs_it(tmp_path):
    folder = export("gguf", decoder(tmp_path / "trained", pre="smollm"), tmp_path / "out").folder
    assert {file.name for file in folder.iterdir()} == {"model.gguf", "README.md", "comparison.json"}
    fields = {name: one.contents() for name, one in gguf.GGUFReader(folder / "model.gguf").fields.items()}
    expected = {
        "general.architecture": "llama",
        "general.license": "apache-2.0",
        "llama.context_length": 256,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.rope.freq_base": 5e4,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": TEMPLATE,
    }
    assert {name: fields[name] for name in expected} == expected
    card = (folder / "README.md").read_text()
    assert "llama_cpp.Llama" in card
    assert "llama-cli -m" in card
    assert "export.gguf.transformers.logit\\_difference" in card
    told = json.loads((folder / "comparison.json").read_text())
    assert [one["name"] for one in told] == [f"export.{name}" for name in found_names()]


def found_names():
    return (
        *("gguf.transformers.top1_agreement", "gguf.transformers.logit_difference"),
        *("gguf.transformers.generated_text", "gguf.llama.compared", "gguf.special_tokens", "gguf.chat_template"),
    )


@pytest.mark.usefixtures("alone")
def test_a_file_that_answers_otherwise_is_not_published(tmp_path, monkeypatch):
    """Queries left as transformers orders them: every program would read the file, and answer something."""
    loaded = decoder(tmp_path / "trained")
    monkeypatch.setattr("potstill.export.gguf.layout.paired", lambda weight, heads: weight)
    exported = export("gguf", loaded, tmp_path / "out")
    assert exported.folder.name == "out.failed"
    assert found(exported)["gguf.transformers.logit_difference"].verdict == "stop"


@pytest.mark.usefixtures("alone")
def test_a_lost_chat_template_and_another_end_are_seen(tmp_path, monkeypatch):
    loaded = decoder(tmp_path / "trained")
    monkeypatch.setattr(gguf.GGUFWriter, "add_chat_template", lambda writer, text: None)
    monkeypatch.setattr(
        gguf.GGUFWriter,
        "add_bool",
        lambda writer, key, value: writer.add_key_value(key, value, gguf.GGUFValueType.BOOL),
    )
    plain = gguf.GGUFWriter.add_uint32
    monkeypatch.setattr(
        gguf.GGUFWriter, "add_uint32", lambda writer, key, value: plain(writer, key, 0 if "eos" in key else value)
    )
    checks = found(export("gguf", loaded, tmp_path / "out"))
    assert checks["gguf.chat_template"].verdict == checks["gguf.special_tokens"].verdict == "stop"


def test_what_fp16_cannot_hold_is_refused(tmp_path):
    loaded = decoder(tmp_path / "trained")
    with torch.no_grad():
        loaded.module.model.layers[0].mlp.up_proj.weight[0, 0] = 1e5
    with pytest.raises(ModelError, match=r"blk.0.ffn_up.weight holds 1e\+05, which fp16 cannot"):
        export("gguf", loaded, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_training_only_weights_and_encoders_are_refused(tmp_path, classifier):
    loaded = decoder(tmp_path / "trained")
    loaded.module.gate = torch.nn.Linear(2, 2)
    with pytest.raises(ModelError, match="served training only"):
        export("gguf", loaded, tmp_path / "out")
    with pytest.raises(ModelError, match="causal language models of the architectures llama, qwen2, qwen3"):
        export("gguf", classifier, tmp_path / "out")


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "llama_cpp" else True)
    refuse_not_installed(["gguf", "gguf-q8_0", "gguf-q4_0"])
    with pytest.raises(InputError, match=r"gguf-q4_k_m needs llama_cpp.*pip install 'potstill\[llama\]'"):
        refuse_not_installed(["gguf-q4_k_m"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gguf" else True)
    with pytest.raises(InputError, match=r"gguf needs gguf.*pip install 'potstill\[gguf\]'"):
        refuse_not_installed(["gguf"])


@pytest.mark.parametrize(
    "opened", [reading.dequantised, pytest.param(partial(reading.in_llama, threads=1), marks=LLAMA)]
)
def test_the_perplexity_of_the_file_is_that_of_the_student(opened, tmp_path):
    """The same function measures both; two rows of one batch differ in length."""
    loaded = decoder(tmp_path / "trained")
    folder = export("gguf", loaded, tmp_path / "out", fp16_tolerance=0.1).folder
    tokens = torch.randint(3, 300, (2, 24), generator=torch.Generator().manual_seed(0))
    attention = torch.ones_like(tokens, dtype=torch.bool)
    attention[1, 10:] = False
    targets, weights = next_token_targets(tokens, attention)
    rows = [Batch(("a", "b"), tokens, attention, targets, {"hard": weights})]
    names = input_names(loaded)
    true, found = (predict_tokens(forward_of(one, names), rows) for one in (of_module(loaded.module), opened(folder)))
    assert true.tokens_S.tolist() == found.tokens_S.tolist() == [23, 9]
    np.testing.assert_allclose(found.nll_S, true.nll_S, rtol=1e-3)
    assert (found.nll_S != true.nll_S).all()


@LLAMA
@pytest.mark.parametrize(("kind", "pre"), [("llama", "smollm"), ("qwen2", "qwen2"), ("qwen3", "llama-bpe")])
def test_llama_cpp_reads_the_trained_model_and_its_tokens(kind, pre, tmp_path):
    exported = export("gguf", decoder(tmp_path / "trained", kind, pre), tmp_path / "out", fp16_tolerance=0.1)
    assert exported.published, exported.findings
    checks = found(exported)
    assert checks["gguf.llama.tokens"].value == 1
    assert checks["gguf.llama.tokens"].evidence["texts"] == len(compare.TEXTS) + 2
    assert 0 < checks["gguf.llama.logit_difference"].value < 0.1
    assert "gguf.llama.compared" not in checks


@LLAMA
def test_llama_cpp_quantises_and_says_what_fell_back(tmp_path):
    """Rows of 256 inputs are divided by its blocks, those of 64 are not."""
    loaded = decoder(tmp_path / "trained", intermediate_size=256)
    exported = export("gguf-q4_k_m", loaded, tmp_path / "out", least_agreement=0.5)
    assert exported.published, exported.findings
    types = Counter(types_of(exported.folder / "model.gguf"))
    assert sum(types.values()) == 15
    assert types["Q4_K"] + types["Q6_K"] == 2, "the down projections"
    assert {file.name for file in exported.folder.iterdir()} == {"model.gguf", "README.md", "comparison.json"}


@LLAMA
def test_other_tokens_in_llama_cpp_fail_the_export(tmp_path, monkeypatch):
    loaded = decoder(tmp_path / "trained", pre="smollm")
    monkeypatch.setattr("potstill.export.gguf.vocabulary.pre_tokenizer_of", lambda rules: "llama-bpe")
    exported = export("gguf", loaded, tmp_path / "out")
    assert not exported.published
    assert found(exported)["gguf.llama.tokens"].verdict == "stop"


@LLAMA
def test_rows_of_any_length_and_padding(tmp_path):
    loaded = decoder(tmp_path / "trained", max_position_embeddings=2048)
    answer = reading.in_llama(export("gguf", loaded, tmp_path / "out").folder, 1)
    tokens = torch.randint(3, 300, (2, 600), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(tokens)
    mask[1, 40:] = 0
    logits = answer([tokens, mask])
    with torch.no_grad():
        true = loaded.module(tokens, attention_mask=mask).logits
    assert (logits - true)[mask.bool()].abs().max() < 0.1
    assert (logits[1, 40:] == 0).all()
