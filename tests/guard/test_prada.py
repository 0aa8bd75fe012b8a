"""PRADA: its W, and the two cases of its paper."""

import numpy as np
import pytest
from scipy import stats

from potstill.guard.prada import LEAST, distances, normality, shapiro_wilk


@pytest.mark.parametrize("size", [12, 50, 400, 2000])
@pytest.mark.parametrize("draw", ["normal", "exponential", "uniform"])
def test_w_is_that_of_scipy(size, draw):
    values = getattr(np.random.default_rng(size), draw)(size=size)
    assert shapiro_wilk(values) == pytest.approx(stats.shapiro(values).statistic, abs=2e-6)


def test_normal_distances_pass_and_bimodal_ones_do_not():
    rng = np.random.default_rng(0)
    assert normality(rng.normal(1.0, 0.1, 500)) > 0.98
    assert normality(np.r_[rng.normal(0.1, 0.02, 250), rng.normal(1.0, 0.02, 250)]) < 0.8


def test_too_few_or_equal_distances_accuse_nobody():
    assert normality(np.arange(float(LEAST))) == 1.0
    assert normality(np.ones(500)) == 1.0


def test_distances_by_hand():
    """Kept: 0, then 3 (threshold 3 - 0), then not 4 (1 away), not 6 (3 away, not above 3), then 10 (7 away)."""
    assert distances(np.array([[0.0], [3.0], [4.0], [6.0], [10.0]])).tolist() == [3, 1, 3, 7]
