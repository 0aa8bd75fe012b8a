"""A bigram-like student that learnt from marked text gives itself away, and one that did not stays silent."""

import numpy as np
import pytest
from scipy import stats

from potstill.core.errors import InputError
from potstill.guard.radioactivity import Written, finding, frequent_windows, radioactivity, scored_pairs
from potstill.guard.watermark import Count, Mark, binomial_tail, green

VOCABULARY, MARK = 64, Mark(20261125)
LISTS = green(
    MARK,
    np.stack(np.divmod(np.repeat(np.arange(VOCABULARY**2), VOCABULARY), VOCABULARY), 1),
    np.tile(np.arange(VOCABULARY), VOCABULARY**2),
).reshape(-1, VOCABULARY)
"""Row 64 a + b: what is green after the tokens a, b."""


def teacher(rng, rows, length, marked):
    """Texts from a skewed source; of a marked one, the first green token of eight draws is said."""
    tokens_NL = rng.integers(0, VOCABULARY, (rows, 2))
    for _ in range(length - 2):
        drawn = np.minimum(rng.geometric(0.06, (rows, 8)) - 1, VOCABULARY - 1)
        good = LISTS[tokens_NL[:, -2] * VOCABULARY + tokens_NL[:, -1]][np.arange(rows)[:, None], drawn]
        picked = np.where(np.arange(rows) < marked, good.argmax(1), 0)
        tokens_NL = np.c_[tokens_NL, drawn[np.arange(rows), picked]]
    return tokens_NL


def student(tokens_NL):
    """How often each token followed each window."""
    counts = np.zeros((VOCABULARY**2, VOCABULARY))
    np.add.at(counts, (tokens_NL[:, :-2] * VOCABULARY + tokens_NL[:, 1:-1], tokens_NL[:, 2:]), 1)
    return counts


def writes(counts, rng, rows, length):
    """Texts of the student; after a window that it never saw it says anything."""
    share = (counts + 1e-3).cumsum(1) / (counts + 1e-3).sum(1, keepdims=True)
    tokens_NL = rng.integers(0, VOCABULARY // 4, (rows, 2))
    for _ in range(length - 2):
        here = share[tokens_NL[:, -2] * VOCABULARY + tokens_NL[:, -1]]
        drawn = (here < rng.random((rows, 1))).sum(1).clip(max=VOCABULARY - 1)
        tokens_NL = np.c_[tokens_NL, drawn]
    return [Written(row, 2) for row in tokens_NL.tolist()]


def taught(share, seed, rows, said):
    """What a student writes whose text was marked in that share, and the marked part of that text."""
    rng = np.random.default_rng(seed)
    tokens_NL = teacher(rng, rows, 60, share * rows)
    return writes(student(tokens_NL), rng, said, 60), tokens_NL[: int(share * rows)].tolist()


def test_p_falls_with_the_share_of_marked_text():
    ps = [radioactivity(MARK, taught(share, 3, 1000, 60)[0]).p for share in (0.0, 0.25, 1.0)]
    assert ps[0] > 0.01
    assert ps[0] > ps[1] > ps[2]
    assert ps[2] < 1e-20


def test_five_percent_is_found_with_enough_text():
    written, marked = taught(0.05, 5, 16000, 500)
    known = frequent_windows(marked, MARK.window, 20)
    assert radioactivity(MARK, written, known=known).p < 1e-6
    assert radioactivity(Mark(1), written, known=known).p > 0.01


def test_students_of_unmarked_text_have_no_small_p():
    written, _ = taught(0.0, 11, 300, 20)
    ps = [radioactivity(Mark(key), written).p for key in range(60)]
    assert stats.kstest(ps, "uniform", alternative="greater").pvalue > 0.01


def test_a_pair_counts_once_and_not_where_the_prompt_shows_it():
    copied = Written([1, 2, 3, 9, 1, 2, 3, 4, 1, 2, 3, 4], prompt=4)
    pairs = list(scored_pairs([copied], 2))
    assert ((1, 2), 3) not in pairs
    assert ((2, 3), 4) not in pairs
    assert ((9, 1), 2) in pairs
    assert list(scored_pairs([copied], 2, known=frozenset({(9, 1)}))) == [((9, 1), 2)]
    with pytest.raises(InputError, match="nothing can be tested"):
        radioactivity(MARK, [copied], known=frozenset())


def test_the_finding_asks_for_a_control():
    strong = Count(90, 200, 6.53, binomial_tail(90, 200, 0.25))
    clean = Count(50, 200, 0.0, 0.5)
    assert finding(strong).verdict == "stop"
    assert finding(strong, controls=[clean]).verdict == "stop"
    assert finding(strong, controls=[strong]).verdict == "warn"
    assert finding(clean).verdict == "pass"
    assert finding(clean).value == 0.5
