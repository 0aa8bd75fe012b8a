"""MinHash against exact Jaccard, and its bands against the S-curve."""

import math
import random

import pytest

from potstill.data.curate.minhash import NearIndex, banding, candidate_probability, estimate, multipliers, signature
from potstill.data.curate.words import jaccard, shingles, words_of

PERMUTATIONS = 128
HASHES = multipliers(PERMUTATIONS)


def pair(shared, own, seed):
    """Two word lists with shared/(shared + 2 own) as the Jaccard index of their words."""
    names = [f"w{seed}x{index}" for index in range(shared + 2 * own)]
    return names[: shared + own], names[:shared] + names[shared + own :]


@pytest.mark.parametrize(("shared", "own"), [(0, 50), (20, 40), (50, 25), (80, 10), (90, 5), (100, 0)])
def test_the_estimate_is_without_bias_and_as_sure_as_it_says(shared, own):
    exact = shared / (shared + 2 * own)
    found = []
    for seed in range(60):
        one, other = pair(shared, own, seed)
        assert jaccard(shingles(one, 1), shingles(other, 1)) == pytest.approx(exact)
        found.append(estimate(signature(one, 1, *HASHES), signature(other, 1, *HASHES)))
    deviation = math.sqrt(exact * (1 - exact) / PERMUTATIONS)
    assert abs(sum(found) / 60 - exact) <= 4 * deviation / math.sqrt(60) + 1e-12
    spread = math.sqrt(sum((value - exact) ** 2 for value in found) / 60)
    assert spread <= 1.5 * deviation + 1e-12


def test_the_s_curve():
    assert candidate_probability(0.8, 16, 8) == pytest.approx(1 - (1 - 0.8**8) ** 16)
    assert candidate_probability(1, 16, 8) == 1
    assert candidate_probability(0, 16, 8) == 0
    assert banding(0.8, 128) == (16, 8)
    assert candidate_probability(0.8, *banding(0.8, 128)) >= 0.9
    assert banding(1.0, 16) == (1, 16)


@pytest.mark.parametrize(("shared", "own"), [(40, 30), (64, 18), (80, 10)])
def test_pairs_become_candidates_as_often_as_the_curve_says(shared, own):
    exact, (bands, rows) = shared / (shared + 2 * own), banding(0.8, PERMUTATIONS)
    hits = 0
    for seed in range(200):
        one, other = (signature(words, 1, *HASHES) for words in pair(shared, own, seed))
        hits += any((one[b * rows : (b + 1) * rows] == other[b * rows : (b + 1) * rows]).all() for b in range(bands))
    expected = candidate_probability(exact, bands, rows)
    assert abs(hits / 200 - expected) <= 4 * math.sqrt(expected * (1 - expected) / 200) + 0.02


def test_recall_at_nine_tenths_and_false_drops_at_one_half():
    index, found = NearIndex(0.8, 1, PERMUTATIONS), 0
    for seed in range(150):
        one, other = pair(90, 5, seed)
        assert index.seen(one) is None
        found += index.seen(other) is not None
    assert found / 150 >= 0.95
    index = NearIndex(0.8, 1, PERMUTATIONS)
    for seed in range(150):
        one, other = pair(50, 25, seed)
        assert index.seen(one) is None
        assert index.seen(other) is None


def test_shingles_of_five_words_and_of_fewer():
    words = words_of("The Fox jumped, over the fox's dog!")
    assert words == ["the", "fox", "jumped", "over", "the", "fox", "s", "dog"]
    assert len(shingles(words, 5)) == 4
    assert shingles(["a", "b"], 5) == {("a", "b")}
    assert shingles([], 5) == set()


def test_the_signature_is_the_same_for_ever():
    assert signature(["a", "b", "c"], 2, *multipliers(4)).tolist() == [250270538, 633013098, 2028909162, 3947134124]
    words = [f"w{index}" for index in range(30)]
    random.Random(1).shuffle(words)
    assert (signature(words, 1, *HASHES) == signature(sorted(words), 1, *HASHES)).all()
