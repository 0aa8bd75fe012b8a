"""The green list and its test: known answers, and p-values that are uniform where nothing was marked."""

import math

import numpy as np
import pytest
from scipy import stats

from potstill.core.errors import InputError
from potstill.guard.watermark import Mark, binomial_tail, count, green, pairs_of, z_score

VOCABULARY = np.arange(5000)


def after(mark, *before):
    return green(mark, np.array([before]), VOCABULARY)


def marked(mark, rng, rows, length, vocabulary):
    """Random texts, a row each; the first green one of eight draws is taken."""
    tokens_NL = rng.integers(0, vocabulary, (rows, 2))
    for _ in range(length - 2):
        drawn = rng.integers(0, vocabulary, (rows, 8))
        good = np.stack([green(mark, tokens_NL[:, -2:], one) for one in drawn.T], 1)
        tokens_NL = np.c_[tokens_NL, drawn[np.arange(rows), good.argmax(1)]]
    return tokens_NL.tolist()


def test_known_answer_of_90_in_200():
    assert z_score(90, 200, 0.25) == pytest.approx(6.531973, abs=5e-7)
    assert binomial_tail(90, 200, 0.25) == pytest.approx(6.54e-10, rel=1e-3)


@pytest.mark.parametrize(
    ("successes", "trials", "share"), [(0, 9, 0.25), (1, 1, 0.5), (40, 200, 0.25), (700, 1000, 0.1)]
)
def test_the_tail_is_the_binomial_one(successes, trials, share):
    assert binomial_tail(successes, trials, share) == pytest.approx(stats.binom.sf(successes - 1, trials, share))


def test_a_share_of_the_vocabulary_is_green_and_another_window_or_key_has_another_list():
    mark = Mark(7)
    first = after(mark, 1, 2)
    assert first.mean() == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / len(VOCABULARY)))
    for other in (after(mark, 2, 1), after(mark, 1, 3), after(Mark(8), 1, 2)):
        # Independent lists agree in 1/16 + 9/16 of all places.
        assert (first == other).mean() == pytest.approx(0.625, abs=0.04)
    both = green(mark, np.array([[2, 1], [1, 2]]), np.array([9, 9]))
    assert both.tolist() == [after(mark, 2, 1)[9], first[9]]


def test_unmarked_text_has_uniform_p_and_falsely_small_ones_when_repeats_count():
    rng, once, repeated = np.random.default_rng(0), [], []
    for key in range(100):
        text = rng.integers(0, 50, 60).tolist()
        text = text + text[20:40] * 20
        once.append(count(Mark(key), [text]).p)
        repeated.append(count(Mark(key), [text], distinct=False).p)
    # Counts are whole, so p is a little larger than uniform, never smaller.
    assert stats.kstest(once, "uniform", alternative="greater").pvalue > 0.01
    assert np.mean(np.array(repeated) < 1e-3) > 0.1


def test_marked_text_is_found_and_by_its_key_alone():
    mark, rng = Mark(123456789), np.random.default_rng(1)
    texts = marked(mark, rng, 3, 80, 1000)
    assert count(mark, texts).p < 1e-20
    assert count(Mark(987654321), texts).p > 1e-3


def test_pairs_have_full_windows_and_lie_after_the_prompt():
    assert list(pairs_of([1, 2, 3, 4], 2)) == [((1, 2), 3), ((2, 3), 4)]
    assert list(pairs_of([1, 2, 3, 4], 2, prompt=3)) == [((2, 3), 4)]


def test_what_cannot_be_tested_or_used_is_refused():
    with pytest.raises(InputError, match="longer than the mark's window"):
        count(Mark(1), [[1, 2]])
    for wrong in ({"share": 1.0}, {"window": 0}, {"boost": -1.0}, {"key": -1}):
        with pytest.raises(InputError, match="mark"):
            Mark(**{"key": 1, **wrong})
    with pytest.raises(ValueError, match="tokens before"):
        after(Mark(1), 1)
