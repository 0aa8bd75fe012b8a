"""Many ranks are one process: the same curve, the same decisions, the same checkpoints."""

import json
import math

import pytest
import torch

from potstill.core.errors import (
    DataError,
    DiskError,
    InputError,
    PotstillError,
    RecipeError,
    RunError,
    SignalError,
    Stopped,
)
from potstill.train.capture import stored
from potstill.train.ranks import Alone, Many, cut, failed, rebuilt, share
from potstill.train.state import inspect
from tests.train.crew import crew
from tests.train.tiny_run import batch_of, curve

TOLERANCE = 1e-5


def many(rank, size):
    return Many(rank, size, concluded=lambda leads: None)


def fine(ended):
    assert [one.code for one in ended] == [0] * len(ended), "\n".join(one.said for one in ended)
    return [json.loads(one.out) for one in ended]


def same_curve(one, other):
    assert [(row["event"], row["step"]) for row in one] == [(row["event"], row["step"]) for row in other]
    for left, right in zip(one, other, strict=True):
        assert left.keys() == right.keys()
        for name, value in left.items():
            if isinstance(value, float):
                assert math.isclose(value, right[name], rel_tol=0, abs_tol=TOLERANCE), (left, right)
            else:
                assert value == right[name]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    fine(crew(folder, 1))
    return folder


class TestShares:
    def test_whole_micro_batches_are_dealt_out(self):
        batches = [batch_of([row]) for row in range(6)]
        shares = [share(many(rank, 3), batches) for rank in range(3)]
        assert [[one.ids[0] for one in dealt] for dealt in shares] == [
            ["row-0", "row-3"],
            ["row-1", "row-4"],
            ["row-2", "row-5"],
        ]

    @pytest.mark.parametrize("size", [2, 3, 4])
    def test_otherwise_each_is_cut_by_rows_and_every_weight_is_used_once(self, size):
        batches = [batch_of([0, 1, 2]), batch_of([3]), batch_of([4, 5, 6, 7, 8])]
        shares = [share(many(rank, size), batches) for rank in range(size)]
        if size == 3:  # three of them would be dealt out whole
            shares = [[cut(batch, rank, size) for batch in batches] for rank in range(size)]
        assert all(len(dealt) == len(batches) for dealt in shares)
        for place, batch in enumerate(batches):
            parts = [dealt[place] for dealt in shares]
            assert sum(float(part.weights["hard"].sum()) for part in parts) == float(batch.weights["hard"].sum())
            learnt = [part for part in parts if part.weights["hard"].any()]
            assert sorted(name for part in learnt for name in part.ids) == sorted(batch.ids)
            assert all(part.tokens_BL.shape == (len(part.ids), batch.tokens_BL.shape[1]) for part in parts)

    def test_a_row_keeps_all_that_belongs_to_it(self):
        batch = batch_of([0, 1, 2])
        part = cut(batch, 1, 2)
        assert part.ids == ("row-1",)
        for name in ("tokens_BL", "attention_BL", "targets_BT"):
            assert torch.equal(getattr(part, name), getattr(batch, name)[1:2])

    def test_a_rank_without_a_row_gets_one_that_weighs_nothing(self):
        part = cut(batch_of([4]), 1, 2)
        assert part.tokens_BL.shape[0] == 1
        assert not any(weights.any() for weights in part.weights.values())

    def test_alone_there_is_nothing_to_share(self):
        batches = [batch_of([0]), batch_of([1])]
        assert share(Alone(), batches) == batches


class TestErrorsTravel:
    @pytest.mark.parametrize(
        "error", [DataError("x"), DiskError("x"), SignalError("x"), RunError("x"), InputError("x")]
    )
    def test_as_what_they_are(self, error):
        other = rebuilt(json.loads(json.dumps(failed(error))))
        assert type(other) is type(error)
        assert str(other) == "x"
        assert other.told
        assert not error.told

    def test_or_as_the_nearest_that_is_known(self):
        class Strange(SignalError):
            pass

        assert type(rebuilt(failed(Strange("x")))) is SignalError
        assert type(rebuilt(failed(RecipeError([])))) is InputError
        assert type(rebuilt(failed(PotstillError("x")))) is RunError

    def test_a_stop_keeps_its_signal(self):
        stop = rebuilt(failed(Stopped(15, "stopped by SIGTERM")))
        assert isinstance(stop, Stopped)
        assert stop.exit_code == 143


def test_ranks_hear_each_other(tmp_path):
    ended = crew(tmp_path, 3, do="talk")
    assert [(one.code, one.out) for one in ended] == [(0, "heard\n")] * 3, ended


@pytest.mark.parametrize("size", [2, 3])
def test_the_curve_is_that_of_one_process(undisturbed, tmp_path, size):
    """Two ranks get a micro-batch each; three cut every micro-batch by rows. The last step's save is whole."""
    found = fine(crew(tmp_path, size))
    assert all(one == found[0] for one in found)
    same_curve(curve(undisturbed), curve(tmp_path))
    last = "checkpoints/step-12"
    assert inspect(tmp_path / last)[0] is None
    one, other = (stored(folder / last, "model", lambda name: None) for folder in (undisturbed, tmp_path))
    assert set(one) == set(other)
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=0, atol=TOLERANCE)


def test_a_rank_that_cannot_write_says_so_once_and_nothing_is_left_of_the_save(undisturbed, tmp_path):
    ended = crew(tmp_path, 2, fault="full", question=6)
    assert [one.code for one in ended] == [1, 1], ended
    assert [one.said.count("step-6: no room to write") for one in ended] == [0, 1], ended
    assert {one.name for one in (tmp_path / "checkpoints").iterdir()} == {"step-3", "step-4"}
    fine(crew(tmp_path, 2))
    same_curve(curve(undisturbed), curve(tmp_path))


def test_a_rank_without_rows_changes_nothing(tmp_path):
    fine(crew(tmp_path / "one", 1, rows=2, accumulation=1))
    fine(crew(tmp_path / "three", 3, rows=2, accumulation=1))
    same_curve(curve(tmp_path / "one"), curve(tmp_path / "three"))


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 3)])
def test_a_stopped_training_goes_on_with_another_number_of_ranks(undisturbed, tmp_path, before, after):
    ended = crew(tmp_path, before, fault="stopped", rank=before - 1, question=15 // before)
    assert {one.code for one in ended} == {143}
    saved = max(int(one.name[5:]) for one in (tmp_path / "checkpoints").glob("step-*"))
    assert 0 < saved < 12
    assert any(f"saved at step {saved}" in one.said for one in ended)
    fine(crew(tmp_path, after))
    same_curve(curve(undisturbed), curve(tmp_path))


def test_what_is_not_finite_on_one_rank_is_skipped_by_all(tmp_path):
    found = fine(crew(tmp_path, 2, fault="nan", question=4))
    assert [one["skipped"] for one in found] == [1, 1]
    skips = [row for row in curve(tmp_path) if row["event"] == "skip"]
    assert [row["step"] for row in skips] == [4]
    alone = tmp_path / "alone"
    # One process meets the same rows as its eighth question: the micro-batches alternate between the two ranks.
    fine(crew(alone, 1, fault="nan", rank=0, question=8))
    same_curve(curve(alone), curve(tmp_path))


def test_one_rank_without_its_teacher_stops_all_with_the_state_saved(undisturbed, tmp_path):
    ended = crew(tmp_path, 2, fault="gone", question=6)
    assert [one.code for one in ended] == [1, 1]
    assert [one.said.count("every teacher is gone") for one in ended] == [0, 1], "said once, by who noticed"
    assert (tmp_path / "checkpoints" / "step-5").is_dir()
    fine(crew(tmp_path, 2))
    same_curve(curve(undisturbed), curve(tmp_path))
