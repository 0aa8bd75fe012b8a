"""Varied rows: the rate, what stays, and what the seed decides."""

import math

from potstill.core.example import Example
from potstill.core.lineage import Lineage
from potstill.data.augment.draw import Tally, parts_of, variation, varied
from potstill.data.augment.settings import AugmentSettings
from potstill.data.augment.words import STOP_WORDS, common_words, words_of, written_like

HERE = Lineage("here", licence="MIT")
WORDS = ("apple", "river", "stone", "cloud", "metal", "paper", "glass", "field", "ocean", "tiger")


def settings(**more):
    return AugmentSettings(model_name_or_path="m", **more)


def row(number=0, **more):
    return Example(HERE, prompt=f"The {' '.join(WORDS)} of row{'x' * number}", label=1, **more)


def proposals_of(example, words=("one", "two", "three")):
    return {name: [words] * len(words_of(text)) for name, text in parts_of(example).items()}


def test_stop_words_and_single_letters_are_no_words_to_vary():
    assert [word.text for word in words_of("What is the derivative of x^2 in Paris?")] == ["derivative", "Paris"]
    assert {"the", "of", "is", "what"} <= STOP_WORDS
    assert common_words(["b bb aa", "bb the"], 5) == ["bb", "aa"]


def test_capitals_are_kept():
    assert [written_like("ocean", like) for like in ("tiger", "Tiger", "TIGER")] == ["ocean", "Ocean", "OCEAN"]


def test_the_rate_is_within_binomial_bounds():
    """4 standard deviations of a binomial over 22,000 words: a wrong rule (0.4 of a copy, 0.4 twice) is far outside."""
    tally, asked = Tally(), settings(p_replace=0.4, copies=20)
    for number in range(100):
        one = row(number)
        varied(one, proposals_of(one), asked, seed=5, tally=tally)
    assert tally.words == 100 * 20 * 11
    bound = 4 * math.sqrt(0.4 * 0.6 * tally.words)
    assert abs(tally.replaced - 0.4 * tally.words) < bound
    assert tally.rows + tally.repeated == 100 * 20


def test_everything_else_stays_and_the_original_is_not_among_the_copies():
    one = row()
    made = varied(one, proposals_of(one), settings(copies=50), seed=1, tally=Tally())
    assert made
    assert {"prompt": one.prompt} not in made
    assert len({texts["prompt"] for texts in made}) == len(made)
    for texts in made:
        before, after = one.prompt.split(), texts["prompt"].split()
        assert len(before) == len(after)
        assert (after[0], after[11]) == ("The", "of")
        assert all(new in (old, "one", "two", "three") for old, new in zip(before, after, strict=True))


def test_the_seed_and_the_row_decide():
    one, other, asked = row(), row(1), settings(copies=3)

    def drawn(example, seed):
        return varied(example, proposals_of(example), asked, seed=seed, tally=Tally())

    assert drawn(one, 1) == drawn(one, 1)
    assert drawn(one, 1) != drawn(one, 2)
    assert [t["prompt"].split()[1:11] for t in drawn(one, 1)] != [t["prompt"].split()[1:11] for t in drawn(other, 1)]


def test_words_without_proposals_are_kept():
    one, tally = row(), Tally()
    assert varied(one, proposals_of(one, ()), settings(p_replace=1, copies=3), seed=1, tally=tally) == []
    assert (tally.words, tally.repeated) == (0, 3)


def test_all_words_at_rate_one_in_both_texts_of_a_pair():
    one = Example(HERE, prompt="Apple river", pair="the stone", label=0)
    made = varied(one, proposals_of(one, ("cloud",)), settings(p_replace=1, copies=2), seed=1, tally=Tally())
    assert made == [{"prompt": "Cloud cloud", "pair": "the cloud"}]


def test_a_varied_row_has_no_label_unless_it_is_kept_and_says_who_made_it():
    one = row(slices={"area": "x"})
    left = variation(one, {"prompt": "other"}, settings(), maker="m1")
    assert (left.label, left.prompt, left.slices) == (None, "other", {"area": "x"})
    assert (left.lineage.maker, left.lineage.generation, left.lineage.licence) == ("m1", 1, "MIT")
    assert variation(one, {"prompt": "other"}, settings(labels="keep"), maker="m1").label == 1
