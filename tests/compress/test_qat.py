"""Training on a grid: that it is ordinary training, that what is exported is what was trained, and that it pays."""

import statistics

import pytest
import torch
from torch import nn
from torch.nn import functional

from potstill.compress.fake import InputGrid
from potstill.compress.grids import Grid, dequantise, integer_linear, quantise
from potstill.compress.ptq import codes, quantise_model
from potstill.compress.qat import finish, freeze_ranges, prepare_qat
from potstill.compress.scheme import SCHEMES, Activations, QuantScheme
from potstill.core.errors import DataError, ModelError
from potstill.core.signal import Want
from potstill.students.taps import outputs
from tests.benchmarks.scripts import script
from tests.compress.test_ptq import rows
from tests.students.tiny import tiny

STATIC = QuantScheme(Grid(4), Activations("min-max"))
GROUPS = QuantScheme(Grid(4, per="group", group=8), keep=())
BARE = ("embeddings",)


def trained(module, steps, learning_rate=1e-3, freeze_at=None):
    """A few ordinary AdamW steps on a batch."""
    optimiser = torch.optim.AdamW(module.parameters(), lr=learning_rate, weight_decay=0.1)
    batch = rows()
    module.train()
    for step in range(steps):
        if step == freeze_at:
            freeze_ranges(module)
        optimiser.zero_grad()
        logits = outputs(module, batch, Want(logits=True)).logits_BTV
        functional.cross_entropy(logits[:, 0], batch.targets_BT[:, 0]).backward()
        optimiser.step()
    return module


class TestOrdinaryTraining:
    @pytest.mark.parametrize("steps", ["learned", "straight-through"])
    @pytest.mark.parametrize("scheme", [STATIC, SCHEMES["int8-dynamic"], GROUPS], ids=["static", "dynamic", "groups"])
    @pytest.mark.parametrize("kind", ["bert", "llama"])
    def test_the_loss_falls_and_the_codes_are_those_of_the_forward_pass(self, kind, scheme, steps):
        module, batch = tiny(kind, "classify"), rows()
        module.config.pad_token_id = 0
        calibration = [batch] if scheme is STATIC else []
        twin = prepare_qat(module, scheme, calibration, steps=steps)

        def loss(one):
            with torch.no_grad():
                found = outputs(one.eval(), batch, Want(logits=True)).logits_BTV[:, 0]
            return float(functional.cross_entropy(found, batch.targets_BT[:, 0]))

        before = loss(twin)
        trained(twin, 12, 3e-3, freeze_at=8)
        assert loss(twin) < before - 0.05
        done = finish(twin)
        twin.eval()
        for name, one in done.codes.items():
            layer = twin.get_submodule(name)
            used = layer.weight_grid(layer.weight).detach()
            assert torch.equal(dequantise(one.codes, one.steps, one.grid), used)
            assert torch.equal(done.module.get_submodule(name).weight, used)
            # Rounded once is rounded for good: the export's own rounding of these weights gives the same codes.
            assert torch.equal(quantise(used, one.steps, one.grid), one.codes)
        assert set(done.module.state_dict()) == set(module.state_dict())

    def test_the_integer_model_is_the_trained_model(self):
        network = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 3))
        inputs = torch.randn(64, 12)
        twin = prepare_qat(network, QuantScheme(Grid(8), Activations("mse"), keep=BARE), [inputs])
        optimiser = torch.optim.SGD(twin.parameters(), lr=0.1)
        for _ in range(20):
            optimiser.zero_grad()
            functional.cross_entropy(twin(inputs), (inputs[:, 0] > 0).long()).backward()
            optimiser.step()
        freeze_ranges(twin)
        exported = finish(twin).codes

        def layer(name, values):
            one = exported[name]
            codes_x = quantise(values, one.inputs, one.input_grid)
            return integer_linear(codes_x, one.inputs, one.codes, one.steps) + twin.get_submodule(name).bias

        integers = layer("2", layer("0", inputs).relu())
        # An input of the second layer on the edge of two codes may fall to either side: fewer than 1 in 100 rows.
        apart = (integers - twin(inputs)).abs().amax(1)
        assert (apart < 1e-6).float().mean() >= 0.98

    def test_learned_steps_are_parameters_that_move(self):
        twin = prepare_qat(tiny("bert", "classify"), STATIC, [rows()])
        steps = {name: one for name, one in twin.named_parameters() if name.endswith(".step")}
        assert len(steps) == 2 * 24
        before = {name: one.detach().clone() for name, one in steps.items()}
        trained(twin, 3)
        assert all(not torch.equal(one, before[name]) for name, one in steps.items())

    def test_it_starts_where_post_training_quantisation_ends(self):
        module = tiny("bert", "classify")
        twin, quantised = prepare_qat(module, STATIC, [rows()]).eval(), quantise_model(module, STATIC, [rows()])
        found = [outputs(one, rows(), Want(logits=True)).logits_BTV for one in (twin, quantised)]
        assert torch.equal(*found)


class TestRanges:
    def ranges(self, module):
        return {name: one.steps() for name, one in module.named_modules() if isinstance(one, InputGrid)}

    def test_moving_ranges_move_in_training_alone_and_stop_when_frozen(self):
        twin = prepare_qat(tiny("bert", "classify"), STATIC, steps="straight-through")

        def moved():
            before = self.ranges(twin)
            with torch.no_grad():
                outputs(twin, rows(), Want(logits=True))
            return any(one.step != before[name].step for name, one in self.ranges(twin).items())

        twin.eval()
        assert not moved()
        twin.train()
        assert moved()
        trained(twin, 2)
        freeze_ranges(twin)
        twin.train()
        assert not moved()

    def test_frozen_steps_stand_whatever_the_optimiser_holds(self):
        twin = prepare_qat(tiny("bert", "classify"), STATIC, [rows()])
        optimiser = torch.optim.AdamW(twin.parameters(), lr=1e-2, weight_decay=0.5)
        held = None
        for step in range(6):
            if step == 3:
                freeze_ranges(twin)
                held = codes(twin)
            optimiser.zero_grad()
            outputs(twin, rows(), Want(logits=True)).logits_BTV.square().mean().backward()
            optimiser.step()
        after = codes(twin)
        assert all(torch.equal(one.steps.step, after[name].steps.step) for name, one in held.items())
        assert all(torch.equal(one.inputs.step, after[name].inputs.step) for name, one in held.items())
        assert any(not torch.equal(one.codes, after[name].codes) for name, one in held.items())

    def test_state_is_saved_and_read_back(self):
        module = tiny("bert", "classify")
        twin = trained(prepare_qat(module, STATIC, steps="straight-through"), 3)
        again = prepare_qat(module, STATIC, steps="straight-through")
        again.load_state_dict(twin.state_dict())
        for one in (twin, again):
            freeze_ranges(one)
        first, second = finish(twin).codes, finish(again).codes
        assert all(torch.equal(one.codes, second[name].codes) for name, one in first.items())
        assert all(torch.equal(one.inputs.step, second[name].inputs.step) for name, one in first.items())


class TestRefused:
    def test_learned_steps_without_rows(self):
        with pytest.raises(DataError, match="there is no calibration set"):
            prepare_qat(tiny("bert", "classify"), STATIC)

    def test_out_of_order(self):
        module = tiny("bert", "classify")
        for one in (prepare_qat(module, STATIC, [rows()]), prepare_qat(module, STATIC, steps="straight-through")):
            with pytest.raises(ModelError, match="ranges still move"):
                finish(one)
        with pytest.raises(ModelError, match="no batch has passed"):
            freeze_ranges(prepare_qat(module, STATIC, steps="straight-through"))
        for act in (freeze_ranges, finish):
            with pytest.raises(ModelError, match="has no grids"):
                act(module)


def test_three_bits_on_digits_one_seed():
    digits = script("qat_digits")
    train, test = digits.split()
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 10))
    floats = digits.fit(network, train, 20, 3e-3, 0)
    scheme = QuantScheme(Grid(3), Activations(bits=8), keep=BARE)
    rounded = digits.accuracy(quantise_model(floats, scheme, [train.inputs[:256]]), test)
    twin = digits.fit(prepare_qat(floats, scheme, [train.inputs[:256]]), train, 6, 1e-3, 0, freeze=4)
    assert digits.accuracy(twin, test) > rounded + 0.02


@pytest.fixture(scope="module")
def digits():
    """Accuracy of every arm of benchmarks/qat_digits.py, three seeds."""
    grids = {"w3a8": (3, 8), "w4a4": (4, 4), "w8a8": (8, 8)}
    measured = [script("qat_digits").run_seed(seed, grids) for seed in range(3)]
    return {arm: [one[arm] for one in measured] for arm in measured[0]}


@pytest.mark.slow
class TestDigits:
    """Real handwritten digits and a network of 64-16-16-10, three seeds."""

    @pytest.mark.parametrize("steps", ["learned steps", "straight through"])
    def test_at_three_bits_the_worst_that_was_trained_beats_the_best_that_was_rounded(self, digits, steps):
        trained, rounded = digits[f"w3a8 QAT, {steps}"], digits["w3a8 PTQ"]
        assert min(trained) > max(rounded)
        assert statistics.mean(digits["fp32"]) >= statistics.mean(trained)

    def test_at_four_bits_training_beats_rounding_beyond_the_seeds_spread(self, digits):
        trained, rounded = digits["w4a4 QAT, learned steps"], digits["w4a4 PTQ"]
        gains = [ours - theirs for ours, theirs in zip(trained, rounded, strict=True)]
        assert statistics.mean(gains) > 4.303 * statistics.stdev(gains) / 3**0.5  # Student's t, 95 %, 2 degrees
        assert statistics.mean(digits["fp32"]) >= statistics.mean(trained)

    @pytest.mark.parametrize("steps", ["learned steps", "straight through"])
    def test_at_eight_bits_there_is_nothing_to_gain(self, digits, steps):
        for ours, theirs in zip(digits["w8a8 PTQ"], digits["fp32"], strict=True):
            assert abs(ours - theirs) <= 0.005
        gains = [ours - theirs for ours, theirs in zip(digits[f"w8a8 QAT, {steps}"], digits["w8a8 PTQ"], strict=True)]
        assert abs(statistics.mean(gains)) <= 0.01
