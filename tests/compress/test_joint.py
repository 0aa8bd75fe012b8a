"""Pruning, quantisation and learning at once: the timetable, the curve of sparsity, and the model that leaves."""

from itertools import pairwise

import pytest
import torch
from torch.nn import functional

from potstill.compress.grids import quantise
from potstill.compress.integers import computing, load_integers, save_integers
from potstill.compress.joint import Pressed, Shaping, Timetable, timetable
from potstill.compress.movement import install
from potstill.compress.ptq import codes
from potstill.compress.qat import prepare_qat
from potstill.compress.scheme import SCHEMES, QuantScheme
from potstill.core.errors import InputError, ModelError
from potstill.core.outcome import Loss
from potstill.core.signal import Outputs, Want
from potstill.export.strip import refuse_training_parts
from potstill.students.axes import sizes_of
from potstill.students.taps import outputs
from tests.compress.calibration import model, rows_for

TIMES = Timetable(start=4, end=8, freeze=10, pressure=0.5, final=0.0, first_share=0.05)


def logits(module, batch):
    with torch.no_grad():
        return outputs(module.eval(), batch, Want()).logits_BTV


def student(kind="bert", kinds=("neurons",), scheme="int8-static", times=TIMES, steps="learned"):
    module, batch = model(kind, torch.float32), rows_for(kind)
    static = scheme == "int8-static"
    twin = prepare_qat(module, SCHEMES[scheme], [batch] if static else [], steps=steps) if scheme else module
    return Shaping(twin, install(twin, kinds), times), batch


def trained(shaping, batch, steps=12, after=lambda step: None):
    """AdamW, weight decay and all, with the regulariser in the loss."""
    module = shaping.module.train()
    optimiser = torch.optim.AdamW(module.parameters(), lr=3e-3, weight_decay=0.1)
    for step in range(steps):
        shaping.before(step)
        found = outputs(module, batch, Want()).logits_BTV
        loss = functional.cross_entropy(found[:, 0], batch.targets_BT[:, 0])
        penalty = shaping.penalty()
        (loss if penalty is None else loss + penalty).backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        after(step + 1)
    return shaping


class TestTimetable:
    def test_threshold_and_pressure_rise_by_the_cubic(self):
        """1 - (1 - u)^3 at u = 0, 1/4, 1/2, 3/4, 1."""
        times = Timetable(start=0, end=4, pressure=1.0, final=1.0)
        values = [float(times.threshold(step, torch.tensor(0.0))) for step in range(5)]
        assert values == [0, 0.578125, 0.875, 0.984375, 1]
        assert [times.weight(step) for step in range(4)] == [0, 0.578125, 0.875, 0.984375]

    def test_the_threshold_goes_from_its_first_value_to_its_last(self):
        times = Timetable(start=10, end=14, final=0.25)
        first = torch.tensor(-1.0)
        assert float(times.threshold(9, first)) == -torch.inf
        values = [float(times.threshold(step, first)) for step in range(10, 15)]
        assert values == pytest.approx([-1 + 1.25 * g for g in (0, 0.578125, 0.875, 0.984375, 1)])

    def test_no_pressure_before_and_after_the_warm_up(self):
        assert [TIMES.weight(step) for step in (0, 3, 8, 20)] == [0, 0, 0, 0]

    def test_shares_become_steps(self):
        times = timetable(100, warmup=(0.2, 0.4), freeze_at=2 / 3)
        assert (times.start, times.end, times.freeze, times.settled) == (20, 40, 67, 68)
        assert timetable(9, warmup=None, freeze_at=0.5).settled == 5
        assert Timetable().settled == 0

    @pytest.mark.parametrize(
        ("steps", "warmup", "freeze"), [(1, (0.2, 0.4), None), (3, (0.1, 0.9), None), (1, None, 0.6)]
    )
    def test_a_training_too_short_for_it_is_refused(self, steps, warmup, freeze):
        with pytest.raises(InputError, match=f"a training of {steps} steps has no room"):
            timetable(steps, warmup=warmup, freeze_at=freeze)


class TestTheCurve:
    def test_sparsity_rises_then_drops_at_the_resolution_and_then_stands(self):
        shaping, batch = student(times=Timetable(start=4, end=12, freeze=14, pressure=0.2))
        curve = [shaping.masked()]
        trained(shaping, batch, 18, lambda step: curve.append(shaping.masked()))
        assert curve[4] == 0
        # The masks of the last step of the warm-up, whose threshold stands in `resolve`'s account.
        done = shaping.finish().resolved
        assert 0 < curve[6] < curve[11] <= done.masked
        assert done.masked > done.joined >= done.settled > 0
        assert curve[13:] == [done.settled] * 6

    def test_scores_and_ranges_stand_after_their_step_whatever_momentum_wants(self):
        shaping, batch = student()
        seen = {}

        def note(step):
            state = shaping.module.state_dict()
            seen[step] = {name: value.clone() for name, value in state.items()}

        trained(shaping, batch, 14, note)
        later = [(seen[one], seen[two]) for one, two in pairwise(range(9, 15))]
        assert all(torch.equal(a[name], b[name]) for a, b in later for name in a if name.endswith("scores"))
        frozen = [name for name in seen[11] if name.endswith(("weight_grid.step", "input_grid.step"))]
        assert frozen
        assert all(torch.equal(seen[11][name], seen[14][name]) for name in frozen)
        assert any(not torch.equal(seen[9][name], seen[10][name]) for name in frozen)


class TestWhatLeaves:
    @pytest.mark.parametrize(
        ("kind", "kinds", "scheme", "steps"),
        [
            ("bert", ("neurons",), "int8-static", "learned"),
            ("bert", ("neurons",), "int8-static", "straight-through"),
            ("roberta", ("neurons",), "int8-dynamic", "learned"),
            ("llama", ("neurons", "groups"), "int8-dynamic", "learned"),
            ("llama", ("groups",), "int8-weights", "straight-through"),
            ("gpt2", ("neurons",), None, "learned"),
            ("qwen3", ("groups", "neurons"), None, "learned"),
        ],
    )
    def test_it_is_physically_smaller_and_says_what_the_masked_one_says(self, kind, kinds, scheme, steps):
        times = Timetable(start=4, end=8, freeze=10 if scheme else None, pressure=0.5, keep={"groups": 1} if
                          "groups" in kinds else {})  # fmt: skip
        shaping, batch = student(kind, kinds, scheme, times, steps)
        trained(shaping, batch)
        done = shaping.finish()
        before, after = done.plan.before, done.plan.after
        assert (after.neurons < before.neurons) == ("neurons" in kinds)
        assert (after.groups < before.groups) == ("groups" in kinds)
        refuse_training_parts(done.module)  # the plain class with a smaller config, and not one weight more
        assert sizes_of(done.module) == after
        masked = logits(shaping.module, batch)
        if scheme is None or scheme == "int8-weights":
            torch.testing.assert_close(logits(done.module, batch), masked, rtol=0, atol=2e-6)

    @pytest.mark.parametrize(("kind", "scheme"), [("bert", "int8-static"), ("llama", "int8-dynamic")])
    def test_its_integers_are_those_of_the_last_pass_and_of_the_saved_weights(self, kind, scheme, tmp_path):
        shaping, batch = student(kind, ("neurons",), scheme)
        trained(shaping, batch)
        done = shaping.finish()
        save_integers(tmp_path, done.codes)
        loaded = load_integers(tmp_path)
        assert list(loaded) == list(done.codes)
        # The saved weights with the steps of the file, through the library's own codes.
        twin = computing(done.module, loaded)
        for name, one in loaded.items():
            weight = done.module.get_submodule(name).weight.detach()
            assert torch.equal(quantise(weight, one.steps, one.grid), one.codes)
        assert all(torch.equal(one.codes, loaded[name].codes) for name, one in codes(twin).items())
        # And what these integers say is what the masked fake-quantised model said when training ended.
        assert (logits(twin, batch) - logits(shaping.module, batch)).abs().max() < 2e-6

    def test_a_training_that_is_not_over_gives_nothing_away(self):
        shaping, batch = student()
        trained(shaping, batch, 9)
        with pytest.raises(ModelError, match="ranges still move"):
            shaping.finish()

    def test_training_only_weights_do_not_leave(self):
        shaping, _ = student()
        with pytest.raises(ModelError, match=r"weights of the student .*served training only"):
            refuse_training_parts(shaping.module)

    def test_tied_tables_are_not_quantised_apart(self):
        with pytest.raises(InputError, match=r"share one weight \(tied embeddings\)"):
            prepare_qat(model("llama", torch.float32), QuantScheme(keep=("embeddings",)))

    def test_integers_of_another_model_are_refused(self):
        shaping, batch = student()
        trained(shaping, batch)
        with pytest.raises(ModelError, match="take those that lie beside this model"):
            computing(model("bert", torch.float32), shaping.finish().codes)

    def test_integers_that_are_not_there(self, tmp_path):
        with pytest.raises(ModelError, match=r"holds no integers\.safetensors"):
            load_integers(tmp_path)


class Plain:
    def want(self):
        return Want(teacher=False)

    def counts(self, batch):
        return {"hard": float(len(batch.ids))}

    def loss(self, batch, signal, outputs, totals=None):
        return Loss(torch.tensor(1.0), {"hard": 1.0}, self.counts(batch))


def test_the_regulariser_counts_once_a_step_however_it_is_cut():
    shaping, batch = student(scheme=None)
    shaping.before(4)
    shaping.before(6)
    objective, said = Pressed(Plain(), shaping), Outputs(torch.zeros(1, 1, 3))
    whole = {"hard": float(len(batch.ids))}
    rows = [batch.take([row]) for row in range(len(batch.ids))]
    pieces = [objective.loss(one, None, said, whole).parts["importance"] for one in rows]
    assert sum(pieces) == pytest.approx(float(shaping.penalty()))
    assert objective.loss(batch, None, said).parts["importance"] == pytest.approx(float(shaping.penalty()))
    shaping.before(0)
    assert set(objective.loss(batch, None, said).parts) == {"hard"}
