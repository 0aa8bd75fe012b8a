import json

import pytest

from potstill.data.curriculum.gates import Mastery, Zone

SKILLS = ("add", "carry", "times")
GRAPH = {"carry": ("add",), "times": ("carry",)}


def reach(add=0.0, carry=0.0, times=0.0):
    return {"add": add, "carry": carry, "times": times}


def mastery(**changes):
    return Mastery(SKILLS, GRAPH, **changes)


def test_only_what_builds_on_nothing_is_open_at_first():
    assert mastery().practice().fresh == ("add",)
    assert Mastery(SKILLS, {}).practice().fresh == SKILLS


@pytest.mark.parametrize(("value", "opens"), [(0.8999, False), (0.9, True), (0.72 / 0.8, True), (1.2, True)])
def test_the_gate_opens_exactly_at_nine_tenths(value, opens):
    now = mastery().measured(reach(add=value)).practice()
    assert now.fresh == (("carry",) if opens else ("add",))
    assert now.review == (("add",) if opens else ())


def test_a_scripted_trace():
    """Opens one after the other; what is forgotten is fresh again, and what is open stays so."""
    gate, seen = mastery(), []
    for add, carry, times in [(0.5, 0, 0), (0.95, 0.1, 0), (0.95, 0.92, 0.2), (0.7, 0.95, 0.5), (0.95, 0.95, 0.95)]:
        gate = gate.measured(reach(add, carry, times))
        now = gate.practice()
        seen.append((now.fresh, now.review))
    assert seen == [
        (("add",), ()),
        (("carry",), ("add",)),
        (("times",), ("add", "carry")),
        (("add", "times"), ("carry",)),
        ((), SKILLS),
    ]


def test_a_skill_whose_grounds_are_not_open_yet_stays_shut_even_if_it_is_known():
    """What the student can already do opens the way for nobody further before its turn comes."""
    gate = mastery().measured(reach(add=0.1, carry=0.1, times=0.99))
    assert gate.practice().fresh == ("add",)


def test_patience_is_kept_and_then_said():
    """Five measurements without mastery: the next skill opens all the same, and this one is practised on."""
    gate = mastery()
    for count in range(1, 6):
        gate = gate.measured(reach(add=0.3))
        assert gate.given_up == (("add",) if count == 5 else ())
    assert gate.practice().fresh == ("add", "carry")
    assert gate.waited["carry"] == 0
    gate = gate.measured(reach(add=0.3))
    assert (gate.waited["carry"], gate.waited["times"]) == (1, 0)


def test_mastery_starts_the_wait_anew():
    gate = mastery(patience=3)
    for add in (0.3, 0.3, 0.95, 0.3, 0.3):
        gate = gate.measured(reach(add=add))
    assert gate.given_up == ()
    assert gate.waited["add"] == 2


def test_a_threshold_of_zero_masters_everything_at_once():
    assert mastery(opens_at=0.0).practice().review == SKILLS
    assert Zone(SKILLS, mastered_at=0.0).practice().review == SKILLS


def test_the_zone_is_a_band_below_the_best_that_is_not_mastered():
    now = Zone(SKILLS).measured(reach(0.95, 0.6, 0.44)).practice()
    assert (now.fresh, now.review) == (("carry",), ("add",))
    now = Zone(SKILLS).measured(reach(0.95, 0.6, 0.45)).practice()
    assert now.fresh == ("carry", "times")
    assert Zone(SKILLS).measured(reach(0.9, 0.95, 1.0)).practice().fresh == ()
    assert Zone(SKILLS, width=1.0).measured(reach(0.0, 0.5, 0.89)).practice().fresh == SKILLS


@pytest.mark.parametrize("values", [(0.0, 0.3, 0.5), (0.2, 0.35, 0.4), (0.89, 0.1, 0.95)])
def test_no_round_holds_a_jump_of_more_than_the_width(values):
    known = reach(*values)
    fresh = Zone(SKILLS).measured(known).practice().fresh
    assert fresh
    assert max(known[one] for one in fresh) - min(known[one] for one in fresh) <= 0.15 + 1e-9


@pytest.mark.parametrize("gate", [mastery(), Zone(SKILLS)])
def test_the_state_is_json_and_comes_back(gate):
    later = gate.measured(reach(0.95, 0.4, 0.1)).measured(reach(0.5, 0.95, 0.1))
    state = json.loads(json.dumps(later.state()))
    assert gate.restored(state) == later
    assert gate.restored(state).measured(reach(0.9, 0.9, 0.2)) == later.measured(reach(0.9, 0.9, 0.2))
