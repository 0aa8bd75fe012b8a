"""Canaries: exact ranks, one p out of many, and a model that remembers."""

import math

import numpy as np
import pytest
from scipy import stats

from potstill.core.errors import InputError
from potstill.guard.canaries import canary, finding, fisher, inserted, rank_p

KEY = b"a secret of sixteen bytes or more"


def test_ranks_are_exact_and_ties_count_against():
    assert rank_p(0.0, [-1.0] * 999) == 1 / 1000
    assert rank_p(-2.0, [-1.0, -3.0, -4.0]) == 2 / 4
    assert rank_p(-1.0, [-1.0] * 3) == 1.0


def test_ranks_of_a_model_that_knows_nothing_are_uniform():
    rng = np.random.default_rng(0)
    ps = [rank_p(float(row[0]), list(row[1:])) for row in rng.standard_normal((2000, 20))]
    assert np.bincount((np.array(ps) * 20).round().astype(int), minlength=21)[1:].min() > 60
    assert np.mean(np.array(ps) <= 0.05) == pytest.approx(0.05, abs=0.02)


@pytest.mark.parametrize("ps", [[0.04], [0.5, 0.5], [1e-3, 1e-3, 0.7], [1.0, 1.0], [1e-8] * 30])
def test_fishers_method(ps):
    assert fisher(ps) == pytest.approx(stats.combine_pvalues(ps, "fisher").pvalue, rel=1e-9)


def test_a_canary_follows_from_key_and_account_alone():
    one = canary(KEY, "anna")
    assert one == canary(KEY, "anna")
    assert len({one.text, *one.others}) == 1000
    assert canary(KEY, "ben").text != one.text != canary(KEY + b"x", "anna").text


def test_who_learnt_the_canary_is_named_and_who_did_not_passes():
    canaries = [canary(KEY, name) for name in ("anna", "ben")]
    learnt = {one.text for one in canaries}
    noise = np.random.default_rng(1)
    stopped = finding(canaries, lambda text: -1.0 if text in learnt else -5.0 - noise.random())
    assert stopped.verdict == "warn"  # two ranks of 1/1000 are 1.5e-5: near, and not below 1e-5
    assert stopped.value == pytest.approx(fisher([1e-3, 1e-3]))
    assert stopped.evidence["accounts"] == {"anna": 1e-3, "ben": 1e-3}
    third = [*canaries, canary(KEY, "cleo")]
    learnt.add(third[-1].text)
    assert finding(third, lambda text: -1.0 if text in learnt else -5.0).verdict == "stop"
    assert finding(canaries, lambda text: -5.0).verdict == "pass"


def test_one_answer_in_so_many_carries_it():
    one = canary(KEY, "anna")
    carried = [inserted("So it is 4. ", one, every=3, number=number) for number in range(6)]
    assert [text.endswith(one.text) for text in carried] == [True, False, False, True, False, False]


def test_what_cannot_be_tested_is_refused():
    with pytest.raises(InputError, match="key of 16 bytes"):
        canary(b"short", "anna")
    with pytest.raises(InputError, match="no canary"):
        finding([], lambda text: 0.0)
    with pytest.raises(InputError, match="finite"):
        rank_p(math.nan, [0.0])
