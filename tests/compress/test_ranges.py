"""Each range against a slow search over the values themselves, in double precision."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from potstill.compress.grids import Grid
from potstill.compress.histogram import HALF, Histogram
from potstill.compress.ranges import (
    check_calibration,
    chosen_range,
    entropy_bins,
    entropy_range,
    least_error_range,
    moved,
    percentile_range,
    without_padding,
)
from potstill.core.batch import Batch
from potstill.core.errors import DataError, InputError, ModelError, NumbersError
from tests.oracle import quantisation as oracle

AFFINE, SYMMETRIC = Grid(symmetric=False, per="tensor"), Grid(per="tensor")


def seen(*batches):
    histogram = Histogram()
    for batch in batches:
        histogram.add(batch)
    return histogram


def heavy(count=4000, seed=0):
    """Activations as they are: mostly near zero, skewed, a few far away."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.nn.functional.gelu(torch.randn(count, generator=generator))
    values[:8] *= 20
    return values


def labelled(classes, real=True):
    rows = len(classes)
    return Batch(
        ids=tuple(str(row) for row in range(rows)),
        tokens_BL=torch.ones(rows, 4, dtype=torch.long),
        attention_BL=torch.full((rows, 4), real),
        targets_BT=torch.tensor([[max(one, 0)] for one in classes]),
        weights={"hard": torch.tensor([[float(one >= 0)] for one in classes]), "soft": torch.ones(rows, 1)},
    )


class TestHistogram:
    @given(values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40), cut=st.integers(0, 40))
    def test_no_order_and_no_batching_changes_it(self, values, cut):
        first = seen(torch.tensor(values))
        second = seen(torch.tensor(values[cut:]), torch.tensor(values[:cut][::-1]))
        assert (first.counts == second.counts).all()
        assert (first.low, first.high, first.width) == (second.low, second.high, second.width)
        assert first.total == len(values)

    def test_each_value_is_in_its_bin(self):
        values = heavy()
        histogram = seen(values[:100] / 1000, values)
        slow = np.zeros(2 * HALF, np.int64)
        for value in [*(values[:100] / 1000).tolist(), *values.tolist()]:
            slow[math.floor(value / histogram.width) + HALF] += 1
        assert (histogram.counts == slow).all()
        assert histogram.width * HALF / 2 <= values.abs().max() < histogram.width * HALF

    def test_zeros_and_nothing(self):
        assert seen(torch.zeros(5), torch.empty(0)).total == 5
        assert chosen_range(seen(torch.zeros(5)), "mse", AFFINE) == (0, 0)
        with pytest.raises(DataError, match=r"no value was observed at block 3"):
            Histogram().checked("block 3")

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_not_finite(self, bad):
        with pytest.raises(NumbersError, match=r"not finite at head, so"):
            Histogram().add(torch.tensor([0.0, bad]), "head")


class TestRanges:
    def test_min_max_is_exact(self):
        values = heavy()
        assert chosen_range(seen(values), "min-max", AFFINE) == (values.min().item(), values.max().item())

    @pytest.mark.parametrize("percentile", [90.0, 99.0, 99.99, 100.0])
    def test_percentile(self, percentile):
        values = heavy(20000)
        histogram = seen(*values.split(999))
        low, high = percentile_range(histogram, percentile)
        ordered = values.double().tolist()
        for found, share in ((low, 1 - percentile / 100), (high, percentile / 100)):
            # A bin's width, and the gap between neighbouring values, is what a histogram cannot know.
            least, most = (oracle.percentile(ordered, min(1, max(0, share + off))) for off in (-1 / 20000, 1 / 20000))
            assert least - histogram.width <= found <= most + histogram.width

    def test_percentile_leaves_outliers_out(self):
        values = heavy(20000)
        assert percentile_range(seen(values), 99.9)[1] < values.max().item() / 2
        assert chosen_range(seen(values), "percentile", AFFINE, 100) == (values.min().item(), values.max().item())

    @pytest.mark.parametrize("seed", range(6))
    def test_entropy_against_the_loop(self, seed):
        generator = np.random.default_rng(seed)
        counts = generator.poisson(200 * np.exp(-np.linspace(0, 9, 70)))
        counts[generator.integers(40, 70, 4)] += 3
        for levels in (8, 16, 32):
            assert entropy_bins(counts.astype(np.float64), levels) == oracle.entropy_bins(counts.tolist(), levels)

    def test_entropy_cuts_an_outlier_and_keeps_what_fits(self):
        body = torch.randn(20000, generator=torch.Generator().manual_seed(0))
        low, high = entropy_range(seen(body, torch.tensor([60.0])), SYMMETRIC)
        assert 3 < high < 30
        assert low == body.min().item()
        few = torch.arange(-20, 21) / 8.0  # as many values as the grid has levels: nothing to gain
        assert entropy_range(seen(few), SYMMETRIC) == (-2.5, 2.5)

    @pytest.mark.parametrize("grid", [AFFINE, SYMMETRIC, Grid(4, False, "tensor"), Grid(4, True, "tensor")], ids=str)
    def test_least_error_against_every_pair(self, grid):
        values = heavy(600)
        found = least_error_range(seen(values), grid)
        ordered = values.double().tolist()
        low, high = min(ordered), max(ordered)

        def error(one):
            return oracle.squared_error(ordered, *one, grid.bits, grid.symmetric)

        slow = min(error((low * a / 12, high * b / 12)) for a in range(13) for b in range(1, 13))
        assert error(found) <= 1.02 * slow
        assert error(found) <= error((low, high))
        assert low <= found[0] <= 0 < found[1] <= high

    def test_least_error_at_four_bits_is_narrower(self):
        values = torch.randn(20000, generator=torch.Generator().manual_seed(0))
        four, eight = (least_error_range(seen(values), Grid(bits, per="tensor"))[1] for bits in (4, 8))
        # Optimal clipping of a normal distribution: 2.55 at 4 bits, 3.92 at 8 (Banner et al. 2018, ACIQ).
        assert four == pytest.approx(2.55, abs=0.15)
        assert eight == pytest.approx(3.92, abs=0.25)

    def test_unknown(self):
        with pytest.raises(InputError, match="percentile of 40"):
            percentile_range(seen(heavy()), 40)


class TestMoving:
    def test_against_a_loop(self):
        low, high = torch.tensor(math.nan), torch.tensor(math.nan)
        batches = [torch.randn(30) for _ in range(5)]
        slow = None
        for batch in batches:
            low, high = moved(low, high, batch)
            new = np.array([batch.min().item(), batch.max().item()])
            slow = new if slow is None else 0.99 * slow + 0.01 * new
        assert [low.item(), high.item()] == pytest.approx(slow.tolist(), rel=1e-5)

    def test_the_first_batch_counts_whole(self):
        found = moved(torch.tensor(math.nan), torch.tensor(math.nan), torch.tensor([-2.0, 5.0]))
        assert [one.item() for one in found] == [-2, 5]


class TestPadding:
    def test_padding_is_never_seen(self):
        values = torch.randn(2, 3, 4)
        values[0, 2], values[1, 1:] = 1e6, -1e6
        mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
        for one in (mask, mask.bool()):
            found = without_padding(values, one)
            assert torch.equal(found, torch.stack([values[0, 0], values[0, 1], values[1, 0]]))

    def test_one_vector_per_row_and_no_mask(self):
        assert without_padding(torch.randn(2, 4), torch.ones(2, 3, dtype=torch.long)).shape == (2, 4)
        assert without_padding(torch.randn(2, 3, 4), None).shape == (6, 4)

    def test_what_fits_no_mask_is_refused(self):
        with pytest.raises(ModelError, match=r"gate reads \[6, 4\] and the attention mask is \[2, 3\]"):
            without_padding(torch.randn(6, 4), torch.ones(2, 3, dtype=torch.long), "gate")


class TestCalibrationSets:
    def test_fine(self):
        check_calibration([labelled([0, 1])])
        check_calibration([labelled([0]), labelled([2])])
        check_calibration([labelled([-1, -1])])  # nothing is known of these rows
        check_calibration([torch.randn(2, 3)])

    @pytest.mark.parametrize(
        ("batches", "reason"),
        [
            ([], "is empty"),
            ([labelled([1, 1]), labelled([1, -1])], "all 3 labelled calibration rows are of class 1"),
            ([labelled([0, 1], real=False)], "nothing but padding"),
        ],
    )
    def test_refused(self, batches, reason):
        with pytest.raises(DataError, match=reason):
            check_calibration(batches)
