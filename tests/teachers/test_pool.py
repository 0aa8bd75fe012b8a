"""Who is asked next, and how long one that failed is left alone."""

import time
from collections import Counter

import pytest

from potstill.teachers.channel import Address
from potstill.teachers.patience import LONGEST_BACKOFF
from potstill.teachers.pool import BREAK_AFTER, FIRST_DELAY_S, Pool, Source, delay


def sources(*weights):
    return [Source(Address(f"http://t{index}", "k"), weight) for index, weight in enumerate(weights)]


def never():
    return False


class TestDelay:
    def test_the_bound_doubles_up_to_a_limit(self):
        bounds = [delay(failures, lambda: 1.0) for failures in range(1, 12)]
        assert bounds[:3] == [FIRST_DELAY_S, 2 * FIRST_DELAY_S, 4 * FIRST_DELAY_S]
        assert bounds[-1] == LONGEST_BACKOFF

    def test_jitter_is_full(self):
        assert delay(3, lambda: 0.0) == 0
        assert delay(3, lambda: 0.5) == 2 * FIRST_DELAY_S

    def test_what_the_teacher_says_is_waited_in_full_but_not_for_ever(self):
        assert delay(1, lambda: 0.0, 7.0) == 7.0
        assert delay(1, lambda: 0.0, 1e9) == 10 * LONGEST_BACKOFF


class TestChoice:
    @pytest.mark.parametrize(("weights", "shares"), [((1, 1), (6, 6)), ((2, 1), (8, 4)), ((1, 5), (2, 10))])
    def test_questions_are_shared_by_weight(self, weights, shares):
        pool = Pool(sources(*weights))
        taken = Counter(pool.take(never).address.url for _ in range(12))
        assert [taken[f"http://t{index}"] for index in range(len(weights))] == list(shares)

    def test_one_that_failed_is_left_alone_and_the_other_asked(self):
        pool = Pool(sources(1, 1))
        first = pool.take(never)
        pool.failed(first, "no answer", retry_after=60)
        assert {pool.take(never).address.url for _ in range(5)} == {"http://t1"}

    def test_a_lone_one_is_waited_for(self):
        pool = Pool(sources(1))
        pool.failed(pool.take(never), "no answer", retry_after=0.2)
        started = time.monotonic()
        assert pool.take(never) is not None
        assert 0.19 < time.monotonic() - started < 2

    def test_after_some_failures_in_a_row_the_breaker_opens(self):
        pool = Pool(sources(1))
        source = pool.sources[0]
        for _ in range(BREAK_AFTER):
            assert not source.broken
            assert pool.take(never) is source
            pool.failed(source, "no answer")
            source.not_before = 0
        assert pool.take(never) is None
        pool.mend(source)
        assert pool.take(never) is source
        pool.failed(source, "no answer")
        assert pool.take(never) is None

    def test_a_good_answer_forgets_the_failures(self):
        pool = Pool(sources(1))
        source = pool.sources[0]
        for _ in range(3 * BREAK_AFTER):
            for end in (pool.failed, pool.refused):
                pool.take(never)
                end(source, "bad")
                source.not_before = 0
            pool.take(never)
            pool.succeeded(source)
        assert not source.broken
        assert source.busy == 0
        assert (pool.count("answered"), pool.count("unanswered"), pool.count("refused")) == (15, 15, 15)

    def test_closing_ends_the_wait(self):
        pool = Pool(sources(1))
        pool.failed(pool.take(never), "no answer", retry_after=60)
        started = time.monotonic()
        assert pool.take(lambda: time.monotonic() - started > 0.2) is None
