"""Tiny models of every supported kind: what they compute, what is counted, and what is refused."""

import copy
import dataclasses
import math

import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification

from potstill.compress.fake import InputGrid, TokenGrid
from potstill.compress.fake_layers import FakeEmbedding, FakeLinear
from potstill.compress.grids import Grid, dequantise, fitted, integer_linear, overflows, quantise
from potstill.compress.ptq import codes, plain, quantise_model, size_bytes
from potstill.compress.scheme import SCHEMES, Activations, QuantScheme
from potstill.compress.sites import sites
from potstill.core.batch import Batch
from potstill.core.errors import DataError, InputError, ModelError, NumbersError
from potstill.core.signal import Want
from potstill.students.fingerprint import weights_sha256
from potstill.students.pooled import MeanPooledClassifier
from potstill.students.taps import outputs
from tests.oracle import quantisation as oracle
from tests.students.tiny import DECODERS, ENCODERS, batch_of, tiny

INT4 = QuantScheme(weights=Grid(4, per="group", group=8, step_bits=16))
STATIC, DYNAMIC, WEIGHTS = SCHEMES["int8-static"], SCHEMES["int8-dynamic"], SCHEMES["int8-weights"]
KINDS = [(kind, "classify") for kind in ENCODERS] + [(kind, "causal-lm") for kind in DECODERS if kind != "gpt2"]
ALL = ("embeddings", "head")


def logits(module, batch):
    with torch.no_grad():
        return outputs(module, batch, Want(logits=True)).logits_BTV


def rows(**changes):
    """Rows of two classes."""
    batch = batch_of(**changes)
    hard = torch.ones(len(batch.ids), 1)
    targets = torch.arange(len(batch.ids)).unsqueeze(1) % 2
    return Batch(batch.ids, batch.tokens_BL, batch.attention_BL, targets, {"hard": hard, "soft": hard})


def by_the_oracle(weight, grid):
    """The weight as Python's own arithmetic rounds it, one value at a time."""
    out = torch.empty_like(weight)
    size = grid.group or weight.shape[1]
    for row, values in enumerate(weight.tolist()):
        for start in range(0, len(values), size):
            some = values[start : start + size]
            step, zero = oracle.steps(min(some), max(some), grid.bits, grid.symmetric)
            step = torch.tensor(step).half().item() if grid.step_bits == 16 else step
            out[row, start : start + size] = torch.tensor(
                [oracle.back(value, step, zero, grid.bits, grid.symmetric) for value in some]
            )
    return out


@pytest.mark.parametrize(("kind", "task"), KINDS)
@pytest.mark.parametrize("scheme", [WEIGHTS, INT4], ids=["int8", "int4"])
def test_weight_only_is_the_model_with_rounded_weights(kind, task, scheme):
    module, batch = tiny(kind, task), rows()
    before = weights_sha256(module)
    found = quantise_model(module, scheme)
    slow = copy.deepcopy(module)
    for name in sites(module, scheme).linears:
        weight = slow.get_submodule(name).weight
        weight.data = by_the_oracle(weight.data, scheme.weights)
    assert torch.allclose(logits(found, batch), logits(slow, batch), atol=2e-5)
    assert not torch.allclose(logits(found, batch), logits(module, batch), atol=1e-5)
    assert weights_sha256(module) == before


@pytest.mark.parametrize(("kind", "task"), KINDS)
@pytest.mark.parametrize("scheme", [STATIC, DYNAMIC], ids=["static", "dynamic"])
def test_every_layer_computes_what_integers_compute(kind, task, scheme):
    module, batch = tiny(kind, task), rows()
    quantised = quantise_model(module, scheme, [batch] if scheme is STATIC else [])
    exported, passed = codes(quantised), {}

    def hear(name):
        return lambda layer, args, result: passed.__setitem__(name, (args[0], result))

    for name in exported:
        quantised.get_submodule(name).register_forward_hook(hear(name))
    apart = (logits(quantised, batch) - logits(module, batch)).abs()
    apart = apart[batch.attention_BL] if task == "causal-lm" else apart
    assert 0 < apart.mean() < 0.05 * logits(module, batch).std()
    assert set(passed) == set(exported) == set(sites(module, scheme).linears)
    for name, (inputs, result) in passed.items():
        one, layer = exported[name], quantised.get_submodule(name)
        steps = one.inputs or fitted(inputs, one.input_grid)
        found = integer_linear(quantise(inputs, steps, one.input_grid), steps, one.codes, one.steps)
        found = found if layer.bias is None else found + layer.bias
        assert (found - result).abs().max() <= 2e-6 * max(1.0, result.abs().max().item())


@pytest.mark.parametrize("method", ["min-max", "percentile", "entropy", "mse"])
def test_padding_changes_no_static_range(method):
    scheme = QuantScheme(activations=Activations(method), skip=tuple(f"bert.encoder.layer.{at}" for at in (1, 2, 3)))
    module, short = tiny("bert", "classify"), rows(padded=(0, 0, 0))
    longer = Batch(
        ids=short.ids,
        tokens_BL=torch.cat([short.tokens_BL, torch.zeros(3, 6, dtype=torch.long)], 1),
        attention_BL=torch.cat([short.attention_BL, torch.zeros(3, 6, dtype=torch.bool)], 1),
        targets_BT=short.targets_BT,
        weights=short.weights,
    )
    found = [codes(quantise_model(module, scheme, [batch])) for batch in (short, longer)]
    close = 2e-2 if method == "entropy" else 1e-4  # a threshold is a whole number of bins
    for name, one in found[0].items():
        assert found[1][name].inputs.step.item() == pytest.approx(one.inputs.step.item(), rel=close)


def test_static_ranges_are_those_of_what_each_layer_reads():
    module, batch = tiny("llama", "causal-lm"), rows()
    seen = {}
    for name in sites(module, STATIC).linears:
        module.get_submodule(name).register_forward_pre_hook(lambda _, args, name=name: seen.__setitem__(name, args[0]))
    logits(module, batch)
    for one in module.modules():
        one._forward_pre_hooks.clear()
    found = codes(quantise_model(module, QuantScheme(activations=Activations("min-max")), [batch]))
    for name, values in seen.items():
        real = values[batch.attention_BL].double()
        step, zero = oracle.steps(real.min().item(), real.max().item(), 8, False)
        assert found[name].inputs.step.item() == pytest.approx(step, rel=1e-5)
        assert abs(found[name].inputs.zero.item() - zero) <= 1


class TestCodes:
    def test_they_are_the_weights(self):
        quantised = quantise_model(tiny("llama", "causal-lm"), INT4)
        for name, one in codes(quantised).items():
            assert one.codes.dtype == torch.int8
            assert one.codes.abs().max() <= 7
            assert torch.equal(dequantise(one.codes, one.steps, one.grid), quantised.get_submodule(name).weight)

    def test_they_are_those_of_the_model_in_floats(self):
        module = tiny("bert", "classify")
        for name, one in codes(quantise_model(module, DYNAMIC)).items():
            weight = module.get_submodule(name).weight.detach()
            assert torch.equal(one.codes, quantise(weight, fitted(weight, Grid()), Grid()))
            assert one.inputs is None
            assert one.input_grid == Grid(8, symmetric=False)

    def test_overflow_fix(self):
        fixed = QuantScheme(activations=Activations("dynamic"), overflow_fix=True)
        module = tiny("bert", "classify")
        assert overflows(DYNAMIC.weight_grid, DYNAMIC.activations.grid)
        assert not overflows(fixed.weight_grid, fixed.activations.grid)
        most = {}
        for name, scheme in (("8", DYNAMIC), ("7", fixed)):
            found = torch.cat([one.codes.flatten() for one in codes(quantise_model(module, scheme)).values()]).int()
            # The worst input, 255 where the weight's sign is one: pairs of products in 16 bits.
            most[name] = int((255 * found[::2] + 255 * found[1::2]).abs().max())
        assert most["7"] <= 2**15 - 1 < most["8"]


class TestKept:
    def test_by_default_only_linears_within_blocks(self):
        module = MeanPooledClassifier(tiny("bert", "classify").bert)
        found = sites(module, WEIGHTS)
        assert len(found.linears) == 4 * 6
        assert all(".layer." in name for name in found.linears)
        assert found.embeddings == ()

    def test_head_and_embeddings_when_they_are_not_kept(self):
        module = tiny("bert", "classify")
        found = sites(module, QuantScheme(keep=()))
        assert {"classifier", "bert.pooler.dense"} <= set(found.linears)
        assert len(found.embeddings) == 3
        quantised = quantise_model(module, QuantScheme(keep=()))
        assert isinstance(quantised.bert.embeddings.word_embeddings, FakeEmbedding)
        assert isinstance(quantised.classifier, FakeLinear)
        assert torch.allclose(logits(quantised, rows()), logits(module, rows()), atol=0.1)

    def test_skip_takes_layers_and_what_holds_them(self):
        scheme = QuantScheme(skip=("bert.encoder.layer.0", "bert.encoder.layer.1.output.dense"))
        assert len(sites(tiny("bert", "classify"), scheme).linears) == 4 * 6 - 6 - 1

    @pytest.mark.parametrize("kind", ["llama", "bert"])
    def test_tied_weights_are_one(self, kind):
        module = tiny(kind, "causal-lm" if kind == "llama" else "masked-lm")
        quantised = quantise_model(module, QuantScheme(keep=()))
        table, head = quantised.get_input_embeddings(), quantised.get_output_embeddings()
        assert table.weight is head.weight
        assert table.weight_grid is head.weight_grid
        found = codes(quantised)
        names = {one: name for name, one in quantised.named_modules(remove_duplicate=False)}
        assert torch.equal(found[names[table]].codes, found[names[head]].codes)
        saved = 3 * table.weight.numel() - 4 * table.weight.shape[0]  # a byte for a float, less the steps of rows
        untied = size_bytes(quantise_model(module, QuantScheme(keep=ALL)))
        others = [one for name, one in found.items() if name not in sites(module, WEIGHTS).linears]
        others = [one for one in others if one.codes.shape != table.weight.shape]
        saved += sum(3 * one.codes.numel() - 4 * one.codes.shape[0] for one in others)
        assert untied - size_bytes(quantised) == saved


class TestSize:
    def test_by_hand(self):
        # A network of 8 x 6 and 6 x 4: codes, a step per row, biases in fp32; static inputs have a step and a zero.
        network = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4))
        scheme = QuantScheme(keep=("embeddings",))
        assert size_bytes(network) == 4 * (48 + 6 + 24 + 4)
        assert size_bytes(quantise_model(network, scheme)) == (48 + 24) + 4 * (6 + 4) + 4 * (6 + 4)
        static = QuantScheme(activations=Activations("min-max"), keep=("embeddings",))
        quantised = quantise_model(network, static, [torch.randn(20, 8)])
        assert size_bytes(quantised) == (48 + 24) + 4 * (6 + 4) + 4 * (6 + 4) + 2 * (4 + 1)
        groups = QuantScheme(weights=Grid(4, per="group", group=2, step_bits=16), keep=("embeddings",))
        assert size_bytes(quantise_model(network, groups)) == (48 + 24) // 2 + 2 * (24 + 12) + 4 * (6 + 4)


class TestPlain:
    def test_ordinary_layers_that_transformers_loads(self, tmp_path):
        module = tiny("bert", "classify")
        quantised = quantise_model(module, QuantScheme(keep=(), activations=Activations("min-max")), [rows()])
        ordinary = plain(quantised)
        assert not any(isinstance(one, (FakeLinear, FakeEmbedding, InputGrid, TokenGrid)) for one in ordinary.modules())
        assert set(ordinary.state_dict()) == set(module.state_dict())
        assert not ordinary._forward_pre_hooks
        ordinary.save_pretrained(tmp_path)
        loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
        weights_alone = quantise_model(module, QuantScheme(keep=()))
        assert torch.equal(logits(loaded, rows()), logits(weights_alone, rows()))

    def test_a_copy_keeps_its_own_mask(self):
        quantised = quantise_model(tiny("bert", "classify"), STATIC, [rows()])
        twin = copy.deepcopy(quantised)
        logits(twin, rows())
        layer = "bert.encoder.layer.0.output.dense"
        assert twin.get_submodule(layer).input_grid.padding.mask is not None
        assert quantised.get_submodule(layer).input_grid.padding.mask is None


class TestRefused:
    def test_schemes(self):
        with pytest.raises(InputError, match="overflow_fix with activations in floats"):
            QuantScheme(overflow_fix=True)
        with pytest.raises(InputError, match="overflow_fix with weights of 4 bits"):
            QuantScheme(Grid(4), Activations(), overflow_fix=True)
        with pytest.raises(InputError, match="percentile 99 with method mse"):
            Activations(percentile=99.0)

    @pytest.mark.parametrize("keep", [("embeddings",), ("head",)])
    def test_tied_weights_quantised_apart(self, keep):
        with pytest.raises(InputError, match=r"lm_head|embed_tokens") as found:
            quantise_model(tiny("llama", "causal-lm"), QuantScheme(keep=keep))
        assert "tied embeddings" in str(found.value)

    def test_calibration_sets(self):
        module = tiny("bert", "classify")
        one_class = dataclasses.replace(rows(), targets_BT=torch.ones(3, 1, dtype=torch.long))
        with pytest.raises(DataError, match="calibration set is empty"):
            quantise_model(module, STATIC)
        with pytest.raises(DataError, match="all 3 labelled calibration rows are of class 1"):
            quantise_model(module, STATIC, [one_class])
        with pytest.raises(InputError, match="choose a static method"):
            quantise_model(module, WEIGHTS, [rows()])

    def test_numbers_that_are_not_finite(self):
        module = tiny("bert", "classify")
        with torch.no_grad():
            module.bert.embeddings.word_embeddings.weight[6:] = math.nan
        with pytest.raises(NumbersError, match=r"not finite at bert.encoder.layer.0.attention.self.query"):
            quantise_model(module, STATIC, [rows()])
        assert not any(one._forward_pre_hooks for one in module.modules())
        with torch.no_grad():
            module.bert.encoder.layer[2].output.dense.weight[0, 0] = math.inf
        with pytest.raises(NumbersError, match="not finite"):
            quantise_model(module, WEIGHTS)

    def test_architectures_and_layers(self):
        with pytest.raises(ModelError, match=r"GPT2LMHeadModel .* supported are bert, .* llama"):
            quantise_model(tiny("gpt2", "causal-lm"), WEIGHTS)
        with pytest.raises(ModelError, match="Gemma3TextScaledWordEmbedding, not a plain Embedding"):
            quantise_model(tiny("gemma3_text", "causal-lm"), QuantScheme(keep=()))
        with pytest.raises(InputError, match="Sequential is no transformers model"):
            quantise_model(nn.Sequential(nn.Linear(2, 2)), WEIGHTS)
        with pytest.raises(ModelError, match="has grids already"):
            quantise_model(quantise_model(tiny("bert", "classify"), WEIGHTS), WEIGHTS)

    def test_names_and_groups(self):
        module = tiny("bert", "classify")
        with pytest.raises(InputError, match=r"`bert.encoder.layer.9` .* nearest is `bert.encoder.layer"):
            quantise_model(module, QuantScheme(skip=("bert.encoder.layer.9",)))
        with pytest.raises(InputError, match="nothing is left"):
            quantise_model(module, QuantScheme(skip=("bert",)))
        with pytest.raises(InputError, match="rows of 16 values do not come out even in groups of 32"):
            quantise_model(module, SCHEMES["int4-weights"])

    def test_a_layer_that_no_row_reaches(self):
        class Two(nn.Module):
            def __init__(self):
                super().__init__()
                self.used, self.idle = nn.Linear(3, 2), nn.Linear(3, 2)

            def forward(self, inputs):
                return self.used(inputs)

        with pytest.raises(DataError, match="no value was observed at idle"):
            quantise_model(Two(), QuantScheme(activations=Activations(), keep=()), [torch.randn(4, 3)])
