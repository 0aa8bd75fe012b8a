"""Parameters that learn beside the student: saved with the training, exact on resume, never in a product."""

import math

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from potstill.core.errors import CheckpointError
from potstill.core.outcome import Loss
from potstill.train.capture import COMPANION, load_weights
from potstill.train.loop import train
from potstill.train.optimise import bound_gradients, build_optimiser, gradient_norm
from potstill.train.plan import Companion
from potstill.train.stop import StopFlag
from tests.train.tiny_run import VOCABULARY, Half, TinyLM, curve, digest, plan, settings


class Bent(Half):
    """Half, with the teacher seen through a matrix that is learnt."""

    def __init__(self):
        torch.manual_seed(5)
        self.module = nn.Linear(VOCABULARY, VOCABULARY, bias=False)
        self.scale = 1.0

    def loss(self, batch, signal, outputs, totals=None):
        found = super().loss(batch, signal, outputs, totals)
        bent = self.module(signal.logits.logits_BTV) - outputs.logits_BTV.detach()
        own = self.scale * (bent**2).mean() / max(1, len(totals or ()))
        return Loss(found.total + own, {**found.parts, "own": float(own.detach())}, found.counts)


def bent_plan(folder, **changes):
    objective = changes.pop("objective", None) or Bent()
    companion = Companion(objective.module, learning_rate=0.003, gradient_limit=0.5)
    return plan(folder, objective=objective, companion=companion, **changes)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    made = bent_plan(folder)
    train(made, flag=StopFlag())
    return digest(made.module), digest(made.companion.module), curve(folder)


class Vanished(Exception):
    pass


@pytest.mark.parametrize("cut", [2, 4, 7, 11])
def test_resumed_bit_for_bit(undisturbed, tmp_path, cut):
    class Vanish:
        def notice(self, event, progress, values):
            if event == "step" and progress.step == cut:
                raise Vanished

    with pytest.raises(Vanished):
        train(bent_plan(tmp_path), flag=StopFlag(), observers=[Vanish()])
    torch.rand(cut)
    again = bent_plan(tmp_path)
    train(again, flag=StopFlag())
    assert (digest(again.module), digest(again.companion.module), curve(tmp_path)) == undisturbed


def test_it_learns_and_is_saved_apart_from_the_student(tmp_path):
    made = bent_plan(tmp_path, max_steps=3)
    start = digest(made.companion.module)
    result = train(made, flag=StopFlag())
    assert digest(made.companion.module) != start
    saved = load_file(result.last / "objective.safetensors")
    assert torch.equal(saved["weight"], made.companion.module.weight)
    assert set(load_file(result.last / "model.safetensors")) < set(TinyLM().state_dict())
    assert "objective.weight|exp_avg" in load_file(result.last / "optimizer.safetensors")


def test_the_student_learns_as_without_it(tmp_path):
    """Its gradients, however large, do not enter the norm that bounds the student's."""
    loud = Bent()
    loud.scale = 1e4
    with_one, without = bent_plan(tmp_path / "a", objective=loud), plan(tmp_path / "b")
    train(with_one, flag=StopFlag())
    train(without, flag=StopFlag())
    assert digest(with_one.module) == digest(without.module)


def test_its_gradient_is_clamped_entry_by_entry():
    module, own = nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)
    optimiser = build_optimiser(module, settings(), companion=Companion(own, 1e-4, 1.0))
    module.weight.grad = torch.full((2, 2), 3.0)
    own.weight.grad = torch.tensor([[0.25, -40.0]])
    norm = gradient_norm(optimiser)
    assert norm == pytest.approx(6.0)
    bound_gradients(optimiser, norm, 1.5)
    assert own.weight.grad.tolist() == [[0.25, -1.0]]
    torch.testing.assert_close(module.weight.grad, torch.full((2, 2), 0.75), rtol=1e-5, atol=0)


def test_it_has_its_own_rate():
    module, own = nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)
    optimiser = build_optimiser(module, settings(), companion=Companion(own, 1e-4, 1.0))
    rates = {name: group["base_lr"] for group in optimiser.param_groups for name in group["param_names"]}
    assert rates == {"weight": 0.02, "objective.weight": 1e-4}


def test_a_gradient_that_is_not_finite_is_noticed_and_named(tmp_path):
    class Broken(Bent):
        def loss(self, batch, signal, outputs, totals=None):
            found = super().loss(batch, signal, outputs, totals)
            hook = self.module.weight.register_hook(lambda grad: torch.full_like(grad, math.nan))
            self.hook = hook
            return found

    made = bent_plan(tmp_path, objective=Broken(), skip_bad_steps=99, max_steps=2)
    start = digest(made.module)
    result = train(made, flag=StopFlag())
    assert result.skipped == 2
    assert digest(made.module) == start
    assert "gradient of objective.weight" in (tmp_path / "metrics.jsonl").read_text()


def test_the_timed_precision_leaves_no_gradient_behind(tmp_path, monkeypatch):
    from potstill.train import resume

    monkeypatch.setattr(resume, "has_native_bf16", lambda device: True)
    made = bent_plan(tmp_path, bf16="auto", max_steps=1)
    seen = []

    class Look:
        def notice(self, event, progress, values):
            if event == "start":
                seen.append(made.companion.module.weight.grad)

    train(made, flag=StopFlag(), observers=[Look()])
    assert seen == [None]


def test_a_save_without_it_is_refused(tmp_path):
    result = train(plan(tmp_path, max_steps=1), flag=StopFlag())
    with pytest.raises(CheckpointError, match=r"holds no objective\.safetensors"):
        load_weights(result.last, nn.Linear(1, 1), COMPANION)
