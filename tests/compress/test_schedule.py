import pytest

from potstill.compress.magnitude import layer_wise, prunable
from potstill.compress.schedule import GradualSchedule, cubic
from potstill.core.errors import ModelError
from tests.students.tiny import tiny


def test_the_known_values():
    assert [cubic(progress) for progress in (0, 0.25, 0.5, 0.75, 1)] == [0, 0.578125, 0.875, 0.984375, 1]
    assert (cubic(-1), cubic(2)) == (0, 1)


def test_a_schedule_starts_ends_and_prunes_where_it_says():
    schedule = GradualSchedule(initial=0.1, final=0.9, start=100, every=50, times=4)
    assert [schedule.sparsity(step) for step in (0, 100, 300, 900)] == pytest.approx([0.1, 0.1, 0.9, 0.9])
    assert schedule.sparsity(150) == pytest.approx(0.9 + (0.1 - 0.9) * (1 - 50 / 200) ** 3)
    assert [step for step in range(1000) if schedule.due(step)] == [100, 150, 200, 250, 300]
    whole = GradualSchedule(final=1.0, start=0, every=10, times=4)
    assert [whole.sparsity(step) for step in (10, 20, 30)] == [0.578125, 0.875, 0.984375]


@pytest.mark.parametrize(
    "values",
    [{"final": 1.2}, {"final": 0.2, "initial": 0.4}, {"every": 0}, {"times": 0}, {"start": -1}],
)
def test_what_makes_no_schedule_is_refused(values):
    with pytest.raises(ModelError, match="use"):
        GradualSchedule(**({"final": 0.5, "start": 0, "every": 1, "times": 1} | values))


def test_gradual_masks_are_nested_and_exact():
    module, former = tiny("llama", "causal-lm"), None
    schedule = GradualSchedule(final=0.8, start=0, every=1, times=4)
    for moment in range(5):
        masks = layer_wise(prunable(module), schedule.sparsity(moment), former)
        for name, mask in masks.kept.items():
            assert int((~mask).sum()) == int(schedule.sparsity(moment) * mask.numel())
            assert former is None or not (mask & ~former.kept[name]).any()
        masks.apply(module)
        former = masks
