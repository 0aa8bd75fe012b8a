import numpy as np
import pytest

from potstill.data.masking import Masking, masking_of, smoothed, uniforms

SPECIAL = np.array([0, 1, 2, 3, 4], dtype=np.int32)
MASKING = Masking(seed=3, mask_id=4, special_ids=SPECIAL, vocabulary_size=1000)
TOKENS = np.concatenate([[2], np.arange(100, 900), [3, 0, 0]]).astype(np.int32)


def test_shares_of_15_and_80_10_10():
    drawn = [MASKING.apply(TOKENS, 0, row) for row in range(50)]
    chosen = np.array([one for _, one in drawn])
    corrupted = np.array([one for one, _ in drawn])
    assert chosen[:, 1:801].mean() == pytest.approx(0.15, abs=0.01)
    became = corrupted[chosen]
    kept = np.broadcast_to(TOKENS, chosen.shape)[chosen]
    assert (became == 4).mean() == pytest.approx(0.8, abs=0.02)
    assert (became == kept).mean() == pytest.approx(0.1, abs=0.02)
    assert not np.isin(became[became != 4], SPECIAL).any()
    assert np.array_equal(corrupted[~chosen], np.broadcast_to(TOKENS, chosen.shape)[~chosen])


def test_special_tokens_are_never_chosen():
    for row in range(20):
        _, chosen = MASKING.apply(TOKENS, 1, row)
        assert not chosen[np.isin(TOKENS, SPECIAL)].any()


def test_a_pure_function_of_seed_epoch_and_row():
    first = MASKING.apply(TOKENS, 2, 9)
    MASKING.apply(TOKENS, 0, 0)
    again = MASKING.apply(TOKENS, 2, 9)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    others = [MASKING.apply(TOKENS, 3, 9), MASKING.apply(TOKENS, 2, 8),
              Masking(4, 4, SPECIAL, 1000).apply(TOKENS, 2, 9)]  # fmt: skip
    assert all(not np.array_equal(first[1], other[1]) for other in others)


def test_a_short_row_still_has_something_to_learn():
    for row in range(50):
        assert MASKING.apply(np.array([2, 500, 3], dtype=np.int32), 0, row)[1].tolist() == [False, True, False]
    assert not MASKING.apply(np.array([2, 3], dtype=np.int32), 0, 0)[1].any()


def test_the_numbers_are_the_same_on_every_machine():
    assert uniforms((1, 2, 3), 2).tolist() == [0.6704722626516632, 0.1110146366693816]
    many = uniforms((0, 0, 0), 10_000)
    assert many.mean() == pytest.approx(0.5, abs=0.02)
    assert 0 <= many.min() < many.max() < 1


def test_taken_from_a_tokenizer(words_of):
    masking = masking_of(words_of, 5)
    assert masking.mask_id == words_of.mask_token_id
    assert masking.special_ids.tolist() == [0, 1, 2, 3, 4]
    assert masking.vocabulary_size == len(words_of)


def test_smoothed_weights_are_counts_to_the_minus_power():
    rows = [np.array([5, 5, 5, 5, 6], dtype=np.int32), np.array([6, 7], dtype=np.int32)]
    weights = smoothed(rows, 9, 0.7)
    assert weights[[5, 6, 7, 8]] == pytest.approx([4**-0.7, 2**-0.7, 1.0, 1.0])
    assert np.array_equal(smoothed(rows, 9, 0.0), np.ones(9))


def frequent_and_rare():
    """400 places of each of two tokens; one of them is 16 times as frequent elsewhere."""
    weights = np.ones(1000)
    weights[500] = 16**-0.7
    tokens = np.concatenate([[2], np.tile([500, 600], 400), [3]]).astype(np.int32)
    return Masking(3, 4, SPECIAL, 1000, weights), tokens


def test_rare_tokens_are_hidden_more_often_and_the_share_stays():
    masking, tokens = frequent_and_rare()
    chosen = np.array([masking.apply(tokens, 0, row)[1] for row in range(200)])
    assert chosen.sum(1).min() >= 120
    assert chosen.sum(1).max() <= 121
    ratio = chosen[:, tokens == 500].sum() / chosen[:, tokens == 600].sum()
    # A draw without replacement takes some of the difference away: 16^-0.7 = 0.144 is the first draw's.
    assert 0.144 < ratio < 0.2
    assert not chosen[:, [0, -1]].any()


def test_the_share_is_kept_on_average_in_short_rows():
    masking, tokens = frequent_and_rare()
    chosen = [masking.apply(tokens[:11], 0, row)[1].sum() for row in range(4000)]  # ten tokens of text
    assert set(chosen) == {1, 2}
    assert np.mean(chosen) == pytest.approx(1.5, abs=0.05)


def test_equal_weights_choose_every_place_alike():
    masking = Masking(3, 4, SPECIAL, 1000, np.ones(1000))
    chosen = np.array([masking.apply(TOKENS[:42], 0, row)[1] for row in range(3000)])
    assert chosen[:, 1:].mean(0) == pytest.approx(np.full(41, 0.15), abs=0.035)
    assert chosen.mean() * 42 / 41 == pytest.approx(0.15, abs=0.002)


def test_a_row_without_text_and_one_with_a_single_token():
    masking, _ = frequent_and_rare()
    assert not masking.apply(np.array([2, 3], dtype=np.int32), 0, 0)[1].any()
    assert masking.apply(np.array([2, 500, 3], dtype=np.int32), 0, 0)[1].tolist() == [False, True, False]
