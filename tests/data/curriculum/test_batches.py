import json

import pytest

from potstill.core.errors import DataError
from potstill.core.progress import Progress
from potstill.core.protocols import BatchSource, Heeding
from potstill.data.curriculum.batches import SkillBatches
from potstill.data.curriculum.gates import Mastery, Zone
from potstill.data.order import Batches
from tests.data.test_order import causal, rows, take

NAMES = ("add", "carry", "times")
GRAPH = {"carry": ("add",), "times": ("carry",)}
SKILL = [NAMES[n % 3] for n in range(60)]


def source(gate=None, review=0.2, teacher=1.0, skills=SKILL, size=4):
    gate = gate or Mastery(NAMES, GRAPH)
    scores = dict.fromkeys(NAMES, teacher)
    return SkillBatches(rows(60), causal, size, 7, gate=gate, skills=skills, teacher=scores, review=review)


def seen(step, **scores):
    return Progress(step, 100, metrics={"loss": 1.0} | {f"skill.{name}": value for name, value in scores.items()})


def skills_of(batches):
    return [SKILL[row] for batch in batches for row in batch.rows]


def test_it_is_a_source_that_heeds():
    assert isinstance(source(), BatchSource)
    assert isinstance(source(), Heeding)
    assert not isinstance(Batches(rows(6), causal, 4, 7), Heeding)


def test_only_open_skills_are_read_and_each_of_their_rows_once_a_round():
    batches = take(source(), 5)
    assert skills_of(batches) == ["add"] * 20
    assert sorted(row for batch in batches for row in batch.rows) == list(range(0, 60, 3))


def test_mastered_skills_are_a_fifth_of_a_round():
    one = source()
    one.heed(seen(3, add=0.95, carry=0.2, times=0.0))
    found = skills_of(take(one, 7))
    assert len(found) == 25
    assert (found.count("carry"), found.count("add"), found.count("times")) == (20, 5, 0)


def test_the_student_is_held_against_the_teacher():
    """0.45 of a teacher's 0.5 is nine tenths."""
    one = source(teacher=0.5)
    one.heed(seen(3, add=0.45, carry=0.0, times=0.0))
    assert one.account()["history"] == [{"step": 3, "fresh": ["carry"], "review": ["add"]}]


def test_a_measurement_that_changes_nothing_goes_on_with_the_round():
    one, other = source(), source()
    take(one, 2), take(other, 2)
    one.heed(seen(2, add=0.5, carry=0.2, times=0.0))
    assert [b.rows for b in take(one, 9)] == [b.rows for b in take(other, 9)]


def test_a_measurement_without_skills_is_none():
    one = source()
    one.heed(Progress(1, 10, metrics={"loss": 2.0}))
    assert one.account()["history"] == []


@pytest.mark.parametrize("gate", [Mastery(NAMES, GRAPH, opens_at=0.0), Zone(NAMES, mastered_at=0.0)])
def test_without_a_bar_it_is_the_plain_order(gate):
    """With a threshold of 0 everything is mastered: the shuffled rows of a training without curriculum, bit for bit."""
    one, plain = source(gate), Batches(rows(60), causal, 4, 7)
    one.heed(seen(0, add=0.1, carry=0.2, times=0.0))
    assert [b.rows for b in take(one, 40)] == [b.rows for b in take(plain, 40)]


@pytest.mark.parametrize("at", [0, 2, 5, 6, 11, 13])
@pytest.mark.parametrize("gate", [Mastery(NAMES, GRAPH), Zone(NAMES)])
def test_resume_at_any_point_gives_the_same_batches(gate, at):
    trace = {5: dict(add=0.95, carry=0.3, times=0.0), 9: dict(add=0.8, carry=0.95, times=0.1)}

    def go_on(one, start, end):
        found = []
        for step in range(start, end):
            found.append(one.next().rows)
            if step + 1 in trace:
                one.heed(seen(step + 1, **trace[step + 1]))
        return found

    one, other = source(gate), source(gate)
    go_on(one, 0, at)
    state = json.loads(json.dumps(one.state()))
    other.restore(state)
    assert other.state() == state
    assert go_on(one, at, 30) == go_on(other, at, 30)


def test_a_skill_that_the_teacher_never_gets_right_is_refused():
    with pytest.raises(DataError, match="right on none of the validation rows of skill `add`"):
        source(teacher=0.0)


def test_other_rows_skills_or_a_broken_state_are_refused():
    state = source().state()
    for other in (source(skills=SKILL[::-1]), source(size=3), source(review=0.5)):
        with pytest.raises(DataError, match="other data or skills"):
            other.restore(state)
    for change in ({"position": 99}, {"position": -1}, {"gate": {}}, {"round": None}, {"seed": "x"}):
        with pytest.raises(DataError, match="the saved position"):
            source().restore({**state, **change})
