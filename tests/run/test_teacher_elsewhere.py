"""A run whose teacher is elsewhere learns what it would have learnt with the teacher here, whatever happens on the way:
the same batches in the same order, and the same weights to the last bit."""

import contextlib
import os
import threading
import time
from functools import partial

import pytest
import torch

from potstill.core.errors import Stopped, TeacherError
from potstill.core.signal import DenseLogits, Signal
from potstill.teachers.ahead import Ahead
from potstill.teachers.limits import Limits
from potstill.train.loop import train
from potstill.train.stop import StopFlag
from tests.teachers import faults
from tests.teachers.served import Served, identity, remote, service_of
from tests.train import tiny_run

STEPS = int(os.environ.get("POTSTILL_CHAOS_STEPS", "48"))


class EchoElsewhere:
    """The frozen tiny teacher of the tiny run, as a service has it. used: batches it was asked about."""

    def __init__(self):
        """Its weights are drawn without a trace in the random numbers of the run, which is in this process too."""
        self.identity = identity(size=tiny_run.VOCABULARY)
        with torch.random.fork_rng(devices=[]):
            self.model = tiny_run.TinyLM(seed=7).eval()

    @property
    def voice(self):
        return self.identity.voice

    def signal(self, batch, want):
        with torch.no_grad():
            return Signal(self.voice, DenseLogits(3 * self.model(batch.tokens_BL)))


class Heard:
    """A teacher that remembers which batches it was learnt from, and that each signal was the true one."""

    def __init__(self, teacher):
        self.teacher, self.true, self.ids, self.bad = teacher, EchoElsewhere(), [], 0

    @property
    def voice(self):
        return self.teacher.voice

    def signal(self, batch, want):
        said = self.teacher.signal(batch, want)
        asked = (batch.weights["soft"] != 0)[..., None]
        true = self.true.signal(batch, want).logits.logits_BTV * asked
        self.ids.append(batch.ids)
        self.bad += not torch.equal(said.logits.logits_BTV * asked, true)
        return said


class Notes:
    """Events of a run. on: called with each."""

    def __init__(self, on=lambda event, progress: None):
        self.events, self.on = [], on

    def notice(self, event, progress, values):
        self.events.append((event, progress.step))
        self.on(event, progress)


@contextlib.contextmanager
def elsewhere(heads, *, wrap=None, port=0, **terms):
    served = Served(service_of(EchoElsewhere(), limits=Limits(deadline_s=20)), wrap=wrap, port=port)
    try:
        yield served
    finally:
        served.stop()


def run(folder, teacher, *, prefetch=2, flag=None, notes=None, **changes):
    source = tiny_run.Source()
    heard = Heard(teacher)
    ahead = Ahead(source, prefetch, lambda _, batch: teacher.expect(batch, tiny_run.Half().want()), teacher.forget)
    plan = tiny_run.plan(folder, teacher=heard, source=ahead if prefetch else source, **changes)
    train(plan, flag=flag or StopFlag(), observers=[notes or Notes()])
    return plan, heard


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The same run with the teacher in this process, `STEPS` long: weights, curve, and the batches in their order."""
    folder = tmp_path_factory.mktemp("undisturbed")
    source = tiny_run.Source()
    plan = tiny_run.plan(folder, max_steps=STEPS, source=source)
    train(plan, flag=StopFlag())
    return tiny_run.digest(plan.module), tiny_run.curve(folder), source.drawn


def the_same(plan, folder, undisturbed):
    weights, curve, _ = undisturbed
    assert tiny_run.curve(folder) == curve
    assert tiny_run.digest(plan.module) == weights


@pytest.mark.parametrize("prefetch", [0, 1, 5])
def test_a_teacher_elsewhere_teaches_the_same_bit_for_bit(prefetch, undisturbed, tmp_path):
    with elsewhere(tmp_path) as served:
        teacher = remote(served.http, tmp_path)
        plan, heard = run(tmp_path / "run", teacher, prefetch=prefetch, max_steps=STEPS)
    the_same(plan, tmp_path / "run", undisturbed)
    assert heard.bad == 0


def test_chaos(undisturbed, tmp_path):
    """20 % errors, 5 % hangs, 1 % garbage and one restart: the run completes, with the same batches in the same order,
    and nothing of a bad answer is used."""
    chaos = faults.Chaos(errors=0.20, hangs=0.05, garbage=0.01, seed=0)
    served = [Served(service_of(EchoElsewhere()), wrap=chaos)]
    port = served[0].port

    def restart(event, progress):
        if event == "step" and progress.step == STEPS // 2 and len(served) == 1:
            served[0].stop()
            served.append(Served(service_of(EchoElsewhere()), wrap=chaos, port=port))

    teacher = remote(served[0].http, tmp_path, timeout_s=0.5)
    plan, heard = run(tmp_path / "run", teacher, notes=Notes(restart), max_steps=STEPS)
    served[-1].stop()
    assert len(served) == 2
    the_same(plan, tmp_path / "run", undisturbed)
    assert heard.bad == 0
    assert heard.ids == undisturbed[2][: len(heard.ids)]
    assert len(heard.ids) == 2 * STEPS
    assert min(chaos.did[kind] for kind in ("errors", "hangs", "garbage", "sound")) >= 1, chaos.did
    assert teacher.counts["refused"] == chaos.did["garbage"]


def test_when_every_teacher_is_gone_the_run_saves_and_waits_and_goes_on(undisturbed, tmp_path):
    served = [Served(service_of(EchoElsewhere()))]
    port, notes, saved = served[0].port, Notes(), []

    def on(event, progress):
        if event == "step" and progress.step == 7 and len(served) == 1:
            served[0].stop()
            served.append(None)
        elif event == "pause":
            saved.extend(folder.name for folder in (tmp_path / "run" / "checkpoints").iterdir())
            threading.Timer(0.5, lambda: served.append(Served(service_of(EchoElsewhere()), port=port))).start()

    notes.on = on
    teacher = remote(served[0].http, tmp_path, timeout_s=0.3)
    plan, heard = run(tmp_path / "run", teacher, notes=notes, max_steps=STEPS)
    served[-1].stop()
    paused = next(step for event, step in notes.events if event == "pause")
    assert 7 <= paused <= 9
    assert f"step-{paused}" in saved
    assert ("resume", paused) in notes.events
    the_same(plan, tmp_path / "run", undisturbed)
    assert heard.bad == 0


def test_stopped_while_it_waits_it_is_saved_and_resumes(undisturbed, tmp_path):
    served = [Served(service_of(EchoElsewhere()))]
    port, flag = served[0].port, StopFlag()

    def on(event, progress):
        if event == "step" and progress.step == 5 and len(served) == 1:
            served[0].stop()
            served.append(None)
        elif event == "pause":
            threading.Timer(0.3, flag.request, (15,)).start()

    started = time.monotonic()
    teacher = remote(served[0].http, tmp_path, timeout_s=0.3)
    with pytest.raises(Stopped, match="saved at step"):
        run(tmp_path / "run", teacher, notes=Notes(on), flag=flag, max_steps=STEPS)
    assert time.monotonic() - started < 30
    with elsewhere(tmp_path, port=port) as again:
        plan, heard = run(tmp_path / "run", remote(again.http, tmp_path), max_steps=STEPS)
    the_same(plan, tmp_path / "run", undisturbed)
    assert heard.bad == 0


def test_a_teacher_that_comes_back_with_other_weights_ends_the_run_saved(tmp_path):
    served = [Served(service_of(EchoElsewhere()))]
    port = served[0].port

    def on(event, progress):
        if event == "step" and progress.step == 5 and len(served) == 1:
            served[0].stop()
            other = EchoElsewhere()
            other.identity = identity(weights="v" * 64, size=tiny_run.VOCABULARY)
            served.append(Served(service_of(other), port=port))

    teacher = remote(served[0].http, tmp_path)
    with pytest.raises(TeacherError, match="another teacher"):
        run(tmp_path / "run", teacher, notes=Notes(on), max_steps=STEPS)
    served[-1].stop()
    steps = [int(folder.name.removeprefix("step-")) for folder in (tmp_path / "run" / "checkpoints").iterdir()]
    assert max(steps) >= 5


def test_a_teacher_that_answers_wrongly_ends_the_run_saved(tmp_path):
    bad = faults.Chaos(errors=0, hangs=0, garbage=0, seed=1)

    def on(event, progress):
        if event == "step" and progress.step == 4:
            bad.shares = (0, 0, 1.0)

    with elsewhere(tmp_path, wrap=bad) as served:
        teacher = remote(served.http, tmp_path, refuse_after=2)
        with pytest.raises(TeacherError, match="refuse_after = 2"):
            run(tmp_path / "run", teacher, notes=Notes(on), max_steps=STEPS)
    assert any(folder.name in ("step-4", "step-5", "step-6") for folder in (tmp_path / "run" / "checkpoints").iterdir())


def noted(seen, number, batch):
    assert number == len(seen)
    seen.append(batch)


class TestAhead:
    def test_the_state_is_that_of_the_next_batch_however_far_it_looked(self):
        for depth in (1, 3, 40):
            seen, source = [], tiny_run.Source()
            ahead = Ahead(source, depth, partial(noted, seen), seen.clear)
            plain = tiny_run.Source()
            for _ in range(20):
                assert ahead.state() == plain.state()
                assert ahead.next().ids == plain.next().ids
            assert len(seen) == 20 + depth
            ahead.restore({"position": 6})
            assert seen == []
            plain.restore({"position": 6})
            assert ahead.next().ids == plain.next().ids
            assert ahead.state() == plain.state()
