"""A student in another runtime is the student: exported, loaded there, and held to the trained one."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from nncf.torch import extensions
from transformers import AutoTokenizer

from potstill.core.errors import DataError, InputError, ModelError
from potstill.environment import saturates_int8
from potstill.export import formats as table
from potstill.export import graphs
from potstill.export.card import CardFacts
from potstill.export.formats import FORMATS, refuse_not_installed
from potstill.export.graph import captured, input_names
from potstill.export.parity import as_trained, near_trained
from potstill.export.rows import Rows
from potstill.export.settings import ExportSettings
from potstill.students.save import save_model
from tests.export.conftest import WORDS
from tests.export.sentences import batch, rows

EXACT = ("onnx", "openvino")
QUANTISED = ("onnx-int8", "openvino-int8", "openvino-int8-weights")


def facts(task):
    return CardFacts(name="tiny", task=task, licence="Apache-2.0", teachers=("big",))


def export(name, loaded, target, task, given=None, **settings):
    return FORMATS[name].export(
        loaded, target, task=task, facts=facts(task), settings=ExportSettings(**settings), rows=given or rows()
    )


def found(exported):
    return {finding.name: finding for finding in exported.findings}


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("kind", ["classifier", "pooled", "decoder"])
def test_with_the_trained_weights_it_answers_as_trained(name, kind, tmp_path, request):
    loaded = request.getfixturevalue(kind)
    task = "causal-lm" if kind == "decoder" else "classify"
    exported = export(name, loaded, tmp_path / "out", task)
    assert exported.published, exported.findings
    checks = found(exported)
    assert checks[f"export.{name}.logit_difference"].value < 1e-4
    assert checks[f"export.{name}.chat_template"].value == 1
    assert (f"export.{name}.generated_text" in checks) == (kind == "decoder")
    assert AutoTokenizer.from_pretrained(exported.folder).chat_template == loaded.tokenizer.chat_template
    assert (exported.folder / "generation_config.json").exists() == (kind == "decoder")


@pytest.mark.parametrize("name", QUANTISED)
def test_quantised_it_answers_nearly_as_trained(name, pooled, tmp_path):
    exported = export(name, pooled, tmp_path / "out", "classify", least_agreement=0.5)
    assert exported.published, exported.findings
    check = found(exported)[f"export.{name}.top1_agreement"]
    assert check.evidence["answers"] == 30
    assert 0 < check.evidence["mean_largest_logit_difference"] < 0.1
    assert not (exported.folder / "whole.onnx").exists()


def test_any_number_of_rows_and_any_length_padding_or_not(pooled, tmp_path):
    """By the runtimes' own programs, as the card says."""
    inputs = pooled.tokenizer(["the fox", "a", "which prime in the fox of a"], return_tensors="np", padding=True)
    with torch.no_grad():
        true = pooled.module(*(torch.from_numpy(inputs[name]) for name in ("input_ids", "attention_mask"))).logits
    one = onnxruntime.InferenceSession(export("onnx", pooled, tmp_path / "onnx", "classify").folder / "model.onnx")
    (logits,) = one.run(None, {given.name: inputs[given.name] for given in one.get_inputs()})
    np.testing.assert_allclose(logits, true, atol=1e-5)
    folder = export("openvino", pooled, tmp_path / "openvino", "classify").folder
    other = openvino.Core().compile_model(folder / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    logits = other({given.any_name: inputs[given.any_name] for given in other.inputs})[0]
    np.testing.assert_allclose(logits, true, atol=1e-5)


def test_token_types_are_read_where_the_tokenizer_gives_them(classifier, tmp_path):
    assert input_names(classifier) == ("input_ids", "attention_mask")
    classifier.tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    assert input_names(classifier) == ("input_ids", "attention_mask", "token_type_ids")
    folder = export("onnx", classifier, tmp_path / "out", "classify").folder
    tokens = np.array([[2, 5, 6, 3]])
    inputs = {"input_ids": tokens, "attention_mask": np.ones_like(tokens)}
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    first, second = (session.run(None, {**inputs, "token_type_ids": np.full_like(tokens, kind)})[0] for kind in (0, 1))
    with torch.no_grad():
        true = classifier.module(**{name: torch.from_numpy(one) for name, one in inputs.items()}).logits
    np.testing.assert_allclose(first, true, atol=1e-5)
    assert np.abs(first - second).max() > 1e-4


def test_a_graph_that_answers_otherwise_is_not_published(pooled, tmp_path):
    before = export("onnx", pooled, tmp_path / "out", "classify")
    exported = export("onnx", pooled, tmp_path / "out", "classify", runtime_tolerance=0)
    assert not exported.published
    assert exported.folder.name == "out.failed"
    assert (before.folder / "model.onnx").exists(), "an earlier export stands"
    worst = export("openvino-int8", pooled, tmp_path / "other", "classify", least_agreement=1.0)
    share = found(worst)["export.openvino-int8.top1_agreement"].value
    assert worst.published == (share == 1.0)


def test_every_difference_is_seen(pooled, decoder, tmp_path):
    """A runtime that is off by a little, by the order of classes, or only where a text goes on."""
    pooled.tokenizer.save_pretrained(tmp_path / "t")
    truth = lambda inputs: pooled.module(*inputs[:2]).logits.detach()  # noqa: E731
    terms = {
        as_trained: {"folder": tmp_path / "t", "task": "classify", "tolerance": 1e-3},
        near_trained: {"rows": rows(), "least_agreement": 0.9},
    }

    def verdicts(compare, answer, **changes):
        found = compare("x", answer, pooled, **(terms[compare] | changes))
        return {one.name: one.verdict for one in found}

    assert set(verdicts(as_trained, truth).values()) == {"pass"}
    assert verdicts(as_trained, lambda inputs: truth(inputs) + 0.01)["export.x.logit_difference"] == "stop"
    assert verdicts(as_trained, lambda inputs: truth(inputs).flip(-1))["export.x.top1_agreement"] == "stop"
    assert verdicts(near_trained, lambda inputs: truth(inputs) + 0.01)["export.x.top1_agreement"] == "pass"
    assert verdicts(near_trained, lambda inputs: truth(inputs).flip(-1))["export.x.top1_agreement"] == "stop"
    assert verdicts(near_trained, truth, rows=Rows())["export.x.top1_agreement"] == "pass"
    for off, verdict in ((0.01, "pass"), (0.2, "stop"), (float("nan"), "stop")):
        shifted = verdicts(near_trained, lambda inputs, off=off: truth(inputs) + off, tolerance=0.1)
        assert shifted["export.x.logit_difference"] == verdict

    decoder.tokenizer.save_pretrained(tmp_path / "d")
    calls = []

    def forgetful(inputs):
        calls.append(inputs[0].shape[1])
        logits = decoder.module(*inputs[:2], use_cache=False).logits.detach()
        return logits.flip(-1) if len(calls) > 5 else logits

    found = as_trained("x", forgetful, decoder, tmp_path / "d", task="causal-lm", tolerance=1e-3)
    assert {one.name: one.verdict for one in found}["export.x.generated_text"] == "stop"


def test_a_quantiser_without_rows_is_refused(pooled, tmp_path):
    with pytest.raises(DataError, match="ranges from training rows and there are none"):
        export("openvino-int8", pooled, tmp_path / "out", "classify", given=Rows(held_out=rows().held_out))
    assert not (tmp_path / "out").exists()


def test_calibration_rows_of_one_class_are_refused(classifier, pooled, tmp_path):
    """Rows whose class nobody knows are taken, and so is the one class of a model that has no other."""
    of_one = Rows(calibration=[batch([5, 6, 7], label=1) for _ in range(3)], held_out=rows().held_out)
    with pytest.raises(DataError, match="3 training rows, and all of them are of the class y"):
        export("openvino-int8", pooled, tmp_path / "out", "classify", given=of_one)
    assert not (tmp_path / "out").exists()
    unknown = [dataclasses.replace(one, weights={"hard": torch.zeros(1, 1)}) for one in of_one.calibration]
    graphs.refuse_calibration(pooled, Rows(calibration=unknown))
    graphs.refuse_calibration(pooled, Rows(calibration=of_one.calibration[:1]))
    graphs.refuse_calibration(pooled, rows())


CPU = "flags\t\t: fpu sse4_2 avx avx2 avx512f {}\n"


@pytest.mark.parametrize(
    ("flags", "overflow"),
    [("", True), ("avx512_vnni", False), ("avx_vnni", False), ("amx_int8", False), ("avx512_vnni_like", True)],
)
def test_a_processor_whose_int8_products_overflow_is_known_by_its_flags(flags, overflow):
    assert saturates_int8(CPU.format(flags)) is overflow
    assert not saturates_int8("Features\t: asimd asimddp\n")


@pytest.mark.parametrize("name", ["onnx-int8", "openvino-int8"])
def test_without_vnni_weights_take_seven_bits(name, pooled, tmp_path, monkeypatch):
    """No code beyond +-64; with VNNI they go to 127."""
    monkeypatch.setattr(graphs, "saturates", lambda: True)
    assert 50 < largest_code(export(name, pooled, tmp_path / "out", "classify", least_agreement=0.1).folder) <= 64


def largest_code(folder):
    """Of the int8 weights of a graph; its tables (words, positions, types) are looked up and not multiplied."""
    if (folder / "model.onnx").exists():
        tensors = [onnx.numpy_helper.to_array(one) for one in onnx.load(folder / "model.onnx").graph.initializer]
    else:
        nodes = openvino.Core().read_model(folder / "model.xml").get_ordered_ops()
        tensors = [node.data for node in nodes if node.get_type_name() == "Constant"]
    codes = [
        one for one in tensors if one.dtype == np.int8 and one.ndim == 2 and one.shape[0] not in (len(WORDS), 40, 2)
    ]
    return max(np.abs(one.astype(int)).max() for one in codes)


def test_what_cannot_be_captured_is_named(pooled):
    class Branching(torch.nn.Module):
        config = pooled.module.config

        def forward(self, input_ids, attention_mask):
            return self.anything if input_ids.sum().item() > 3 else None

    with pytest.raises(ModelError, match="Branching cannot be captured as a graph"):
        captured(dataclasses.replace(pooled, module=Branching()))


def test_training_only_weights_are_refused(pooled, tmp_path):
    pooled.module.extra = torch.nn.Linear(2, 2)
    with pytest.raises(ModelError, match="served training only"):
        export("onnx", pooled, tmp_path / "out", "classify")


def test_a_missing_package_is_named_with_its_extra_before_anything_is_done(monkeypatch):
    monkeypatch.setattr(table.importlib.util, "find_spec", lambda name: None if name == "nncf" else True)
    refuse_not_installed(["huggingface", "onnx", "openvino"])
    with pytest.raises(InputError, match=r"openvino-int8 needs nncf.*pip install 'potstill\[cpu\]'"):
        refuse_not_installed(["huggingface", "openvino-int8"])


def test_the_card_says_how_it_is_run_and_what_was_compared(pooled, tmp_path):
    card = (export("onnx", pooled, tmp_path / "out", "classify").folder / "README.md").read_text()
    assert 'library_name: "onnxruntime"' in card
    assert "InferenceSession" in card
    assert "export.onnx.logit\\_difference" in card
    assert json.loads((tmp_path / "out" / "config.json").read_text())["id2label"] == {"0": "x", "1": "y", "2": "z"}


def test_a_compile_lock_that_a_killed_process_left_stops_nobody(pooled, tmp_path, monkeypatch):
    """NNCF compiles helpers for PyTorch models and waits for such a lock; graphs of OpenVINO need none of them."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    lock = extensions.get_build_directory_for_extension("quantized_functions_cpu") / "lock"
    lock.touch()
    monkeypatch.setattr(
        extensions.ExtensionNamespace, "get", None
    )  # whoever asks for a helper fails, and does not wait
    assert export("openvino-int8", pooled, tmp_path / "out", "classify", least_agreement=0.1).published
    assert [lock] == list(lock.parent.iterdir())


@pytest.mark.parametrize("name", ["onnx-int8", "openvino-int8"])
def test_nothing_is_said_and_nothing_leaves_the_folder(name, pooled, tmp_path, capfd):
    """In a process of its own, since the libraries decide once whether they report home."""
    pooled.module.encoder.eval()
    save_model(pooled, tmp_path / "model")
    home = tmp_path / "home"
    home.mkdir()
    program = f"""
from pathlib import Path
from potstill.export.card import CardFacts
from potstill.export.formats import FORMATS
from potstill.export.settings import ExportSettings
from potstill.students.save import save_model
from tests.export.sentences import rows
from potstill.students.load import load_model
from potstill.students.settings import ModelSettings
from tests.export.sentences import rows

loaded = load_model(ModelSettings(model_name_or_path={str(tmp_path / "model")!r}), task="classify", labels=None)
facts = CardFacts(name="tiny", task="classify", licence="mit")
terms = dict(task="classify", facts=facts, settings=ExportSettings(least_agreement=0.1), rows=rows())
assert FORMATS[{name!r}].export(loaded, Path({str(tmp_path / "out")!r}), **terms).published
"""
    kept = {key: os.environ[key] for key in ("PATH", "PYTHONPATH", "OMP_NUM_THREADS") if key in os.environ}
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        cwd=root,
        env={**kept, "HOME": str(home)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "report" not in done.stderr
    assert [one for one in home.rglob("*") if "openvino" in one.name.lower() or "intel" in one.name.lower()] == []
