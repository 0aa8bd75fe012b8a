"""On-policy batches: what is weighed, how often they come, and that a training which goes on is the one that never
stopped."""

import dataclasses
import json
import math

import pytest
import torch

from potstill.core.batch import Batch, next_token_targets
from potstill.core.errors import Stopped, TeacherAway
from potstill.core.progress import Progress
from potstill.train.loop import train
from potstill.train.rollout import Rollouts, WrittenRow, prompts, written_batch
from potstill.train.settings import AdaptiveSettings, RolloutSettings
from potstill.train.stop import StopFlag
from tests.train.tiny_run import VOCABULARY, Echo, Half, Source, TinyLM, batch_of, curve, digest, plan

PROMPT = 3


def told(step, loss):
    return Progress(step, 100, 0, 0, {"loss": loss})


def numbers(given, seed):
    """Stands in for a student: as many tokens as the row is old, which depend on the seed."""
    draw = torch.Generator().manual_seed(seed)
    return [torch.randint(1, VOCABULARY, (1 + len(prompt) % 4,), generator=draw).tolist() for prompt in given]


def rollouts(settings, *, write=numbers, source=None, seed=0, batches=24, measure=lambda: 2.0):
    return Rollouts(source or Source(), write, settings, seed=seed, batches=batches, measure=measure)


def fixed(lmbda, **more):
    return RolloutSettings(lmbda=lmbda, prompt_tokens=PROMPT, **more)


def is_written(batch):
    return bool((batch.weights["hard"] == 0).all())


def same(one, other):
    assert one.ids == other.ids
    for name in ("tokens_BL", "attention_BL", "targets_BT"):
        assert torch.equal(getattr(one, name), getattr(other, name))
    assert one.weights.keys() == other.weights.keys()
    assert all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)


def test_only_what_the_student_wrote_is_weighed():
    batch = written_batch([WrittenRow("a", (5, 6, 7, 8), 2), WrittenRow("b", (9, 3), 1)])
    assert batch.tokens_BL.tolist() == [[5, 6, 7, 8], [9, 3, 0, 0]]
    assert batch.attention_BL.tolist() == [[True] * 4, [True, True, False, False]]
    # Position t predicts token t + 1: the last token of the prompt predicts the first new one.
    assert batch.weights["soft"].tolist() == [[0, 1, 1, 0], [1, 0, 0, 0]]
    assert batch.targets_BT.tolist() == [[0, 7, 8, 0], [3, 0, 0, 0]]
    assert not batch.weights["hard"].any()
    assert batch.tokens_read == 6


def test_prompts_end_before_the_last_answer_or_after_so_many_tokens():
    tokens = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 4, 0, 0, 0, 0]])
    attention = tokens > 0
    learnt = torch.tensor([[0, 0, 1, 1, 0, 0, 1, 1], [0, 0, 1, 1, 0, 0, 0, 0]]).bool()
    targets, weights = next_token_targets(tokens, learnt)
    batch = Batch(("two turns", "one turn"), tokens, attention, targets, {"hard": weights, "soft": weights})
    assert prompts(batch, None) == [[1, 2, 3, 4, 5, 6], [1, 2]]
    assert prompts(batch, 3) == [[1, 2, 3], [1, 2, 3]]
    assert prompts(batch, 6) == [[1, 2, 3, 4, 5, 6], [1, 2, 3]], "a short row leaves one token to write"


def test_a_share_of_nothing_is_the_source_itself():
    ours, plain = rollouts(fixed(0.0), write=lambda *_: pytest.fail("the student wrote")), Source()
    for _ in range(20):
        same(ours.next(), plain.next())


def test_a_share_of_everything_is_the_students_text_after_the_sources_prompts():
    ours, plain = rollouts(fixed(1.0)), Source()
    for _ in range(20):
        written, data = ours.next(), plain.next()
        assert is_written(written)
        assert written.ids == data.ids
        for row, prompt in enumerate(prompts(data, PROMPT)):
            assert written.tokens_BL[row, : len(prompt)].tolist() == prompt
            assert not written.weights["soft"][row, : len(prompt) - 1].any()
            assert written.weights["soft"][row].sum() == written.attention_BL[row].sum() - len(prompt) > 0
    assert ours.counts["written"] == 20
    assert ours.counts["data"] == 0


@pytest.mark.parametrize("lmbda", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_share_is_within_binomial_bounds(lmbda, seed):
    """Four standard deviations: a sound draw fails once in 16,000."""
    ours, number = rollouts(fixed(lmbda), seed=seed), 600
    found = sum(is_written(ours.next()) for _ in range(number))
    assert abs(found - lmbda * number) <= 4 * math.sqrt(number * lmbda * (1 - lmbda))
    assert ours.counts["written"] == found


def test_seeds_draw_differently_and_the_same_seed_the_same():
    kinds = [[is_written(one.next()) for _ in range(60)] for one in (rollouts(fixed(0.5), seed=s) for s in (0, 0, 1))]
    assert kinds[0] == kinds[1] != kinds[2]


def adaptive(**changes):
    return RolloutSettings(adaptive=AdaptiveSettings(**changes), prompt_tokens=PROMPT)


def test_without_a_rising_loss_there_is_only_data():
    ours = rollouts(adaptive(), write=lambda *_: pytest.fail("the student wrote"))
    for step in range(30):
        assert not is_written(ours.next())
        ours.notice("evaluate", told(step, 2.0 - 0.01 * step), {})
    assert ours.scheduler.probability == 0


def test_the_first_reference_is_the_loss_before_the_training():
    ours = rollouts(adaptive(), measure=lambda: 2.0)
    ours.notice("evaluate", told(4, 2.05), {})
    ours.next()
    assert (ours.scheduler.probability, ours.scheduler.reference) == (0.0, 2.0)
    ours.notice("evaluate", told(8, 2.1), {})
    ours.next()
    assert (ours.scheduler.probability, ours.scheduler.reference) == (0.1, 2.1)


def test_replay_begins_with_a_full_buffer_and_repeats_what_was_written():
    """phi = 1: the buffer of 9 rows is filled by 3 batches, then fresh text gets rarer as the training goes on."""
    ours, batches, seen = rollouts(adaptive(start=1.0, capacity=9), batches=200), [], []
    for _ in range(200):
        before, batch = dict(ours.counts), ours.next()
        kind = next(name for name in ("data", "written", "replayed") if ours.counts[name] > before[name])
        rows = {
            (name, tuple(tokens[attention].tolist()))
            for name, tokens, attention in zip(batch.ids, batch.tokens_BL, batch.attention_BL, strict=True)
        }
        assert len(rows) == 3, "no row twice in a batch"
        if kind == "replayed":
            assert rows <= set(seen[-9:])
        else:
            seen += sorted(rows)
        batches.append(kind)
    assert batches[:3] == ["written"] * 3
    halves = batches[3:100].count("written"), batches[100:].count("written")
    # Expected 97 * 0.74 and 100 * 0.25.
    assert 55 <= halves[0] <= 88
    assert 10 <= halves[1] <= 42
    assert ours.counts["data"] == 0


@pytest.mark.parametrize("settings", [fixed(0.5), adaptive(start=0.8, capacity=6)])
def test_the_state_is_json_and_going_on_is_exact(settings):
    ours = rollouts(settings)
    for _ in range(12):
        ours.next()
    ours.notice("evaluate", told(12, 5.0), {})
    state = json.loads(json.dumps(ours.state()))
    expected = [ours.next() for _ in range(15)]
    again = rollouts(settings, measure=lambda: pytest.fail("measured twice"))
    again.restore(state)
    again.notice("start", told(12, 5.0), {})
    for batch in expected:
        same(again.next(), batch)
    assert again.counts == ours.counts
    assert again.scheduler == ours.scheduler


class Kind(Half):
    """A step whose texts are all the student's has no labels, so nothing to divide by."""

    def loss(self, batch, signal, outputs, totals=None):
        totals = {name: value or 1.0 for name, value in (totals or self.counts(batch)).items()}
        return super().loss(batch, signal, outputs, totals)


class OnPolicy:
    """The tiny training of the other tests with a student that writes. Its evaluation returns what rises as it learns,
    a function of the weights alone, so that phi rises too."""

    def __init__(self, folder, settings, **changes):
        self.module = TinyLM()
        self.source = rollouts(settings, write=self.write, measure=self.rising)
        own = {"module": self.module, "source": self.source, "objective": Kind()}
        made = plan(folder, **{**own, **changes})
        self.plan = dataclasses.replace(made, evaluate=lambda: {"loss": self.rising()})

    def rising(self):
        batch = batch_of([100, 101, 102])
        self.module.eval()
        with torch.no_grad():
            logprobs = self.module(batch.tokens_BL).log_softmax(-1)
        self.module.train()
        torch.rand(3)
        return float(logprobs.gather(-1, batch.targets_BT[..., None])[..., 0][batch.weights["hard"] > 0].mean())

    def write(self, given, seed):
        draw, found = torch.Generator().manual_seed(seed), []
        self.module.eval()
        with torch.no_grad():
            for prompt in given:
                logits = self.module(torch.tensor([prompt]))[0, -1]
                found.append(torch.multinomial(logits.softmax(-1), 2, replacement=True, generator=draw).tolist())
        self.module.train()
        return found

    def run(self, *observers, flag=None):
        return train(self.plan, flag=flag or StopFlag(), observers=[*observers, self.source])


WAYS = {
    "mixed": fixed(0.5),
    # A margin that every evaluation passes; a buffer that two batches fill, so that all three origins occur.
    "adaptive": adaptive(start=0.4, rise=0.3, margin=1e-6, capacity=6),
}


@pytest.fixture(scope="module", params=WAYS)
def undisturbed(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    made = OnPolicy(folder, WAYS[request.param])
    made.run()
    assert min(made.source.counts[name] for name in ("data", "written")) > 0
    if request.param == "adaptive":
        assert made.source.counts["replayed"] > 0
        assert made.source.scheduler.probability > 0.6, "phi rose"
    return WAYS[request.param], digest(made.module), curve(folder), made.source.counts


def equal(made, folder, undisturbed):
    assert digest(made.module) == undisturbed[1]
    assert curve(folder) == undisturbed[2]
    assert made.source.counts == undisturbed[3]


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_killed_training_goes_on_to_the_same_weights(undisturbed, tmp_path, cut):
    class Vanished(Exception):
        pass

    class Vanish:
        def notice(self, event, progress, values):
            if event == "step" and progress.step == cut:
                raise Vanished

    with pytest.raises(Vanished):
        OnPolicy(tmp_path, undisturbed[0]).run(Vanish())
    torch.rand(cut)
    again = OnPolicy(tmp_path, undisturbed[0])
    again.run()
    equal(again, tmp_path, undisturbed)


@pytest.mark.parametrize("where", [1, 2, 4])
def test_a_stop_while_the_student_writes_is_saved_as_if_the_step_had_not_begun(undisturbed, tmp_path, where):
    made, flag = OnPolicy(tmp_path, undisturbed[0]), StopFlag()
    write, written = made.source._write, []

    def interrupted(given, seed):
        written.append(seed)
        if len(written) == where:
            flag.request(15)
            flag.check()
        return write(given, seed)

    made.source._write = interrupted
    with pytest.raises(Stopped, match="saved at step"):
        made.run(flag=flag)
    again = OnPolicy(tmp_path, undisturbed[0])
    again.run()
    equal(again, tmp_path, undisturbed)


@pytest.mark.parametrize("call", [2, 9, 17])
def test_a_teacher_that_is_away_for_a_while_changes_nothing(undisturbed, tmp_path, call):
    """The step is begun anew, after an evaluation too: what the scheduler has heard by then still counts."""

    class Away(Echo):
        asked = 0

        def signal(self, batch, want):
            self.asked += 1
            if self.asked == call:
                raise TeacherAway("nobody answers", lambda poll: None)
            return super().signal(batch, want)

    made = OnPolicy(tmp_path, undisturbed[0], teacher=Away())
    made.run()
    assert digest(made.module) == undisturbed[1]
    assert made.source.counts == undisturbed[3]
