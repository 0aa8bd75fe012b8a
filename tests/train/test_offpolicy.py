"""DistiLLM's rule: the trace of phi over a scripted loss, and where a batch comes from."""

import pytest

from potstill.train.offpolicy import Scheduler, after_evaluation, origin
from potstill.train.settings import AdaptiveSettings, RolloutSettings

RULE = AdaptiveSettings()


def test_phi_follows_a_scripted_loss():
    """Worked by hand: the reference moves only where phi rises; a loss exactly at the margin counts as risen."""
    losses = [2.0, 1.5, 2.05, 2.1, 2.15, 2.2, 1.0, 2.5]
    expected = [(0.0, 2.0), (0.0, 2.0), (0.0, 2.0), (0.1, 2.1), (0.1, 2.1), (0.2, 2.2), (0.2, 2.2), (0.3, 2.5)]
    trace, now = [], Scheduler(RULE.start)
    for loss in losses:
        now = after_evaluation(now, loss, RULE)
        trace.append((pytest.approx(now.probability), pytest.approx(now.reference)))
    assert [(float(phi.expected), ref.expected) for phi, ref in trace] == [
        (pytest.approx(phi), pytest.approx(ref)) for phi, ref in expected
    ]


def test_phi_never_passes_one_and_a_loss_heard_twice_counts_once():
    now = Scheduler(0.95, 1.0)
    now = after_evaluation(now, 3.0, RULE)
    assert now == Scheduler(1.0, 3.0)
    assert after_evaluation(now, 3.0, RULE) == now


@pytest.mark.parametrize(
    ("drawn", "left", "full", "expected"),
    [
        (0.7, 1.0, True, "data"),
        (0.5, 1.0, True, "data"),  # strictly below
        (0.49, 1.0, True, "written"),
        (0.49, 0.5, True, "replayed"),
        (0.24, 0.5, True, "written"),
        (0.25, 0.5, True, "replayed"),
        (0.49, 0.0, False, "written"),  # nothing to replay yet
        (0.0, 0.0, True, "replayed"),
        (0.9, 0.0, False, "data"),
    ],
)
def test_origins(drawn, left, full, expected):
    assert origin(Scheduler(0.5, 1.0), drawn, left=left, full=full) == expected


@pytest.mark.parametrize(
    ("values", "words"), [({}, "set lmbda"), ({"lmbda": 0.5, "adaptive": {}}, "lmbda and adaptive contradict")]
)
def test_one_rule(values, words):
    with pytest.raises(ValueError, match=words):
        RolloutSettings(**values)


@pytest.mark.parametrize(
    "values", [{"lmbda": 1.1}, {"lmbda": 0.5, "temperature": 0}, {"adaptive": {"margin": 0}}, {"lmbda": 1, "beta": 0.5}]
)
def test_strict(values):
    with pytest.raises(ValueError, match="validation error"):
        RolloutSettings(**values)
