"""Better, and by enough: what ends a training, told by hand."""

import math

import pytest

from potstill.core.errors import InputError, NumbersError
from potstill.train.judge import gain, judge
from potstill.train.resume import Standing
from potstill.train.settings import TrainSettings


def after(values, metric="accuracy", **more):
    """Where a training stands after these evaluations; and the evaluation at which patience ended, if it did."""
    settings = TrainSettings(max_steps=9, eval_steps=1, early_stop_patience=2, metric_for_best_model=metric, **more)
    now, ended = Standing(), None
    for step, value in enumerate(values, 1):
        now.step = step
        judge(now, settings, {metric: value})
        if ended is None and now.without_better >= 2:
            ended = step
    return now, ended


def test_a_gain_is_in_the_direction_of_the_metric():
    assert gain("accuracy", 0.6, 0.5) == pytest.approx(0.1)
    assert gain("loss", 0.6, 0.5) == pytest.approx(-0.1)
    assert gain("slice.kl", 0.4, 0.5) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("values", "ended"),
    [
        # 0.1 points in two evaluations: 0.06 and 0.06 of a point are 0.12.
        ((0.5000, 0.5006, 0.5012, 0.5018, 0.5024), None),
        # 0.04 and 0.04 are not.
        ((0.5000, 0.5004, 0.5008, 0.5012), 3),
        ((0.5000, 0.5100, 0.5100, 0.5109), 4),
        ((0.5000, 0.4000, 0.5020, 0.5020, 0.5020), 5),
    ],
    ids=["small gains add up", "too small together", "a gain, then none", "a fall in between"],
)
def test_less_than_a_tenth_of_a_point_over_two_evaluations_ends_it(values, ended):
    assert after(values, early_stop_threshold=0.001)[1] == ended


def test_losses_are_judged_the_other_way_round():
    assert after((2.0, 1.99, 1.985), "loss", early_stop_threshold=0.02)[1] == 3
    assert after((2.0, 1.99, 1.979), "loss", early_stop_threshold=0.02)[1] is None


def test_without_a_threshold_anything_better_counts():
    assert after((0.5, 0.5 + 1e-9, 0.5 + 2e-9))[1] is None
    assert after((0.5, 0.5, 0.5))[1] == 3


def test_the_best_checkpoint_is_the_best_one_however_small_its_gain():
    now, ended = after((0.5, 0.5004, 0.5008), early_stop_threshold=0.001)
    assert (now.best_step, now.best_value, ended) == (3, 0.5008, 3)


def test_what_cannot_be_judged_is_refused():
    settings = TrainSettings(max_steps=9, metric_for_best_model="f1")
    with pytest.raises(InputError, match="f1, but the evaluation returns loss"):
        judge(Standing(), settings, {"loss": 1.0})
    with pytest.raises(NumbersError, match="learning_rate"):
        judge(Standing(), settings, {"f1": math.nan})


def test_a_threshold_says_over_how_many_evaluations():
    with pytest.raises(ValueError, match="early_stop_threshold needs early_stop_patience"):
        TrainSettings(max_steps=9, early_stop_threshold=0.001)
