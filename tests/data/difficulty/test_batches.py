import json

import numpy as np
import pytest

from potstill.core.errors import DataError, NumbersError
from potstill.core.protocols import BatchSource
from potstill.data.difficulty.batches import DifficultBatches
from potstill.data.difficulty.schedule import batches, readings, rows_kept
from potstill.data.difficulty.score import difficulty
from potstill.data.difficulty.strata import drawn
from potstill.data.order import Batches
from potstill.data.order_settings import DifficultySettings
from tests.data.test_order import causal, rows, take


class Losses:
    """A student that gets better at a row the more often it was asked, and a teacher who is sure of even rows."""

    def __init__(self, number):
        self.number, self.asked, self.taught = number, 0, 0

    def student(self):
        self.asked += 1
        return np.random.default_rng(self.asked).uniform(0.5, 2, self.number)

    def teacher(self):
        self.taught += 1
        return np.where(np.arange(self.number) % 2 == 0, 0.0, 1.0)


def source(number=40, losses=None, size=4, **settings):
    losses = losses or Losses(number)
    values = DifficultySettings(**{"passes": 5, **settings})
    return DifficultBatches(
        rows(number), causal, size, 7, settings=values, student=losses.student, teacher=losses.teacher
    )


def test_the_first_pass_is_the_plain_one_and_costs_no_score():
    losses = Losses(40)
    one, plain = source(losses=losses), Batches(rows(40), causal, 4, 7)
    assert [batch.rows for batch in take(one, 10)] == [batch.rows for batch in take(plain, 10)]
    assert (losses.asked, losses.taught) == (0, 0)
    assert isinstance(one, BatchSource)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_passes_have_the_rows_of_the_schedule(schedule):
    losses = Losses(40)
    one = source(losses=losses, schedule=schedule)
    read = [batch.rows for batch in take(one, batches(schedule, 5, 40, 4))]
    for epoch in range(5):
        kept, mine = rows_kept(schedule, epoch, 5, 40), []
        while len(mine) < kept:
            mine += read.pop(0)
        assert len(set(mine)) == kept
        if epoch > 0:  # a teacher that is sure makes rows difficult: even ones, as far as they go
            assert sum(row % 2 == 0 for row in mine) >= min(20, kept) - round(0.1 * kept) - max(0, kept - 20)
    assert read == []
    assert (losses.asked, losses.taught) == (4, 1)
    with pytest.raises(DataError, match=r"5 passes of order\.difficulty are over"):
        one.next()


@pytest.mark.parametrize(("every", "asked"), [(1, 4), (2, 2), (3, 2), (4, 1), (9, 1)])
def test_one_scoring_serves_as_many_passes_as_asked(every, asked):
    """Five passes, the first of which needs none; each has as many rows as without, and those by the scores it had."""
    losses = Losses(40)
    one = source(losses=losses, score_every=every)
    scores = {}
    for epoch in range(5):
        kept, mine = rows_kept("cosine", epoch, 5, 40), []
        while len(mine) < kept:
            mine += one.next().rows
            scores[epoch] = losses.asked
        if epoch:
            fresh = Losses(40)
            fresh.asked = scores[epoch] - 1
            expected = drawn(difficulty(fresh.student(), fresh.teacher()), kept, 0.1, (7, epoch))
            assert sorted(mine) == expected.tolist()
    assert scores == {epoch: -(-epoch // every) for epoch in range(5)}
    assert losses.asked == asked == readings(5, every)
    assert one.account()["student_rows"] == 40 * asked
    with pytest.raises(DataError, match="are over"):
        one.next()


@pytest.mark.parametrize("every", [1, 2, 3])
@pytest.mark.parametrize("at", [0, 3, 10, 11, 15, 19, 24])
def test_resume_at_any_point_gives_the_same_batches(at, every):
    """Though the student that is asked again answers otherwise within a pass; the next pass asks as it would have."""
    losses = Losses(40)
    one = source(losses=losses, score_every=every)
    take(one, at)
    state, asked = json.loads(json.dumps(one.state())), losses.asked
    expected = [batch.rows for batch in take(one, 5)]
    again = Losses(40)
    again.asked = asked
    other = source(losses=again, score_every=every)
    other.restore(state)
    assert other.state() == state
    assert [batch.rows for batch in take(other, 5)] == expected


def test_the_state_is_a_bit_a_row():
    one = source(4000, size=64)
    assert len(json.dumps(one.state())) < 4000 / 8 * 4 / 3 + 400


def test_a_failed_scoring_leaves_the_place_as_it_was():
    losses = Losses(40)
    one = source(losses=losses)
    take(one, 10)
    before = one.state()
    losses.teacher = None
    one._student = lambda: np.full(40, np.nan)
    with pytest.raises(NumbersError, match="row 0: the student's loss"):
        one.next()
    assert one.state() == before


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": 5},
        {"epoch": -1},
        {"position": 99},
        {"position": -1},
        {"seed": None},
        {"chosen": ["AAAA"]},
        {"chosen": ["not base64"]},
        {"chosen": []},
        {"chosen": None},
    ],
)
def test_a_broken_state_is_refused(change):
    one = source()
    take(one, 12)
    with pytest.raises(DataError, match="the saved position"):
        source().restore({**one.state(), **change})


def test_a_state_without_the_passes_ahead_is_refused():
    one = source(score_every=3)
    take(one, 12)
    state = one.state()
    assert len(state["chosen"]) == 3
    for chosen in (state["chosen"][:2], [*state["chosen"], state["chosen"][2]], state["chosen"][::-1]):
        with pytest.raises(DataError, match="the saved position"):
            source(score_every=3).restore({**state, "chosen": chosen})


def test_other_rows_or_settings_are_refused():
    state = source().state()
    for other in (source(41), source(size=5), source(tau=0.2), source(schedule="linear"), source(score_every=2)):
        with pytest.raises(DataError, match="other data or another order"):
            other.restore(state)


def test_the_account_counts_what_scoring_read():
    one = source()
    assert one.account()["student_rows"] == 0
    take(one, 10 + 9 + 1)
    account = one.account()
    assert (account["passes"], account["student_rows"], account["teacher_rows"]) == (3, 80, 40)
    assert account["student_tokens"] == 2 * sum(row.length for row in rows(40))


def test_no_rows_is_refused():
    with pytest.raises(DataError, match="no rows"):
        source(0)
