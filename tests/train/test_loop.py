"""Exact resume, evaluation, best and last, early stop, skipped steps."""

import itertools
import json
import math

import pytest
import torch

from potstill.core.errors import FolderError, InputError, NumbersError, RunError, SignalError, Stopped
from potstill.core.signal import DenseLogits, Signal
from potstill.train.capture import load_weights
from potstill.train.loop import train
from potstill.train.stop import StopFlag
from tests.train.tiny_run import Echo, Source, TinyLM, curve, digest, plan


class Watcher:
    def __init__(self, at=lambda event, progress: None):
        self.seen, self.at = [], at

    def notice(self, event, progress, values):
        self.seen.append((event, progress, values))
        self.at(event, progress)

    def of(self, event):
        return [(progress.step, values) for name, progress, values in self.seen if name == event]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    made = plan(folder)
    result = train(made, flag=StopFlag())
    return made, result, curve(folder), digest(made.module)


def test_a_run_learns_and_reports(undisturbed):
    _, result, lines, _ = undisturbed
    steps = [line for line in lines if line["event"] == "step"]
    assert [line["step"] for line in steps] == list(range(1, 13))
    assert steps[-1]["loss"] < 0.8 * steps[0]["loss"]
    for line in steps:
        assert line["part.soft"] + line["part.hard"] == pytest.approx(line["loss"], rel=1e-6)
    assert [line["step"] for line in lines if line["event"] == "evaluate"] == [4, 8, 12]
    assert (result.step, result.examples, result.stopped_early) == (12, 72, False)
    assert result.metrics["loss"] == lines[-1]["validation.loss"]


@pytest.mark.parametrize("cut", range(1, 12))
def test_resume_is_bit_identical(undisturbed, tmp_path, cut):
    """A process that vanishes after step `cut`: the next one starts from the last save, 0, 3, 4, 6, 8 or 9."""

    class Vanished(Exception):
        pass

    def vanish(event, progress):
        if event == "step" and progress.step == cut:
            raise Vanished

    with pytest.raises(Vanished):
        train(plan(tmp_path), flag=StopFlag(), observers=[Watcher(vanish)])
    torch.rand(cut)  # the new process stands elsewhere in its random numbers
    again = plan(tmp_path)
    watcher = Watcher()
    train(again, flag=StopFlag(), observers=[watcher])
    assert digest(again.module) == undisturbed[3]
    assert curve(tmp_path) == undisturbed[2]
    assert (watcher.of("start")[0][1]["resumed"] is None) == (cut <= 3)  # the event comes before the save


@pytest.mark.parametrize("where", [1, 5, 7, 12])
@pytest.mark.parametrize("micro_batch", [1, 2])
def test_a_stop_inside_a_step_is_saved_as_if_it_had_not_begun(undisturbed, tmp_path, where, micro_batch):
    class Interrupting(Echo):
        asked = 0

        def signal(self, batch, want):
            self.asked += 1
            if self.asked == 2 * (where - 1) + micro_batch:
                flag.request(15)
            return super().signal(batch, want)

    flag = StopFlag()
    with pytest.raises(Stopped, match=r"saved at step \d+; resume with `potstill resume RUN`") as stopped:
        train(plan(tmp_path, teacher=Interrupting()), flag=flag)
    assert stopped.value.exit_code == 143
    # After the last micro-batch of a step nothing is polled before the update: that step is finished and saved.
    saved = where - 1 if micro_batch == 1 else where
    assert f"saved at step {saved};" in str(stopped.value)
    again = plan(tmp_path)
    train(again, flag=StopFlag())
    assert (digest(again.module), curve(tmp_path)) == (undisturbed[3], undisturbed[2])


@pytest.mark.parametrize("evaluation", [4, 8, 12])
def test_a_stop_inside_an_evaluation_repeats_it(undisturbed, tmp_path, evaluation):
    flag, polls = StopFlag(), []

    def poll():
        polls.append(1)
        if len(polls) == 3 * (evaluation // 4):
            flag.request(2)
        flag.check()

    with pytest.raises(Stopped, match=f"saved at step {evaluation}") as stopped:
        train(plan(tmp_path, poll=poll), flag=flag)
    assert stopped.value.exit_code == 130
    again = plan(tmp_path)
    result = train(again, flag=StopFlag())
    assert (digest(again.module), curve(tmp_path)) == (undisturbed[3], undisturbed[2])
    assert (result.best_step, result.best_value) == (undisturbed[1].best_step, undisturbed[1].best_value)


def test_a_finished_run_is_not_run_again(undisturbed, tmp_path):
    first = train(plan(tmp_path), flag=StopFlag())
    source, watcher = Source(), Watcher()
    made = plan(tmp_path, source=source)
    second = train(made, flag=StopFlag(), observers=[watcher])
    assert source.drawn == []
    assert watcher.of("step") == []
    assert (second.best, second.last, second.metrics, second.seconds) == (
        first.best,
        first.last,
        first.metrics,
        first.seconds,
    )
    assert (digest(made.module), curve(tmp_path)) == (undisturbed[3], undisturbed[2])


def test_evaluating_more_often_changes_nothing(undisturbed, tmp_path):
    made = plan(tmp_path, eval_steps=1)
    train(made, flag=StopFlag())
    assert digest(made.module) == undisturbed[3]


@pytest.mark.parametrize(("metric", "best", "end"), [("loss", 2, 4), ("cost.perplexity", 2, 4), ("accuracy", 1, 3)])
def test_best_and_patience(tmp_path, metric, best, end):
    """Patience 2 ends at the second evaluation in a row that is not better, in the metric's own direction."""
    values = iter([3.0, 1.0, 2.0, 5.0, 4.0])
    made = plan(
        tmp_path,
        evaluate=lambda: {metric: next(values)},
        eval_steps=1,
        max_steps=20,
        early_stop_patience=2,
        metric_for_best_model=metric,
    )
    result = train(made, flag=StopFlag())
    assert (result.best_step, result.step, result.stopped_early) == (best, end, True)
    assert result.best.is_dir()
    assert result.last.name == f"step-{end}"


def test_the_best_weights_outlive_the_keep_limit(tmp_path):
    values = iter([0.1, *range(1, 30)])
    made = plan(
        tmp_path, evaluate=lambda: {"loss": float(next(values))}, eval_steps=1, save_steps=1, save_total_limit=2
    )
    at_best = []
    watcher = Watcher(lambda event, progress: at_best.append(digest(made.module)) if event == "evaluate" else None)
    result = train(made, flag=StopFlag(), observers=[watcher])
    assert sorted(p.name for p in made.checkpoints.iterdir()) == ["step-1", "step-11", "step-12"]
    fresh = TinyLM(seed=99)
    load_weights(result.best, fresh)
    assert digest(fresh) == at_best[0]


def test_patience_survives_a_resume(tmp_path):
    def run(stop_at):
        values = iter({1: 1.0, 2: 2.0, 3: 3.0, 4: 4.0, 5: 5.0}[n] for n in range(done[0] + 1, 6))
        flag = StopFlag()

        def evaluate():
            done[0] += 1
            return {"loss": next(values)}

        watcher = Watcher(lambda e, p: flag.request(15) if e == "evaluate" and p.step == stop_at else None)
        made = plan(tmp_path, evaluate=evaluate, eval_steps=1, max_steps=20, early_stop_patience=3)
        return train(made, flag=flag, observers=[watcher])

    done = [0]
    with pytest.raises(Stopped):
        run(stop_at=2)
    assert run(stop_at=None).step == 4


class Ruined(Echo):
    """A teacher whose logits are NaN for one row."""

    def __init__(self, row):
        super().__init__()
        self.row = row

    def signal(self, batch, want):
        signal = super().signal(batch, want)
        logits = signal.logits.logits_BTV.clone()
        for index, name in enumerate(batch.ids):
            if name == self.row:
                logits[index, 0, 0] = math.nan
        return Signal(self.voice, DenseLogits(logits))


def test_a_bad_step_is_skipped_with_its_rows(tmp_path):
    watcher, weights = Watcher(), []
    made = plan(tmp_path, teacher=Ruined("row-4"), skip_bad_steps=20)
    watcher.at = lambda event, progress: weights.append((event, digest(made.module)))
    result = train(made, flag=StopFlag(), observers=[watcher])
    skips = watcher.of("skip")
    assert result.skipped == len(skips) > 0
    for _, values in skips:
        assert values["ids"] == ("row-4",)
        assert values["part"] == "teacher's logits"
    # Weights and running statistics right after a skip are those of the event before it.
    trained = [(event, found) for event, found in weights if event in ("start", "step", "skip")]
    for before, (event, found) in itertools.pairwise(trained):
        assert event != "skip" or found == before[1]
    lines = [line for line in curve(tmp_path) if line["event"] == "skip"]
    assert [line["ids"] for line in lines] == [["row-4"]] * len(skips)
    assert all(line.get("loss") is None or math.isfinite(line["loss"]) for line in curve(tmp_path))


def test_one_bad_step_too_many_stops(tmp_path):
    made = plan(tmp_path, teacher=Ruined("row-4"), skip_bad_steps=0)
    watcher = Watcher()
    with pytest.raises(NumbersError) as error:
        train(made, flag=StopFlag(), observers=[watcher])
    for part in ("row-4", "teacher's logits", "skip_bad_steps = 0", "lower train.learning_rate", "not applied"):
        assert part in str(error.value)
    assert len(watcher.of("skip")) == 1
    # Nothing that was saved contains the bad step, and resuming meets it again.
    with pytest.raises(NumbersError):
        train(plan(tmp_path, teacher=Ruined("row-4"), skip_bad_steps=0), flag=StopFlag())


def test_skips_survive_a_resume(tmp_path):
    """The run with skips, cut anywhere, is the run with skips."""

    def ruined(folder):
        return plan(folder, teacher=Ruined("row-4"), skip_bad_steps=20)

    whole = ruined(tmp_path / "whole")
    train(whole, flag=StopFlag())
    flag = StopFlag()
    stopper = Watcher(lambda event, progress: flag.request(15) if event == "skip" else None)
    with pytest.raises(Stopped):
        train(ruined(tmp_path / "cut"), flag=flag, observers=[stopper])
    again = ruined(tmp_path / "cut")
    train(again, flag=StopFlag())
    assert (digest(again.module), curve(tmp_path / "cut")) == (digest(whole.module), curve(tmp_path / "whole"))


def test_a_teacher_that_goes_away_costs_no_step(undisturbed, tmp_path):
    class Leaving(Echo):
        asked = 0

        def signal(self, batch, want):
            self.asked += 1
            if self.asked == 10:  # second micro-batch of step 5
                raise RunError("the teacher does not answer")
            return super().signal(batch, want)

    with pytest.raises(RunError, match="does not answer"):
        train(plan(tmp_path, teacher=Leaving()), flag=StopFlag())
    again, watcher = plan(tmp_path), Watcher()
    train(again, flag=StopFlag(), observers=[watcher])
    assert watcher.of("start")[0][1]["resumed"] == "step-4"
    assert (digest(again.module), curve(tmp_path)) == (undisturbed[3], undisturbed[2])


def test_the_curve_holds_means_over_logging_steps(undisturbed, tmp_path):
    train(plan(tmp_path, logging_steps=5), flag=StopFlag())
    losses = [line["loss"] for line in undisturbed[2] if line["event"] == "step"]
    lines = [line for line in curve(tmp_path) if line["event"] == "step"]
    assert [line["step"] for line in lines] == [5, 10, 12]
    for line, part in zip(lines, (losses[:5], losses[5:10], losses[10:]), strict=True):
        assert line["loss"] == pytest.approx(sum(part) / len(part), rel=1e-9)


def test_running_averages_survive_a_resume(tmp_path):
    flag = StopFlag()
    stopper = Watcher(lambda event, progress: flag.request(15) if event == "step" and progress.step == 7 else None)
    train(plan(tmp_path / "whole", logging_steps=5), flag=StopFlag())
    with pytest.raises(Stopped):
        train(plan(tmp_path / "cut", logging_steps=5), flag=flag, observers=[stopper])
    train(plan(tmp_path / "cut", logging_steps=5), flag=StopFlag())
    assert curve(tmp_path / "cut") == curve(tmp_path / "whole")


def test_the_precision_decision_is_kept(tmp_path, monkeypatch):
    """Also when the run dies before its first save, and when the clock would now say otherwise."""

    def probe_says(bf16):
        def choose(setting, probe, *, native, clock):
            probe(True)  # draws dropout masks and touches running statistics
            return resume.Precision(bf16, "by decree")

        return choose

    from potstill.train import resume

    class Vanished(Exception):
        pass

    def vanish(event, progress):
        if event == "step" and progress.step == 2:
            raise Vanished

    monkeypatch.setattr(resume, "choose_bf16", probe_says(True))
    with pytest.raises(Vanished):
        train(plan(tmp_path, bf16="auto"), flag=StopFlag(), observers=[Watcher(vanish)])
    monkeypatch.setattr(resume, "choose_bf16", probe_says(False))
    assert train(plan(tmp_path, bf16="auto"), flag=StopFlag()).precision.bf16
    assert train(plan(tmp_path, bf16="auto"), flag=StopFlag()).precision.bf16


def test_the_probe_leaves_no_trace(undisturbed, tmp_path, monkeypatch):
    from potstill.train import resume

    def choose(setting, probe, *, native, clock):
        for bf16 in (False, True, False):
            probe(bf16)
        return resume.Precision(False, "by decree")

    monkeypatch.setattr(resume, "choose_bf16", choose)
    made = plan(tmp_path, bf16="auto")
    train(made, flag=StopFlag())
    assert digest(made.module) == undisturbed[3]


def test_bf16_resumes_bit_identically(tmp_path):
    train(whole := plan(tmp_path / "whole", bf16=True), flag=StopFlag())
    flag = StopFlag()
    stopper = Watcher(lambda event, progress: flag.request(15) if event == "step" and progress.step == 7 else None)
    with pytest.raises(Stopped):
        train(plan(tmp_path / "cut", bf16=True), flag=flag, observers=[stopper])
    train(again := plan(tmp_path / "cut", bf16=True), flag=StopFlag())
    assert digest(again.module) == digest(whole.module)


def test_another_recipe_does_not_continue_this_run(tmp_path):
    train(plan(tmp_path), flag=StopFlag())
    with pytest.raises(FolderError, match=r"train.learning_rate: 0.02 there, 0.5 now"):
        train(plan(tmp_path, learning_rate=0.5), flag=StopFlag())


def test_contradictions_are_refused(tmp_path):
    with pytest.raises(SignalError, match="there is none"):
        train(plan(tmp_path / "a", teacher=None), flag=StopFlag())
    with pytest.raises(InputError, match=r"metric_for_best_model is f1, but the evaluation returns loss"):
        train(plan(tmp_path / "b", metric_for_best_model="f1"), flag=StopFlag())
    with pytest.raises(NumbersError, match="evaluation's loss is nan"):
        train(plan(tmp_path / "c", evaluate=lambda: {"loss": math.nan}), flag=StopFlag())


def test_without_evaluation_the_last_is_the_best(tmp_path):
    result = train(plan(tmp_path, evaluate=None, eval_steps=None, save_steps=None), flag=StopFlag())
    assert result.best == result.last
    assert result.best_value is None
    assert result.last.is_dir()
    state = json.loads((result.last / "state.json").read_text())
    assert state["step"] == 12
    assert state["standing"]["metrics"] == {}


def test_deterministic_mode_is_on_only_while_training(tmp_path):
    inside = []
    watcher = Watcher(lambda event, progress: inside.append(torch.are_deterministic_algorithms_enabled()))
    before = torch.are_deterministic_algorithms_enabled()
    train(plan(tmp_path, max_steps=2), flag=StopFlag(), observers=[watcher])
    assert all(inside)
    assert torch.are_deterministic_algorithms_enabled() == before
