"""A source that goes by what was measured: it is handed each evaluation, and a save knows what it made of it."""

from dataclasses import dataclass, field

import pytest

from potstill.core.errors import Stopped
from potstill.train.loop import train
from potstill.train.rollout import Rollouts
from potstill.train.settings import RolloutSettings
from potstill.train.stop import StopFlag
from tests.train.tiny_run import Source, digest, plan


@dataclass
class Careful(Source):
    """Reads other rows from each evaluation on, as the loss was."""

    heard: list = field(default_factory=list)

    def heed(self, progress):
        self.heard.append([progress.step, progress.metrics["loss"]])
        self.position += int(progress.metrics["loss"] * 1000) % 7 + 1

    def state(self):
        return {"position": self.position, "heard": [list(one) for one in self.heard]}

    def restore(self, state):
        self.position, self.heard = state["position"], [list(one) for one in state["heard"]]


def finished(folder, source, **changes):
    made = plan(folder, source=source, **changes)
    with StopFlag() as flag:
        train(made, flag=flag)
    return digest(made.module)


def test_it_is_handed_each_evaluation_once(tmp_path):
    source = Careful()
    finished(tmp_path, source)
    assert [step for step, _ in source.heard] == [4, 8, 12]


@pytest.mark.parametrize("at", [None, 5, 8])
def test_around_it_a_student_may_write(tmp_path, at):
    """Rollouts hand evaluations on, and a training that stopped goes on with both: the source and what was written."""

    def written(source):
        settings = RolloutSettings(lmbda=0.5, prompt_tokens=3)
        return Rollouts(source, lambda prompts, seed: [[1 + seed % 5]] * len(prompts), settings, seed=0, batches=24)

    class Stopping(Careful):
        def next(self):
            if at is not None and len(self.drawn) == 2 * at:
                raise Stopped(15, "now")
            return super().next()

    expected = Careful()
    whole = finished(tmp_path / "whole", written(expected), save_steps=1)
    assert [step for step, _ in expected.heard] == [4, 8, 12]
    if at is not None:
        with pytest.raises(Stopped):
            finished(tmp_path / "cut", written(Stopping()), save_steps=1)
    again = Careful()
    assert finished(tmp_path / "cut", written(again), save_steps=1) == whole
    assert again.heard == expected.heard


@pytest.mark.parametrize("at", [4, 5, 8, 11])
def test_a_run_that_stops_right_after_an_evaluation_goes_on_alike(tmp_path, at):
    """Step 4 and 8 are evaluated and saved: what was heard there is not heard again, and not lost."""
    expected = Careful()
    whole = finished(tmp_path / "whole", expected, save_steps=1)

    class Stopping(Careful):
        def next(self):
            if self.position and len(self.drawn) == 2 * at:
                raise Stopped(15, "now")
            return super().next()

    with pytest.raises(Stopped):
        finished(tmp_path / "cut", Stopping(), save_steps=1)
    again = Careful()
    assert finished(tmp_path / "cut", again, save_steps=1) == whole
    assert again.heard == expected.heard
