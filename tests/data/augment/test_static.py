"""Nearest by cosine, against sorting them all."""

import numpy as np

from potstill.data.augment.static import mean_rows, nearest


def test_by_hand():
    words = np.array([[1.0, 0.0], [10.0, 1.0], [0.0, 1.0], [-1.0, 0.0]])
    assert nearest(np.array([[2.0, 0.0]]), words, 3).tolist() == [[0, 1, 2]]
    assert nearest(np.array([[2.0, 0.0]]), words, 9).tolist() == [[0, 1, 2, 3]]
    assert mean_rows(words, [[0, 2], [3]]).tolist() == [[0.5, 0.5], [-1.0, 0.0]]


def test_against_sorting_all():
    draw = np.random.default_rng(0)
    words, queries = draw.normal(size=(200, 7)), draw.normal(size=(1100, 7))
    cosines = (queries @ words.T) / np.linalg.norm(queries, axis=1)[:, None] / np.linalg.norm(words, axis=1)
    assert np.array_equal(nearest(queries, words, 5), np.argsort(-cosines, axis=1)[:, :5])
